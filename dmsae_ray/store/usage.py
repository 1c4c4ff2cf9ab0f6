"""Which sweeps read a store: a file that beats while one does, and stays behind as the date of the last use."""

import os
import socket
import threading
import uuid
from contextlib import suppress
from types import TracebackType

from dmsae_ray.errors import DataError, DmsaeError
from dmsae_ray.files import Folder
from dmsae_ray.store.layout import decode, encode
from dmsae_ray.store.writer import beats

READERS = "readers"
"""Subfolder of a store."""
BEAT_SECONDS = 5.0


class Reading:
    """Context of a sweep that reads a store."""

    def __init__(self, store: Folder, sweep: str):
        self._place, self._name = store / READERS, f"{sweep}.json"
        self._owner = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dmsae-reading", daemon=True)

    def __enter__(self) -> "Reading":
        self._write(0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._write(-1)

    def _run(self) -> None:
        beat = 0
        while not self._stop.wait(BEAT_SECONDS):
            beat += 1
            self._write(beat)

    def _write(self, beat: int) -> None:
        """Beat; -1 is the last one."""
        content = {"owner": self._owner, "host": socket.gethostname(), "pid": os.getpid(), "beat": beat}
        with suppress(DmsaeError, OSError):  # a mark is no reason to stop a sweep
            self._place.write(self._name, [encode(content)])


def readers(store: Folder) -> list[str]:
    """Names of the sweeps that read a store now; looks for some seconds where one is on another machine."""
    found = []
    for name in (store / READERS).sizes():
        content = (store / READERS).read(name)
        try:
            ended = content is None or decode(content, name).get("beat") == -1
        except DataError:
            ended = True
        if not ended and beats(store / READERS, name, BEAT_SECONDS):
            found.append(name.removesuffix(".json"))
    return found
