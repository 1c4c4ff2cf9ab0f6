"""What a person sees while something runs: one line per step, bars on a terminal, and no flood of log lines."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dmsae_ray.harvest import HarvestProgress
from dmsae_ray.lm import TrainingStep

LINE_SECONDS = 60.0
"""Time between two lines about a harvest where there is no terminal for a bar."""


class Screen:
    """Print lines with live bars below them on a terminal; elsewhere, lines only."""

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
        """Print one line."""
        self.console.print(text, soft_wrap=True, markup=False)

    def bar(self, name: str, done: float, total: float, unit: str = "", note: str = "") -> None:
        """Set the state of a bar; a full bar is removed."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, unit=unit, note=note)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note, unit=unit)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(name))

    def tiny_training(self, step: TrainingStep) -> None:
        """Show the progress of `lm.tiny_model` where it trains a model, since this Python's text differs from ours."""
        self.bar("training the tiny model", step.step, step.steps, "steps", f"{step.loss:.2f} nats a token")

    def harvest(self) -> Callable[[HarvestProgress], None]:
        """Return a listener for `harvest.prepare`: it shows a bar per stage, and a line when a stage is done.

        Where there is no terminal, it also prints a line every LINE_SECONDS, so that a log shows how far a long harvest
        is.
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
