"""The writer of a store, and whether it is alive, so that readers and second harvests never wait for a dead one."""

import time
from contextlib import suppress
from types import TracebackType

from dmsae_ray.errors import DmsaeError, one_line
from dmsae_ray.files import Folder, Heartbeat, decode_record, encode_record, has_ended, is_beating
from dmsae_ray.store.timing import TIMING, StoreTiming

HEARTBEAT = "heartbeat.json"
FAILED = "failed.json"


class WriterWatch:
    """Watches whether a store's heartbeat changes, so that the clocks of two machines are never compared.

    Args:
        folder: the store's folder.
        silence: seconds after which a harvest without a new beat is taken for dead.
    """

    def __init__(self, folder: Folder, silence: float = TIMING.silence):
        self.folder, self.silence = folder, silence
        self._seen: bytes | None = None
        self._since = time.monotonic()

    def alive(self) -> bool:
        """Return whether the writer's beat changed within `silence` seconds.

        True also while the watch is younger than that; False at once if the beat says that its process has ended.
        """
        content = self.folder.read(HEARTBEAT)
        if content != self._seen:
            self._seen, self._since = content, time.monotonic()
        if content is not None and has_ended(content):
            return False
        return time.monotonic() - self._since < self.silence

    def failure(self) -> str | None:
        """Return the reason that a failed harvest left; None if there is none."""
        content = self.folder.read(FAILED)
        return None if content is None else str(decode_record(content, self.folder / FAILED).get("reason"))


def has_writer(folder: Folder, timing: StoreTiming = TIMING) -> bool:
    """Return whether a harvest writes the store: whether its beat changes during this call."""
    return is_beating(folder, HEARTBEAT, timing.beat)


class StoreWriter:
    """Context of a harvest: beats while the harvest runs, and writes the reason to `failed.json` if it fails."""

    def __init__(self, folder: Folder, timing: StoreTiming = TIMING):
        self.folder, self._timing = folder, timing
        self._heartbeat = Heartbeat(folder, HEARTBEAT, self._timing.beat)

    def take_over(self) -> bool:
        """Return whether this harvest shall write the store. Call it before entering the context.

        Harvests that start at the same time, or replace the same dead one, all find no writer. Each writes its name
        over that of the others and looks again a little later: the last one finds its own name and continues, the
        others follow it. Only a process that stops for `settle` seconds between looking and writing becomes a second
        writer. It does work twice, but no harm: both write the same bytes.
        """
        if has_writer(self.folder, self._timing):
            return False
        self._begin()
        time.sleep(self._timing.settle)
        return self._heartbeat.is_ours()

    def __enter__(self) -> "StoreWriter":
        self._begin()
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.stop()
        if error is not None:
            reason = one_line(error) if isinstance(error, DmsaeError) else f"{type(error).__name__}: {one_line(error)}"
            if isinstance(error, KeyboardInterrupt):
                reason = "it was interrupted"
            with suppress(DmsaeError, OSError):
                self.folder.write(FAILED, [encode_record({"reason": reason})])
        with suppress(DmsaeError, OSError):
            if self._heartbeat.is_ours():
                self.folder.delete(HEARTBEAT)

    def _begin(self) -> None:
        self._heartbeat.beat()
        self.folder.delete(FAILED)
