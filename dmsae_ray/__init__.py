"""Distilled Matryoshka SAEs (arXiv 2512.24975) at cluster scale: which SAE features are stable?

`dmsae_ray.run(experiment)` runs an experiment and returns a data frame, `dmsae_ray.load_core(place)` returns a core
from a file, a folder or the Hub; everything else is in the rooms (subpackages).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `run` and `load_core` on first use, so that `import dmsae_ray` stays cheap."""
    if name == "run":
        return import_module(f"{__name__}.cli.library").run
    if name == "load_core":
        return import_module(f"{__name__}.distill").load_core
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
