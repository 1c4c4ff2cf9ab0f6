"""Presets: the same question on a small model, so that an experiment can be tried before it is paid for."""

from importlib.resources import files
from typing import Any

import yaml

from dmsae_ray.errors import ConfigError

PRESETS = ("tiny",)
K_DIVISOR, LEAST_K = 10, 2


def apply_preset(tree: dict[str, Any], name: str) -> None:
    """Replace the model, text, sizes and resources of an experiment by those of a preset; what is asked stays.

    Args:
        tree: the experiment as it was read; it is changed.
        name: one of `PRESETS`.

    Raises:
        ConfigError: there is no such preset, or the file gives an SAE for cycle 0, which no other model has.
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset is '{name}'; known are {', '.join(PRESETS)}")
    distill = tree.get("distill")
    if isinstance(distill, dict) and distill.get("initial_sae") is not None:
        raise ConfigError("--preset is given, and distill.initial_sae is of another model; take it out of the file")
    small = yaml.safe_load((files("dmsae_ray.presets") / f"{name}.yaml").read_text(encoding="utf-8"))
    for section in ("model", "corpus", "activations", "resources"):
        tree[section] = small[section]
    recipe, sae, tracking = tree.get("recipe"), tree.get("sae"), tree.get("tracking")
    named = {"name": recipe} if isinstance(recipe, str) else {}
    tree["recipe"] = {**named, **small["recipe"]}
    tree["sae"] = {**(sae if isinstance(sae, dict) else {}), **small["sae"]}
    if isinstance(tracking, dict):
        tree["tracking"] = {key: value for key, value in tracking.items() if key != "window_steps"}
    if isinstance(tree.get("name"), str):
        tree["name"] = f"{tree['name']}-{name}"
    sweep = tree.get("sweep")
    tree["sae"]["k"] = _smaller(tree["sae"].get("k", 80))
    if isinstance(sweep, dict) and isinstance(sweep.get("k"), list):
        tree["sweep"] = {**sweep, "k": list(dict.fromkeys(_smaller(k) for k in sweep["k"]))}
    axes = sweep.get("axes") if isinstance(sweep, dict) else None
    gone = [str(path) for path in axes if _is_replaced(str(path), small)] if isinstance(axes, dict) else []
    if gone:
        raise ConfigError(
            f"--preset is given, and sweep.axes has '{gone[0]}', which it sets itself; take it out of the file"
        )
    transfer = tree.get("transfer")
    if isinstance(transfer, dict) and isinstance(transfer.get("baseline_k"), list):
        tree["transfer"] = {**transfer, "baseline_k": list(dict.fromkeys(_smaller(k) for k in transfer["baseline_k"]))}


def _is_replaced(path: str, small: dict[str, Any]) -> bool:
    """Return whether an axis is of a setting, or of a section, that the preset replaces."""
    section, _, name = path.partition(".")
    return section in ("model", "corpus", "activations") or name in small.get(section, {})


def _smaller(k: Any) -> Any:
    """Return a k for the small dictionary; what is no whole number is left for the validation."""
    return max(LEAST_K, round(k / K_DIVISOR)) if type(k) is int else k
