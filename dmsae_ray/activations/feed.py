"""What a Train worker iterates: its share of batch t, read ahead by one thread."""

import queue
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmsae_ray.activations.order import Window, row_order, share, windows_from
from dmsae_ray.activations.records import ACTIVATIONS, shard_name
from dmsae_ray.activations.store import Stopped, Store
from dmsae_ray.errors import DataError

_AHEAD = 8  # batches kept ready


class Feed:
    """Training batches of a store: batch t is a function of (store, seed, t), whatever the number of workers.

    Args:
        store: where the rows are; it may still be written.
        batch_size: rows of a batch, over all workers.
        seed: seed of the order of the data.
        rank, world: which worker this is, of how many; it takes a contiguous share of each batch.
    """

    def __init__(self, store: Store, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}; it must be in 0..{world - 1}")
        self.store, self.batch_size, self.seed, self.rank, self.world = store, batch_size, seed, rank, world

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        """Raw float32 [share of batch_size, d_model] of steps `start`..`stop`-1; the tensors are the caller's.

        A thread reads ahead; it ends when the iterator is exhausted or closed.

        Raises:
            DataError: a shard is damaged, holds NaN, or will never come.
        """
        ready: queue.Queue[Tensor | BaseException] = queue.Queue(maxsize=_AHEAD)
        closed = threading.Event()
        thread = threading.Thread(
            target=self._read_ahead, args=(start, stop, ready, closed), name="dmsae-feed", daemon=True
        )
        thread.start()
        try:
            for _ in range(start, stop):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()
            while not ready.empty():
                ready.get_nowait()
            thread.join()

    def _read_ahead(
        self, start: int, stop: int, ready: "queue.Queue[Tensor | BaseException]", closed: threading.Event
    ) -> None:
        try:
            for batch in self._read(start, stop, closed):
                if not _put(ready, batch, closed):
                    return
        except Stopped:
            return
        except BaseException as error:
            _put(ready, error, closed)

    def _read(self, start: int, stop: int, closed: threading.Event) -> Iterator[Tensor]:
        reader = _WindowReader(self.store, self.seed, closed)
        low, high = share(self.batch_size, self.rank, self.world)
        for step in range(start, stop):
            first = step * self.batch_size
            yield reader.rows(first + low, first + high)


class _WindowReader:
    """Rows of the endless stream, in rising order, with one window of shards open at a time."""

    def __init__(self, store: Store, seed: int, closed: threading.Event):
        self.store, self.seed, self.closed = store, seed, closed
        self._windows: Iterator[Window] | None = None
        self._window: Window | None = None
        self._shards: list[Tensor] = []
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)
        # Room for one batch as it is stored, in order, and for one shard's part of it: used again and again.
        self._stored = torch.empty(0)
        self._scratch: NDArray[np.signedinteger[Any]] = np.empty(0, np.int16)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows at places `start`..`stop`-1: float32 [stop - start, d_model]."""
        out = torch.empty(stop - start, self.store.d_model, dtype=torch.float32)
        at = start
        while at < stop:
            window = self._window_of(at)
            end = min(stop, window.stop)
            self._gather(self._order[at - window.start : end - window.start], out[at - start : end - start])
            at = end
        return out

    def _window_of(self, position: int) -> Window:
        if self._windows is None:
            n_shards = self.store.layout.shards("train")
            self._windows = windows_from(position, n_shards, self._rows_of, self.store.shuffle_shards, self.seed)
        while self._window is None or position >= self._window.stop:
            self._shards = []  # let the last window go before the next is opened
            self._window = next(self._windows)
            self._shards = [self.store.read("train", shard, self.closed.is_set)["x"] for shard in self._window.shards]
            self._order = row_order(self._window, self.seed)
            self._ends = np.cumsum(self._window.rows)
        return self._window

    def _rows_of(self, shard: int) -> int:
        return self.store.wait("train", shard, self.closed.is_set).rows

    def _gather(self, numbers: NDArray[np.int64], out: Tensor) -> None:
        """Copy the window's rows `numbers` [n] to `out` [n, d_model] as float32."""
        owner = np.searchsorted(self._ends, numbers, side="right")
        by_owner = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[by_owner], np.arange(len(self._ends) + 1))
        # Rows are moved as integers by numpy, which is faster at it than torch, and widened in one pass.
        if len(self._stored) < len(out):
            self._stored = torch.empty(out.shape, dtype=self._shards[0].dtype)
            self._scratch = np.empty_like(_integers(self._stored))
        stored, scratch = self._stored[: len(out)], self._scratch
        target = _integers(stored)
        for i, shard in enumerate(self._shards):
            places = by_owner[bounds[i] : bounds[i + 1]]
            if len(places) == 0:
                continue
            local = numbers[places] - (self._ends[i - 1] if i else 0)
            picked = np.take(_integers(shard), local, axis=0, out=scratch[: len(places)], mode="clip")
            target[places] = picked
        out.copy_(stored)
        # A sum is not finite if any of its terms is not; only then is it worth looking closer.
        if not bool(torch.isfinite(out.sum())):
            self._name_bad_shard(owner, out)

    def _name_bad_shard(self, owner: NDArray[np.int64], rows: Tensor) -> None:
        bad = (~torch.isfinite(rows).all(1)).nonzero()
        if len(bad) and self._window is not None:
            name = shard_name("train", self._window.shards[int(owner[int(bad[0])])])
            raise DataError(f"NaN or infinity in activations: {self.store.folder / ACTIVATIONS / name}.safetensors")


def _integers(rows: Tensor) -> NDArray[np.signedinteger[Any]]:
    """A floating tensor's memory [n, d] as integers of the same size."""
    size = {2: torch.int16, 4: torch.int32}[rows.element_size()]
    return cast("NDArray[np.signedinteger[Any]]", rows.view(size).numpy())


def _put(ready: "queue.Queue[Tensor | BaseException]", item: Tensor | BaseException, closed: threading.Event) -> bool:
    """Put an item on the bounded queue; False if the consumer has gone."""
    while not closed.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
