"""Pass what trials report to the table, and print a line for every finished cycle."""

import time
from typing import Any

from ray.tune import Callback

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.progress import SweepProgress
from dmsae_ray.distill import CycleReport
from dmsae_ray.results import TrialReport, cycle_name, failure_in


class TrialLines(Callback):
    """Print a line for each finished cycle, and keep the progress of a sweep.

    Args:
        screen: Where to print.
        progress: The progress of the sweep.
    """

    def __init__(self, screen: Screen, progress: SweepProgress) -> None:
        self._screen, self._progress = screen, progress

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note that a trial begins."""
        self._progress.begin(trial.config["trial_id"], time.time())

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Print where a training was taken up again, what is waited for, and finished cycles."""
        report = TrialReport.from_metrics(result)
        self._progress.report(trial.config["trial_id"], report, time.time())
        if report.resumed:
            self._screen.say(f"  {trial.config['trial_id']}: goes on at {report.resumed}")
        if report.waits:
            self._screen.say(f"  {trial.config['trial_id']}: waits for {report.waits}, which another sweep trains")
        for cycle in report.cycles:
            self._screen.say("  " + cycle_line(trial.config["trial_id"], cycle))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note that a trial has finished."""
        self._progress.end(trial.config["trial_id"], "finished")

    def on_trial_stopped(self, trial_id: str, reason: str) -> None:
        """Print that a scheduler has stopped a trial."""
        self._progress.end(trial_id, "stopped", reason)
        self._screen.say(f"  {trial_id}: {reason}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Print why a trial cannot go on."""
        reason = failure_in(trial.last_result)
        self._progress.end(trial.config["trial_id"], "failed", str(reason))
        self._screen.say(f"  {trial.config['trial_id']}: failed: {reason}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Print that a trial is started again."""
        self._progress.begin(trial.config["trial_id"], time.time())
        self._screen.say(f"  {trial.config['trial_id']}: its driver was lost; it goes on from its last checkpoint")


def cycle_line(trial_id: str, cycle: CycleReport) -> str:
    """Return one cycle as one line."""
    metrics = cycle.metrics
    what = cycle_name(cycle.arm, cycle.cycle)
    parts = [f"core {cycle.n_core_in} -> {cycle.n_core}"]
    if cycle.collapsed:
        parts.append(f"collapsed: {cycle.collapsed}")
    parts += [f"{trouble} at step {step}" for trouble, step in cycle.troubles.items()]
    if cycle.carryover is not None:
        retest = "" if cycle.retest is None else f", retest {cycle.retest:.2f}"
        parts.append(f"carryover {cycle.carryover:.2f} (chance {cycle.chance:.2f}{retest})")
    parts.append(f"L0 {metrics.get('l0_core', 0):.1f}+{metrics.get('l0_non_core', 0):.1f}")
    if "fvu" in metrics:
        parts.append(f"FVU {metrics['fvu']:.3f}")
    if "loss_recovered" in metrics:
        parts.append(f"loss recovered {metrics['loss_recovered']:.3f}")
    cost = "found" if cycle.cached else f"{cycle.seconds:.0f} s"
    return f"{trial_id:<22} {what:<17} " + ", ".join(parts) + f" [{cost}]"
