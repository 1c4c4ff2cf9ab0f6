"""The tracker of a sweep, for the controller. Every record goes to the journal first, then to MLflow."""

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from dmsae_ray.config import Experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.files import file_sha256
from dmsae_ray.tracking.destination import Destination, connect, destination_of
from dmsae_ray.tracking.journal import DeliveryMarks, Journal, JournalEntry, Record
from dmsae_ray.tracking.sender import Sender
from dmsae_ray.tracking.sink import MlflowSink, open_sink

log = logging.getLogger(__name__)

JOURNAL_FILE = "journal.jsonl"
DELIVERED_FILE = "journal.delivered.json"

LONGEST_NAME = 250
LONGEST_PARAM = 6000
"""Limits of MLflow, in characters, for a name and for the value of a parameter."""

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Scalar = float | int | str | bool | None


class SweepTracker:
    """The MLflow runs of one sweep: a parent run, and a child run per trial.

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
        self._open_trials: set[str] = set()
        self._order = threading.Lock()  # so that the sender gets records in the order of the journal

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
        journal = Journal(self.sweep_dir / JOURNAL_FILE)
        try:
            journal.append([JournalEntry(None, "run", "sweep", self.sweep_id)], _now())
            begun = journal.records[0].time
            sink = connect(
                self.destination,
                lambda client: open_sink(
                    client,
                    self.experiment,
                    self.destination.artifacts,
                    self.sweep_dir,
                    self.sweep_id,
                    journal.id,
                    begun,
                ),
                # Creating or migrating a database file takes longer, and another process may hold its lock.
                self._timeouts[0] if self.destination.sqlite_file is None else max(60.0, self._timeouts[0]),
            )
        except BaseException:
            journal.close()
            raise
        marks = DeliveryMarks(self.sweep_dir / DELIVERED_FILE)
        done = marks.get(sink.parent)
        # Runs that are missing, since they were deleted in MLflow or its store was reset, get all their records again.
        waiting = [r for r in journal.records if r.seq > done or not sink.has(r.trial)]

        def delivered(records: list[Record]) -> None:
            nonlocal done
            if records[-1].seq > done:
                done = records[-1].seq
                marks.set(sink.parent, done)

        self._journal, self._sink = journal, sink
        self._sender = Sender(sink.deliver, delivered, waiting)
        self._reopen(None)
        if params:
            self.params(params)

    @property
    def parent_run_id(self) -> str:
        """Id of the parent run.

        Raises:
            ConfigError: Tracking is not started.
        """
        if self._sink is None:
            raise ConfigError("tracking is not started")
        return self._sink.parent

    @property
    def undelivered(self) -> int:
        """Number of records that MLflow does not have yet."""
        return self._sender.undelivered if self._sender else 0

    def params(self, params: Mapping[str, Scalar], trial_id: str | None = None) -> None:
        """Log parameters of a trial, or of the sweep where `trial_id` is None; None values are left out."""
        known = {_name(name): _text(value) for name, value in params.items() if value is not None}
        self._add([JournalEntry(trial_id, "param", name, value) for name, value in known.items()])

    def trial(self, trial_id: str, params: Mapping[str, Scalar]) -> None:
        """Begin the run of a trial, or open it again."""
        self._add([JournalEntry(trial_id, "run", trial_id, "")])
        self._open_trials.add(trial_id)
        self._reopen(trial_id)
        self.params(params, trial_id)

    def metrics(self, trial_id: str | None, values: Mapping[str, float | None], step: int) -> None:
        """Log metrics of a trial, or of the sweep where `trial_id` is None; None values are left out, NaN is kept."""
        known = {_name(name): float(value) for name, value in values.items() if value is not None}
        self._add([JournalEntry(trial_id, "metric", name, value, step) for name, value in known.items()])

    def finish(self, trial_id: str, final_metrics: Mapping[str, float | None], status: Status = "FINISHED") -> None:
        """End the run of a trial; log its final metrics under plain names, for the tables and plots of the UI."""
        self.metrics(trial_id, final_metrics, 0)
        self._open_trials.discard(trial_id)
        self._change(trial_id, "status", "status", status)

    def artifact(self, path: str | Path, trial_id: str | None = None) -> None:
        """Attach a file; one that is attached already is sent again only if its content has changed."""
        path = Path(path).absolute()
        key = path.relative_to(self.sweep_dir) if path.is_relative_to(self.sweep_dir) else path
        self._change(trial_id, "artifact", key.as_posix(), file_sha256(path))

    def flush(self, seconds: float) -> int:
        """Wait until all is delivered, for `seconds` at most; return how many records are not delivered."""
        return self._sender.flush(seconds) if self._sender else 0

    def close(self, status: Status = "FINISHED") -> int:
        """End the tracking of the sweep, and wait for the last records to be delivered.

        Args:
            status: Status of the parent run. Unfinished trials get it too, or KILLED if it is FINISHED.

        Returns:
            How many records are not delivered. They stay in the journal and are sent first at the next start.
        """
        if self._journal is None or self._sender is None or self._sink is None:
            return 0
        for trial_id in sorted(self._open_trials):
            self.finish(trial_id, {}, "KILLED" if status == "FINISHED" else status)
        self._change(None, "status", "status", status)
        left = self._sender.close(self._timeouts[1])
        self._journal.close()
        self._journal = self._sender = None
        if left:
            log.warning(
                "%d records are not delivered to %s; the next run of this sweep delivers them",
                left,
                self.destination.shown,
            )
        if self._sink.refused:
            log.warning("%d records were refused by %s", self._sink.refused, self.destination.shown)
        return left

    def _reopen(self, trial_id: str | None) -> None:
        """Set a run that was killed or failed to RUNNING again; leave a finished one as it is."""
        last = self._journal.last(trial_id, "status", "status") if self._journal else None
        if last is not None and last.value not in ("FINISHED", "RUNNING"):
            self._change(trial_id, "status", "status", "RUNNING")

    def _add(self, entries: list[JournalEntry]) -> None:
        with self._order:
            if self._journal is not None and self._sender is not None:
                self._sender.put(self._journal.append(entries, _now()))

    def _change(self, trial_id: str | None, kind: Literal["status", "artifact"], key: str, value: str) -> None:
        with self._order:
            if self._journal is not None and self._sender is not None:
                self._sender.put(self._journal.append_change(trial_id, kind, key, value, _now()))


def _now() -> int:
    """Return the milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


def _name(name: str) -> str:
    """Return `name`, with each character that MLflow does not allow in names replaced by '_'."""
    allowed = "".join(c if c.isascii() and (c.isalnum() or c in "_-./ ") else "_" for c in name)
    return allowed[:LONGEST_NAME]


def _text(value: Scalar) -> str:
    """Return the value of a parameter as text, cut (with a note) to what MLflow can keep."""
    text = str(value)
    if len(text) <= LONGEST_PARAM:
        return text
    note = f"... (cut, {len(text)} characters)"
    return text[: LONGEST_PARAM - len(note)] + note
