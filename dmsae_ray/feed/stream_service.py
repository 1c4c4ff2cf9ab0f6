"""Training shards computed by a pool of model actors (Ray Data) for the readers of one trial, one window ahead of them.

The service is an actor that runs the datasets and hands out references to their blocks; no activation passes through
it. The row counts of computed shards stay known: their commits are kept in the store, so that a trial that continues in
the middle finds its place by arithmetic.
"""

import itertools
import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.actor import ActorHandle
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.operators.map_operator import MapOperator

from dmsae_ray.config import ON_HEAD, Experiment, ResourceSettings, parse_experiment
from dmsae_ray.errors import DataError, DmsaeError, TransientError
from dmsae_ray.feed.stream import CONTENT, SHARD, SessionState
from dmsae_ray.files import be_patient, encode_sealed
from dmsae_ray.harvest import GROWING, HarvestActor, HarvestJob, first_error, map_shards, quiet_context, start_attempts
from dmsae_ray.store import STREAMED, Split, decode_commit, open_store, read_commits, shard_name, shard_order

_POLL_SECONDS = 0.5  # longest wait of a call before it answers that the shard is not ready
_SHARDS_A_DATASET = 1024
_SETTINGS = threading.Lock()
_READERS = 16  # commits that are read at the same time
_FAR = 1 << 62  # a place beyond all that are ever reached


