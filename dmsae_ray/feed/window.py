"""A window of shards in memory, from which the rows of batches are gathered."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmsae_ray.feed.shards import ShardPass
from dmsae_ray.store import Window, batch_rows, dequantise, row_order

Run = tuple[int, int, int, int]
"""Neighbouring rows: place of their shard in the window, first row in the shard, and the output rows start and stop."""


_COPIERS = 2
_POOL = ThreadPoolExecutor(_COPIERS, "dmsae-feed-copy")


class OpenWindow:
    """The rows of one window in training order. A shard is read when it is first needed.

    Args:
        shards: where the shards come from.
        window: the window.
        seed: seed of the order.
        quantised: whether the rows are int8.
        stopped: ends a wait for a shard.

    Attributes:
        stop: number of the row after its last row in the endless stream.
    """

    def __init__(self, shards: ShardPass, window: Window, seed: int, quantised: bool, stopped: Callable[[], bool]):
        self._source, self._window, self._quantised, self._stopped = shards, window, quantised, stopped
        self._order = row_order(window, seed)
        self._ends = np.cumsum(window.rows)
        self._shards: dict[int, dict[str, Tensor]] = {}
        self._memory: dict[tuple[int, str], NDArray[np.signedinteger[Any]]] = {}
        self.stop = window.stop

    def open(self, rank: int, world: int) -> None:
        """Read the shards that worker `rank` of `world` will need, and almost never others.

        The rows of a batch are in rising order, so a worker's share of the rows comes from its share of the shards. One
        more shard on either side serves batches whose shares are uneven.
        """
        n = len(self._window.shards)
        for place in range(max(0, n * rank // world - 1), min(n, -(-n * (rank + 1) // world) + 1)):
            if world > 1 or self._window.rows[place]:
                self._shard(place)

    def gather(self, start: int, stop: int, part: slice, out: Tensor) -> int:
        """Copy rows to the beginning of `out` and return their number.

        Args:
            start: number in the stream of the first row of a piece of one batch; the piece lies in this window.
            stop: number of the row after the piece.
            part: which of the piece's rows to copy; they are in rising order.
            out: [at least as many rows, d_model] in the stored dtype; float32 if that is int8.
        """
        numbers = batch_rows(self._order[start - self._window.start : stop - self._window.start])[part]
        if not len(numbers):
            return 0
        # Cut where a run of neighbouring rows or a new shard begins.
        begins = np.flatnonzero(np.diff(numbers) != 1) + 1
        shards = np.searchsorted(numbers, self._ends[:-1])
        cuts = np.unique(np.concatenate([begins, shards, [0, len(numbers)]]))
        owners = np.searchsorted(self._ends, numbers[cuts[:-1]], side="right")
        before = np.concatenate([[0], self._ends])[owners]
        starts = numbers[cuts[:-1]] - before
        runs = list(zip(owners.tolist(), starts.tolist(), cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
        if self._quantised:
            self._gather_int8(runs, out)
        else:
            self._copy("x", runs, _integers(out))
        return len(numbers)

    def _gather_int8(self, runs: list[Run], out: Tensor) -> None:
        stop = runs[-1][3]
        x, scale = torch.empty(stop, out.shape[1], dtype=torch.int8), torch.empty(stop)
        self._copy("x", runs, x.numpy())
        self._copy("scale", runs, _integers(scale))
        for place, of_shard in groupby(runs, key=itemgetter(0)):
            pieces = list(of_shard)
            rows = slice(pieces[0][2], pieces[-1][3])
            dequantise({**self._shard(place), "x": x[rows], "scale": scale[rows]}, out=out[rows])

    def _copy(self, name: str, runs: list[Run], out: NDArray[Any]) -> None:
        for place in {run[0] for run in runs}:
            if (place, name) not in self._memory:
                self._memory[place, name] = _integers(self._shard(place)[name])
        # numpy releases the GIL while it copies, and one core does not use the whole memory bandwidth.
        list(_POOL.map(partial(self._copy_runs, name, out), [runs[i::_COPIERS] for i in range(_COPIERS)]))

    def _copy_runs(self, name: str, out: NDArray[Any], runs: list[Run]) -> None:
        for place, start, low, high in runs:
            out[low:high] = self._memory[place, name][start : start + high - low]

    def _shard(self, place: int) -> dict[str, Tensor]:
        if place not in self._shards:
            self._shards[place] = self._source.read(self._window, place, self._stopped)
        return self._shards[place]


def _integers(rows: Tensor) -> NDArray[np.signedinteger[Any]]:
    """Return a tensor's memory as integers of the same size: numpy copies faster than torch, and has no bfloat16."""
    size = {1: torch.int8, 2: torch.int16, 4: torch.int32}[rows.element_size()]
    return cast("NDArray[np.signedinteger[Any]]", rows.view(size).numpy())
