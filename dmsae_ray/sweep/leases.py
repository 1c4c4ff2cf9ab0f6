"""Leases of cycles: of several trials that need the same cycle, one trains it and the others wait for its result."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle

from dmsae_ray.config import ON_HEAD

LEASE_SECONDS = 30.0
"""A lease that is not renewed for this long is free again, because its holder was lost."""


class CycleLeases:
    """The record of which trial trains which cycle: one actor per sweep. A holder renews its lease while it trains."""

    def __init__(self, lease_seconds: float = LEASE_SECONDS) -> None:
        self._lease = lease_seconds
        self._holders: dict[str, tuple[str, float]] = {}

    def acquire(self, key: str, holder: str) -> bool:
        """Take or renew the lease of `key`; return False if another holder has it."""
        now = time.monotonic()
        current, renewed = self._holders.get(key, (holder, now))
        if current != holder and now - renewed < self._lease:
            return False
        self._holders[key] = (holder, now)
        return True

    def release(self, key: str, holder: str) -> None:
        """Give the lease back; do nothing if another holder has it."""
        if self._holders.get(key, ("", 0.0))[0] == holder:
            del self._holders[key]


def start_leases() -> ActorHandle[Any]:
    """Start the actor of the leases on the head, so that it outlives the loss of other nodes."""
    actor: Any = ray.remote(CycleLeases).options(num_cpus=0, resources=ON_HEAD, max_restarts=-1)
    handle: ActorHandle[Any] = actor.remote()
    return handle


@contextmanager
def leased(leases: ActorHandle[Any], key: str, *, poll_seconds: float = 0.5) -> Iterator[None]:
    """Wait until nobody else trains the cycle `key`, and hold its lease within the context."""
    holder = uuid.uuid4().hex
    while not ray.get(leases.acquire.remote(key, holder)):
        time.sleep(poll_seconds)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_SECONDS / 4):
            ray.get(leases.acquire.remote(key, holder))

    renewal = threading.Thread(target=renew, daemon=True)
    renewal.start()
    try:
        yield
    finally:
        done.set()
        renewal.join()
        ray.get(leases.release.remote(key, holder))
