"""Print a line for every finished cycle of every trial."""

from pathlib import Path
from typing import Any

from ray.tune import Callback

from dmsae_ray.cli.console import Screen
from dmsae_ray.distill import CycleReport
from dmsae_ray.results import TrialReport
from dmsae_ray.sweep import reason_of


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
        """Print finished cycles."""
        for cycle in TrialReport.from_metrics(result).cycles:
            self._done += 1
            self._screen.say("  " + cycle_line(trial.config["trial_id"], cycle))
        self._screen.bar("training", min(self._done, self._total), self._total, "trainings")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Print why a trial failed."""
        error = Path(trial.error_file) if trial.error_file else None
        reason = reason_of(error.read_text(errors="replace") if error and error.is_file() else "")
        self._screen.say(f"  {trial.config['trial_id']}: failed: {reason}")


def cycle_line(trial_id: str, cycle: CycleReport) -> str:
    """Return one cycle as one line."""
    metrics = cycle.metrics
    what = {"distilled": f"cycle {cycle.cycle}", "baseline": "baseline"}.get(cycle.arm, f"control {cycle.arm}")
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
