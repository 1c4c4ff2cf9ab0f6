"""Messages about a wrong setting: its place, its value, all that is allowed, and the nearest known name."""

import difflib
import json
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


def describe_validation_error(error: ValidationError, root: type[BaseModel]) -> str:
    """Describe the first error in one line: its place in `root`, its value, and all that is allowed there.

    Args:
        error: what pydantic raised.
        root: the model that was validated.
    """
    problems = error.errors()
    first = problems[0]
    path = [str(part) for part in first["loc"]]
    where, kind, message = ".".join(path) or "config", first["type"], first["msg"]
    if kind == "extra_forbidden":
        text = f"{where} is not a setting; {_nearest(path, root)}"
    elif kind == "missing" and not path[-1].isdigit():
        text = f"{where} is missing; it must be given{_description(path, root)}"
    elif kind == "value_error":
        said = message.removeprefix("Value error, ")
        # The messages of validators of a whole section already name the field.
        named = not path or said.split(" ")[0].startswith((*path, *root.model_fields))
        text = said if named else f"{where} {said}"
    else:
        if kind == "missing":
            path.pop()  # a missing item of a list of fixed length: describe the list
            where = ".".join(path)
        field = _field(path, root)
        rule = f"it must be {allowed(field)}" if field else f"{message[0].lower()}{message[1:]}"
        text = f"{where} is {_shown(first.get('input'))}; {rule}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return " ".join((text + more).split())


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _description(path: list[str], root: type[BaseModel]) -> str:
    field = _field(path, root)
    description = field.description if isinstance(field, FieldInfo) else None
    return f": {description}" if description else ""


def allowed(field: Any, *, many: bool = False) -> str:
    """Describe in words all that a field allows: 'a number in (0, 1]', 'one of a, b', 'a list of ...'.

    Args:
        field: a field of a model, or an annotation.
        many: use the plural, for the items of a list.
    """
    annotation, metadata = _unwrap(field)
    options = [part for part in _alternatives(annotation) if part is not type(None)]
    null = " or null" if len(options) < len(_alternatives(annotation)) else ""
    inner, more = _unwrap(options[0])
    metadata = [*metadata, *more]
    if get_origin(inner) is Literal:
        words = ("of " if many else "one of ") + ", ".join(str(value) for value in get_args(inner))
    elif get_origin(inner) is tuple:
        parts = get_args(inner)
        count = "" if parts[-1] is Ellipsis else f"{len(parts)} "
        words = f"a list of {count}{allowed(parts[0], many=True).removeprefix('of ')}"
    elif inner in (int, float):
        noun = "whole number" if inner is int else "number"
        words = (f"{noun}s" if many else f"a {noun}") + _range(metadata, whole=inner is int)
    elif inner is bool:
        words = "true or false"
    elif inner is str:
        pattern = next((m.pattern for m in metadata if getattr(m, "pattern", None)), None)
        words = "text (quoted if it looks like a number)" if pattern is None else f"text that matches {pattern}"
        length = next((m.max_length for m in metadata if getattr(m, "max_length", None)), None)
        words += f", at most {length} characters" if length else ""
    elif isinstance(inner, type) and issubclass(inner, BaseModel):
        words = f"a section with {', '.join(inner.model_fields)}"
    else:
        words = str(inner)
    return words + null


def _range(metadata: list[Any], *, whole: bool) -> str:
    bounds: dict[str, Any] = {}
    for name in ("gt", "ge", "lt", "le"):
        for item in metadata:
            if getattr(item, name, None) is not None:
                bounds[name] = getattr(item, name)
    low = bounds.get("gt", bounds.get("ge"))
    high = bounds.get("lt", bounds.get("le"))
    if low is None and high is None:
        return ""
    if high is None:
        return f" above {low:g}" if "gt" in bounds else f" of at least {low}"
    if low is None:
        return f" below {high:g}" if "lt" in bounds else f" of at most {high}"
    if whole and {"ge", "le"} <= bounds.keys():
        return f" from {low} to {high}"
    return f" in {'(' if 'gt' in bounds else '['}{low:g}, {high:g}{')' if 'lt' in bounds else ']'}"


def _unwrap(field: Any) -> tuple[Any, list[Any]]:
    """Return the bare annotation and its constraints."""
    if isinstance(field, FieldInfo):
        annotation, metadata = _unwrap(field.annotation)
        return annotation, [*field.metadata, *metadata]
    if hasattr(field, "__metadata__"):
        constraints: list[Any] = []
        for item in field.__metadata__:
            constraints += item.metadata if isinstance(item, FieldInfo) else [item]
        return field.__origin__, constraints
    return field, []


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _section(field: Any) -> type[BaseModel] | None:
    for part in _alternatives(_unwrap(field)[0]):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _field(path: list[str], root: type[BaseModel]) -> Any:
    """Return the field (or the annotation of a list's items) at `path`; None if there is none."""
    found: Any = root
    for key in path:
        section = found if found is root else _section(found)
        if section is not None:
            found = section.model_fields.get(key)
        elif key.isdigit():
            items = next((p for p in _alternatives(_unwrap(found)[0]) if get_origin(p) is tuple), None)
            found = get_args(items)[0] if items is not None else None
        else:
            return None
        if found is None:
            return None
    return None if found is root else found


def _settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        section = _section(field)
        if section is not None:
            yield from _settings(section, f"{prefix}{name}.")


def _nearest(path: list[str], root: type[BaseModel]) -> str:
    """Suggest the intended setting: a similar name in the same section, else the same or a similar name anywhere."""
    *parents, name = path
    section = root if not parents else _section(_field(parents, root))
    here = list(section.model_fields) if section else []
    near = difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    everywhere = {setting: setting.rpartition(".")[2] for setting in _settings(root)}
    exact = [setting for setting, last in everywhere.items() if last == name]
    if not near and not exact:
        meant = difflib.get_close_matches(name, everywhere.values(), n=1, cutoff=0.75)
        exact = [setting for setting, last in everywhere.items() if meant and last == meant[0]]
        near = difflib.get_close_matches(name, here, n=1, cutoff=0.4) if not exact else []
    if near:
        return f"did you mean '{'.'.join([*parents, near[0]])}'?"
    if exact:
        return f"did you mean {' or '.join(repr(setting) for setting in exact)}?"
    return f"known here: {', '.join(here)}"
