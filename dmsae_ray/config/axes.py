"""Further axes of a grid: settings, beside k and coverage, of which each trial has one value of several."""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from dmsae_ray.config.messages import allowed

Axis = tuple[str, Any]
"""A setting by its dotted name, and a value of it."""
Axes = tuple[Axis, ...]

OF_STORES = ("model", "corpus", "activations")
"""Sections whose settings decide the activations: each value of such an axis has a store of its own."""
SECTIONS = (*OF_STORES, "sae", "recipe", "distill")
"""Sections whose settings can be axes: all that decide results, but for the grid itself."""
_OTHERWISE = {
    "activations.mode": "no result depends on it",
    "activations.norm_tokens": "all trials of a sweep read a store in one way",
    "activations.shuffle_shards": "all trials of a sweep read a store in one way",
    "sae.k": "sweep.k has its values",
    "distill.coverage": "sweep.coverage has its values",
    "recipe.name": "set what it stands for, such as recipe.threshold",
    "distill.cycles": "a trial of many cycles has those of fewer too, each with its core",
    "distill.controls": "each trial has all controls that it lists, beside each other",
    "distill.control_chains": "each trial has all controls that it lists, beside each other",
    "distill.min_cycles": "no training depends on it; every core of a trial is kept, with its lineage",
    "distill.initial_sae": "sweep.k with a mapping from k to folder gives an SAE to each",
    "distill.initial_sae_any_k": "sweep.k with a mapping from k to folder gives an SAE to each",
}
"""Settings that cannot be axes, and what there is in their place, or why."""
_MAY_BE = f"a setting of {', '.join(SECTIONS[:-1])} or {SECTIONS[-1]}"
SCORING = frozenset(
    f"distill.{name}"
    for name in ("core_size", "fresh_attribution", "intersect", "mask", "pool_groups", "quantile", "score")
)
"""Settings that do not touch a training: trials that differ only in these share their cycle 0."""
EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
OF_A_CORE = frozenset({"sae.core_sparsity", "sae.core_decoder_init", "sae.core_takes"})
"""Settings that say how a core is used: where only these differ, cycle 0 is shared too, since it has no core."""
_NOT_OF_TRANSFERS = {
    "sae.core_sparsity": "transfer.core_sparsity has its values",
    "distill.fresh_attribution": "a transfer selects once",
}
_LONGEST, _LONGEST_NAME = 48, 120
_WORDS = ("default", "none", "true", "false")
"""What values that are no texts are called."""


def read_axes(given: Mapping[Any, Any], sections: Mapping[str, type[BaseModel]]) -> dict[str, list[Any]]:
    """Return the values of each axis by its dotted name, sorted by name, from a mapping that may be nested.

    Each value is as its setting reads it: 1 and 1.0 are the same learning rate.

    Args:
        given: as in {distill.quantile: [0.99, 0.999]}, or {distill: {quantile: [0.99, 0.999]}}.
        sections: the sections of an experiment.

    Raises:
        ValueError: a name is no setting that can be an axis, or has no list of values, or a wrong one, or one twice.
    """
    found: dict[str, list[Any]] = {}
    for name, values in given.items():
        nested = {f"{name}.{k}": v for k, v in values.items()} if isinstance(values, Mapping) and values else None
        for path, listed in (nested or {name: values}).items():
            section, field = _setting(path, sections)
            if path in found:
                raise ValueError(f"has {path} twice; give each axis once")
            if not isinstance(listed, list | tuple) or not listed:
                raise ValueError(f"has {path}: {listed!r}; it must be a list of at least one value")
            found[path] = [_as_read(path, value, section.model_fields[field]) for value in listed]
            if len(set(map(frozen, found[path]))) < len(listed):
                raise ValueError(f"has {path}: {list(listed)!r}; it must hold no value twice")
    return dict(sorted(found.items()))


def _setting(path: Any, sections: Mapping[str, type[BaseModel]]) -> tuple[type[BaseModel], str]:
    section, _, name = str(path).partition(".")
    if path in _OTHERWISE:
        raise ValueError(f"has '{path}'; it is no axis: {_OTHERWISE[path]}")
    if section in SECTIONS and name in sections[section].model_fields:
        return sections[section], name
    known = [f"{s}.{n}" for s in SECTIONS for n in sections[s].model_fields if f"{s}.{n}" not in _OTHERWISE]
    near = difflib.get_close_matches(str(path), known, n=1, cutoff=0.6)
    if section in SECTIONS and not near:
        near = [", ".join(one for one in known if one.startswith(f"{section}."))]
    raise ValueError(f"has '{path}'; it must be {_MAY_BE}" + (f", such as {near[0]}" if near else ""))


