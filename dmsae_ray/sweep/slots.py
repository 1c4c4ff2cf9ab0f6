"""How many trials may hold resources: fewer while a harvest runs beside them, so that neither waits for the other."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmsae_ray.errors import DmsaeError

_POLL_SECONDS = 0.5


class SlotsClosed(DmsaeError):
    """A trial that may not begin, and why."""


class TrialSlots:
    """Lets so many trials run at once. An actor of its own, since trials' drivers are spread over the cluster."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside: set[str] = set()
        self._closed: str | None = None

    def enter(self, trial: str) -> bool | str:
        """Ask to come in: whether the trial may, or why none may any more."""
        if self._closed is not None:
            return self._closed
        if trial not in self._inside and len(self._inside) >= self._places:
            return False
        self._inside.add(trial)
        return True

    def leave(self, trial: str) -> None:
        """Give the place to another."""
        self._inside.discard(trial)

    def widen(self, places: int) -> None:
        """Let more in from now on."""
        self._places = max(self._places, places)

    def close(self, reason: str) -> None:
        """Let nobody in any more."""
        self._closed = reason


@contextmanager
def holding_slot(slots: ActorHandle[Any], trial: str) -> Iterator[None]:
    """Wait for a place, and keep it within the context.

    Raises:
        SlotsClosed: none will come; with the reason.
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
    """Start the slots on this node, so that they live as long as the sweep."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(TrialSlots).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
    handle: ActorHandle[Any] = actor.remote(places)
    return handle
