"""A file that a working process writes again and again, so that others see that it is alive.

A process counts as alive while its file changes, so the clocks of two machines are never compared. On the same machine
the process itself is looked up, which needs no waiting.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dmsae_ray.errors import DataError, DmsaeError
from dmsae_ray.files.folder import Folder
from dmsae_ray.files.json_records import decode_record, encode_record

_LAST_BEAT = -1
"""Number of the beat by which a process says that it has ended."""


class Heartbeat:
    """Writes one file every `seconds`, from `start` to `stop`.

    A beat that cannot be written is left out; it does not stop the work.

    Args:
        folder: folder of the file.
        name: name of the file.
        seconds: time between two beats.
        about: asked at each beat for what else stands in the file.
        on_failure: called in the thread with the error of a beat that could not be written.
    """

    def __init__(
        self,
        folder: Folder,
        name: str,
        seconds: float,
        about: Callable[[], Mapping[str, Any]] = dict,
        on_failure: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._on_failure = on_failure
        self._folder, self._name, self._seconds, self._about = folder, name, seconds, about
        self._owner = uuid.uuid4().hex
        self._beat = 0
        self._began = int(time.time())  # for people; nothing is decided by it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"dmsae-{name}", daemon=True)

    def beat(self) -> None:
        """Write the file once.

        Raises:
            DmsaeError: the file cannot be written.
        """
        self._beat += 1
        self._write(self._beat)

    def start(self) -> None:
        """Start to beat, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop beating; the file stays as it is."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def say_goodbye(self) -> None:
        """Write a last beat, which says that the process has ended."""
        with suppress(DmsaeError, OSError):
            self._write(_LAST_BEAT)

    def is_ours(self) -> bool:
        """Return whether this object was the last to write the file.

        Raises:
            DataError: the file cannot be read, or is not a record.
        """
        content = self._folder.read(self._name)
        return content is not None and decode_record(content, self._name).get("owner") == self._owner

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.beat()
            except (DmsaeError, OSError) as error:
                self._on_failure(error)

    def _write(self, number: int) -> None:
        who = {"owner": self._owner, "host": socket.gethostname(), "pid": os.getpid(), "began": self._began}
        beat = {**self._about(), **who, "beat": number}
        self._folder.write(self._name, [encode_record(beat)])


def is_beating(folder: Folder, name: str, seconds: float) -> bool:
    """Return whether the process of a heartbeat is alive; this takes up to four times `seconds`.

    Args:
        folder: folder of the file.
        name: name of the file.
        seconds: time between two beats of that process.

    Raises:
        DataError: the file cannot be read.
    """
    content = folder.read(name)
    if content is None or has_ended(content):
        return False
    for _ in range(8):
        time.sleep(seconds / 2)
        now = folder.read(name)
        if now != content:
            return now is not None and not _said_goodbye(now)
    return False


def has_ended(content: bytes) -> bool:
    """Return whether a beat says that its process has ended, or names a process of this machine that is gone."""
    if _said_goodbye(content):
        return True
    try:
        beat = decode_record(content, "heartbeat")
        if beat["host"] != socket.gethostname():
            return False
        os.kill(int(beat["pid"]), 0)
    except ProcessLookupError:
        return True
    except (DataError, KeyError, ValueError, PermissionError, OverflowError):
        pass
    return False


def _said_goodbye(content: bytes) -> bool:
    with suppress(DataError):
        return decode_record(content, "heartbeat").get("beat") == _LAST_BEAT
    return False
