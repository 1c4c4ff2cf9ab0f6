"""Pass the trial events of Ray Tune to the records, in the controller; workers do not use MLflow."""

import logging
from pathlib import Path
from typing import Any

import ray.tune

from dmsae_ray.errors import DataError
from dmsae_ray.results import TrialReport, failure_in, load_result
from dmsae_ray.tracking.trial_records import TrialRecords

log = logging.getLogger(__name__)


class TrackingCallback(ray.tune.Callback):
    """Record what trials report. A trial's config is {"trial_id": str, "params": {...}}.

    Args:
        records: Takes the reports.
        sweep_dir: Folder of the sweep, where results of trials are.
    """

    def __init__(self, records: TrialRecords, sweep_dir: str | Path) -> None:
        self._records, self._sweep_dir = records, Path(sweep_dir)

    def __reduce__(self) -> tuple[type[ray.tune.Callback], tuple[()]]:
        """Pickle as an empty callback: Tune saves callbacks in its state, but records belong to one process."""
        return (ray.tune.Callback, ())

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Begin the run of a trial, or open it again."""
        self._records.begin(trial.config["trial_id"], trial.config["params"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a report of a trial's workers."""
        self._records.report(trial.config["trial_id"], trial.config["params"], TrialReport.from_metrics(result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the result of a trial that ended well."""
        name = trial.config["trial_id"]
        try:
            self._records.finish(load_result(self._sweep_dir / "trials" / name))
        except DataError as error:
            log.warning("trial %s has no final metrics: %s", name, error)

    def on_trial_stopped(self, trial_id: str, reason: str) -> None:
        """Mark the runs of a trial that a scheduler has stopped."""
        self._records.stop(trial_id, reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Mark the runs of a trial as failed; Tune does not try the trial again."""
        reason = failure_in(trial.last_result) or "its driver failed; see Ray's log"
        self._records.fail(trial.config["trial_id"], reason)
