"""The tracker of a sweep, for the controller. Every record goes to the journal first, then to MLflow."""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from dmsae_ray.config import Experiment, shell_command
from dmsae_ray.errors import ConfigError
from dmsae_ray.files import file_sha256
from dmsae_ray.tracking.destination import Destination, connect, destination_of
from dmsae_ray.tracking.journal import Change, DeliveryMarks, Journal, JournalEntry
from dmsae_ray.tracking.sender import Sender
from dmsae_ray.tracking.sink import RUN_ID, MlflowSink, open_sink
from dmsae_ray.tracking.views import View

log = logging.getLogger(__name__)

JOURNAL_FILE = "journal.jsonl"
DELIVERED_FILE = "journal.delivered.json"

NOTE_TAG = "mlflow.note.content"

LONGEST_NAME = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
"""Limits of MLflow, in characters, for a name and for the values of a parameter and of a tag."""

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Scalar = float | int | str | bool | None


class SweepTracker:
    """The MLflow runs of one sweep: a parent run, and below it those of `tracking.names`.

    Calls return as soon as the record is in the journal; a thread delivers it. A server that stops answering after
    `start` stops nothing: what it missed is delivered, once each and in order, when it answers again or at the next
    start. A record that is in the journal already is skipped, so a finished sweep that runs again logs nothing twice.

    Args:
        destination: The MLflow store, as a URI or from `destination_of`.
        experiment: Name of the MLflow experiment.
        sweep_dir: Folder of the sweep, which holds the journal.
        sweep_id: Name of the sweep and of its parent run.
        start_timeout: Seconds within which the store must answer at the start.
        close_timeout: Seconds that `close` waits for the last records.
    """

    def __init__(
        self,
        destination: Destination | str,
        experiment: str,
        sweep_dir: str | Path,
        sweep_id: str,
        *,
        start_timeout: float = 10.0,
        close_timeout: float = 30.0,
    ) -> None:
        self.destination = Destination(destination) if isinstance(destination, str) else destination
        self.experiment = experiment
        self.sweep_dir = Path(sweep_dir).absolute()
        self.sweep_id = sweep_id
        self._timeouts = (start_timeout, close_timeout)
        self._journal: Journal | None = None
        self._sink: MlflowSink | None = None
        self._sender: Sender | None = None
        self._open_runs: set[str] = set()

    @classmethod
    def of(cls, experiment: Experiment, sweep_dir: str | Path) -> "SweepTracker":
        """Return the tracker of an experiment whose sweep folder is `sweep_dir`; nothing is opened yet."""
        name = experiment.tracking.experiment or experiment.name
        return cls(destination_of(experiment), name, sweep_dir, Path(sweep_dir).name)

    def start(self, params: Mapping[str, Scalar] | None = None) -> None:
        """Open the journal and the store, find or make the parent run, and begin to deliver what is still waiting.

        Args:
            params: Parameters of the whole sweep.

        Raises:
            ConfigError: The store does not answer in time, or refuses access, or another process runs this sweep.
            DataError: The journal is corrupt.
        """
        self.open()
        self._reopen(None)
        if params:
            self.params(params)

    def open(self) -> None:
        """Do as `start` does, but leave the status of the sweep as it is: only what is still waiting is delivered.

        Raises:
            ConfigError: As `start`.
            DataError: As `start`.
        """
        journal = Journal(self.sweep_dir / JOURNAL_FILE)
        try:
            journal.append([JournalEntry(None, "run", "sweep", self.sweep_id)], _now())
            sink = connect(
                self.destination,
                lambda client: open_sink(
                    client,
                    self.experiment,
                    self.destination.artifacts,
                    self.sweep_dir,
                    self.sweep_id,
                    journal.id,
                    journal.begun,
                ),
                # Creating or migrating a database file takes longer, and another process may hold its lock.
                self._timeouts[0] if self.destination.sqlite_file is None else max(60.0, self._timeouts[0]),
            )
        except BaseException:
            journal.close()
            raise
        marks = DeliveryMarks(self.sweep_dir / DELIVERED_FILE)
        self._journal, self._sink = journal, sink
        self._sender = Sender(sink, journal, marks)

    @property
    def parent_run_id(self) -> str:
        """Id of the parent run.

        Raises:
            ConfigError: Tracking is not started.
        """
        return self._opened.parent

    @property
    def experiment_id(self) -> str:
        """Id of the MLflow experiment.

        Raises:
            ConfigError: Tracking is not started.
        """
        return self._opened.experiment

    @property
    def undelivered(self) -> int:
        """Number of records that MLflow does not have yet."""
        return self._sender.undelivered if self._sender else 0

    @property
    def status(self) -> str:
        """The last status of the sweep itself."""
        last = self._journal.last(None, "status", "status") if self._journal else None
        return "RUNNING" if last is None else str(last)

    def params(self, params: Mapping[str, Scalar], run: str | None = None) -> None:
        """Log parameters of a run, or of the sweep where `run` is None; None values are left out."""
        known = {_name(name): _cut(value, LONGEST_PARAM) for name, value in params.items() if value is not None}
        self._add([JournalEntry(run, "param", name, value) for name, value in known.items()])

    def run(self, run: str, params: Mapping[str, Scalar], tags: Mapping[str, str] | None = None) -> None:
        """Begin a run below the sweep's, or open it again."""
        self._add([JournalEntry(run, "run", run, "")])
        self._open_runs.add(run)
        self._reopen(run)
        self.params(params, run)
        for name, value in (tags or {}).items():
            self.tag(run, name, value)

    def is_open(self, run: str) -> bool:
        """Return whether a run was begun by this process and has not ended."""
        return run in self._open_runs

    def metrics(self, run: str | None, group: str, values: Mapping[str, float | None], step: int) -> None:
        """Log numbers of one step of a run, or of the sweep where `run` is None.

        Args:
            run: The run.
            group: Name of what they are about; what is recorded of a run, a group and a step stays as it is.
            values: Numbers by name, of which four digits are logged; None values are left out, NaN is kept.
            step: The step.
        """
        self.curve(run, group, [(step, {name: _readable(value) for name, value in values.items()})])

    def curve(self, run: str | None, group: str, points: Iterable[tuple[int, Mapping[str, float | None]]]) -> None:
        """Log numbers of several steps, each a step and its numbers by name; see `metrics`."""
        entries = []
        for step, values in points:
            known = {_name(name): float(value) for name, value in values.items() if value is not None}
            if known:
                entries.append(JournalEntry(run, "metrics", group, known, step))
        self._add(entries)

    def tag(self, run: str | None, name: str, value: str) -> None:
        """Set a tag of a run, or of the sweep where `run` is None, such as its note."""
        self._change(run, "tag", name, _cut(value, LONGEST_TAG))

    def untag(self, run: str, name: str) -> None:
        """Take a tag of a run away; nothing if it has none."""
        if self._journal is not None and self._journal.last(run, "tag", name):
            self._change(run, "tag", name, "")

    def note(self, text: str, pictures: Sequence[str] = ()) -> None:
        """Set the note of the sweep's run, which MLflow shows as Markdown, with pictures from its artifacts."""
        shown = "".join(f"\n\n![](get-artifact?path={quote(path)}&run_uuid={RUN_ID})" for path in pictures)
        self.tag(None, NOTE_TAG, f"{text}{shown}")

    def end(self, run: str, status: Status = "FINISHED") -> None:
        """End a run, and the runs below it that have not ended."""
        for name in [name for name in self._open_runs if name.startswith(f"{run}/")] + [run]:
            self._open_runs.discard(name)
            self._change(name, "status", "status", status)

    def artifact(self, path: str | Path, run: str | None = None) -> None:
        """Attach a file; one that is attached already is sent again only if its content has changed."""
        path = Path(path).absolute()
        key = path.relative_to(self.sweep_dir) if path.is_relative_to(self.sweep_dir) else path
        self._change(run, "artifact", key.as_posix(), file_sha256(path))

    def dataset(self, name: str, digest: str, source: str) -> None:
        """Say what data the sweep reads, for MLflow's list of data sets."""
        self._add([JournalEntry(None, "dataset", name, f"{digest} {source}")])

    def save_views(self, views: Sequence[View]) -> None:
        """Give MLflow's pages saved views; what they show is found by the sweep's run.

        Raises:
            Exception: The store does not take them.
        """
        self._opened.save_views([view.tag(_now()) for view in views])

    def flush(self, seconds: float) -> int:
        """Wait until all is delivered, for `seconds` at most; return how many records are not delivered."""
        return self._sender.flush(seconds) if self._sender else 0

    def close(self, status: Status | None = "FINISHED") -> int:
        """End the tracking of the sweep, and wait for the last records to be delivered.

        Args:
            status: Status of the parent run; None leaves it as it is. Runs that have not ended, also under an earlier
                process that was killed, get it too, or KILLED if it is FINISHED.

        Returns:
            How many records are not delivered. They stay in the journal and are sent first at the next start.
        """
        if self._journal is None or self._sender is None or self._sink is None:
            return 0
        if status is not None:
            try:
                self._end_all(self._journal, status)
            except OSError as error:  # a disk that stays full has ended the sweep, and says so
                log.debug("the status of the runs is not recorded: %s", error)
        left = self._sender.close(self._timeouts[1])
        self._journal.close()
        self._journal = self._sender = None
        if left:
            log.warning(
                "%s records are not delivered to %s; the next run of this sweep delivers them, or: %s",
                f"{left:,}",
                self.destination.shown,
                shell_command("dmsae", "sync", self.sweep_dir),
            )
        if self._sink.refused:
            log.warning("%d records were refused by %s", self._sink.refused, self.destination.shown)
        return left

    def _end_all(self, journal: Journal, status: Status) -> None:
        for run in sorted(journal.runs(), reverse=True):  # what is below a run before it
            if journal.last(run, "status", "status") in (None, "RUNNING"):
                self.end(run, "KILLED" if status == "FINISHED" else status)
        self._change(None, "status", "status", status)

    @property
    def _opened(self) -> MlflowSink:
        if self._sink is None:
            raise ConfigError("tracking is not started")
        return self._sink

    def _reopen(self, run: str | None) -> None:
        """Set a run that was killed or failed to RUNNING again; leave a finished one as it is."""
        last = self._journal.last(run, "status", "status") if self._journal else None
        if last is not None and last not in ("FINISHED", "RUNNING"):
            self._change(run, "status", "status", "RUNNING")

    def _add(self, entries: list[JournalEntry]) -> None:
        if self._journal is not None and self._sender is not None and self._journal.append(entries, _now()):
            self._sender.wake()

    def _change(self, run: str | None, kind: Change, key: str, value: str) -> None:
        if (
            self._journal is not None
            and self._sender is not None
            and self._journal.append_change(run, kind, key, value, _now())
        ):
            self._sender.wake()


def _now() -> int:
    """Return the milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


def _name(name: str) -> str:
    """Return `name`, with each character that MLflow does not allow in names replaced by '_'."""
    allowed = "".join(c if c.isascii() and (c.isalnum() or c in "_-./ ") else "_" for c in name)
    return allowed[:LONGEST_NAME]


def _cut(value: Scalar, longest: int) -> str:
    """Return a value as text, cut (with a note) to what MLflow can keep."""
    text = str(value)
    if len(text) <= longest:
        return text
    note = f"... (cut, {len(text)} characters)"
    return text[: longest - len(note)] + note


def _readable(value: float | None) -> float | None:
    """Return a number with the digits that mean something: a person reads it. Counts stay as they are."""
    if value is None or not math.isfinite(value) or float(value).is_integer():
        return value
    return float(f"{value:.4g}")
