"""The text form of a config: YAML input, `--set` overrides, YAML output with comments. It knows no single setting."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from dmsae_ray.config.secrets import redacted
from dmsae_ray.errors import ConfigError, one_line


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses a key given twice, where `SafeLoader` would silently drop the first value.

    It reads whole numbers as a person means them: to `SafeLoader`, 010 is eight and 1:30 is ninety.
    """


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if isinstance(key, str) and key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
        seen.add(key if isinstance(key, str) else id(key_node))
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in zip(
    _NUMBERS,
    (
        r"[-+]?(0|[1-9][0-9_]*)$",
        r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
    ),
    strict=True,
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), [*"-+.0123456789"])


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds something other than a mapping.
    """
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"config file '{path}' cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"config file '{path}' is not YAML: {_where(error)}") from None
    except RecursionError:
        raise ConfigError(f"config file '{path}' is nested too deeply; sections hold values, one level deep") from None
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else type(tree).__name__
        raise ConfigError(f"config file '{path}' holds {found}; it must be a mapping with 'name' and sections")
    return tree


def _where(error: Exception) -> str:
    """Say what is wrong and in which line, without quoting the file."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return " ".join(f"{problem}{place}".split()) if problem else redacted(one_line(error))


def apply_override(tree: dict[str, Any], text: str, settings: type[BaseModel] | None = None) -> None:
    """Set one value of a mapping, in place.

    Args:
        tree: the mapping.
        text: `dotted.path=value`, with the value in YAML; it has no comments. Where the setting is a text, the value is
            taken as it stands: `yes`, `007` and `/a: b` are texts too.
        settings: the settings that the mapping is for; None: nothing is known of them.

    Raises:
        ConfigError: `text` does not have that form, or its path treats a plain value as a section.
    """
    path, equals, value = text.partition("=")
    text = redacted(text)
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set '{text}' is not of the form path=value, as in --set sweep.seeds=[0,1,2]")
    try:
        is_text, or_mapping = (False, False) if settings is None else takes_text(settings, keys)
        as_yaml = not is_text or (or_mapping and value.lstrip().startswith(("{", "[")))
        parsed = _value(value) if as_yaml else _text(value)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"--set '{text}': the value is not YAML") from None
    node = tree
    for key in keys[:-1]:
        child = node.get(key)
        if isinstance(child, str) and key == "recipe":
            child = {"name": child}
        if child is not None and not isinstance(child, dict):
            raise ConfigError(f"--set '{text}': '{key}' is a value, not a section")
        node[key] = child = dict(child or {})
        node = child
    node[keys[-1]] = parsed


def takes_text(settings: type[BaseModel], keys: Sequence[str]) -> tuple[bool, bool]:
    """Return whether a setting may be a text, and whether it may be a mapping too; `keys` are its path."""
    field = settings.model_fields.get(keys[0])
    kinds = () if field is None else _kinds(field.annotation)
    for key in keys[1:]:
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        found = [section.model_fields[key].annotation for section in sections if key in section.model_fields]
        found += [get_args(kind)[1] for kind in kinds if get_origin(kind) is dict]
        kinds = tuple(part for annotation in found for part in _kinds(annotation))
    texts = [
        kind is str or (get_origin(kind) is Literal and all(isinstance(a, str) for a in get_args(kind)))
        for kind in kinds
    ]
    mappings = [get_origin(kind) is dict for kind in kinds]
    plain = any(texts) and all(text or mapping for text, mapping in zip(texts, mappings, strict=True))
    return plain, any(mappings)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, without None; anything else alone."""
    if get_origin(annotation) not in (Union, UnionType):
        return (annotation,)
    return tuple(kind for kind in get_args(annotation) if kind is not NoneType)


def _text(value: str) -> Any:
    """Return a text as it stands; what is in quotes from end to end, and nothing at all, are as in YAML."""
    value = value.strip()
    if value in ("", "null"):
        return None
    with suppress(yaml.YAMLError, ValueError):
        if value[0] in "'\"":
            return _value(value)
    return value


def _value(text: str) -> Any:
    """Return the value of a text in YAML that knows no comments: `/a #1` is a name with a space in it."""
    node = yaml.compose(text, Loader=_Loader)
    if node is None and text.strip():
        return text.strip()
    if node is not None and text[node.end_mark.index :].strip():
        if not (isinstance(node, yaml.ScalarNode) and node.style is None):
            raise ValueError("something stands behind the value")
        return text.strip()
    return yaml.load(text, Loader=_Loader)


def described(model: BaseModel, indent: str = "") -> str:
    """Return a tree of settings as YAML, one setting a line, each with its description as a comment."""
    lines = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            about = " ".join((value.__doc__ or "").split("\n\n")[0].split())
            lines += [f"{indent}{name}:  # {about}", described(value, indent + "  ").rstrip("\n")]
            continue
        plain = model.model_dump(mode="json", include={name})[name]
        text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
        lines.append(f"{indent}{name}: {text}" + (f"  # {field.description}" if field.description else ""))
    return "\n".join(lines) + "\n"
