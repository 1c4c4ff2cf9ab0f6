"""Slots limit how many trials hold resources while a harvest runs beside them, so that neither waits for the other."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle

from dmsae_ray.config import ON_HEAD
from dmsae_ray.errors import DmsaeError

_POLL_SECONDS = 0.5


class SlotsClosed(DmsaeError):
    """A trial may not begin; the message is the reason."""


class TrialSlots:
    """Let at most `places` trials run at once.

    It is an actor, since the drivers of the trials are spread over the cluster.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside: set[str] = set()
        self._closed: str | None = None

    def enter(self, trial: str) -> bool | str:
        """Ask for a slot; a trial that has one keeps it.

        Returns:
            Whether the trial has a slot now, or, as a string, the reason why no trial gets one any more.
        """
        if self._closed is not None:
            return self._closed
        if trial not in self._inside and len(self._inside) >= self._places:
            return False
        self._inside.add(trial)
        return True

    def leave(self, trial: str) -> None:
        """Free the slot of a trial."""
        self._inside.discard(trial)

    def widen(self, places: int) -> None:
        """Allow `places` slots from now on, if that is more than before."""
        self._places = max(self._places, places)

    def close(self, reason: str) -> None:
        """Give no more slots, for the given reason."""
        self._closed = reason


@contextmanager
def holding_slot(slots: ActorHandle[Any], trial: str) -> Iterator[None]:
    """Wait for a slot, and hold it within the context.

    Raises:
        SlotsClosed: No slot will become free; the message is the reason.
    """
    while True:
        answer: Any = ray.get(slots.enter.remote(trial))
        if isinstance(answer, str):
            raise SlotsClosed(answer)
        if answer:
            break
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        slots.leave.remote(trial)


def start_slots(places: int) -> ActorHandle[Any]:
    """Start the actor of the slots on the head, so that it outlives the loss of other nodes."""
    actor: Any = ray.remote(TrialSlots).options(num_cpus=0, resources=ON_HEAD, max_restarts=-1)
    handle: ActorHandle[Any] = actor.remote(places)
    return handle
