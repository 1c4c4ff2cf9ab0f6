"""The thread that delivers journal records: in order, with retries until it works, and without blocking anyone."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from dmsae_ray.tracking.journal import Record
from dmsae_ray.tracking.troubles import reason_of

log = logging.getLogger(__name__)

RECORDS_PER_DELIVERY = 1000
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0


class Sender:
    """Deliver records from a background thread.

    Args:
        deliver: Writes a list of records. If it raises, it is called with the same records again after a pause.
        delivered: Called when records are written. A crash may fall between the two calls.
        waiting: Records to deliver first.
    """

    def __init__(
        self, deliver: Callable[[list[Record]], None], delivered: Callable[[list[Record]], None], waiting: list[Record]
    ) -> None:
        self._deliver = deliver
        self._delivered = delivered
        self._queue = deque(waiting)
        self._changed = threading.Condition()
        self._closing = False
        self._deadline = float("inf")
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="dmsae-tracking", daemon=True)
        self._thread.start()

    @property
    def undelivered(self) -> int:
        """Number of records that are not delivered yet."""
        with self._changed:
            return len(self._queue)

    def put(self, records: list[Record]) -> None:
        """Queue `records` for delivery after all earlier ones, and return at once."""
        with self._changed:
            self._queue.extend(records)
            self._changed.notify_all()

    def flush(self, seconds: float) -> int:
        """Wait until all is delivered, for `seconds` at most; return how many records are not delivered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue, seconds)
            return len(self._queue)

    def close(self, seconds: float) -> int:
        """Deliver what is left, for `seconds` at most, and stop; return how many records are not delivered."""
        with self._changed:
            self._closing = True
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            self._deadline = 0.0  # no request follows one that is still running
            return len(self._queue)

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue or time.monotonic() > self._deadline:
                    return
                batch = [self._queue[i] for i in range(min(len(self._queue), RECORDS_PER_DELIVERY))]
            try:
                self._deliver(batch)
            except Exception as error:
                self._report(error)
                with self._changed:
                    # While closing, try more often: there is little time left.
                    self._changed.wait_for(lambda: self._closing, pause)
                    if self._closing:
                        self._changed.wait(min(pause, FIRST_PAUSE_SECONDS))
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            pause = FIRST_PAUSE_SECONDS
            if self._failing:
                self._failing = False
                log.warning("tracking works again")
            self._delivered(batch)
            with self._changed:
                for _ in batch:
                    self._queue.popleft()
                self._changed.notify_all()

    def _report(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            log.warning("tracking does not answer; records wait in the journal (%s)", reason_of(error))
