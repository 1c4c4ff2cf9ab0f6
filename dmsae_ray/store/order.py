"""The place of every row in the training stream: arithmetic on (rows of shards, window, seed, row) alone.

The rows of a shard are stored in a random order (`stored_order`), so that any run of them is a random sample of the
shard. Rows are moved in blocks of BLOCK neighbouring rows; a reader copies runs of memory instead of single rows,
several times faster. Epoch 0 takes the shards in index order, in windows of `window` shards, and permutes the blocks of
each window, so that a reader can follow a harvest that is still running. Later epochs permute the shards as well. The
stream of epochs is endless. Batches are cut from it without regard to blocks, windows or epochs: batch t is rows t·B to
(t+1)·B-1, for any number of readers. Within a batch (more exactly, within its part in each window) the rows are in
rising order, so that each of several readers needs only its share of the shards.

The idea of an order by pure arithmetic comes from MosaicML Streaming.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmsae_ray.errors import DataError

ORDER_VERSION = 3
"""Increase it when the same seed begins to mean another order, so that old results are not taken for new ones."""

_SHARDS, _BLOCKS, _STORED = 0, 1, 2  # purposes of a Philox stream
BLOCK = 16
"""Rows that stay together in every order; 74 kB at Gemma-2-2B's width in bfloat16."""


@dataclass(frozen=True)
class Window:
    """Some shards whose rows are permuted together.

    Attributes:
        epoch: pass over the data, from 0.
        index: number of the window within the epoch.
        shards: shard indices, in the order in which their rows are numbered.
        rows: number of rows of each of these shards.
        start: number of the window's first row in the endless stream.
    """

    epoch: int
    index: int
    shards: tuple[int, ...]
    rows: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """Number of the row after the window's last row."""
        return self.start + sum(self.rows)


def permutation(n: int, seed: int, epoch: int, index: int, purpose: int) -> NDArray[np.int64]:
    """Return a permutation of 0..n-1, int64 [n], that depends on the arguments alone and not on numpy's version.

    It sorts raw words of the counter-based Philox generator, because `Generator.permutation` may change between
    releases.

    Args:
        n: number of items.
        seed: seed of the order.
        epoch: pass over the data.
        index: number of the window or shard.
        purpose: what the permutation is used for: `_SHARDS`, `_BLOCKS` or `_STORED`.
    """
    stream = np.random.Philox(
        key=np.array([seed, purpose], dtype=np.uint64), counter=np.array([0, 0, index, epoch], dtype=np.uint64)
    )
    return np.argsort(stream.random_raw(n), kind="stable").astype(np.int64, copy=False)


def shard_order(n_shards: int, seed: int, epoch: int) -> tuple[int, ...]:
    """Return the order of the shards in an epoch: by index in epoch 0, permuted in later epochs."""
    if epoch == 0:
        return tuple(range(n_shards))
    return tuple(int(i) for i in permutation(n_shards, seed, epoch, 0, _SHARDS))


def stored_order(n: int, shard: int) -> NDArray[np.int64]:
    """Return the order, int64 [n], in which a training shard's rows are written: the same for all stores and seeds."""
    return permutation(n, 0, 0, shard, _STORED)


def row_order(window: Window, seed: int) -> NDArray[np.int64]:
    """Return the order of a window's rows, int64 [sum(rows)].

    Rows are numbered from 0 through the shards of the window, one shard after the other. Blocks of BLOCK rows are
    permuted; the last block of a shard may be shorter.
    """
    rows = np.array(window.rows, np.int64)
    ends = np.cumsum(rows)
    starts = np.concatenate([np.arange(end - n, end, BLOCK) for n, end in zip(rows, ends, strict=True)])
    stops = np.minimum(starts + BLOCK, ends[np.searchsorted(ends, starts, side="right")])
    order = permutation(len(starts), seed, window.epoch, window.index, _BLOCKS)
    starts, lengths = starts[order], (stops - starts)[order]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(rows.sum()))


def batch_rows(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of one batch in one window, in the order in which the batch holds them."""
    return np.sort(numbers)


def windows_from(row: int, n_shards: int, rows_of: Callable[[int], int], window: int, seed: int) -> Iterator[Window]:
    """Yield the windows of the endless stream, from the one that holds row `row`.

    Args:
        row: row of the stream, from 0.
        n_shards: shards of an epoch.
        rows_of: returns the number of rows of a shard. In epoch 0 it is called for no shard beyond the window that
            comes next, so it may wait for a harvest; a row beyond epoch 0 needs all shards.
        window: shards in a window.
        seed: seed of the order.

    Raises:
        DataError: the shards hold no row at all.
    """
    start, epoch = 0, 0
    total: int | None = None
    while True:
        if total is not None and row >= start + total:
            skipped = (row - start) // total
            start, epoch = start + skipped * total, epoch + skipped
        first = start
        order = shard_order(n_shards, seed, epoch)
        for index, begin in enumerate(range(0, n_shards, window)):
            shards = order[begin : begin + window]
            rows = tuple(rows_of(shard) for shard in shards)
            found = Window(epoch, index, shards, rows, start)
            if found.stop > max(row, start):
                yield found
            start = found.stop
        total = start - first
        if total == 0:
            raise DataError("the activation store holds no training rows: every token was dropped by the filters")
        epoch += 1


def share(batch_size: int, rank: int, world: int) -> tuple[int, int]:
    """Return the places (start, stop) of a batch that worker `rank` of `world` takes; all shares form 0..batch_size."""
    return batch_size * rank // world, batch_size * (rank + 1) // world
