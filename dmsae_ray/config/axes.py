"""Further axes of a grid: settings, beside k and coverage, of which each trial has one value of several."""

import difflib
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Axis = tuple[str, Any]
"""A setting by its dotted name, and a value of it."""
Axes = tuple[Axis, ...]

OF_STORES = ("model", "corpus", "activations")
"""Sections whose settings decide the activations: each value of such an axis has a store of its own."""
SECTIONS = (*OF_STORES, "sae", "recipe", "distill")
"""Sections whose settings can be axes: all that decide results, but for the grid itself."""
_OTHERWISE = {
    "activations.mode": "no result depends on it",
    "sae.k": "sweep.k has its values",
    "distill.coverage": "sweep.coverage has its values",
    "recipe.name": "set what it stands for, such as recipe.threshold",
    "recipe.tokens": "all trainings of a sweep have the same length",
    "recipe.batch_size": "all trainings of a sweep have the same length",
    "distill.cycles": "all trials of a sweep have the same cycles",
    "distill.controls": "all trials of a sweep have the same controls",
    "distill.initial_sae": "sweep.k with a mapping from k to folder gives an SAE to each",
    "distill.initial_sae_any_k": "sweep.k with a mapping from k to folder gives an SAE to each",
}
"""Settings that cannot be axes, and what there is in their place, or why."""
_MAY_BE = f"a setting of {', '.join(SECTIONS[:-1])} or {SECTIONS[-1]}"
SCORING = frozenset(
    f"distill.{name}"
    for name in ("core_size", "fresh_attribution", "intersect", "min_cycles", "pool_groups", "quantile", "score")
)
"""Settings that do not touch a training: trials that differ only in these share their cycle 0."""
EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
OF_A_CORE = frozenset({"sae.core_sparsity", "sae.core_decoder_init"})
"""Settings that say how a core is used: where only these differ, cycle 0 is shared too, since it has no core."""
_LONGEST = 48


def read_axes(given: Mapping[str, Any], fields: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
    """Return the values of each axis by its dotted name, from a mapping that may be nested.

    Args:
        given: as in {distill.quantile: [0.99, 0.999]}, or {distill: {quantile: [0.99, 0.999]}}.
        fields: the settings of each section.

    Raises:
        ValueError: a name is no setting that can be an axis, or has no list of values, or one of them twice.
    """
    found: dict[str, list[Any]] = {}
    for name, values in given.items():
        nested = {f"{name}.{k}": v for k, v in values.items()} if isinstance(values, Mapping) else {name: values}
        for path, listed in nested.items():
            _check_name(path, fields)
            if not isinstance(listed, list | tuple) or not listed:
                raise ValueError(f"has {path}: {listed!r}; it must be a list of at least one value")
            # To YAML 1.1, 3e-4 is a text.
            meant = [float(v) if isinstance(v, str) and EXPONENT.fullmatch(v) else v for v in listed]
            if len({repr(frozen(value)) for value in meant}) < len(meant):
                raise ValueError(f"has {path}: {meant!r}; it must hold no value twice")
            found[path] = meant
    return found


def _check_name(path: str, fields: Mapping[str, Sequence[str]]) -> None:
    section, _, name = path.partition(".")
    if path in _OTHERWISE:
        raise ValueError(f"has '{path}'; it is no axis: {_OTHERWISE[path]}")
    if section not in SECTIONS or name not in fields[section]:
        known = [f"{s}.{n}" for s in SECTIONS for n in fields[s] if f"{s}.{n}" not in _OTHERWISE]
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
        if section in SECTIONS and not near:
            near = [", ".join(one for one in known if one.startswith(f"{section}."))]
        raise ValueError(f"has '{path}'; it must be {_MAY_BE}" + (f", such as {near[0]}" if near else ""))


def frozen(value: Any) -> Any:
    """Return a value of a setting as one that can be hashed: lists as tuples."""
    return tuple(frozen(item) for item in value) if isinstance(value, list | tuple) else value


def of_training(axes: Axes) -> Axes:
    """Return the axes on which a training without a core depends: cycle 0, and baselines."""
    return tuple((path, value) for path, value in axes if path not in SCORING | OF_A_CORE)


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
    return repr(value) if isinstance(value, float) else str(value)


def axes_name(axes: Axes) -> str:
    """Return the part of a trial's name that says its axes, as '-quantile0.999-score-mean_square'; empty without any.

    It is made of what every file system takes.
    """
    parts = []
    for path, name in short_names(axes).items():
        value = dict(axes)[path]
        text = re.sub(r"[^A-Za-z0-9._+-]+", "-", value_text(value))
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST - 9]}-{hashlib.sha256(repr(value).encode()).hexdigest()[:8]}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        parts.append(f"-{name}{'' if number else '-'}{text}")
    return "".join(parts)


def axes_label(axes: Axes) -> str:
    """Return the same for tables and figures, as 'quantile=0.999 score=mean_square'."""
    return " ".join(f"{name}={value_text(dict(axes)[path])}" for path, name in short_names(axes).items())


def axes_order(axes: Axes) -> tuple[tuple[str, bool, float, str], ...]:
    """Return a sort key: numbers by their size, before texts."""

    def key(path: str, value: Any) -> tuple[str, bool, float, str]:
        number = isinstance(value, int | float) and not math.isnan(value)
        return path, not number, float(value) if number else 0.0, value_text(value)

    return tuple(key(path, value) for path, value in axes)
