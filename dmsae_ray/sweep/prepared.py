"""A sweep that is ready to run: checked and planned, with its folders made. Nothing here needs a Ray session."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dmsae_ray.config import Experiment
from dmsae_ray.plan import Plan, many, plan_experiment
from dmsae_ray.results import (
    Folders,
    Steered,
    begun_inputs,
    create_folders,
    keep_config,
    load_results,
    matched_baselines,
    store_input,
)
from dmsae_ray.store import store_key
from dmsae_ray.sweep.given import find_given, given_here, given_places, hash_given, keep_given
from dmsae_ray.sweep.inputs import check_inputs, check_saes_and_core

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedSweep:
    """All that is known of a sweep before Ray starts.

    Attributes:
        experiment: The experiment to run.
        folders: Where its files are.
        plan: What it would do and cost.
        store_key: Key of the store that its trials read; of several, of the first part.
        given: Folders with copies of the SAEs and the core that it is given, by setting.
    """

    experiment: Experiment
    folders: Folders
    plan: Plan
    store_key: str
    given: dict[str, str] = field(default_factory=dict)

    def parts(self) -> "list[PreparedSweep]":
        """Return the sweep in parts that read one store each, see `Experiment.parts`."""
        if not self.experiment.store_label:
            return [self]
        return [
            replace(self, experiment=part, plan=plan_experiment(part), store_key=store_key(part))
            for part in self.experiment.parts()
        ]


@dataclass
class SweepResult:
    """The state of a sweep: which trials finished, failed or are unfinished.

    Attributes:
        folders: Where its files are.
        finished: Trials that are finished.
        errors: Why trials failed, by trial.
        unfinished: Trials that neither finished nor failed.
        stopped: Why trials are not run to their end, by trial; see `results.Steered`.
    """

    folders: Folders
    finished: list[str]
    errors: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)


def prepare_sweep(experiment: Experiment, say: Callable[[str], None] = log.info) -> PreparedSweep:
    """Check what the experiment reads, find or make its folders, and plan it.

    Given SAEs and cores are copied to the output, once; from the Hub they are downloaded for that.

    Args:
        experiment: The experiment.
        say: Called with a line if a sweep of this name was begun with other settings.

    Raises:
        ConfigError: An input is not there or does not fit, the output cannot be written, or the sweep was begun with
            another model, text, core or initial SAE.
        DataError: The corpus, or a file of an initial SAE, is missing or damaged, or the Hub cannot be reached.
        TransientError: The Hub does not answer.
    """
    parts = experiment.parts()
    widths = [check_inputs(part) for part in parts]
    given = find_given(experiment, begun_inputs(experiment) if given_places(experiment) else {})
    with given_here(given) as here:
        for part, d_model in zip(parts, widths, strict=True):
            check_saes_and_core(part, d_model, here)
    folders = create_folders(experiment, say)
    keys, hashes = {store_input(part): store_key(part) for part in parts}, hash_given(given)
    commits = {field: found.commit for field, found in given.items() if found.commit is not None}
    folders.check_inputs_unchanged({**keys, **hashes}, commits)
    copies = keep_given(given, hashes, folders.given)
    return PreparedSweep(experiment, folders, plan_experiment(experiment), next(iter(keys.values())), copies)


def sweep_state(sweep: PreparedSweep, errors: dict[str, str] | None = None) -> SweepResult:
    """Return which trials are finished, which failed with one of `errors`, which were stopped, and which are left."""
    errors = errors or {}
    trials = [trial.trial_id for trial in sweep.plan.trials]
    finished = [trial for trial in trials if sweep.folders.fetch(trial) is not None]
    left = [trial for trial in trials if trial not in finished and trial not in errors]
    stopped = Steered.read(sweep.folders.shared).reasons(left)
    return SweepResult(sweep.folders, finished, errors, [trial for trial in left if trial not in stopped], stopped)


def with_matched_baselines(sweep: PreparedSweep, say: Callable[[str], None] = log.info) -> PreparedSweep:
    """Return the sweep with the baselines that match the L0 of its SAEs around a core; the sweep itself without any.

    They are known, and trained in the same folder, when all its other trials have finished.

    Args:
        sweep: The sweep, which this process alone runs.
        say: Called with a line for what is added, and for what cannot be matched.

    Raises:
        DataError: A summary cannot be read.
    """
    if sweep.experiment.transfer is None or sweep_state(sweep).unfinished:
        return sweep
    found = matched_baselines(sweep.experiment, load_results(sweep.folders.sweep))
    if found is None:
        return sweep
    for line in found.left_out:
        say(f"note: {line}")
    more = replace(sweep, experiment=found.experiment, plan=plan_experiment(found.experiment))
    trained = sweep_state(more).unfinished
    if trained:
        say(f"second round: {many(len(trained), 'baseline')} at measured L0")
        for line in found.lines:
            say(f"  {line}")
        keep_config(more.experiment, more.folders)
    return more
