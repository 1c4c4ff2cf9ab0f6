"""A sweep that is ready to run: checked and planned, with its folders made. Nothing here needs a Ray session."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from dmsae_ray.config import Experiment
from dmsae_ray.plan import Plan, plan_experiment
from dmsae_ray.results import Folders, create_folders
from dmsae_ray.store import store_key
from dmsae_ray.sweep.inputs import check_inputs, hash_inputs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedSweep:
    """All that is known of a sweep before Ray starts.

    Attributes:
        experiment: The experiment to run.
        folders: Where its files are.
        plan: What it would do and cost.
        store_key: Key of the store that its trials read.
    """

    experiment: Experiment
    folders: Folders
    plan: Plan
    store_key: str


@dataclass
class SweepResult:
    """The state of a sweep: which trials finished, failed or are unfinished.

    Attributes:
        folders: Where its files are.
        finished: Trials that are finished.
        errors: Why trials failed, by trial.
        unfinished: Trials that neither finished nor failed.
    """

    folders: Folders
    finished: list[str]
    errors: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def prepare_sweep(experiment: Experiment, say: Callable[[str], None] = log.info) -> PreparedSweep:
    """Check what the experiment reads, find or make its folders, and plan it.

    Args:
        experiment: The experiment.
        say: Called with a line if a sweep of this name was begun with other settings.

    Raises:
        ConfigError: An input is not there or does not fit, the output cannot be written, or the sweep was begun with
            another model, text, core or initial SAE.
        DataError: The corpus, or a file of an initial SAE, is missing or damaged.
    """
    check_inputs(experiment)
    folders = create_folders(experiment, say)
    key = store_key(experiment)
    folders.check_inputs_unchanged(hash_inputs(experiment, key))
    return PreparedSweep(experiment, folders, plan_experiment(experiment), key)


def sweep_state(sweep: PreparedSweep, errors: dict[str, str] | None = None) -> SweepResult:
    """Return which trials are finished, which failed with one of `errors`, and which are neither."""
    errors = errors or {}
    trials = [trial.trial_id for trial in sweep.plan.trials]
    finished = [trial for trial in trials if sweep.folders.fetch(trial) is not None]
    unfinished = [trial for trial in trials if trial not in finished and trial not in errors]
    return SweepResult(sweep.folders, finished, errors, unfinished)
