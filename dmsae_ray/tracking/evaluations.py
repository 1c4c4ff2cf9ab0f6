"""What evaluations found, as metrics of the runs that have the SAEs."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from dmsae_ray.config import Experiment
from dmsae_ray.distill import CycleReport
from dmsae_ray.results import TrialResult
from dmsae_ray.tracking.names import RunName, own_arm
from dmsae_ray.tracking.tracker import SweepTracker


def record_evaluations(
    experiment: Experiment,
    sweep_dir: Path,
    saes: Iterable[tuple[TrialResult, CycleReport, Mapping[str, float]]],
    page: Path,
) -> int:
    """Log the numbers of evaluated SAEs, and attach the page to the sweep's run.

    A number of a cycle is in the run of its trial, one of a control in the control's, with the cycle as the step. What
    is logged already is skipped.

    Args:
        experiment: the experiment.
        sweep_dir: folder of the sweep, which no other process runs.
        saes: trial, cycle, and numbers by evaluation and name, as 'core/ce_loss_score'.
        page: the page.

    Returns:
        How many records are not delivered yet; `dmsae sync` delivers them.

    Raises:
        ConfigError: the store does not answer, or the sweep runs.
        DataError: the journal is corrupt.
    """
    tracker = SweepTracker.of(experiment, sweep_dir)
    tracker.open()
    try:
        for result, report, numbers in saes:
            own = report.arm == own_arm(result.trial.params())
            run = RunName(result.trial_id, "" if own else report.arm)
            # By evaluation, since one may come later than another; with other settings the numbers are others.
            for evaluation, names in groupby(sorted(numbers), key=lambda name: name.partition("/")[0]):
                values = {name: numbers[name] for name in names}
                digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
                tracker.metrics(str(run), f"eval {evaluation} {digest[:12]}", values, report.cycle)
        tracker.artifact(page)
    finally:
        left = tracker.close(None)
    return left
