"""The data source of a Train worker: its share of batch t; two threads read batches and windows of shards ahead."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from dmsae_ray.errors import DataError
from dmsae_ray.feed.shards import ShardPass, ShardSource, StoredShards
from dmsae_ray.feed.window import OpenWindow
from dmsae_ray.files import Prefetcher
from dmsae_ray.store import (
    ACTIVATIONS,
    ORDER_VERSION,
    Split,
    Store,
    check_finite_shard,
    shard_name,
    share,
    windows_from,
)

_BATCHES_AHEAD = 4
_WINDOWS_AHEAD = 1  # opened while the window before it is read


class Feed:
    """One worker's source of training batches, held-out pairs and held-out rows (a `distill.DataSource`).

    Batch t is a function of (store, seed, t), whatever the number of workers.

    Args:
        store: where the rows are; it may still be written.
        batch_size: rows of a batch, over all workers.
        seed: seed of the order of the data.
        rank: index of this worker; it takes a contiguous share of each batch.
        world: number of workers.
        shards: where training shards come from, if not from the store.

    Attributes:
        fingerprint: hash of all that determines the batches and the norm factor: store, window, tokens behind the
            factor, batch size, seed. The number of workers is not part of it.

    Raises:
        ValueError: `rank` is not in 0..world-1.
    """

    def __init__(
        self,
        store: Store,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shards: ShardSource | None = None,
    ):
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}; it must be in 0..{world - 1}")
        self.store, self.batch_size, self.seed, self.rank, self.world = store, batch_size, seed, rank, world
        self._source = shards
        identity = [ORDER_VERSION, store.key, store.shuffle_shards, store.norm_tokens, batch_size, seed]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def d_model(self) -> int:
        """Width of an activation."""
        return self.store.d_model

    @property
    def norm_factor(self) -> float:
        """Root mean square norm of the activations, by which a trainer divides them."""
        return self.store.norm_factor

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield this worker's raw rows of the steps `start`..`stop`-1; the tensors belong to the caller.

        The rows have the store's dtype, which is exact in float32, so that half the bytes go to a GPU; rows of an int8
        store are float32. They are in pinned memory if there is CUDA. Threads read ahead; they end when the iterator is
        exhausted or closed.

        Args:
            start: first step.
            stop: step after the last one.

        Yields:
            One tensor [share of batch_size, d_model] per step.

        Raises:
            DataError: a shard is damaged, or will never be written.
        """
        closed = threading.Event()
        source = self._source
        # Open the shards only while batches are wanted: a stream holds model actors.
        opened = (
            nullcontext(StoredShards(self.store)) if source is None else source.open(self.seed, self.rank, self.world)
        )
        with (
            opened as shards,
            Prefetcher(self._read(shards, start, stop, closed), _BATCHES_AHEAD, closed, "dmsae-feed") as batches,
        ):
            yield from batches

    def attribution(self) -> "StoredPairs":
        """Return the held-out pairs (x, g): memory-mapped, in their stored dtype, one shard at a time.

        Raises:
            DataError: there are no pairs.
        """
        pairs = StoredPairs(self.store)
        if len(pairs) == 0:
            raise DataError("the attribution set is empty: every token was dropped by the filters")
        return pairs

    def evaluation(self) -> Iterator[Tensor]:
        """Yield held-out activations in batches: raw float32 [at most batch_size, d_model].

        Raises:
            DataError: a shard is damaged.
        """
        for part in _held_out(self.store, "eval"):
            for start in range(0, len(part["x"]), self.batch_size):
                yield part["x"][start : start + self.batch_size].to(torch.float32, copy=True)

    def _read(self, shards: ShardPass, start: int, stop: int, closed: threading.Event) -> Iterator[Tensor]:
        pinned = torch.cuda.is_available()
        opened = self._windows(shards, start * self.batch_size, stop * self.batch_size, closed)
        with Prefetcher(opened, _WINDOWS_AHEAD, closed, "dmsae-feed-windows") as ahead:
            windows = iter(ahead)
            window: OpenWindow | None = None
            low, high = share(self.batch_size, self.rank, self.world)
            for step in range(start, stop):
                out: Tensor | None = None
                filled, at, end = 0, step * self.batch_size, (step + 1) * self.batch_size
                first = at
                while at < end:
                    while window is None or at >= window.stop:
                        window = None  # free its memory before waiting for the next one
                        window = next(windows)
                    until = min(end, window.stop)
                    if out is None:
                        shape = (high - low, self.store.d_model)
                        out = torch.empty(shape, dtype=self.store.batch_dtype, pin_memory=pinned)
                    # This worker's part of those rows of the batch that lie in this window.
                    part = slice(max(low - (at - first), 0), max(high - (at - first), 0))
                    filled += window.gather(at, until, part, out[filled:])
                    at = until
                assert out is not None and filled == len(out)
                yield out

    def _windows(self, shards: ShardPass, first: int, end: int, closed: threading.Event) -> Iterator[OpenWindow]:
        """Yield the windows that hold rows `first`..`end`-1 of the stream, with this worker's shards open."""

        def rows_of(shard: int) -> int:
            return shards.rows(shard, closed.is_set)

        n_shards = self.store.layout.shards("train")
        for window in windows_from(first, n_shards, rows_of, self.store.shuffle_shards, self.seed):
            opened = OpenWindow(shards, window, self.seed, self.store.quantised, closed.is_set)
            opened.open(self.rank, self.world)
            yield opened
            if window.stop >= end:
                return
            del opened


class StoredPairs:
    """The attribution set of a store (a `distill.AttributionSet`): one shard is mapped at a time.

    Args:
        store: the store.
    """

    def __init__(self, store: Store):
        self._store, self._checked = store, False

    def __len__(self) -> int:
        return self._store.rows("attribution")

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, g) of one shard after the other, each [rows, d_model].

        Raises:
            DataError: a shard has no gradients, is damaged, or (at the first pass) holds a value that is not finite.
        """
        for tensors in _held_out(self._store, "attribution", check=not self._checked):
            if "g" not in tensors:
                raise DataError(
                    f"store {self._store.folder}: an attribution shard has no gradients 'g'; delete the store"
                )
            yield tensors["x"], tensors["g"]
        self._checked = True


def _held_out(store: Store, split: Split, *, check: bool = True) -> Iterator[dict[str, Tensor]]:
    for shard in range(store.layout.shards(split)):
        tensors = store.read(split, shard)
        if check:
            check_finite_shard(tensors, f"{store.folder / ACTIVATIONS / shard_name(split, shard)}.safetensors")
        yield tensors
        del tensors