class StreamActor(HarvestActor):
    """A model actor that puts its shards into Ray's object store, and only their commits into the store's folder."""

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Compute the shard `split`, `shard` of the batch; return a table of one row with the bytes of its file."""
        be_patient()
        (split,), (shard,) = batch["split"], batch["shard"]
        content, commit = self.compute(str(split), int(shard))
        (self.job.folder / STREAMED).write(f"{shard_name(str(split), int(shard))}.json", [encode_sealed(commit)])
        offsets = pa.py_buffer(np.array([0, len(content)], np.int64))
        rows = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(content)])
        return pa.table({CONTENT: rows, SHARD: pa.array([int(shard)])})


class StreamService:
    """Serves the readers (Train workers) of one trial, as an actor; see `start_stream`."""

    def __init__(self, experiment: dict[str, Any], stores: str, key: str):
        settings = parse_experiment(experiment)
        self._store, self._resources = open_store(stores, settings, key), settings.resources
        self._job = HarvestJob(
            self._store.folder,
            self._store.layout,
            settings.model,
            settings.activations,
            settings.resources.model_batch_tokens,
            start_attempts(),
        )
        self._rows: dict[int, int] = {}
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def open(self, session: str, attempt: str, seed: int, world: int) -> SessionState:
        """Join or begin a session of `world` readers; end the sessions of other attempts at the trial."""
        with self._lock:
            for name in [name for name, found in self._sessions.items() if found.attempt != attempt]:
                self._sessions.pop(name).end()
            if session not in self._sessions:
                stored = self._look()
                window = self._store.shuffle_shards
                self._sessions[session] = _Session(attempt, self._job, self._resources, window, seed, world, stored)
            return SessionState(dict(self._rows), self._sessions[session].stored)

    def move(self, session: str, rank: int, first: int) -> None:
        """Note that a reader opens the window that begins at place `first`."""
        self._session(session).move(rank, first)

    def rows(self, session: str, place: int) -> int | None:
        """Return the number of rows of the shard at a place of epoch 0; None if not known yet: ask again."""
        if not self._session(session).wait(place):
            return None
        if place not in self._rows:
            self._rows[place] = self._read_rows(place)
        return self._rows[place]

    def block(self, session: str, place: int) -> "list[ray.ObjectRef[pa.Table]] | None":
        """Return a reference to the block of the shard at a place, in a list; None if not computed yet: ask again."""
        found = self._session(session)
        return [found.block(place)] if found.wait(place) else None

    def content(self, session: str, place: int) -> pa.Table:
        """Return a copy of a block that `block` gave a reference to, for a reader to which Ray does not give it."""
        table: pa.Table = ray.get(self._session(session).block(place))
        return table

    def close(self, session: str, rank: int) -> None:
        """Note that a reader has left a session; the session ends with its last reader."""
        with self._lock:
            if session in self._sessions and self._sessions[session].leave(rank):
                self._sessions.pop(session).end()

    def _look(self) -> frozenset[int]:
        """Return the shards that are stored, and learn the row counts of these and of all shards computed before."""
        folder = self._store.folder
        commits = read_commits(folder, self._store.layout)
        stored = {shard: commit.rows for (split, shard), commit in commits.items() if split == "train"}
        computed = (folder / STREAMED).sizes()  # may include temporary files of killed actors
        wanted = set(range(self._store.layout.shards("train"))) - stored.keys() - self._rows.keys()
        unknown = sorted(shard for shard in wanted if f"{shard_name('train', shard)}.json" in computed)
        with ThreadPoolExecutor(_READERS) as readers:
            self._rows.update(zip(unknown, readers.map(self._read_rows, unknown), strict=True))
        self._rows.update(stored)
        return frozenset(stored)

    def _read_rows(self, shard: int) -> int:
        where, name = self._store.folder / STREAMED, f"{shard_name('train', shard)}.json"
        content = where.read(name)
        if content is None:
            raise DataError(f"{where / name} is missing; the folder `output` must be the same on all machines")
        return decode_commit(content, where / name).rows

    def _session(self, name: str) -> "_Session":
        with self._lock:
            if name not in self._sessions:
                raise TransientError(_CLOSED)
            return self._sessions[name]


_CLOSED = "the stream of a training was closed while it was read"


class _Demand:
    """How far shards are wanted: up to the end of the window that the slowest reader opens. Picklable."""

    def __init__(self, world: int, window: int, shards: int):
        self._window, self._shards = window, shards
        self._firsts = [-math.inf] * world

    def move(self, rank: int, first: float) -> None:
        """Note that a reader opens the window that begins at place `first`."""
        self._firsts[rank] = max(self._firsts[rank], first)

    @property
    def start(self) -> float:
        """First place that is still wanted: the window before the one being opened may still be read."""
        return min(self._firsts) - self._window

    @property
    def stop(self) -> float:
        """First place that is not wanted yet; the last window of an epoch may be short."""
        first = min(self._firsts)
        return first + min(self._window, self._shards - first % self._shards) if math.isfinite(first) else first


class _OnDemand(BackpressurePolicy):
    """Lets Ray Data's executor start no shard that is not wanted yet, which bounds the memory in the object store.

    It replaces the policies that estimate from bytes: a shard is much larger than the blocks that they expect.
    """

    def __init__(self, *execution: Any, allowed: Callable[[], int]):
        super().__init__(*execution)
        self._allowed = allowed

    def can_add_input(self, op: Any) -> bool:
        """See `BackpressurePolicy`."""
        return not isinstance(op, MapOperator) or op.metrics.num_inputs_received < self._allowed()


class _Ended(Exception):
    """The session has ended."""


class _Session:
    """The shards for one pass of the readers, from the first place that one of them wants."""

    def __init__(
        self,
        attempt: str,
        job: HarvestJob,
        resources: ResourceSettings,
        window: int,
        seed: int,
        world: int,
        stored: frozenset[int],
    ):
        self.attempt, self.stored = attempt, stored
        self._job, self._resources, self._window, self._seed = job, resources, window, seed
        self._n = job.layout.shards("train")
        self._demand = _Demand(world, window, self._n)
        self._here = set(range(world))
        self._blocks: dict[int, ray.ObjectRef[pa.Table]] = {}
        self._done: int | None = None  # places below it are computed or stored; None before the start
        self._ended = False
        self._error: DmsaeError | None = None
        self._changed = threading.Condition()

    def move(self, rank: int, first: int) -> None:
        """Note that a reader opens the window that begins at place `first`.

        The computing starts when every reader has opened a window, at the first of these.
        """
        with self._changed:
            self._demand.move(rank, first)
            for place in [place for place in self._blocks if place < self._demand.start]:
                del self._blocks[place]
            if self._done is None and math.isfinite(self._demand.start):
                self._done = int(self._demand.start) + self._window
                threading.Thread(target=self._run, args=(self._done,), name="dmsae-stream", daemon=True).start()
            self._changed.notify_all()

    def leave(self, rank: int) -> bool:
        """Remove a reader; return True if it was the last one."""
        self._here.discard(rank)
        if self._here:
            self.move(rank, _FAR)
        return not self._here

    def end(self) -> None:
        """Stop computing, and let all blocks go."""
        with self._changed:
            self._ended = True
            self._blocks.clear()
            self._changed.notify_all()

    def wait(self, place: int) -> bool:
        """Return whether the shard at a place is ready, after at most `_POLL_SECONDS`.

        Raises:
            DmsaeError: the error that stopped the computation before this shard.
            TransientError: the session has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._reached(place) or self._error or self._ended, _POLL_SECONDS)
            if self._ended:
                raise TransientError(_CLOSED)
            if self._error and not self._reached(place):
                raise self._error
            return self._reached(place)

    def block(self, place: int) -> "ray.ObjectRef[pa.Table]":
        """Return a reference to a shard that is ready."""
        with self._changed:
            return self._blocks[place]

    def _reached(self, place: int) -> bool:
        return self._done is not None and self._done > place

    def _run(self, start: int) -> None:
        try:
            with first_error("streaming"):
                self._compute_on(start)
        except DmsaeError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _compute_on(self, start: int) -> None:
        with suppress(_Ended):
            for begin in itertools.count(start, _SHARDS_A_DATASET):
                self._compute(range(begin, begin + _SHARDS_A_DATASET))

    def _compute(self, places: range) -> None:
        """Compute the shards at these places that are not stored, each when it is wanted."""
        orders = {epoch: shard_order(self._n, self._seed, epoch) for epoch in {place // self._n for place in places}}
        shards = {place: orders[place // self._n][place % self._n] for place in places}
        todo = [place for place, shard in shards.items() if shard not in self.stored]
        demand = self._demand
        wanted: list[tuple[Split, int]] = [("train", shards[place]) for place in todo]
        with ExitStack() as running:
            blocks: Iterator[Any] | None = None
            for place in todo:
                self._advance(place)
                if blocks is None:  # not earlier, because it starts the model actors
                    data = self._dataset(wanted, lambda: bisect_left(todo, demand.stop))
                    # `Dataset.iter_internal_ref_bundles` calls this too, but does not return the executor. Without a
                    # shutdown, the executor's actor pools end only when Python's garbage collector runs.
                    blocks, _, executor = data._execute_to_iterator()
                    running.callback(executor.shutdown, force=True)
                (entry,) = next(blocks).blocks
                with self._changed:
                    self._blocks[place] = entry.ref
        self._advance(places.stop)

    def _dataset(self, wanted: list[tuple[Split, int]], allowed: Callable[[], int]) -> ray.data.Dataset:
        # The settings belong to the process and are copied into a dataset when it is made: one session at a time.
        with _SETTINGS, quiet_context(preserve_order=True, autoscaling_config=GROWING) as context:
            context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [partial(_OnDemand, allowed=allowed)])
            return map_shards(StreamActor, self._job, self._resources, wanted)

    def _advance(self, place: int) -> None:
        """Mark all places below `place` as done; wait until `place` is wanted."""
        with self._changed:
            self._done = place
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._demand.stop > place or self._ended)
            if self._ended:
                raise _Ended


def start_stream(experiment: Experiment, stores: str, key: str, *, cpus: float = 0.0) -> ActorHandle[Any]:
    """Start the service of one trial on the head; it ends with its last handle, or with the process that started it.

    Args:
        experiment: what to compute.
        stores: folder of stores.
        key: key of the store whose missing training shards the service computes.
        cpus: CPUs reserved for the service itself; a head may have none.
    """
    readers = experiment.resources.workers_per_trial
    actor: Any = ray.remote(StreamService).options(
        num_cpus=cpus,
        max_concurrency=4 * readers + 2,
        max_restarts=-1,
        resources=ON_HEAD,
        scheduling_strategy="DEFAULT",  # outside the resources of the trial that starts it
    )
    handle: ActorHandle[Any] = actor.remote(experiment.model_dump(mode="json"), stores, key)
    return handle


@contextmanager
def killed_on_exit(service: ActorHandle[Any] | None) -> Iterator[None]:
    """End the service with its model actors and blocks when the context ends; None: there is no service."""
    try:
        yield
    finally:
        if service is not None and ray.is_initialized():
            ray.kill(service)
