"""The thread that delivers journal records: in order, with retries until it works, and without blocking anyone."""

import logging
import threading
import time
from typing import Protocol

from dmsae_ray.tracking.journal import DeliveryMarks, Journal, Mark, Record, Tail
from dmsae_ray.tracking.troubles import reason_of

log = logging.getLogger(__name__)

RECORDS_PER_DELIVERY = 1000
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
SAY_AFTER_SECONDS = 3.0
"""Failures that end sooner are not worth a line."""
LATE_PAUSE_SECONDS = 15.0
"""Pause before what was left for later is tried again."""


class Sink(Protocol):
    """Where records go."""

    parent: str

    def has(self, run: str | None) -> bool:
        """Return whether there is such a run."""

    def deliver(self, records: list[Record]) -> list[Record]:
        """Write records, and return those that are left for later and hold nothing up.

        If it raises, it is called with the same records again after a pause.
        """


class Sender:
    """Deliver the records of a journal from a background thread, as they are written.

    Args:
        sink: Where they go.
        journal: The journal. Its file is the queue: an outage, however long, costs no memory.
        marks: What the sink has of it. A crash may fall between a delivery and its mark.
    """

    def __init__(self, sink: Sink, journal: Journal, marks: DeliveryMarks) -> None:
        self._sink, self._journal, self._marks = sink, journal, marks
        self._begun = marks.get(sink.parent)
        # Runs that are missing, since they were deleted in MLflow or its store was reset, get all their records again.
        self._missing = {run for run in (None, *journal.runs()) if not sink.has(run)}
        self._to = 0 if self._missing or self._begun.late else min(self._begun.to, journal.count)
        self._tail = Tail(journal.path, self._to)
        self._late: dict[tuple[str | None, str], Record] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._deadline = float("inf")
        self._at_once = RECORDS_PER_DELIVERY
        self._failing_since: float | None = None
        self._said = False
        self._thread = threading.Thread(target=self._run, name="dmsae-tracking", daemon=True)
        self._thread.start()

    @property
    def undelivered(self) -> int:
        """Number of records that are not delivered yet."""
        with self._changed:
            return self._left()

    def wake(self) -> None:
        """Say that the journal has grown."""
        with self._changed:
            self._changed.notify_all()

    def flush(self, seconds: float) -> int:
        """Wait until all is delivered, for `seconds` at most; return how many records are not delivered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._left(), seconds)
            return self._left()

    def close(self, seconds: float) -> int:
        """Deliver what is left, for `seconds` at most, and stop; return how many records are not delivered."""
        with self._changed:
            self._closing = True
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            self._deadline = 0.0  # no request follows one that is still running
            return self._left()

    def _left(self) -> int:
        return self._journal.count - self._to + len(self._late)

    def _run(self) -> None:
        try:
            while self._wait_for_records():
                records = self._tail.read(RECORDS_PER_DELIVERY)
                due = [r for r in records if self._is_due(r)]
                if not self._delivered([*self._late.values(), *due]):
                    return
                with self._changed:
                    self._to = records[-1].seq if records else self._to
                    self._marks.set(self._sink.parent, Mark(max(self._to, self._begun.to), self._late_numbers()))
                    self._changed.notify_all()
        finally:
            self._tail.close()

    def _wait_for_records(self) -> bool:
        """Wait for records, or for the time to try late ones again; return False when it is time to stop."""
        with self._changed:
            new = self._changed.wait_for(
                lambda: self._journal.count > self._to or self._closing, LATE_PAUSE_SECONDS if self._late else None
            )
            if self._closing and self._journal.count <= self._to:
                return False
            return bool(new or self._late) and time.monotonic() <= self._deadline

    def _is_due(self, record: Record) -> bool:
        return record.seq > self._begun.to or record.run in self._missing or record.seq in self._begun.late

    def _late_numbers(self) -> tuple[int, ...]:
        ahead = (seq for seq in self._begun.late if seq > self._to)
        return tuple(sorted({*ahead, *(record.seq for record in self._late.values())}))

    def _delivered(self, records: list[Record]) -> bool:
        """Deliver records, however long it takes; return False if it is time to stop before that.

        After a failure fewer are sent together, so that a server that fails now and then gets on.
        """
        pause, done = FIRST_PAUSE_SECONDS, 0
        late: dict[tuple[str | None, str], Record] = {}
        while done < len(records):
            part = records[done : done + self._at_once]
            try:
                left = self._sink.deliver(part)
            except Exception as error:
                self._report(error)
                if not self._wait_to_repeat(pause):
                    return False
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                self._at_once = max(1, min(self._at_once, len(part)) // 2)
                continue
            self._works()
            pause, done = FIRST_PAUSE_SECONDS, done + len(part)
            self._at_once = min(2 * self._at_once, RECORDS_PER_DELIVERY)
            for record in part:
                late.pop((record.run, record.key), None)  # an earlier version of what is sent now
            late |= {(record.run, record.key): record for record in left}
        with self._changed:
            self._late = late
        return True

    def _wait_to_repeat(self, seconds: float) -> bool:
        """Wait before a delivery is tried again; return False if it is time to stop."""
        with self._changed:
            # While closing, try more often: there is little time left.
            self._changed.wait_for(lambda: self._closing, seconds)
            if self._closing:
                self._changed.wait(min(seconds, FIRST_PAUSE_SECONDS))
            return time.monotonic() <= self._deadline

    def _report(self, error: Exception) -> None:
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if not self._said and now - self._failing_since >= SAY_AFTER_SECONDS:
            self._said = True
            log.warning("tracking does not answer; records wait in the journal (%s)", reason_of(error))

    def _works(self) -> None:
        self._failing_since = None
        if self._said:
            self._said = False
            log.warning("tracking works again")
