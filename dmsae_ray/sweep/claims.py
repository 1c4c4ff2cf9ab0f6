"""Concurrent trials that want the same cycle: one trains it, the others wait for its result."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.actor import ActorHandle

from dmsae_ray.distill.cycle_store import DirectoryCycleStore

LEASE_SECONDS = 60.0
"""A claim not renewed for so long is free again: its holder was lost."""


class CycleClaims:
    """Who is training which cycle. One actor a cluster; each claim is a lease that its holder renews."""

    def __init__(self, lease_seconds: float = LEASE_SECONDS) -> None:
        self._lease = lease_seconds
        self._holders: dict[str, tuple[str, float]] = {}

    def acquire(self, key: str, holder: str) -> bool:
        """Take or renew the claim on `key`; False where another holds it."""
        now = time.monotonic()
        current, renewed = self._holders.get(key, (holder, now))
        if current != holder and now - renewed < self._lease:
            return False
        self._holders[key] = (holder, now)
        return True

    def release(self, key: str, holder: str) -> None:
        """Give the claim back; nothing happens where it is held by another."""
        if self._holders.get(key, ("", 0.0))[0] == holder:
            del self._holders[key]


class SharedCycleStore(DirectoryCycleStore):
    """A cycle store whose claims hold across all trials of a cluster."""

    def __init__(self, root: str | Path, claims: ActorHandle, *, poll_seconds: float = 0.5) -> None:
        super().__init__(root)
        self._claims = claims
        self._poll = poll_seconds

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Wait until no other trial trains the cycle `key`, and hold it within the context."""
        holder = uuid.uuid4().hex
        while not ray.get(self._claims.acquire.remote(key, holder)):
            time.sleep(self._poll)
        done = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(key, holder, done), daemon=True)
        renewal.start()
        try:
            yield
        finally:
            done.set()
            renewal.join()
            ray.get(self._claims.release.remote(key, holder))

    def _renew(self, key: str, holder: str, done: threading.Event) -> None:
        while not done.wait(LEASE_SECONDS / 4):
            ray.get(self._claims.acquire.remote(key, holder))
