"""Lazy exports of the rooms (subpackages): names are imported on first use, so light ones load no torch and no Ray."""

import gc
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def face(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the `__getattr__`, `__dir__` and `__all__` of a room's `__init__` (PEP 562).

    Args:
        package: Dotted name of the room.
        modules: The names that each module of the room exports to other rooms.

    Returns:
        The three objects, in that order.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(_imported(f"{package}.{homes[name]}"), name)

    names = sorted(homes)
    return load, lambda: names, names


def _imported(module: str) -> Any:
    """Import a module without looking for cycles of garbage meanwhile: a fifth of the time that torch takes."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(module)
    finally:
        if collects:
            gc.enable()
