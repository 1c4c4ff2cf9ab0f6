"""The command `dmsae status`: how far a sweep is, while it runs and after, for a person or for a script."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from dmsae_ray.cli.console import output_console
from dmsae_ray.cli.progress_table import SweepTable, cycle_text, duration, summary
from dmsae_ray.cli.sweep_status import SweepStatus, status_of, sweeps_at
from dmsae_ray.config import shell_command
from dmsae_ray.files import nan_to_null
from dmsae_ray.results import grouped

WATCH_SECONDS = 5.0
_WIDTH = 160
"""Characters of a line where there is no terminal."""
_LINES_BESIDE_TABLE = 10


def show_status(place: str, *, as_json: bool = False, watch: float | None = None) -> int:
    """Print how far a sweep is, or all sweeps of an output; return the exit code.

    Args:
        place: A sweep's folder, or the `output` of sweeps; a path or a URI.
        as_json: Print one line of JSON instead, for scripts.
        watch: Print it again every so many seconds, until no sweep runs any more; None: once.

    Raises:
        ConfigError: There is no sweep at the place, or it names a password.
        DataError: A file cannot be read.
    """
    console = output_console()
    if not console.is_terminal:
        console.width = _WIDTH  # so that lines are whole for other programs

    def say(line: str) -> None:
        if sys.stderr.isatty():
            print(line, file=sys.stderr)

    def look() -> list[SweepStatus]:
        return [status_of(found, say) for found in sweeps_at(place)]

    if as_json:
        for found in _repeated(look, watch):
            tree = [_tree(status) for status in found]
            print(json.dumps(tree[0] if len(tree) == 1 else tree), flush=True)
        return 0
    if watch is None or not console.is_interactive:
        for found in _repeated(look, watch):
            console.print(_picture(found, console))
        return 0
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for found in _repeated(look, watch):
            live.update(_picture(found, console), refresh=True)
    return 0


def _repeated(look: Callable[[], list[SweepStatus]], watch: float | None) -> Iterator[list[SweepStatus]]:
    """Look once, or every `watch` seconds until no sweep runs; Ctrl-C ends the watching."""
    try:
        while True:
            found = look()
            yield found
            if watch is None or not any(status.state == "running" for status in found):
                return
            time.sleep(watch)
    except KeyboardInterrupt:
        if watch is None:
            raise


def _picture(found: list[SweepStatus], console: Console) -> RenderableType:
    if len(found) > 1:
        return Group(*(Text(f"{head_line(status)}; {summary(status.view)[0]}") for status in found))
    status = found[0]
    rows = max(console.height - _LINES_BESIDE_TABLE, 3) if console.is_terminal else len(status.view.trials)
    return Group(Text(head_line(status)), *_harvest(status), SweepTable(status.view, rows), *map(Text, _tail(status)))


def head_line(status: SweepStatus) -> str:
    """Return in one line whether a sweep runs, since when, or how it ended."""
    mark, line = status.controller, f"sweep {status.place.name}: {status.state}"
    if mark is None:
        return line
    since = "" if mark.began is None else f" since {_when(mark.began)}"
    if status.state == "running":
        took = "" if mark.began is None else f" ({duration(max(0.0, time.time() - mark.began))})"
        return f"{line}, by {mark}{since}{took}"
    last = "" if status.last is None else f"; last record {_when(status.last)}"
    return f"{line}; last run by {mark}{since}{last}"


def _harvest(status: SweepStatus) -> list[Text]:
    return [] if status.harvest is None else [Text(f"harvest: {status.harvest}")]


def _tail(status: SweepStatus) -> list[str]:
    """Return the lines below the table: failed trials, records for MLflow, the report, and what to do next."""
    lines = [
        f"failed: {v.trial.trial_id}: {v.reason or 'see the output of the command'}"
        for v in status.view.trials
        if v.state == "failed"
    ]
    stopped = {v.trial.trial_id: v.reason for v in status.view.trials if v.state == "stopped"}
    lines += [f"stopped: {line}" for line in grouped(stopped)]
    lines += [f"note: {note}" for note in status.notes]
    if status.undelivered:
        lines.append(f"MLflow: {status.undelivered:,} records are not delivered yet")
    lines += [f"report: {path}" for path in status.reports]
    return [*lines, *(f"next: {command}" for command in next_commands(status))]


def next_commands(status: SweepStatus) -> list[str]:
    """Return what a person may do next."""
    here = status.place.here
    if status.state == "running":
        return [shell_command("dmsae", "status", "--watch", status.place.shared)]
    if not here.is_dir():
        return [f"the command that began the sweep, where it ran ({here.parent.parent} there)"]
    commands, resume = [], shell_command("dmsae", "resume", here)
    if status.steered and status.state != "finished":
        commands.append(f"the call of dmsae_ray.run that began it; {resume} would run what it left out, too")
    elif status.state != "finished":
        commands.append(resume)
    elif not status.reports:
        commands.append(shell_command("dmsae", "report", here))
    if status.undelivered:
        commands.append(shell_command("dmsae", "sync", here))
    return commands or [shell_command("dmsae", "ui", here)]


def _when(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds).astimezone()
    return f"{when:%H:%M}" if when.date() == datetime.now().astimezone().date() else f"{when:%Y-%m-%d %H:%M}"


def _tree(status: SweepStatus) -> dict[str, Any]:
    """Return a status as plain values; times are in seconds since 1970, numbers that are not known are null."""
    view, mark = status.view, status.controller
    tree = {
        "sweep": status.place.name,
        "folder": str(status.place.shared),
        "state": status.state,
        "controller": None if mark is None else asdict(mark),
        "harvest": None if status.harvest is None else asdict(status.harvest),
        "trainings": view.trainings,
        "trainings_in_all": view.trainings_in_all,
        "tokens_per_s": view.tokens_per_s,
        "seconds_left": view.seconds_left,
        "trials": [
            {
                "trial": trial.trial.trial_id,
                **trial.trial.params(),
                "state": trial.state,
                "cycle": trial.cycle,
                "control": trial.control,
                "training": cycle_text(trial, view.cycles),
                "share": trial.share,
                "trainings": trial.trainings,
                "tokens_per_s": trial.tokens_per_s,
                "seconds_left": trial.seconds_left,
                **asdict(trial.values),
                "waits_for": trial.waits_for,
                "reason": trial.reason,
            }
            for trial in view.trials
        ],
        "undelivered": status.undelivered,
        "last_record": status.last,
        "reports": [str(path) for path in status.reports],
        "notes": list(status.notes),
        "next": next_commands(status),
    }
    plain: dict[str, Any] = nan_to_null(tree)
    return plain
