"""Marks that say which cycle a sweep trains now, so that another sweep which wants the same cycle waits for it.

Within a sweep `trial_search` holds such trials back; this is for sweeps that share an output folder.
"""

import time
from contextlib import suppress
from typing import Any

from dmsae_ray.errors import DataError, DmsaeError
from dmsae_ray.files import Folder, Heartbeat, decode_record, is_beating

MARKS = ".training"
"""Folder of the marks, in that of the cycles."""
BEAT_SECONDS = 2.0
STALLED_SECONDS = 300.0
"""A training that lives and gets on no more is waited for no longer than this: perhaps it waits for what we hold."""
_SETTLE_SECONDS = (0.2, 1.0)
"""On a file system, and in an object store: after this long the last of several who began at once is known."""


class TrainingMarks:
    """The marks of one process; see `distill.OtherTrainings`.

    Where two begin at the same instant, or a disk shows files late, both may train: the result is the same.

    Args:
        cycles: Folder of the cycles.
        sweep: Name of this sweep. Marks of its own are never waited for: they are of an attempt that was lost.
        beat_seconds: Time between two beats of a mark.
        stalled_seconds: How long a training that lives and does not get on is waited for.
    """

    def __init__(
        self,
        cycles: Folder,
        sweep: str,
        *,
        beat_seconds: float = BEAT_SECONDS,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self._folder, self._sweep = cycles / MARKS, sweep
        self._seconds, self._stalled = beat_seconds, stalled_seconds
        self._progress = 0
        self._mark: Heartbeat | None = None
        self._name = ""
        self._seen: tuple[object, float] = (None, 0.0)

    def begin(self, key: str, *, wait: bool) -> bool:
        """Mark the cycle of `key` as trained here; return False, after some seconds at most, if another trains it.

        Args:
            key: Key of the cycle.
            wait: False marks it whatever others do.

        Raises:
            DmsaeError: The folder cannot be read or written.
        """
        self._name = f"{key}.json"
        if wait and self._another_trains():
            return False
        self._progress = 0
        mark = Heartbeat(self._folder, self._name, self._seconds, self._about)
        mark.beat()
        if wait:
            time.sleep(_SETTLE_SECONDS[self._folder.local is None])
            if self._of_another_sweep() is not None:
                return False
        mark.start()
        self._mark = mark
        return True

    def progress(self) -> None:
        """Tell others at the next beat that the training gets on."""
        self._progress += 1

    def end(self) -> None:
        """Take the mark away, if there is one."""
        if self._mark is None:
            return
        self._mark.stop()
        with suppress(DmsaeError, OSError):  # what stays says who wrote it, and that it beats no more
            if self._mark.is_ours():
                self._folder.delete(self._name)
        self._mark = None

    def _about(self) -> dict[str, object]:
        return {"sweep": self._sweep, "progress": self._progress}

    def _of_another_sweep(self) -> dict[str, Any] | None:
        """Return the mark of the cycle, if another sweep wrote it."""
        content = self._folder.read(self._name)
        if content is None:
            return None
        try:
            record = decode_record(content, self._folder / self._name)
        except DataError:
            return None  # torn by a full disk
        return None if record.get("sweep") == self._sweep else record

    def _another_trains(self) -> bool:
        record = self._of_another_sweep()
        if record is None:
            return False
        now, state = time.monotonic(), (record.get("owner"), record.get("progress"))
        if state != self._seen[0]:
            self._seen = state, now
        return now - self._seen[1] <= self._stalled and is_beating(self._folder, self._name, self._seconds)
