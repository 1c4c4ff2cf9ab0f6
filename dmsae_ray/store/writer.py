"""Who writes a store, and whether it still lives: so that readers and second harvests never wait for the dead."""

import time
from contextlib import suppress
from types import TracebackType

from dmsae_ray.errors import DmsaeError, one_line
from dmsae_ray.files import Folder, Heartbeat, decode_record, encode_record, has_ended, is_beating
from dmsae_ray.store.timing import TIMING, StoreTiming

HEARTBEAT = "heartbeat.json"
FAILED = "failed.json"


class WriterWatch:
    """Watches a store's heartbeat by whether it changes, so that no two clocks are compared."""

    def __init__(self, folder: Folder, silence: float = TIMING.silence):
        self.folder, self.silence = folder, silence
        self._seen: bytes | None = None
        self._since = time.monotonic()

    def alive(self) -> bool:
        """Whether a writer's beat changed within `silence` seconds (or is too new to tell)."""
        content = self.folder.read(HEARTBEAT)
        if content != self._seen:
            self._seen, self._since = content, time.monotonic()
        if content is not None and has_ended(content):
            return False
        return time.monotonic() - self._since < self.silence

    def failure(self) -> str | None:
        """The reason that a harvest left when it failed."""
        content = self.folder.read(FAILED)
        return None if content is None else str(decode_record(content, self.folder / FAILED).get("reason"))


def has_writer(folder: Folder, timing: StoreTiming = TIMING) -> bool:
    """Whether a harvest is at work on the store: it beats while we look."""
    return is_beating(folder, HEARTBEAT, timing.beat)


class StoreWriter:
    """Context of a harvest: beats while it runs, and leaves `failed.json` with the reason when it fails."""

    def __init__(self, folder: Folder, timing: StoreTiming = TIMING):
        self.folder, self._timing = folder, timing
        self._heartbeat = Heartbeat(folder, HEARTBEAT, self._timing.beat)

    def take_over(self) -> bool:
        """Whether this harvest is the one to write the store; to be called before the context is entered.

        Several that begin at once, or take over from a dead one, find nobody at work. Each writes its name over the
        other's and looks again a little later: the last one finds its own and goes on, the rest follow it. Only a
        process that stands still for `settle` seconds between looking and writing becomes a second writer; it does work
        twice and harms nothing, for both write the same bytes.
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