def _as_read(path: str, value: Any, field: FieldInfo) -> Any:
    """Return a value as its setting reads it."""
    rule = allowed(field)
    items = value if isinstance(value, list | tuple) else (value,)
    # To YAML 1.1, 3e-4 is a text, and yes a truth that pydantic would read as 1.
    meant = float(value) if isinstance(value, str) and "number" in rule and EXPONENT.fullmatch(value) else value
    wrong = "number" in rule and any(isinstance(item, bool) for item in items)
    if path == "distill.core_size" and value is None:
        wrong, rule = True, f"{rule.removesuffix(' or null')}, since the other points have one"
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    read = None
    try:
        read = TypeAdapter[Any](kind).validate_python(meant)
    except ValidationError:
        wrong = True
    if wrong:
        raise ValueError(f"has {path}: {json.dumps(value, default=str)}; it must be {rule}")
    return read


def check_axes_of_transfers(names: Iterable[str]) -> None:
    """Check that these settings can be axes of transfers.

    Raises:
        ValueError: one cannot.
    """
    for path in names:
        if path in _NOT_OF_TRANSFERS:
            raise ValueError(f"has '{path}'; it is no axis of transfers: {_NOT_OF_TRANSFERS[path]}")


def frozen(value: Any) -> Any:
    """Return a value of a setting as one that can be hashed: lists as tuples."""
    return tuple(frozen(item) for item in value) if isinstance(value, list | tuple) else value


def of_training(axes: Axes) -> Axes:
    """Return the axes on which a training without a core depends: cycle 0, and baselines."""
    return tuple((path, value) for path, value in axes if path not in SCORING | OF_A_CORE)


def store_label(axes: Axes) -> str:
    """Return which store a point of the axes reads, as 'layer=11'; empty where no axis decides the activations."""
    return axes_label(tuple(axis for axis in axes if axis[0].partition(".")[0] in OF_STORES))


def short_names(axes: Axes) -> dict[str, str]:
    """Return a short name of each axis by its dotted name: its last part, where this is enough to tell them apart."""
    last = [path.rpartition(".")[2] for path, _ in axes]
    return {path: name if last.count(name) == 1 else path for (path, _), name in zip(axes, last, strict=True)}


def value_text(value: Any) -> str:
    """Return a value as a person reads it: '0.999', 'mean_square', '128 256', 'default' for null."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return " ".join(map(value_text, value)) or "none"
    if isinstance(value, str) and value in _WORDS:
        return f"'{value}'"
    return repr(value) if isinstance(value, float) else str(value)


def axes_name(axes: Axes) -> str:
    """Return the part of a trial's name that says its axes, as '-quantile0.999-score-mean_square'; empty without any.

    It is made of what every file system takes.
    """
    parts = []
    for path, name in short_names(axes).items():
        value = dict(axes)[path]
        said = value_text(value)
        text = re.sub(r"[^A-Za-z0-9._+-]+", "-", said)
        plain = not isinstance(value, str) or (text == said == text.casefold() and text not in _WORDS)
        if len(text) > _LONGEST or not plain:  # the end of a path says more than its beginning
            text = f"{text[-(_LONGEST - 9) :]}-{_hash(value)}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        parts.append(f"-{name}{'' if number else '-'}{text}")
    name = "".join(parts)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}-{_hash(axes)}"


def _hash(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]


def axes_label(axes: Axes) -> str:
    """Return the same for tables and figures, as 'quantile=0.999 score=mean_square'."""
    return " ".join(f"{name}={value_text(dict(axes)[path])}" for path, name in short_names(axes).items())


def axes_order(axes: Axes) -> tuple[tuple[str, bool, float, str], ...]:
    """Return a sort key: numbers by their size, before texts."""

    def key(path: str, value: Any) -> tuple[str, bool, float, str]:
        number = isinstance(value, int | float) and not math.isnan(value)
        return path, not number, float(value) if number else 0.0, value_text(value)

    return tuple(key(path, value) for path, value in axes)
