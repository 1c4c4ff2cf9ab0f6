"""A sweep that is ready to run: checked, planned, its folders made. Nothing here needs a Ray session."""

from dataclasses import dataclass, field

from dmsae_ray.config import Experiment
from dmsae_ray.plan import Plan, plan_experiment
from dmsae_ray.results import Folders, create_folders
from dmsae_ray.store import store_key
from dmsae_ray.sweep.inputs import check_inputs, hash_inputs


@dataclass(frozen=True)
class PreparedSweep:
    """All that is known of a sweep before Ray starts.

    Attributes:
        experiment: what to run.
        folders: where its files are.
        plan: what it would do and cost.
        store_key: of the store that its trials read.
    """

    experiment: Experiment
    folders: Folders
    plan: Plan
    store_key: str


@dataclass
class SweepResult:
    """What a sweep left.

    Attributes:
        folders: where its files are.
        finished: trials that are finished.
        errors: why trials failed, by trial.
        unfinished: trials that are neither.
    """

    folders: Folders
    finished: list[str]
    errors: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def prepare_sweep(experiment: Experiment) -> PreparedSweep:
    """Check what the experiment reads, make its folders, and plan it.

    Raises:
        ConfigError: something that it reads is not there or does not fit, its output cannot be written, or the sweep
            was begun with another model, text, core or initial SAE.
        DataError: the corpus, or a file of an initial SAE, is missing or damaged.
    """
    check_inputs(experiment)
    folders = create_folders(experiment)
    key = store_key(experiment)
    folders.check_inputs_unchanged(hash_inputs(experiment, key))
    return PreparedSweep(experiment, folders, plan_experiment(experiment), key)


def sweep_state(sweep: PreparedSweep, errors: dict[str, str] | None = None) -> SweepResult:
    """Say which trials are finished, which failed with one of `errors`, and which are neither."""
    errors = errors or {}
    trials = [trial.trial_id for trial in sweep.plan.trials]
    finished = [trial for trial in trials if sweep.folders.fetch(trial) is not None]
    unfinished = [trial for trial in trials if trial not in finished and trial not in errors]
    return SweepResult(sweep.folders, finished, errors, unfinished)
