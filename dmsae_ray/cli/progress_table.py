"""The table of a sweep's trials, as wide and as high as the terminal allows."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from dmsae_ray.cli.progress_view import State, SweepView, TrialView
from dmsae_ray.distill import is_chain
from dmsae_ray.plan import CycleSetting

UNKNOWN = "-"
_STYLES: dict[State, str] = {
    "running": "",
    "failed": "red",
    "stopped": "yellow",
    "finished": "green",
    "waiting": "dim",
}
_BAR = 13
_WIDEST_BAR = 24
_FEWEST_ROWS = 3


@dataclass(frozen=True)
class _Column:
    """A column: its title, its width, what stands in it, and when it is left out.

    Attributes:
        title: Its title.
        width: Characters; the widest cell may not have more.
        cell: Its content.
        rank: Where there is no room for all columns, those of the largest rank go first, together.
        justify: Side at which its content stands.
    """

    title: str
    width: int
    cell: Callable[[TrialView], str | Text]
    rank: int
    justify: Literal["left", "right"] = "right"


class SweepTable:
    """A sweep as a table that rich can print: trials that run first, then lines that sum up.

    Trials that have not begun are counted, not shown.

    Args:
        view: The sweep.
        rows: The most trials to show; those that are left out are counted in a line.
        harvest: Seconds until the harvest ends, which no trial ends before; None if it is not known or has ended.
    """

    def __init__(self, view: SweepView, rows: int, harvest: float | None = None) -> None:
        self._view, self._rows, self._harvest = view, max(rows, _FEWEST_ROWS), harvest

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table and the lines below it."""
        begun = tuple(v for v in self._view.trials if v.state != "waiting" or v.trainings)
        shown = begun[: self._rows]
        width = options.max_width
        coloured = console.color_system is not None and not console.no_color
        columns, gap = self._columns(shown, width, _Letters.of(ascii_only=options.ascii_only, coloured=coloured))
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(column.title, justify=column.justify, width=column.width, no_wrap=True, overflow="crop")
        for view in shown:
            style = "yellow" if view.collapsed else _STYLES[view.state]
            table.add_row(*(column.cell(view) for column in columns), style=style)
        if shown:
            yield table
        rest = Counter(view.state for view in begun[self._rows :])
        if rest:
            words = ", ".join(f"{count:,} {state}" for state, count in rest.items())
            yield Text(f"and {rest.total():,} trials that are not shown: {words}", style="dim")
        yield from (Text(line) for line in summary(self._view, self._harvest))

    def _columns(self, shown: tuple[TrialView, ...], width: int, letters: "_Letters") -> tuple[list[_Column], int]:
        """Return the columns that fit, and how many characters they stand apart."""
        names = max((len(view.trial.trial_id) for view in shown), default=5)
        cycles = self._view.cycles
        cycle = max([8, *(len(cycle_text(view, cycles)) for view in shown)])
        columns = [
            _Column("trial", max(5, names), lambda v: v.trial.trial_id, 0, "left"),
            _Column("k", 4, lambda v: str(v.trial.setting.k), 10),
            _Column("arm" if cycles is None else "coverage", 9, _coverage, 10),
            _Column("seed", 4, lambda v: str(v.trial.seed), 10),
            _Column("cycle", cycle, lambda v: cycle_text(v, cycles), 1),
            _Column("step", _BAR, lambda _: "", 2, "left"),
            _Column("tokens/s", 8, lambda v: short(v.tokens_per_s), 6),
            _Column("FVU", 5, lambda v: _number(v.values.fvu, 3), 4),
            _Column("L0", 5, lambda v: _number(v.values.l0, 1), 5),
            _Column("core", 5, lambda v: UNKNOWN if v.values.core is None else str(v.values.core), 7),
            _Column("carry", 5, lambda v: _number(v.values.carryover, 2), 3),
            _Column("ETA", 7, _eta, 1),
        ]
        gap = 2 if _needed(columns, 2) <= width else 1
        while len(columns) > 1 and _needed(columns, gap) > width:
            last = max(column.rank for column in columns)
            columns = [column for column in columns if column.rank < last]
        wider = min(_WIDEST_BAR, _BAR + max(0, width - _needed(columns, gap)))
        bar = partial(_step, width=wider, letters=letters)
        return [replace(c, width=wider, cell=bar) if c.title == "step" else c for c in columns], gap


