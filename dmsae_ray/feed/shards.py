"""The interface through which a feed reads training shards, in the order of the stream; and its form for a store."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from dmsae_ray.store import Store, Window

IsClosed = Callable[[], bool]
"""Called while a shard is waited for; if it returns True, the wait ends with `files.ReaderClosed`."""


class ShardPass(Protocol):
    """The shards for one pass of a feed over some steps; all its readers ask for the windows in their order."""

    def rows(self, shard: int, stopped: IsClosed) -> int:
        """Return the number of rows of a shard; wait until it is known."""

    def read(self, window: Window, place: int, stopped: IsClosed) -> dict[str, Tensor]:
        """Return the tensors of a shard (see `harvest.shard.ActivationShard`); wait for it.

        Nobody may write to the tensors.

        Args:
            window: a window of the training order.
            place: place of the shard in the window.
            stopped: ends the wait.
        """


class ShardSource(Protocol):
    """The source of a feed's training shards, if that is not the store."""

    def open(self, seed: int, rank: int, world: int) -> AbstractContextManager[ShardPass]:
        """Open the shards for one pass over some steps, as a context.

        All readers make the same passes, one after the other.

        Args:
            seed: seed of the order.
            rank: index of this reader.
            world: number of readers.
        """


class StoredShards:
    """The training shards of a store, as a `ShardPass`."""

    def __init__(self, store: Store):
        self._store = store

    def rows(self, shard: int, stopped: IsClosed) -> int:
        """See `ShardPass`."""
        return self._store.commit("train", shard, stopped).rows

    def read(self, window: Window, place: int, stopped: IsClosed) -> dict[str, Tensor]:
        """See `ShardPass`."""
        return self._store.read("train", window.shards[place], stopped)
