"""Pass the trial events of Ray Tune to the tracker, in the controller; workers do not use MLflow."""

import logging
from pathlib import Path
from typing import Any

import ray.tune

from dmsae_ray.distill import DISTILLED
from dmsae_ray.errors import DataError
from dmsae_ray.plan import Params
from dmsae_ray.results import TrialReport, load_result, load_results
from dmsae_ray.tracking.tracker import SweepTracker

log = logging.getLogger(__name__)


class TrackingCallback(ray.tune.Callback):
    """Log the reports of trials as MLflow runs.

    A trial's config is {"trial_id": str, "params": {...}}. Curves are logged as `train/...` with the tokens seen as the
    step, cycles as `cycle/...` with the cycle as the step. Those of a control have its name in the path, as in
    `train/gaussian/...`. Final metrics come from the trial's summary.json.
    """

    def __init__(self, tracker: SweepTracker) -> None:
        self._tracker = tracker

    def __reduce__(self) -> tuple[type[ray.tune.Callback], tuple[()]]:
        """Pickle as an empty callback: Tune saves callbacks in its state, but a tracker belongs to one process."""
        return (ray.tune.Callback, ())

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Begin the run of a trial, or open it again."""
        self._tracker.trial(trial.config["trial_id"], trial.config["params"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Log a report of a trial's workers."""
        log_report(self._tracker, trial.config["trial_id"], trial.config["params"], TrialReport.from_metrics(result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Log the final metrics of a trial that ended well."""
        name = trial.config["trial_id"]
        self._tracker.finish(name, self._final_metrics(name), "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Mark the run of a trial as failed; Tune does not try the trial again."""
        self._tracker.finish(trial.config["trial_id"], {}, "FAILED")

    def _final_metrics(self, trial_id: str) -> dict[str, float]:
        try:
            return load_result(self._tracker.sweep_dir / "trials" / trial_id).final_metrics()
        except DataError as error:
            log.warning("trial %s has no final metrics: %s", trial_id, error)
            return {}


def log_report(tracker: SweepTracker, trial_id: str, params: Params, report: TrialReport) -> None:
    """Log a report of a trial: its windows under `train/`, its cycles under `cycle/`."""
    own = params.get("arm", DISTILLED)

    def place(arm: str) -> str:
        return "" if arm == own else f"{arm}/"

    for window in report.windows:
        values = {f"train/{place(window.arm)}{name}": value for name, value in window.stats.items()}
        tracker.metrics(trial_id, values, window.tokens)
    for cycle in report.cycles:
        values = {f"cycle/{place(cycle.arm)}{name}": value for name, value in cycle.floats().items()}
        tracker.metrics(trial_id, values, cycle.cycle)


def log_finished(tracker: SweepTracker, sweep_dir: str | Path) -> None:
    """Log what the journal lacks of every finished trial of a sweep folder.

    It is for trials that finished under an earlier controller which stopped before it logged them. What is logged
    already is skipped.
    """
    for result in load_results(sweep_dir):
        params = result.trial.params()
        tracker.trial(result.trial_id, params)
        cycles = (*result.reports, *result.controls.values())
        log_report(tracker, result.trial_id, params, TrialReport(cycles=cycles))
        tracker.finish(result.trial_id, result.final_metrics(), "FINISHED")