def summary(view: SweepView, harvest: float | None = None) -> list[str]:
    """Return in two lines how far a sweep is: its trials; trainings, tokens a second, and the time that is left.

    Args:
        view: The sweep.
        harvest: Seconds until the harvest ends; None if it is not known or has ended.
    """
    trials = len(view.trials)
    collapsed = sum(trial.collapsed for trial in view.trials)
    parts = [
        f"{view.count('finished'):,} of {trials:,} trials finished{f' ({collapsed:,} collapsed)' if collapsed else ''}"
    ]
    for state in ("failed", "stopped", "running"):
        if count := view.count(state):
            parts.append(f"{count:,} {state}")
    if view.count("waiting"):
        parts.append(f"{view.count('waiting'):,} waiting{_waits(view)}")
    lines = [", ".join(parts)]
    parts = [f"{view.trainings:,} of {view.trainings_in_all:,} trainings"]
    if view.tokens_per_s is not None:
        parts.append(f"{short(view.tokens_per_s)} tokens/s")
    if view.seconds_left is not None:
        parts.append(f"about {duration(max(view.seconds_left, harvest or 0.0))} left")
    return [*lines, ", ".join(parts)]


def duration(seconds: float) -> str:
    """Return a time in its two largest units: '48 s', '12 min', '3 h 05 min', '2 d 4 h'."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def short(number: float | None) -> str:
    """Return a rate with three digits: '950', '41.2k', '1.20M'; '-' if it is not known."""
    if number is None:
        return UNKNOWN
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            value = number / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{unit}"
    return f"{number:.0f}"


def cycle_text(view: TrialView, cycles: int | None) -> str:
    """Return which training of a trial runs, or was the last: '2 of 4', 'gaussian', 'gaussian_chain 2'."""
    if view.control:
        return f"{view.control} {view.cycle}" if is_chain(view.control) else view.control
    if view.cycle is None:
        return UNKNOWN
    return f"{view.cycle} of {cycles}" if cycles is not None else "1 of 1"


def _waits(view: SweepView) -> str:
    """Return what the waiting trials wait for, if it is another trial."""
    reasons = Counter(v.waits_for for v in view.trials if v.state == "waiting")
    others = [(reason, count) for reason, count in reasons.most_common() if reason.startswith("cycle 0")]
    if not others or view.count("running") == 0:
        return ""
    reason, count = others[0]
    more = sum(count for _, count in others[1:])
    return f" ({count:,} for {reason}{f', {more:,} for that of others' if more else ''})"


def _coverage(view: TrialView) -> str:
    setting = view.trial.setting
    return setting.selects if isinstance(setting, CycleSetting) else setting.arm


@dataclass(frozen=True)
class _Letters:
    """What a bar is made of: a done cell, half of one, and a cell that is to be done."""

    full: str
    half: str
    room: str

    @classmethod
    def of(cls, *, ascii_only: bool, coloured: bool) -> "_Letters":
        """Return the letters for an encoding; without colour, what is to be done looks otherwise."""
        if ascii_only:
            return cls("=", "", "-")
        return cls("\u2501", "\u2578", "\u2501" if coloured else " ")


def _step(view: TrialView, width: int, letters: _Letters) -> str | Text:
    """Return the share of the current training as a bar and a percentage, or the state of a trial that does not run."""
    if view.state != "running":
        return "collapsed" if view.collapsed else view.state
    if view.share is None:
        return "starting"
    length = width - 5
    halves = int(view.share * length * 2)
    done = letters.full * (halves // 2) + (letters.half if halves % 2 else "")
    rest = letters.room * (length - len(done))
    return Text.assemble((done, "bar.complete"), (rest, "bar.back"), f"{int(view.share * 100):4d}%")


def _eta(view: TrialView) -> str:
    return UNKNOWN if view.seconds_left is None else _narrow(duration(view.seconds_left))


def _narrow(text: str) -> str:
    """Return a duration in 7 characters: '3h 05m'."""
    return text if len(text) <= 7 else text.replace(" h", "h").replace(" min", "m").replace(" d", "d")


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _needed(columns: list[_Column], gap: int) -> int:
    return sum(column.width for column in columns) + gap * (len(columns) - 1)
