"""The thread that delivers journal records: in order, again until it works, never in anyone's way."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from dmsae_ray.errors import one_line
from dmsae_ray.tracking.journal import Record

log = logging.getLogger(__name__)

RECORDS_PER_DELIVERY = 1000
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0


class Sender:
    """Delivers what is put into it from a background thread.

    `deliver` writes a list of records or raises, in which case it gets the same records again after a pause;
    `delivered` is told when they are written, with the pause between the two being where a crash may fall.
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
        """Records that are not delivered yet."""
        with self._changed:
            return len(self._queue)

    def put(self, records: list[Record]) -> None:
        """Have `records` delivered after all earlier ones; returns at once."""
        with self._changed:
            self._queue.extend(records)
            self._changed.notify_all()

    def flush(self, seconds: float) -> int:
        """Wait until all is delivered, `seconds` at most; returns how many records are not."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue, seconds)
            return len(self._queue)

    def close(self, seconds: float) -> int:
        """Deliver what is left, for `seconds` at most, and end; returns how many records are undelivered."""
        with self._changed:
            self._closing = True
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            self._deadline = 0.0  # a request that is still on its way is the last
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
            log.warning("tracking does not answer; records wait in the journal (%s)", one_line(error, 200))
