"""Training shards that model actors compute while they are trained on, and that are kept nowhere: the reader's side.

Mode 'stream'. A `StreamedShards` asks its trial's `stream_service.StreamService` for shards by their place in the endless
order of shards: place p is shard `shard_order(n, seed, epoch)[p % n]` of epoch p // n. Blocks lie in Ray's object
store and are read where they lie. What the store has (the shards behind the norm factor, or all of them after a
harvest) is read from the store.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from torch import Tensor

from dmsae_ray.errors import DataError
from dmsae_ray.feed.shards import IsClosed, ShardPass
from dmsae_ray.files import ReaderClosed
from dmsae_ray.harvest import first_error
from dmsae_ray.store import Store, Window, tensors_in

T = TypeVar("T")
CONTENT, SHARD = "content", "shard"
"""Columns of a block, which has one row: the bytes of the file that the shard would be, and its number."""
_POLL_SECONDS = 0.5  # how late a reader may notice that it is closed


@dataclass(frozen=True)
class SessionState:
    """What a reader is told when it opens a session.

    Attributes:
        rows: rows of every shard of which they are known, stored or not.
        stored: shards that the store has.
    """

    rows: dict[int, int]
    stored: frozenset[int]


class StreamedShards:
    """Implements `shards.ShardSource` on top of a store that is complete but for training shards.

    Args:
        store: the store.
        service: its trial's `stream_service.StreamService`.
        attempt: a name that all workers of a trial have in common, and that another attempt at it has not.
    """

    def __init__(self, store: Store, service: ActorHandle[Any], attempt: str):
        self._store, self._service, self._attempt = store, service, attempt
        self._passes = itertools.count()

    @contextmanager
    def open(self, seed: int, rank: int, world: int) -> Iterator[ShardPass]:
        """See `shards.ShardSource`. Model actors are there from the first shard wanted until all readers have left."""
        session = f"{self._attempt}-{next(self._passes)}"
        opening = _answer(self._service.open.remote(session, self._attempt, seed, world))
        try:
            yield _StreamPass(self._store, self._service, session, opening, rank)
        finally:
            self._service.close.remote(session, rank)


class _StreamPass:
    """Implements `shards.ShardPass`; its methods may be called by two threads of a reader."""

    def __init__(self, store: Store, service: ActorHandle[Any], session: str, opening: SessionState, rank: int):
        self._store, self._service, self._session, self._rank = store, service, session, rank
        self._stored, self._rows = opening.stored, dict(opening.rows)
        self._n = store.layout.shards("train")
        self._first = -1
        self._lock = threading.Lock()

    def rows(self, shard: int, stopped: IsClosed) -> int:
        """See `ShardPass`."""
        if shard not in self._rows:
            # Only in epoch 0, which is walked through before any other; its order is that of the shards' numbers.
            place = shard
            self._move_to(place - place % self._store.shuffle_shards)
            self._rows[shard] = self._wait(lambda: self._service.rows.remote(self._session, place), stopped)
        return self._rows[shard]

    def read(self, window: Window, place: int, stopped: IsClosed) -> dict[str, Tensor]:
        """See `ShardPass`."""
        first = window.epoch * self._n + window.index * self._store.shuffle_shards
        self._move_to(first)
        shard = window.shards[place]
        if shard in self._stored:
            return self._store.read("train", shard, stopped)
        (block,) = self._wait(lambda: self._service.block.remote(self._session, first + place), stopped)
        while not ray.wait([block], timeout=_POLL_SECONDS)[0]:
            if stopped():
                raise ReaderClosed
        table = _answer(block)
        if table.column(SHARD)[0].as_py() != shard:
            raise RuntimeError(f"the stream gave shard {table.column(SHARD)[0]} for shard {shard}")
        content = table.column(CONTENT).chunk(0)
        _, offsets, data = content.buffers()
        start, stop = memoryview(offsets).cast("q")[content.offset : content.offset + 2]
        tensors = tensors_in(memoryview(data)[start:stop], f"streamed shard {shard}")
        if tensors["x"].shape != (window.rows[place], self._store.d_model):
            raise DataError(
                f"streamed shard {shard} has x of shape {list(tensors['x'].shape)}; the first time it was "
                f"[{window.rows[place]}, {self._store.d_model}]: model actors on different hardware can differ so, "
                "activations.mode 'store' cannot"
            )
        return tensors

    def _move_to(self, first: int) -> None:
        """Tell the service which window is opened now; the one before it may still be read, others not."""
        with self._lock:
            if first > self._first:
                self._first = first
                self._service.move.remote(self._session, self._rank, first)

    def _wait(self, ask: Callable[[], Any], stopped: IsClosed) -> Any:
        while (found := _answer(ask())) is None:
            if stopped():
                raise ReaderClosed
        return found


def _answer(reference: Any) -> Any:
    with first_error("streaming"):
        return ray.get(reference)
