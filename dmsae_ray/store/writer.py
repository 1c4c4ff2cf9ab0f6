"""Who is writing a store, and whether it still lives: so that readers and second harvests never wait for the dead."""

import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType

from dmsae_ray.errors import DataError, DmsaeError
from dmsae_ray.files import Folder, one_line
from dmsae_ray.store.layout import decode, encode

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 60.0
"""A harvest whose beat stands still for so long is taken for dead."""

CLAIM_SECONDS = 1.0
"""How much later than another a harvest that begins may write its first beat, and yet only one of the two goes on."""

HEARTBEAT = "heartbeat.json"
FAILED = "failed.json"


class Watch:
    """Watches a store's heartbeat by whether it changes, so that no two clocks are compared."""

    def __init__(self, folder: Folder, silence: float = SILENCE_SECONDS):
        self.folder, self.silence = folder, silence
        self._seen: bytes | None = None
        self._since = time.monotonic()

    def alive(self) -> bool:
        """Whether a writer's beat changed within `silence` seconds (or is too new to tell)."""
        content = self.folder.read(HEARTBEAT)
        if content != self._seen:
            self._seen, self._since = content, time.monotonic()
        if content is not None and _died_here(content):
            return False
        return time.monotonic() - self._since < self.silence

    def failure(self) -> str | None:
        """The reason that a harvest left when it failed."""
        content = self.folder.read(FAILED)
        return None if content is None else str(decode(content, self.folder / FAILED).get("reason"))


def _died_here(content: bytes) -> bool:
    """Whether the beat names a process of this machine that is no more."""
    try:
        beat = decode(content, HEARTBEAT)
        if beat["host"] != socket.gethostname():
            return False
        os.kill(int(beat["pid"]), 0)
    except ProcessLookupError:
        return True
    except (DataError, KeyError, ValueError, PermissionError, OverflowError):
        pass
    return False


def other_writer(folder: Folder) -> bool:
    """Whether another harvest is at work on the store: it beats while we look."""
    return beats(folder, HEARTBEAT, BEAT_SECONDS)


def beats(folder: Folder, name: str, seconds: float) -> bool:
    """Whether the file changes while we look, for up to four times the `seconds` between its beats."""
    content = folder.read(name)
    if content is None or _died_here(content):
        return False
    for _ in range(8):
        time.sleep(seconds / 2)
        now = folder.read(name)
        if now != content:
            return now is not None
    return False


class Heartbeat:
    """Context of a harvest: beats while it runs, leaves `failed.json` with the reason when it fails."""

    def __init__(self, folder: Folder):
        self.folder = folder
        self._owner = uuid.uuid4().hex
        self._beat = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dmsae-heartbeat", daemon=True)

    def claim(self) -> bool:
        """Whether this harvest is the one to write the store; to be called before the context is entered.

        Several that begin at once, or take over from a dead one, find nobody at work. Each writes its name over the
        other's and looks again a little later: the last one finds its own and goes on, the rest follow it. Only a
        process that stands still for `CLAIM_SECONDS` between looking and writing becomes a second writer; it does work
        twice and harms nothing, for both write the same bytes.
        """
        if other_writer(self.folder):
            return False
        self._begin()
        time.sleep(CLAIM_SECONDS)
        return self._is_ours()

    def __enter__(self) -> "Heartbeat":
        self._begin()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is not None:
            reason = one_line(error) if isinstance(error, DmsaeError) else f"{type(error).__name__}: {one_line(error)}"
            if isinstance(error, KeyboardInterrupt):
                reason = "it was interrupted"
            with suppress(DmsaeError, OSError):
                self.folder.write(FAILED, [encode({"reason": reason})])
        with suppress(DmsaeError, OSError):
            if self._is_ours():
                self.folder.delete(HEARTBEAT)

    def _begin(self) -> None:
        self._write()
        self.folder.delete(FAILED)

    def _is_ours(self) -> bool:
        content = self.folder.read(HEARTBEAT)
        return content is not None and decode(content, HEARTBEAT).get("owner") == self._owner

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with suppress(DmsaeError, OSError):  # a missed beat is no reason to stop harvesting
                self._write()

    def _write(self) -> None:
        self._beat += 1
        beat = {"owner": self._owner, "host": socket.gethostname(), "pid": os.getpid(), "beat": self._beat}
        self.folder.write(HEARTBEAT, [encode(beat)])
