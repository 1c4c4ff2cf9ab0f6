"""Training shards as a feed reads them: in the order of the stream, window by window."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from dmsae_ray.store import Store, Window

IsClosed = Callable[[], bool]
"""Asked while there is nothing yet; true gives up the wait with `files.ReaderClosed`."""


class ShardPass(Protocol):
    """Shards of one pass of a feed over some steps; all its readers ask for the windows in their order."""

    def rows(self, shard: int, stopped: IsClosed) -> int:
        """Rows of a shard; waits until they are known."""

    def read(self, window: Window, place: int, stopped: IsClosed) -> dict[str, Tensor]:
        """Tensors of the shard at a place of a window (see `harvest.ActivationShard`), not to be written to; waits for it."""


class ShardSource(Protocol):
    """Where a feed's training shards come from when it is not the store."""

    def open(self, seed: int, rank: int, world: int) -> AbstractContextManager[ShardPass]:
        """The shards in the order `seed`, for one of `world` readers, for one pass over some steps.

        All readers make the same passes one after the other.
        """


class StoredShards:
    """Shards of a store."""

    def __init__(self, store: Store):
        self._store = store

    def rows(self, shard: int, stopped: IsClosed) -> int:
        """See `ShardPass`."""
        return self._store.commit("train", shard, stopped).rows

    def read(self, window: Window, place: int, stopped: IsClosed) -> dict[str, Tensor]:
        """See `ShardPass`."""
        return self._store.read("train", window.shards[place], stopped)
