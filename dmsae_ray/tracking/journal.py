"""The tracking journal: everything to be logged is written to this file, once, before it is sent anywhere.

Each line is a JSON object. The first line names the journal; each later line is a `Record`. A record is unique by
(run, kind, key, step), so that a finished sweep that runs again adds nothing. No secrets are written here, only names,
numbers, times and paths. The file is the queue of what is to be sent: of its records, only their steps are in memory.
"""

import contextlib
import json
import math
import os
import threading
import uuid
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple

from dmsae_ray.errors import ConfigError, DataError, one_line
from dmsae_ray.files import replacing, retry_outages

try:
    import fcntl
except ImportError:  # not on this platform: nothing then stops a second controller of the same sweep
    fcntl = None  # type: ignore[assignment]

Kind = Literal["run", "param", "metric", "metrics", "tag", "status", "artifact", "dataset"]
"""What a record is of. 'metrics' holds several numbers of one step; 'metric', one number, is what 0.1.0 wrote."""
Change = Literal["tag", "status", "artifact"]
Value = float | str | Mapping[str, float]

_CHANGES = ("tag", "status", "artifact")


class JournalEntry(NamedTuple):
    """Something to record, about a run of the sweep or, where `run` is None, about the sweep itself."""

    run: str | None
    kind: Kind
    key: str
    value: Value
    step: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """An entry that is in the journal.

    Attributes:
        seq: Number of the record, from 1 without gaps.
        time: Time of the first writing, in ms since 1970; it never changes.
        run: Name of the run (see `tracking.names`); None for the sweep itself.
        kind: What is recorded.
        key: Name of the parameter, tag, file or group of metrics.
        value: Its value; for a file, the hash of its content; for metrics, their values by name.
        step: Step of metrics; for a tag, a status or a file, the number of changes before this one.
    """

    seq: int
    time: int
    run: str | None
    kind: Kind
    key: str
    value: Value
    step: int

    @property
    def metrics(self) -> Mapping[str, float]:
        """The numbers of this record by name; none if it holds no metrics."""
        if isinstance(self.value, Mapping):
            return self.value
        return {self.key: float(self.value)} if self.kind == "metric" else {}

    def to_line(self) -> str:
        """Return one line of strict JSON; numbers that JSON lacks (NaN, infinities) become {"float": "nan"}."""
        value: Any = self.value
        value = {k: _strict(v) for k, v in value.items()} if isinstance(value, Mapping) else _strict(value)
        fields = {"seq": self.seq, "time": self.time, "trial": self.run, "kind": self.kind, "key": self.key}
        return json.dumps(fields | {"value": value, "step": self.step}, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def from_object(cls, fields: dict[str, Any]) -> "Record":
        """Return the record of a parsed line."""
        value = fields["value"]
        several = fields["kind"] == "metrics"
        value = {k: _number(v) for k, v in value.items()} if several else _number(value)
        return cls(fields["seq"], fields["time"], fields["trial"], fields["kind"], fields["key"], value, fields["step"])


class Journal:
    """An append-only journal file; safe to use from several threads of one process.

    Memory: 8 bytes a record, and some hundred for each run and key.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the journal at `path`, or begin one. Damaged last lines, as a crash leaves them, are dropped.

        Raises:
            ConfigError: Another process has the journal open, or the file cannot be written.
            DataError: A line other than the last ones cannot be read.
        """
        self.path = Path(path)
        self.id = ""
        self.count = 0
        """Number of records."""
        self.begun = 0
        """Time of the first record, in ms since 1970."""
        self._steps: dict[tuple[str | None, str, str], array[int]] = {}
        self._last: dict[tuple[str | None, str, str], Value] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab+")  # noqa: SIM115 - it stays open as long as the journal
        except OSError as error:
            raise ConfigError(
                f"output holds '{self.path}'; it must be a file that can be written ({error.strerror})"
            ) from None
        self._lock = threading.Lock()
        self._lock_file()
        reading = _Reading(self.path)
        for record in reading:
            self._note(record)
            self.count = record.seq
            if record.kind in _CHANGES:
                self._last[record.run, record.kind, record.key] = record.value
        self.id = reading.name
        if reading.intact < self.path.stat().st_size:
            self._file.truncate(reading.intact)
        if not self.id:
            self.id = uuid.uuid4().hex
            self._write(json.dumps({"journal": self.id}) + "\n")

    def append(self, entries: Iterable[JournalEntry], time: int) -> int:
        """Write the entries that are new, in one synced write.

        Entries whose (run, kind, key, step) is recorded already are skipped, whatever their value.

        Returns:
            How many are new.
        """
        with self._lock:
            return self._append(entries, time)

    def append_change(self, run: str | None, kind: Change, key: str, value: str, time: int) -> int:
        """Record `value` if it differs from the last one of (run, kind, key); the step counts the changes."""
        with self._lock:
            if self._last.get((run, kind, key)) == value:
                return 0
            changes = len(self._steps.get((run, kind, key), ()))
            return self._append([JournalEntry(run, kind, key, value, changes)], time)

    def last(self, run: str | None, kind: Change, key: str) -> Value | None:
        """Return the newest value of (run, kind, key); None if there is none."""
        return self._last.get((run, kind, key))

    def runs(self) -> set[str]:
        """Return the names of all runs that were begun, without the sweep's own."""
        with self._lock:
            return {run for run, kind, _ in self._steps if kind == "run" and run is not None}

    def close(self) -> None:
        """Close the file, so that another process can open it."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, entries: Iterable[JournalEntry], time: int) -> int:
        noted: list[Record] = []
        for entry in entries:
            record = Record(self.count + len(noted) + 1, time, *entry)
            if self._note(record):
                noted.append(record)
        if noted:
            try:
                self._write("".join(record.to_line() for record in noted))
            except ConfigError:
                for record in noted:
                    self._steps[record.run, record.kind, record.key].remove(record.step)
                raise
            for record in noted:
                if record.kind in _CHANGES:
                    self._last[record.run, record.kind, record.key] = record.value
            self.count += len(noted)
        return len(noted)

    def _note(self, record: Record) -> bool:
        """Remember a record, if it is new."""
        key = (record.run, record.kind, record.key)
        steps = self._steps.setdefault(key, array("q"))
        place = bisect_left(steps, record.step)
        if place < len(steps) and steps[place] == record.step:
            return False
        steps.insert(place, record.step)
        self.begun = self.begun or record.time
        return True

    def _write(self, text: str) -> None:
        """Append a text, whole or not at all; a full disk is waited for.

        Raises:
            ConfigError: The file cannot be written.
        """
        content, end, file = text.encode(), self.path.stat().st_size, self._file.fileno()

        def write_whole() -> None:
            left = memoryview(content)
            try:
                while left:
                    left = left[os.write(file, left) :]  # past the buffer of the file, which would keep what failed
                os.fsync(file)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, end)
                raise

        try:
            retry_outages(write_whole, str(self.path))
        except OSError as error:
            raise ConfigError(f"output: {self.path} cannot be written: {one_line(error)}") from error

    def _lock_file(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ConfigError(
                f"'{self.path.parent}' is being run by another process; wait for it or end it first"
            ) from None
        except OSError:
            pass  # a file system without locks


def read_journal(path: str | Path) -> Iterator[Record]:
    """Yield all records of the journal at `path`, which may be in use; none if there is no such file.

    Raises:
        DataError: A line other than the last ones cannot be read.
    """
    if Path(path).is_file():
        yield from _Reading(Path(path))


class Tail:
    """Read a journal's records in order, from where the last call stopped, while it grows.

    Args:
        path: The journal.
        after: Records up to this number are skipped, without being parsed.
    """

    def __init__(self, path: Path, after: int = 0) -> None:
        self._path, self._skip = path, after + 1  # and the line that names the journal
        self._file: BinaryIO | None = None

    def read(self, most: int) -> list[Record]:
        """Return the next records, `most` at most; an empty list if there are none yet."""
        if self._file is None:
            self._file = open(self._path, "rb")  # noqa: SIM115 - it is read on until `close`
        found: list[Record] = []
        while len(found) < most:
            start = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):  # the end, or a line that is being written
                self._file.seek(start)
                break
            if self._skip:
                self._skip -= 1
            else:
                found.append(Record.from_object(json.loads(line)))
        return found

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class _Reading:
    """The records of a journal; `name` is its id, `intact` says how many of its bytes are whole, once it is read."""

    def __init__(self, path: Path) -> None:
        self.name, self.intact = "", 0
        self._path = path

    def __iter__(self) -> Iterator[Record]:
        bad, seq = 0, 0
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, start=1):
                record: Record | None = None
                try:
                    if not line.endswith(b"\n"):
                        raise ValueError("cut short")
                    fields = json.loads(line)
                    if number == 1:
                        self.name = str(fields["journal"])
                    else:
                        record = Record.from_object(fields)
                except (ValueError, KeyError, TypeError, AttributeError):
                    bad = bad or number
                    continue
                if bad or (record is not None and record.seq != seq + 1):
                    raise DataError(
                        f"journal '{self._path}' is corrupt in line {bad or number}; move it away to log anew"
                    )
                self.intact += len(line)
                if record is not None:
                    seq = record.seq
                    yield record


class Mark(NamedTuple):
    """What a destination has of a journal.

    Attributes:
        to: Number of the last record that was delivered.
        late: Numbers of records before it which could not be delivered and held nothing up.
    """

    to: int = 0
    late: tuple[int, ...] = ()


class DeliveryMarks:
    """How much of a journal each destination has: a small JSON file beside it, {destination: Mark}.

    The file is replaced as a whole. After a crash it may lag behind; records are then sent again, which changes nothing
    at the destination.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def get(self, destination: str) -> Mark:
        """Return what `destination` is known to have."""
        found = self._load().get(destination)
        with contextlib.suppress(TypeError, ValueError, KeyError):
            if isinstance(found, int):  # as 0.1.0 wrote it
                return Mark(found)
            if isinstance(found, dict):
                return Mark(int(found["to"]), tuple(int(seq) for seq in found["late"]))
        return Mark()

    def set(self, destination: str, mark: Mark) -> None:
        """Save what `destination` has."""
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps({**self._load(), destination: mark._asdict()}), encoding="utf-8")

    def _load(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
        return {}


def _strict(value: Any) -> Any:
    return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value["float"]) if isinstance(value, dict) else value
