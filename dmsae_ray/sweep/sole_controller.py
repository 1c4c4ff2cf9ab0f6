"""One controller at a time runs a sweep, whichever machine it is on."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import Heartbeat, decode_record, has_ended, is_beating
from dmsae_ray.results import Folders

log = logging.getLogger(__name__)

CONTROLLER_FILE = "controller.json"
BEAT_SECONDS = 5.0
_SETTLE_SECONDS = (0.2, 1.0)
"""After the own mark is written: on a disk, in a bucket. Of two that write at once, the later one stays."""


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
        self._folder, self._say, self._seconds = folders.output / "sweeps" / folders.name, say, beat_seconds
        self._mark = Heartbeat(self._folder, CONTROLLER_FILE, beat_seconds)

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

    def _who(self) -> str:
        with suppress(DataError, KeyError, TypeError):
            beat = decode_record(self._folder.read(CONTROLLER_FILE) or b"", CONTROLLER_FILE)
            return f"process {beat['pid']} on {beat['host']}"
        return "another process"

    def _refuse(self) -> None:
        raise ConfigError(
            f"sweep {self._folder} is run by {self._who()} now; wait for its end, or stop it: this command then goes on"
        )
