"""How often each shard was begun and not finished, so that a shard that kills its model actor is not tried for ever.

Ray restarts a lost actor and gives it its shard again, without limit; spot nodes need that. Ray cannot tell a node that
was taken away from a model that ran out of memory, but the loss of a node rarely hits the same shard again and again.
"""

from collections import Counter
from contextlib import suppress
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from dmsae_ray.config import ON_HEAD
from dmsae_ray.errors import DataError

MAX_ATTEMPTS = 5
"""Attempts at a shard after which the deaths of its model actors are blamed on the shard."""


class Attempts:
    """Counts the attempts at each shard until it is done; one actor per harvest, on the head.

    Args:
        most: number of attempts allowed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: Counter[str] = Counter()

    def count_attempt(self, shard: str) -> int | None:
        """Count an attempt; return the number of allowed attempts if they were used up before, else None."""
        self._begun[shard] += 1
        return self._most if self._begun[shard] > self._most else None

    def forget_attempts(self, shard: str) -> None:
        """Forget the attempts at a shard, because it is done; a stream may ask for it again in another epoch."""
        del self._begun[shard]


def start_attempts() -> ActorHandle[Any]:
    """Start the counting actor on the head, so that it outlives the loss of other nodes."""
    actor: Any = ray.remote(Attempts).options(num_cpus=0, resources=ON_HEAD, max_restarts=-1)
    handle: ActorHandle[Any] = actor.remote(MAX_ATTEMPTS)
    return handle


def count_attempt(attempts: ActorHandle[Any] | None, shard: str) -> None:
    """Count an attempt at a shard; a model actor calls this before it computes the shard.

    Args:
        attempts: the counting actor; None: nothing is counted.
        shard: name of the shard.

    Raises:
        DataError: the shard was begun `MAX_ATTEMPTS` times, and the actor died each time.
    """
    if attempts is None:
        return
    deaths: Any = None
    with suppress(RayError):  # the count is lost with its actor; that is no reason to stop
        deaths = ray.get(attempts.count_attempt.remote(shard))
    if deaths is not None:
        raise DataError(
            f"model actors died {deaths} times while they made shard {shard} (killed, out of memory, or a GPU error; "
            "Ray's log says which): lower resources.model_batch_tokens, or give an actor more memory or a whole GPU "
            "(resources.cpus/gpus_per_model_actor)"
        )


def forget_attempts(attempts: ActorHandle[Any] | None, shard: str) -> None:
    """Forget the attempts at a shard that is done, without waiting for an answer; a model actor calls this."""
    if attempts is not None:
        attempts.forget_attempts.remote(shard)
