"""Functions of a user's own, named as MODULE:FUNCTION, and a hash of the source that decides what they do."""

import ast
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dmsae_ray.errors import ConfigError, one_line

INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
"""Folders of packages that are installed."""


def own_function(option: str, text: str) -> Callable[..., Any]:
    """Return what MODULE:FUNCTION names, from a module that this process can import: a function, or what can be called.

    Raises:
        ConfigError: there is none.
    """
    module, colon, name = text.partition(":")
    if not colon:
        raise ConfigError(f"{option} is '{text}'; it must be MODULE:FUNCTION")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # the code of a user
        raise ConfigError(f"{option} is '{text}'; it cannot be imported ({one_line(error)})") from None
    if not callable(function):
        raise ConfigError(f"{option} is '{text}'; it is no function")
    found: Callable[..., Any] = function
    return found


def source_hash(option: str, text: str) -> str:
    """Return a hash of what MODULE:FUNCTION names: its name, the source of its module, and of those that this imports.

    So a function, a `functools.partial` and an object that can be called are all decided by files. What is installed
    (and this package) is taken to stay as it is; files of data that the code reads are not looked at.

    Raises:
        ConfigError: its module has no source.
    """
    first = text.partition(":")[0]
    file = getattr(sys.modules[first], "__file__", None)
    if file is None or not file.endswith(".py"):
        raise ConfigError(
            f"{option} is '{text}'; '{first}' has no source file (.py), so that no change of it could be seen: name a "
            "function of a file of your own"
        )
    found, waiting = {first: Path(file).read_bytes()}, [first]
    while waiting:
        name = waiting.pop()
        for other in _imported(found[name], name):
            if other not in found and (place := _own_file(other)) is not None:
                found[other] = place.read_bytes()
                waiting.append(other)
    every = hashlib.sha256(text.encode())
    for name in sorted(found):
        every.update(f"\n{name} {hashlib.sha256(found[name]).hexdigest()}".encode())
    return every.hexdigest()


def _imported(source: bytes, module: str) -> Iterator[str]:
    """Yield the names of what may be modules that a module imports, wherever in it."""
    package = module if hasattr(sys.modules.get(module), "__path__") else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _own_file(name: str) -> Path | None:
    """Return the source of a module of the user's own; None if it is installed, part of this package, or no module."""
    if name.partition(".")[0] in {"dmsae_ray", *sys.stdlib_module_names}:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin).resolve()
    return None if any(file.is_relative_to(folder) for folder in INSTALLED) else file
