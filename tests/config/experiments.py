"""Experiments from a text, and the names of all settings."""

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from dmsae_ray.config.experiment import Experiment, load_experiment


def load_text(folder: Path, text: str, *overrides: str) -> Experiment:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return load_experiment(path, overrides)


def fields(model: type[BaseModel], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, field in model.model_fields.items():
        inner = next((a for a in (field.annotation, *get_args(field.annotation)) if hasattr(a, "model_fields")), None)
        found += fields(inner, f"{prefix}{name}.") if inner else [(prefix + name, field)]
    return found
