"""The progress of a sweep from what it has written: its journal, and the results of finished trials."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dmsae_ray.cli.progress import SweepProgress, own_arm
from dmsae_ray.cli.progress_view import CycleValues
from dmsae_ray.config import Experiment
from dmsae_ray.plan import work_of
from dmsae_ray.results import Folders, Steered, load_results
from dmsae_ray.tracking import JOURNAL_FILE, RunName, read_outline

_FAILURE_TAG = "dmsae.failure"
_AT_ONCE_SECONDS = 1.0
"""The windows of a cycle that was found are reported together with it."""


@dataclass(frozen=True)
class Recorded:
    """What a journal says of the sweep itself.

    Attributes:
        records: Number of its records.
        last: Time of the last one, in seconds since 1970; None if there is none.
        status: Last status of the sweep; None if none is recorded.
    """

    records: int
    last: float | None
    status: str | None


def progress_of(experiment: Experiment, folders: Folders) -> SweepProgress:
    """Return how far a sweep is that is about to go on, from its journal and its finished trials."""
    progress = SweepProgress(work_of(experiment))
    replay(progress, read_outline(folders.sweep / JOURNAL_FILE))
    for result in load_results(folders.sweep):
        progress.finished(result)
    progress.retry()
    progress.not_run(Steered.read(folders.shared))
    return progress


def replay(progress: SweepProgress, records: Iterable[Any], began: float | None = None) -> Recorded:
    """Feed a journal's records (`tracking.read_outline`) to the progress of a sweep.

    Args:
        progress: The progress; times are seconds since 1970.
        records: The records, in their order.
        began: When the process that runs the sweep began; what ran before does not run any more.
    """
    own = {trial.trial_id: own_arm(trial) for trial in progress.work.trials}
    first: dict[tuple[str, str, int], float] = {}
    reasons: dict[str, str] = {}
    count = 0
    now: float | None = None
    status: str | None = None
    for record in records:
        before, now = now, record.time / 1000
        count = record.seq
        if began is not None and now >= began and (before is None or before < began):
            progress.stop()
        if record.run is None:
            if record.kind == "status":
                status = str(record.value)
                if status != "RUNNING":
                    progress.stop()
            continue
        run = RunName.of(record.run)
        trial_id = run.trial
        if trial_id not in own:
            continue
        if record.kind == "metrics" and record.key in ("train", "cycle"):
            arm = run.arm or own[trial_id]
            progress.begin(trial_id, now, again=False)
            if record.key == "train":
                cycle = progress.work.cycles or 0 if run.cycle is None else run.cycle
                first.setdefault((trial_id, arm, cycle), now)
                progress.window(trial_id, arm, cycle, record.step, now)
            else:
                cycle = record.step
                found = now - first.get((trial_id, arm, cycle), now) <= _AT_ONCE_SECONDS
                progress.cycle(trial_id, arm, cycle, _values(record.metrics), now, found=found)
        elif str(run) != trial_id:
            continue
        elif record.kind == "tag" and record.key == _FAILURE_TAG:
            reasons[trial_id] = str(record.value)
        elif record.kind == "run":
            progress.begin(trial_id, now)
        elif record.kind == "status":
            _status(progress, trial_id, str(record.value), reasons.get(trial_id, ""), now)
    if began is not None and (now is None or now < began):
        progress.stop()
    return Recorded(count, now, status)


def _status(progress: SweepProgress, trial_id: str, status: str, reason: str, now: float) -> None:
    if status == "RUNNING":
        progress.begin(trial_id, now)
    elif status == "FINISHED":
        progress.end(trial_id, "finished")
    elif status == "FAILED":
        progress.end(trial_id, "failed", reason)
    else:
        progress.end(trial_id, "waiting")


def _values(numbers: Mapping[str, float]) -> CycleValues:
    core = numbers.get("core_size")
    known = (numbers.get("carryover"), numbers.get("fvu"), numbers.get("l0"))
    return CycleValues(None if core is None else round(core), *known, collapsed=numbers.get("collapsed") == 1)
