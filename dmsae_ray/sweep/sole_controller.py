"""One controller at a time runs a sweep, whichever machine it is on."""

import time
from contextlib import suppress
from types import TracebackType

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import Heartbeat, decode_record, is_beating
from dmsae_ray.results import Folders

CONTROLLER_FILE = "controller.json"
BEAT_SECONDS = 5.0
_SETTLE_SECONDS = (0.2, 1.0)
"""After the own mark is written: on a disk, in a bucket. Of two that write at once, the later one stays."""


class SoleController:
    """Context in which this process runs a sweep; a mark in the sweep's folder, below `output`, tells others.

    A controller that was killed is recognised: at once on its own machine, after some seconds from another one.

    Args:
        folders: The folders of the sweep.
        beat_seconds: Time between two beats of the mark.

    Raises:
        ConfigError: On entering: another process runs the sweep.
    """

    def __init__(self, folders: Folders, beat_seconds: float = BEAT_SECONDS) -> None:
        self._folder, self._seconds = folders.output / "sweeps" / folders.name, beat_seconds
        self._mark = Heartbeat(self._folder, CONTROLLER_FILE, beat_seconds)

    def __enter__(self) -> "SoleController":
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

    def _refuse(self) -> None:
        who = "another process"
        with suppress(DataError, KeyError, TypeError):
            beat = decode_record(self._folder.read(CONTROLLER_FILE) or b"", CONTROLLER_FILE)
            who = f"process {beat['pid']} on {beat['host']}"
        raise ConfigError(
            f"sweep {self._folder} is run by {who} now; wait for its end, or stop it: this command then goes on"
        )
