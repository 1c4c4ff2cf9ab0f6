"""Print a line for every finished cycle of every trial."""

from typing import Any

from ray.tune import Callback

from dmsae_ray.cli.console import Screen
from dmsae_ray.distill import CycleReport
from dmsae_ray.results import TrialReport, cycle_name, failure_in


class TrialLines(Callback):
    """Print a line for each finished cycle, and show a bar over all trainings of a sweep.

    Args:
        screen: Where to print.
        trainings: Number of trainings of the whole sweep.
    """

    def __init__(self, screen: Screen, trainings: int) -> None:
        self._screen = screen
        self._total = trainings
        self._done = 0

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Print where a training was taken up again, and finished cycles."""
        report = TrialReport.from_metrics(result)
        if report.resumed:
            self._screen.say(f"  {trial.config['trial_id']}: goes on at {report.resumed}")
        for cycle in report.cycles:
            self._done += 1
            self._screen.say("  " + cycle_line(trial.config["trial_id"], cycle))
        self._screen.bar("training", min(self._done, self._total), self._total, "trainings")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Print why a trial cannot go on."""
        self._screen.say(f"  {trial.config['trial_id']}: failed: {failure_in(trial.last_result)}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Print that a trial is started again."""
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
        parts.append(f"carryover {cycle.carryover:.2f} (chance {cycle.chance:.2f})")
    parts.append(f"L0 {metrics.get('l0_core', 0):.1f}+{metrics.get('l0_non_core', 0):.1f}")
    if "fvu" in metrics:
        parts.append(f"FVU {metrics['fvu']:.3f}")
    if "loss_recovered" in metrics:
        parts.append(f"loss recovered {metrics['loss_recovered']:.3f}")
    cost = "found" if cycle.cached else f"{cycle.seconds:.0f} s"
    return f"{trial_id:<22} {what:<17} " + ", ".join(parts) + f" [{cost}]"
