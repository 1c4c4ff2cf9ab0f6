"""What the run of a sweep itself says: its settings, its data, the software, and how its pages show it."""

import logging
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dmsae_ray import __version__
from dmsae_ray.config import CorpusSettings, Experiment
from dmsae_ray.errors import one_line
from dmsae_ray.tracking.tracker import SweepTracker
from dmsae_ray.tracking.views import View, views_of_sweep

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "ray", "transformers", "mlflow")
_COMMIT_TAG = "mlflow.source.git.commit"


def describe_sweep(tracker: SweepTracker, experiment: Experiment, stores: Mapping[str, CorpusSettings]) -> None:
    """Record what the sweep is about: its settings and its data.

    Args:
        tracker: Takes the records; it is started.
        experiment: The experiment.
        stores: The text of each store of its activations, by the store's key, which stands for the text's content too.
    """
    model = experiment.model
    settings = {
        "model": ("model.name", model.name),
        "model_revision": ("model.revision", model.revision),
        "layer": ("model.layer", model.layer),
        "latents": ("sae.n_latents", experiment.sae.n_latents),
        "cycles": ("distill.cycles", experiment.distill.cycles),
        "tokens_a_training": ("recipe.tokens", experiment.recipe.tokens),
    }
    # What is an axis is a parameter of the trials.
    tracker.params({name: value for name, (path, value) in settings.items() if path not in experiment.sweep.axes})
    for key, corpus in stores.items():
        tracker.dataset(corpus.path or corpus.source, key, corpus.source)
    tracker.artifact(tracker.sweep_dir / "config.yaml")


def describe_software(tracker: SweepTracker) -> None:
    """Record which software runs trials: only before some are run, since finished ones were made by what is recorded.

    Args:
        tracker: Takes the records; it is started.
    """
    for name, value in _versions().items():
        tracker.tag(None, name, value)


def views_of(tracker: SweepTracker, experiment: Experiment) -> list[View]:
    """Return the saved views of a sweep whose tracker is started; the first is the one to see first."""
    return views_of_sweep(experiment, tracker.parent_run_id, tracker.sweep_id)


def save_views(tracker: SweepTracker, experiment: Experiment) -> None:
    """Give MLflow's pages the views of a sweep. That this fails is said, and holds nothing up."""
    try:
        tracker.save_views(views_of(tracker, experiment))
    except Exception as error:  # whatever the store raises: the views are a convenience
        log.warning("MLflow's pages have no saved views of this sweep (%s)", one_line(error, 120))


def _versions() -> dict[str, str]:
    """Return the versions of the software, by tag, and the commit of this package where it is run from a checkout."""
    found = {"version.dmsae_ray": __version__, "version.python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[f"version.{name}"] = version(name)
        except PackageNotFoundError:
            continue
    here = Path(__file__).resolve().parents[2]
    if (here / ".git").exists():
        try:
            command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return found
        if done.returncode == 0 and done.stdout.strip():
            found[_COMMIT_TAG] = done.stdout.strip()
    return found
