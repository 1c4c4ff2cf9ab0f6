"""The sweeps that were begun in an output: an experiment goes on with one of them, or begins another one.

A sweep's folder holds trials that differ in nothing but k, coverage, further axes and seed, so that values of the grid
can be added later. A change of any other setting begins another sweep, and so does a version of this package whose
results mean something else (`config.METHOD_VERSION`).
"""

import re

import yaml

from dmsae_ray.config import METHOD_VERSION, Experiment, parse_experiment
from dmsae_ray.errors import DmsaeError
from dmsae_ray.files import Folder

CONFIG_FILE = "config.yaml"
BEGUN_FILE = "begun.yaml"
"""The config with which the sweep was begun; it is never written again."""
_MOST_TOLD = 6


def begun_sweeps(output: Folder, name: str) -> dict[str, Experiment]:
    """Return the sweeps of a name by the names of their folders; one whose config cannot be read is left out.

    Raises:
        DataError: The output cannot be listed or read.
    """
    found = {}
    for entry in sorted((output / "sweeps").entries(), key=lambda entry: str(entry.base_name)):
        folder = output / "sweeps" / str(entry.base_name)
        if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{8}}", str(entry.base_name)) is None:
            continue
        content = folder.read(BEGUN_FILE) or folder.read(CONFIG_FILE)
        try:
            found[str(entry.base_name)] = parse_experiment(yaml.safe_load(content or b""))
        except (DmsaeError, yaml.YAMLError, TypeError, AttributeError):
            continue
    return found


def folder_name(experiment: Experiment, version: int = METHOD_VERSION) -> str:
    """Return the name of the folder of a sweep that an experiment begins, by a version of the method."""
    return f"{experiment.name}-{experiment.digest(version)[:8]}"


def version_of(name: str, begun: Experiment) -> int | None:
    """Return the version of the method by which the sweep in folder `name` was begun; None if by none that is known."""
    return next((v for v in range(METHOD_VERSION, 0, -1) if folder_name(begun, v) == name), None)


def sweep_of(experiment: Experiment, begun: dict[str, Experiment]) -> str | None:
    """Return the name of the sweep to which an experiment's trials belong; None if it is not among those begun."""
    own = folder_name(experiment)
    fitting = [
        name
        for name, other in begun.items()
        if not differences(experiment, other) and version_of(name, other) == METHOD_VERSION
    ]
    return own if own in fitting else next(iter(fitting), None)


def differences(experiment: Experiment, other: Experiment) -> list[str]:
    """Return the settings, other than the grid's, that differ: 'recipe.lr is 0.003, was 0.002'."""
    here, there = experiment.shared_settings(), other.shared_settings()
    names = [*here, *(name for name in there if name not in here)]
    return [f"{n} is {here.get(n)}, was {there.get(n)}" for n in names if here.get(n) != there.get(n)]


def told_difference(experiment: Experiment, begun: dict[str, Experiment]) -> str | None:
    """Return a line that says why an experiment does not go on with a sweep of its name; None if there is none."""
    if not begun:
        return None
    name = min(begun, key=lambda name: len(differences(experiment, begun[name])))
    changed = differences(experiment, begun[name])
    if not changed:
        return f"a sweep of its own, not '{name}': results of the version that began that one mean something else"
    more = [f"and {len(changed) - _MOST_TOLD} more"] if len(changed) > _MOST_TOLD else []
    return f"a sweep of its own, not '{name}': {', '.join([*changed[:_MOST_TOLD], *more])}"
