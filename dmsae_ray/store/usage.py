"""Which sweeps use a store: each writes a heartbeat file, which stays afterwards as the date of the last use."""

from contextlib import suppress
from types import TracebackType

from dmsae_ray.errors import DmsaeError
from dmsae_ray.files import Folder, Heartbeat, is_beating
from dmsae_ray.store.timing import TIMING, StoreTiming

USERS = "readers"
"""Subfolder of a store with the marks of its users."""


class UsageMark:
    """Context of a sweep that uses a store; a mark that cannot be written does not stop the sweep."""

    def __init__(self, store: Folder, sweep: str, timing: StoreTiming = TIMING):
        self._heartbeat = Heartbeat(store / USERS, f"{sweep}.json", timing.usage_beat)

    def __enter__(self) -> "UsageMark":
        with suppress(DmsaeError, OSError):
            self._heartbeat.beat()
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.stop()
        self._heartbeat.say_goodbye()


def active_users(store: Folder, timing: StoreTiming = TIMING) -> list[str]:
    """Return the names of the sweeps that use a store now; takes some seconds for a sweep on another machine."""
    place = store / USERS
    return [name.removesuffix(".json") for name in place.sizes() if is_beating(place, name, timing.usage_beat)]
