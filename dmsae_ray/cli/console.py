"""What a person sees while something runs: lines that stay, a live table below them, and no flood of log lines."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from dmsae_ray.cli.progress import SweepProgress
from dmsae_ray.cli.progress_table import SweepTable, short
from dmsae_ray.harvest import HarvestProgress
from dmsae_ray.lm import TrainingStep

LINE_SECONDS = 60.0
"""Time between two lines about a harvest where there is no terminal for a bar."""
_REFRESHES_PER_SECOND = 2.0
_LOOK_SECONDS = 1.0
"""Time between two looks at a sweep's progress; the looks cost time where there are a thousand trials."""
_LINES_BESIDE_TABLE = 8
"""Lines of the terminal that are left to what is printed above the table, to its title and to what sums it up."""


class Screen:
    """Print lines with live bars and a live table below them on a terminal; elsewhere, lines only."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or output_console()
        self.live = self.console.is_interactive
        """Whether bars and tables are shown; not so where there is no terminal, or a dumb one."""
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn("{task.fields[done]} {task.fields[unit]}"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            expand=True,
            console=self.console,
            auto_refresh=False,
            disable=not self.live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._sweep: SweepProgress | None = None
        self._seen: tuple[float, RenderableType] = (-1.0, "")
        self._waits = ""
        self._harvest_ends: float | None = None
        self._display = Live(
            get_renderable=self._picture,
            console=self.console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            vertical_overflow="crop",
        )
        self._log = _LogLines(self.say)

    def __enter__(self) -> "Screen":
        if self.live:
            self._display.start()
            logging.getLogger().addHandler(self._log)  # else warnings would be written into the table
        return self

    def __exit__(self, *exc: object) -> None:
        if self.live:
            logging.getLogger().removeHandler(self._log)
            self._display.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, soft_wrap=True, markup=False, emoji=False)

    def bar(self, name: str, done: float, total: float, unit: str = "", note: str = "") -> None:
        """Set the state of a bar; a full bar is removed."""
        text = f"{short(done)} of {short(total)}"
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, unit=unit, note=note, done=text)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note, unit=unit, done=text)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(name))

    @contextmanager
    def showing(self, sweep: SweepProgress) -> Iterator[None]:
        """Show the trials of a sweep as a live table for as long as the context lasts."""
        self._sweep, self._seen = sweep, (-1.0, "")
        try:
            yield
        finally:
            self._sweep, self._waits = None, ""

    def waits(self, what: str) -> None:
        """Show below the table what waits, until this is called again; an empty text shows nothing."""
        self._waits = what

    def leave(self) -> None:
        """Give the terminal its cursor back, without waiting for a lock, right before the process ends hard."""
        if self.live:
            os.write(sys.stdout.fileno(), b"\x1b[?25h\n")

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
            if not self.live and time.monotonic() - last >= LINE_SECONDS and event.done < event.total:
                last = time.monotonic()
                self.say(f"  {event.stage}: {event.done:,} of {event.total:,} tokens, {_rate(event)}")
            self.bar(event.stage, event.done, event.total, "tokens", _rate(event))
            self._harvest_ends = time.time() + event.eta_s if event.eta_s < float("inf") else None
            if event.done >= event.total:
                said.add(event.stage)
                self._harvest_ends = None
                made = f"{event.bytes / 1e6:,.0f} MB, {event.tokens_per_s:,.0f} tokens/s" if event.bytes else "found"
                self.say(f"  {event.stage}: {event.total:,} tokens ({made})")

        return listen

    def _picture(self) -> RenderableType:
        """Return what stands below the printed lines now."""
        parts: list[RenderableType] = [self._bars.get_renderable()] if self._tasks else []
        if self._sweep is not None:
            now = time.time()
            if now - self._seen[0] >= _LOOK_SECONDS:
                self._seen = now, self._table(self._sweep, now)
            parts.append(self._seen[1])
        if self._waits:
            parts.append(Text(self._waits, style="yellow"))
        return Group(*parts)

    def _table(self, sweep: SweepProgress, now: float) -> RenderableType:
        ends = self._harvest_ends
        left = None if ends is None else max(0.0, ends - now)
        rows = self.console.height - _LINES_BESIDE_TABLE - len(self._tasks)
        return SweepTable(sweep.view(now), rows, left)


class _LogLines(logging.Handler):
    """Prints warnings and errors of the package as lines above the table."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        self._say(self.format(record))


def output_console() -> Console:
    """Return the console of the output; a log that is to be coloured (FORCE_COLOR) is no terminal for a table.

    A name such as 'worlds:one:' is printed as it is: it is no code of an emoji.
    """
    return Console(highlight=False, emoji=False, force_interactive=None if sys.stdout.isatty() else False)


def _rate(event: HarvestProgress) -> str:
    left = event.eta_s
    eta = f", {left // 3600:.0f} h {left % 3600 / 60:.0f} min left" if 60 < left < float("inf") else ""
    return f"{event.tokens_per_s:,.0f} tokens/s, {event.bytes / 1e9:,.1f} GB{eta}" if event.tokens_per_s else ""
