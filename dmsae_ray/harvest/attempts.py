"""How often each shard was begun and not made: a model actor that dies of it every time is not started for ever.

Ray starts a lost actor again and gives it its shard again, without end, as spot nodes need it. Ray cannot tell a node
that was taken away from a model that runs out of memory; but the first hardly ever strikes one shard time after time.
"""

from collections import Counter
from contextlib import suppress
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmsae_ray.errors import DataError

MAX_ATTEMPTS = 5
"""Times that a shard is begun before its model actors are taken to die of it."""


class Attempts:
    """Counts beginnings by shard, up to `most`, until it is made; one actor a harvest, on the driver's node."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: Counter[str] = Counter()

    def count_attempt(self, shard: str) -> int | None:
        """Count a beginning; after the most that there may be, their number."""
        self._begun[shard] += 1
        return self._most if self._begun[shard] > self._most else None

    def forget_attempts(self, shard: str) -> None:
        """Its actor lived: a stream may ask for the shard again, in another epoch."""
        del self._begun[shard]


def start_attempts() -> ActorHandle[Any]:
    """Start the count."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
    handle: ActorHandle[Any] = actor.remote(MAX_ATTEMPTS)
    return handle


def count_attempt(attempts: ActorHandle[Any] | None, shard: str) -> None:
    """Called by a model actor before it makes a shard; without `attempts` nothing is counted.

    Raises:
        DataError: the shard was begun often enough, and each time the actor died.
    """
    if attempts is None:
        return
    deaths: Any = None
    with suppress(RayError):  # the count is lost with the driver's node; it is no reason to stop
        deaths = ray.get(attempts.count_attempt.remote(shard))
    if deaths is not None:
        raise DataError(
            f"model actors died {deaths} times while they made shard {shard} (killed, out of memory, or a GPU error; "
            "Ray's log says which): lower resources.model_batch_tokens, or give an actor more memory or a whole GPU "
            "(resources.cpus/gpus_per_model_actor)"
        )


def forget_attempts(attempts: ActorHandle[Any] | None, shard: str) -> None:
    """Called by a model actor that has made a shard; it waits for no answer."""
    if attempts is not None:
        attempts.forget_attempts.remote(shard)
