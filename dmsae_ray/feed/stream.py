"""Training shards that model actors compute while they are trained on, and that are not kept: the reader's side.

This is mode 'stream'. A `StreamedShards` asks the `stream_service.StreamService` of its trial for shards by their place
in the endless order of shards: place p is shard `shard_order(n, seed, epoch)[p % n]` of epoch p // n. Blocks stay in
Ray's object store and are read there without a copy. Shards that the store has (those behind the norm factor, or all of
them after a harvest) are read from the store.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError
from torch import Tensor

from dmsae_ray.errors import DataError
from dmsae_ray.feed.shards import IsClosed, ShardPass
from dmsae_ray.files import ReaderClosed
from dmsae_ray.harvest import first_error
from dmsae_ray.store import Store, Window, tensors_in

T = TypeVar("T")
CONTENT, SHARD = "content", "shard"
"""Columns of a block, which has one row: the bytes that the shard's file would have, and the shard's number."""
_GET_SECONDS = 20.0
_POLL_SECONDS = 0.5  # time within which a reader notices that it is closed


@dataclass(frozen=True)
class SessionState:
    """What the service tells a reader that opens a session.

    Attributes:
        rows: number of rows of every shard for which it is known, stored or not.
        stored: shards that the store has.
    """

    rows: dict[int, int]
    stored: frozenset[int]


class StreamedShards:
    """Implements `shards.ShardSource` for a store that is complete except for training shards.

    Args:
        store: the store.
        service: the `stream_service.StreamService` of the trial.
        attempt: a name that all workers of a trial share, and that differs from that of other attempts at the trial.
    """

    def __init__(self, store: Store, service: ActorHandle[Any], attempt: str):
        self._store, self._service, self._attempt = store, service, attempt
        self._passes = itertools.count()

    @contextmanager
    def open(self, seed: int, rank: int, world: int) -> Iterator[ShardPass]:
        """See `shards.ShardSource`. Model actors run from the first shard wanted until all readers have left."""
        session = f"{self._attempt}-{next(self._passes)}"
        opening = _answer(self._service.open.remote(session, self._attempt, seed, world))
        try:
            yield _StreamPass(self._store, self._service, session, opening, rank)
        finally:
            # Python closes a reader that nobody has closed at some later time, perhaps after the Ray session: this call
            # would then start another one, and never return where the interpreter is about to end.
            if ray.is_initialized():
                self._service.close.remote(session, rank)


class _StreamPass:
    """Implements `shards.ShardPass`; two threads of a reader may call its methods."""

    def __init__(self, store: Store, service: ActorHandle[Any], session: str, opening: SessionState, rank: int):
        self._store, self._service, self._session, self._rank = store, service, session, rank
        self._stored, self._rows = opening.stored, dict(opening.rows)
        self._n = store.layout.shards("train")
        self._first = -1
        self._lock = threading.Lock()

    def rows(self, shard: int, stopped: IsClosed) -> int:
        """See `ShardPass`."""
        if shard not in self._rows:
            # This happens only in epoch 0, which is read before any other; there a shard's place is its number.
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
        try:
            table = _given(block)
        except GetTimeoutError:  # it is there, and Ray does not give it to this process
            table = _answer(self._service.content.remote(self._session, first + place))
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
        """Tell the service which window is opened now; the window before it may still be read, older ones may not."""
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
        while True:
            try:
                return ray.get(reference, timeout=_GET_SECONDS)
            except GetTimeoutError:  # seen for an object that was there: several threads of this process get others
                continue


def _given(block: Any) -> Any:
    """Return a block that is there.

    Raises:
        GetTimeoutError: Ray does not give it. Seen for a block of another process that two threads of this one waited
            for: asking Ray for it again did not help for a quarter of an hour.
    """
    with first_error("streaming"):
        return ray.get(block, timeout=_GET_SECONDS)
