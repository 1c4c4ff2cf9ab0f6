"""Ray Tune's trial events, told to the tracker. Runs in the controller; workers know nothing of MLflow."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.tune

from dmsae_ray.distill import DISTILLED, CycleRecord
from dmsae_ray.errors import DataError
from dmsae_ray.results import SUMMARY_FILE, load_results, parse_result
from dmsae_ray.tracking.tracker import SweepTracker

log = logging.getLogger(__name__)


class TrackingCallback(ray.tune.Callback):
    """Turns the records that workers report into MLflow runs.

    A trial's config is {"trial_id": str, "params": {...}}; a report is {"records": [...]}, each a `WindowRecord` or
    `CycleRecord` as a dict with "kind": "window" or "cycle" (others are passed over). Curves are `train/...` with the
    tokens seen as the step, cycles are `cycle/...` with the cycle as the step; a control's stand under its name, as in
    `train/gaussian/...`. Final metrics come from the trial's summary.json.
    """

    def __init__(self, tracker: SweepTracker) -> None:
        self._tracker = tracker

    def __reduce__(self) -> tuple[type[ray.tune.Callback], tuple[()]]:
        """Tune pickles callbacks with its own state; a tracker belongs to one process, so nothing of it goes there."""
        return (ray.tune.Callback, ())

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, for the first time or again."""
        self._tracker.trial(trial.config["trial_id"], trial.config["params"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A report of a trial's workers."""
        log_records(self._tracker, trial.config["trial_id"], trial.config["params"], result.get("records", []))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended well."""
        name = trial.config["trial_id"]
        self._tracker.finish(name, self._final_metrics(name), "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended for good with an error."""
        self._tracker.finish(trial.config["trial_id"], {}, "FAILED")

    def _final_metrics(self, trial_id: str) -> dict[str, float]:
        folder = self._tracker.sweep_dir / "trials" / trial_id
        try:
            return parse_result(json.loads((folder / SUMMARY_FILE).read_text()), folder).final_metrics()
        except (OSError, ValueError, DataError) as error:
            log.warning("trial %s has no final metrics: %s", trial_id, error)
            return {}


def log_records(
    tracker: SweepTracker, trial_id: str, params: Mapping[str, Any], records: list[Mapping[str, Any]]
) -> None:
    """Log the records of one report."""
    own = params.get("arm", DISTILLED)
    for record in records:
        fields = {name: value for name, value in record.items() if name != "kind"}
        arm = fields.get("arm", own)
        place = "" if arm == own else f"{arm}/"
        if record.get("kind") == "window":
            values = {f"train/{place}{name}": value for name, value in fields["stats"].items()}
            tracker.metrics(trial_id, values, int(fields["tokens"]))
        elif record.get("kind") == "cycle":
            cycle = CycleRecord(**fields)
            values = {f"cycle/{place}{name}": value for name, value in cycle.floats().items()}
            tracker.metrics(trial_id, values, cycle.cycle)


def log_finished(tracker: SweepTracker, sweep_dir: str | Path) -> None:
    """Log every finished trial of a sweep folder as far as the journal lacks it.

    For trials that an earlier controller finished but did not live to log; what is logged already is skipped.
    """
    for result in load_results(sweep_dir):
        tracker.trial(result.trial_id, result.params)
        for cycle in (*result.records, *result.controls.values()):
            record = {"kind": "cycle", **cycle.as_dict()}
            log_records(tracker, result.trial_id, result.params, [record])
        tracker.finish(result.trial_id, result.final_metrics(), "FINISHED")
