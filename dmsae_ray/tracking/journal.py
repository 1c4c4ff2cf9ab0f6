"""The tracking journal: everything to be logged is written to this file, once, before it is sent anywhere.

Each line is a JSON object. The first line names the journal; each later line is a `Record`. A record is unique by
(trial, kind, key, step), so that a finished sweep that runs again adds nothing. No secrets are written here, only trial
ids, names, numbers, times and paths below the sweep folder.
"""

import contextlib
import json
import math
import os
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import replacing

try:
    import fcntl
except ImportError:  # not on this platform: nothing then stops a second controller of the same sweep
    fcntl = None  # type: ignore[assignment]

Kind = Literal["run", "param", "metric", "status", "artifact"]
Value = float | str


class JournalEntry(NamedTuple):
    """Something to record, about a trial or, where `trial` is None, about the sweep itself."""

    trial: str | None
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
        trial: Name of the trial; None for the sweep itself.
        kind: What is recorded.
        key: Name of the parameter, metric or file.
        value: Its value; for a file, the hash of its content.
        step: Step of a metric; for a status or a file, the number of changes before this one.
    """

    seq: int
    time: int
    trial: str | None
    kind: Kind
    key: str
    value: Value
    step: int

    def to_line(self) -> str:
        """Return one line of strict JSON; numbers that JSON lacks (NaN, infinities) become {"float": "nan"}."""
        value: Any = self.value
        if isinstance(value, float) and not math.isfinite(value):
            value = {"float": repr(value)}
        fields = [self.seq, self.time, self.trial, self.kind, self.key, value, self.step]
        return json.dumps(dict(zip(self.__slots__, fields, strict=True)), allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def from_object(cls, fields: dict[str, Any]) -> "Record":
        """Return the record of a parsed line."""
        value = fields["value"]
        fields["value"] = float(value["float"]) if isinstance(value, dict) else value
        return cls(**fields)


class Journal:
    """An append-only journal file with all its records; safe to use from several threads of one process."""

    def __init__(self, path: str | Path) -> None:
        """Open the journal at `path`, or begin one. Damaged last lines, as a crash leaves them, are dropped.

        Raises:
            ConfigError: Another process has the journal open, or the file cannot be written.
            DataError: A line other than the last ones cannot be read.
        """
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab+")  # noqa: SIM115 - it stays open as long as the journal
        except OSError as error:
            raise ConfigError(
                f"output holds '{self.path}'; it must be a file that can be written ({error.strerror})"
            ) from None
        self._lock = threading.Lock()
        self._lock_file()
        self.id, self.records, intact = _read(self.path)
        self._seen = {(r.trial, r.kind, r.key, r.step) for r in self.records}
        self._last = {(r.trial, r.kind, r.key): r for r in self.records}
        if intact < self.path.stat().st_size:
            self._file.truncate(intact)
        if not self.id:
            self.id = uuid.uuid4().hex
            self._write(json.dumps({"journal": self.id}) + "\n")

    def append(self, entries: Iterable[JournalEntry], time: int) -> list[Record]:
        """Write the entries that are new, in one synced write.

        Entries whose (trial, kind, key, step) is recorded already are skipped, whatever their value.

        Returns:
            The new records.
        """
        with self._lock:
            return self._append(entries, time)

    def append_change(self, trial: str | None, kind: Kind, key: str, value: Value, time: int) -> list[Record]:
        """Record `value` if it differs from the last one of (trial, kind, key); the step counts the changes."""
        with self._lock:
            last = self._last.get((trial, kind, key))
            if last is not None and last.value == value:
                return []
            return self._append([JournalEntry(trial, kind, key, value, 0 if last is None else last.step + 1)], time)

    def last(self, trial: str | None, kind: Kind, key: str) -> Record | None:
        """Return the newest record of (trial, kind, key); None if there is none."""
        return self._last.get((trial, kind, key))

    def close(self) -> None:
        """Close the file, so that another process can open it."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, entries: Iterable[JournalEntry], time: int) -> list[Record]:
        new: list[Record] = []
        for trial, kind, key, value, step in entries:
            if (trial, kind, key, step) in self._seen:
                continue
            self._seen.add((trial, kind, key, step))
            record = Record(len(self.records) + len(new) + 1, time, trial, kind, key, value, step)
            self._last[trial, kind, key] = record
            new.append(record)
        if new:
            self._write("".join(record.to_line() for record in new))
            self.records += new
        return new

    def _write(self, text: str) -> None:
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())

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


def read_journal(path: str | Path) -> list[Record]:
    """Return all records of the journal at `path`, which may be in use; an empty list if there is no such file."""
    return _read(Path(path))[1] if Path(path).is_file() else []


def _read(path: Path) -> tuple[str, list[Record], int]:
    """Return the id and the records of a journal, and how many of its bytes are intact."""
    name, intact = "", 0
    records: list[Record] = []
    bad: int | None = None
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("cut short")
                fields = json.loads(line)
                if number == 1:
                    name = str(fields["journal"])
                else:
                    records.append(Record.from_object(fields))
            except (ValueError, KeyError, TypeError):
                bad = bad or number
                continue
            gap = number > 1 and records[-1].seq != number - 1
            if bad or gap:
                raise DataError(f"journal '{path}' is corrupt in line {bad or number}; move it away to log anew")
            intact += len(line)
    return name, records, intact


class DeliveryMarks:
    """How much of a journal each destination has: a small JSON file beside it, {destination: seq of the last record}.

    The file is replaced as a whole. After a crash it may lag behind; records are then sent again, which changes nothing
    at the destination.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def get(self, destination: str) -> int:
        """Return the sequence number of the last record that `destination` is known to have; 0 for none."""
        return int(self._load().get(destination, 0))

    def set(self, destination: str, seq: int) -> None:
        """Save that `destination` has all records up to `seq`."""
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps({**self._load(), destination: seq}), encoding="utf-8")

    def _load(self) -> dict[str, int]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
        return {}
