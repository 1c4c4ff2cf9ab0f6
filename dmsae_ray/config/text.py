"""The text form of a config: YAML input, `--set` overrides, YAML output with comments. It knows no single setting."""

from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from dmsae_ray.config.secrets import redacted
from dmsae_ray.errors import ConfigError, one_line


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses a key given twice, where `SafeLoader` would silently drop the first value."""


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
        is_text = settings is not None and takes_text(settings, keys)
        parsed = _text(value) if is_text else _value(value)
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


def takes_text(settings: type[BaseModel], keys: Sequence[str]) -> bool:
    """Return whether a setting is a text, or a text or nothing; `keys` are its path."""
    field = settings.model_fields.get(keys[0])
    if field is None:
        return False
    kinds = _kinds(field.annotation)
    if len(keys) > 1:
        return any(
            isinstance(kind, type) and issubclass(kind, BaseModel) and takes_text(kind, keys[1:]) for kind in kinds
        )
    return all(
        kind is str or (get_origin(kind) is Literal and all(isinstance(a, str) for a in get_args(kind)))
        for kind in kinds
    )


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, without None; anything else alone."""
    if get_origin(annotation) not in (Union, UnionType):
        return (annotation,)
    return tuple(kind for kind in get_args(annotation) if kind is not NoneType)


def _text(value: str) -> Any:
    """Return a text as it stands; what is in quotes, and nothing at all, are as in YAML."""
    value = value.strip()
    return _value(value) if value in ("", "null") or value[0] in "'\"" else value


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
