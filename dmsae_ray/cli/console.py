"""What a person sees while something runs: one line a step, bars where there is a terminal, no log spam."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dmsae_ray.harvest import Progress as HarvestProgress
from dmsae_ray.lm import TrainingStep
from dmsae_ray.sweep import reason_of

LINE_SECONDS = 60.0
"""Between two lines of a harvest where there is no terminal for a bar."""


class Screen:
    """Lines above, live bars below (on a terminal); lines alone elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Screen":
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, soft_wrap=True, markup=False)

    def bar(self, name: str, done: float, total: float, unit: str = "", note: str = "") -> None:
        """Set a bar; a full one is taken away."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, unit=unit, note=note)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note, unit=unit)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(name))

    def tiny_training(self, step: TrainingStep) -> None:
        """A listener for `lm.tiny_model`, where this Python's text asks for a model of its own."""
        self.bar("training the tiny model", step.step, step.steps, "steps", f"{step.loss:.2f} nats a token")

    def harvest(self) -> Callable[[HarvestProgress], None]:
        """A listener for `activations.prepare`: a bar a stage, and a line when a stage is done.

        Where there is no terminal, a line now and then too, so that a log tells how far a long harvest is.
        """
        said: set[str] = set()
        last = time.monotonic()

        def listen(event: HarvestProgress) -> None:
            nonlocal last
            if event.stage in said:
                return
            if not self.console.is_terminal and time.monotonic() - last >= LINE_SECONDS and event.done < event.total:
                last = time.monotonic()
                self.say(f"  {event.stage}: {event.done:,} of {event.total:,} tokens, {_rate(event)}")
            self.bar(event.stage, event.done, event.total, "tokens", _rate(event))
            if event.done >= event.total:
                said.add(event.stage)
                made = f"{event.bytes / 1e6:,.0f} MB, {event.tokens_per_s:,.0f} tokens/s" if event.bytes else "found"
                self.say(f"  {event.stage}: {event.total:,} tokens ({made})")

        return listen


def _rate(event: HarvestProgress) -> str:
    left = event.eta_s
    eta = f", {left // 3600:.0f} h {left % 3600 / 60:.0f} min left" if 60 < left < float("inf") else ""
    return f"{event.tokens_per_s:,.0f} tokens/s, {event.bytes / 1e9:,.1f} GB{eta}" if event.tokens_per_s else ""


class TrialLines(Callback):
    """A line for every finished cycle of every trial, and a bar over all trainings of a sweep."""

    def __init__(self, screen: Screen, trainings: int) -> None:
        self._screen = screen
        self._total = trainings
        self._done = 0

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Tell of finished cycles."""
        for record in result.get("records") or []:
            if record["kind"] == "cycle":
                self._done += 1
                self._screen.say("  " + cycle_line(trial.config["trial_id"], record))
        self._screen.bar("training", min(self._done, self._total), self._total, "trainings")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Tell of a trial that ended with an error."""
        error = Path(trial.error_file) if trial.error_file else None
        reason = reason_of(error.read_text(errors="replace") if error and error.is_file() else "")
        self._screen.say(f"  {trial.config['trial_id']}: failed: {reason}")


def cycle_line(trial_id: str, record: dict[str, Any]) -> str:
    """One cycle in one line."""
    metrics = record["metrics"]
    what = {"distilled": f"cycle {record['cycle']}", "baseline": "baseline"}.get(
        record["arm"], f"control {record['arm']}"
    )
    parts = [f"core {record['n_core_in']} -> {record['n_core']}"]
    if record["collapsed"]:
        parts.append(f"collapsed: {record['collapsed']}")
    parts += [f"{trouble} at step {step}" for trouble, step in record["troubles"].items()]
    if record["carryover"] is not None:
        parts.append(f"carryover {record['carryover']:.2f} (chance {record['chance']:.2f})")
    parts.append(f"L0 {metrics.get('l0_core', 0):.1f}+{metrics.get('l0_non_core', 0):.1f}")
    if "fvu" in metrics:
        parts.append(f"FVU {metrics['fvu']:.3f}")
    if "loss_recovered" in metrics:
        parts.append(f"loss recovered {metrics['loss_recovered']:.3f}")
    cost = "found" if record["cached"] else f"{record['seconds']:.0f} s"
    return f"{trial_id:<22} {what:<17} " + ", ".join(parts) + f" [{cost}]"
