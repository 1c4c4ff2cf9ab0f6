"""One controller at a time runs a sweep, whichever machine it is on."""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import Folder, Heartbeat, decode_record, has_ended, is_beating, is_full_disk
from dmsae_ray.results import Folders

log = logging.getLogger(__name__)

CONTROLLER_FILE = "controller.json"
BEAT_SECONDS = 5.0
_SETTLE_SECONDS = (0.2, 1.0)
"""After the own mark is written: on a disk, in a bucket. Of two that write at once, the later one stays."""


@dataclass(frozen=True)
class ControllerMark:
    """The last process that ran a sweep.

    Attributes:
        process: Its number.
        host: Its machine.
        began: When it began, in seconds since 1970; None if its mark does not say.
        runs: Whether it runs now.
    """

    process: int
    host: str
    began: float | None
    runs: bool

    def __str__(self) -> str:
        """Return the process and its machine."""
        return f"process {self.process} on {self.host}"


def controller_of(
    folder: Folder, say: Callable[[str], None] = log.info, beat_seconds: float = BEAT_SECONDS
) -> ControllerMark | None:
    """Return which process runs a sweep, or ran it last; None if none ever did. Nothing is changed.

    Args:
        folder: The sweep's folder below `output`.
        say: Called with a line when it takes a while to see whether a process of another machine is alive.
        beat_seconds: Time between two beats of that process.

    Raises:
        DataError: The mark cannot be read.
    """
    content = folder.read(CONTROLLER_FILE)
    if content is None:
        return None
    beat = decode_record(content, folder / CONTROLLER_FILE)
    try:
        mark = ControllerMark(int(beat["pid"]), str(beat["host"]), None, False)
        began = float(beat["began"]) if "began" in beat else None
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{folder / CONTROLLER_FILE} is not the mark of a process") from None
    runs = not has_ended(content)
    if runs and mark.host != socket.gethostname():
        say(f"looking whether {mark} still runs this sweep, {4 * beat_seconds:.0f} s at most")
        runs = is_beating(folder, CONTROLLER_FILE, beat_seconds)
    return replace(mark, began=began, runs=runs)


class SoleController:
    """Context in which this process runs a sweep; a mark in the sweep's folder, below `output`, tells others.

    A controller that was killed is recognised: at once on its own machine, after some seconds from another one.

    Args:
        folders: The folders of the sweep.
        say: Called with a line when it takes a while to see whether another process is alive.
        beat_seconds: Time between two beats of the mark.

    Raises:
        ConfigError: On entering: another process runs the sweep.
    """

    def __init__(
        self, folders: Folders, say: Callable[[str], None] = log.warning, beat_seconds: float = BEAT_SECONDS
    ) -> None:
        self._folder, self._say, self._seconds = folders.shared, say, beat_seconds
        self._mark = Heartbeat(self._folder, CONTROLLER_FILE, beat_seconds, on_failure=self._stop_where_full)
        self._stopped = False

    def __enter__(self) -> "SoleController":
        mark = self._folder.read(CONTROLLER_FILE)
        if mark is not None and not has_ended(mark):
            self._say(f"looking whether {self._who()} still runs this sweep, {4 * self._seconds:.0f} s at most")
            if is_beating(self._folder, CONTROLLER_FILE, self._seconds):
                self._refuse()
        self._mark.beat()
        time.sleep(_SETTLE_SECONDS[self._folder.local is None])
        if not self._mark.is_ours():
            self._refuse()
        self._mark.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mark.stop()
        self._mark.say_goodbye()

    def _stop_where_full(self, error: Exception) -> None:
        """Stop this process as by Ctrl-C where the disk stays full: its workers cannot write either, and would wait."""
        if not self._stopped and is_full_disk(error.__cause__ or error):
            self._stopped = True
            self._say(f"the disk of {self._folder} stays full: this sweep stops")
            os.kill(os.getpid(), signal.SIGINT)

    def _who(self) -> str:
        with suppress(DataError, KeyError, TypeError):
            beat = decode_record(self._folder.read(CONTROLLER_FILE) or b"", CONTROLLER_FILE)
            return f"process {beat['pid']} on {beat['host']}"
        return "another process"

    def _refuse(self) -> None:
        raise ConfigError(
            f"sweep {self._folder} is run by {self._who()} now; wait for its end, or stop it: this command then goes on"
        )
