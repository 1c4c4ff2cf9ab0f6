"""Batches of mode 'stream' on a real Ray cluster: those of the store, bit for bit, with no storage behind them.

Pools of model actors have int8 rows here; the other dtypes are streamed by an actor in this process.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.exceptions import GetTimeoutError
from torch import Tensor

from dmsae_ray.config.experiment import Experiment
from dmsae_ray.errors import DataError, TransientError
from dmsae_ray.feed.feed import Feed
from dmsae_ray.feed.stream import CONTENT, SessionState, StreamedShards
from dmsae_ray.feed.stream_service import StreamActor, StreamService, killed_on_exit, start_stream
from dmsae_ray.harvest.actors import HarvestActor, HarvestJob
from dmsae_ray.store.order import shard_order
from dmsae_ray.store.reader import Store, open_store
from tests.small_store import contents, copy_tokens, prepare

Make = Callable[..., Experiment]
BATCH = 300


@pytest.fixture(scope="module")
def make_int8(make_experiment: Make) -> Make:
    def make(**changes: Any) -> Experiment:
        settings = {"activations__dtype": "int8", "activations__mode": "stream", "resources__model_actors_max": 1}
        return make_experiment(**{**settings, **changes})

    return make


def job_of(store: Store, experiment: Experiment) -> HarvestJob:
    return HarvestJob(store.folder, store.layout, experiment.model, experiment.activations, 1024)


def one_shard(shard: int, split: str = "train") -> dict[str, np.ndarray]:
    """What Ray Data gives to a model actor."""
    return {"split": np.array([split]), "shard": np.array([shard])}


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory, make_int8: Make) -> Store:
    """A complete store of int8, whose one model actor ran in this process."""
    root, experiment = tmp_path_factory.mktemp("whole"), make_int8(activations__mode="store")
    copy_tokens(store, experiment, root)
    mine = open_store(str(root), experiment)
    actor = HarvestActor(job_of(mine, experiment))
    for split, shard in mine.layout.all_shards():
        actor(one_shard(shard, split))
    return prepare(experiment, str(root))  # which finds all shards, and has only the manifest to write


@pytest.fixture(scope="module")
def partial(store: Store, tmp_path_factory: pytest.TempPathFactory, make_int8: Make) -> Store:
    """The same store as `whole`, prepared for streaming."""
    root = tmp_path_factory.mktemp("partial")
    copy_tokens(store, make_int8(), root)
    return prepare(make_int8(), str(root))


@pytest.fixture(scope="module")
def first(whole: Store) -> list[Tensor]:
    """Batches of the complete store that reach into the third epoch."""
    return list(Feed(whole, BATCH, 1).batches(0, 2 * whole.rows("train") // BATCH + 5))


def copied(store: Store, root: Path, experiment: Experiment) -> Store:
    """A copy of a store in another folder."""
    shutil.copytree(store.folder.uri, root / store.key)
    return open_store(str(root), experiment)


@contextlib.contextmanager
def service_of(store: Store, experiment: Experiment) -> Iterator[Any]:
    """A service, in a process of its own, for trials on this store."""
    service = start_stream(experiment, str(Path(store.folder.uri).parent), store.key, cpus=0.05)
    with killed_on_exit(service):
        yield service


class Here:
    """Something in this process, whose methods are called as those of an actor."""

    def __init__(self, object: Any):
        self._object = object

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: ray.put(getattr(self._object, name)(*arguments)))


@dataclass(frozen=True)
class Streamed:
    """What one training of over two epochs left.

    Attributes:
        store: the store; its folder has the records of all shards.
        batches: what was read.
        ahead: number of shards that had been computed when only the first batch was taken.
    """

    store: Store
    batches: list[Tensor]
    ahead: int


@pytest.fixture(scope="module")
def streamed(
    partial: Store, first: list[Tensor], tmp_path_factory: pytest.TempPathFactory, make_int8: Make
) -> Streamed:
    """By two model actors."""
    experiment = make_int8(resources__model_actors_max=2)
    mine = copied(partial, tmp_path_factory.mktemp("streamed"), experiment)
    with service_of(mine, experiment) as service:
        got = Feed(mine, BATCH, 1, shards=StreamedShards(mine, service, "only")).batches(0, len(first))
        batches = [next(got)]  # window 0, which is stored, is read, and window 1 opened
        wait_until(lambda: len(records(mine)) >= 3)
        time.sleep(1.5)  # in which ten more could be computed
        ahead = len(records(mine))
        batches += got
        wait_until(lambda: not model_actors())
    return Streamed(mine, batches, ahead)


@pytest.fixture(scope="module")
def next_service(streamed: Streamed, make_int8: Make) -> Iterator[Any]:
    """A service that is started after that training."""
    with service_of(streamed.store, make_int8()) as service:
        yield service


def model_actors() -> list[int]:
    """Processes of this test's own cluster that host the model."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "StreamActor" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def wait_until(true: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def training_files(store: Store) -> list[str]:
    return sorted(path.name for path in Path(store.folder.uri).glob("activations/train-*.safetensors"))


def records(store: Store) -> dict[str, int]:
    """The records of shards that were computed for a stream, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(store.folder.uri).glob("streamed/*.json")}


def test_a_store_for_streaming_holds_what_the_norm_factor_needs(whole: Store, partial: Store) -> None:
    assert partial.key == whole.key and not partial.complete
    assert training_files(partial) == [f"train-{i:06d}.safetensors" for i in range(3)]  # 5000 tokens in shards of 2048
    assert partial.norm_factor == whole.norm_factor
    mine, theirs = contents(Path(partial.folder.uri)), contents(Path(whole.folder.uri))
    assert set(mine) - set(theirs) == {"partial.json"}
    assert all(mine[name] == theirs[name] for name in set(mine) & set(theirs) - {"partial.json"})


def test_a_store_for_streaming_becomes_a_whole_one(
    whole: Store, partial: Store, tmp_path: Path, make_int8: Make
) -> None:
    """Its manifest is not enough for a harvest in mode 'store'; here all shards are there already."""
    mine = copied(partial, tmp_path, make_int8())
    shutil.copytree(f"{whole.folder.uri}/activations", tmp_path / mine.key / "activations", dirs_exist_ok=True)
    assert prepare(make_int8(activations__mode="store"), str(tmp_path)).complete
    assert contents(tmp_path / mine.key) == contents(Path(whole.folder.uri))


def test_batches_are_those_of_the_store_over_epochs(streamed: Streamed, first: list[Tensor]) -> None:
    for mine, theirs in zip(streamed.batches, first, strict=True):
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)
    assert len(training_files(streamed.store)) == 3 and not streamed.store.complete


def test_no_more_than_two_windows_are_computed_ahead(streamed: Streamed) -> None:
    """Ray Data's executor begins one shard more rather than idle."""
    assert streamed.ahead <= 3 + 1


def test_two_readers_share_the_batches_and_only_the_windows_that_they_need_are_computed(
    streamed: Streamed, whole: Store, first: list[Tensor], next_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass after the other; rows of shards that were computed once are known for ever, to any service.

    Ray does not give every second block to the readers, as has been seen: the service gives them copies.
    """
    mine, asked = streamed.store, itertools.count()

    def given(block: Any) -> Any:
        if next(asked) % 2:
            raise GetTimeoutError
        return ray.get(block)

    monkeypatch.setattr("dmsae_ray.feed.stream._given", given)
    readers = [(rank, StreamedShards(mine, next_service, "two readers")) for rank in range(2)]

    def check(start: int, stop: int) -> list[str]:
        """See that batches are right; the shards that were computed for them."""

        def read(reader: tuple[int, StreamedShards]) -> list[Tensor]:
            return list(Feed(mine, BATCH, 1, reader[0], 2, reader[1]).batches(start, stop))

        before = records(mine)
        with ThreadPoolExecutor(2) as threads:
            shares = list(threads.map(read, readers))
        for low, high, want in zip(*shares, first[start:stop], strict=True):
            assert torch.equal(torch.cat([low, high]), want)
        wait_until(lambda: not model_actors())
        return sorted(name for name, when in records(mine).items() if before.get(name) != when)

    # The last window of epoch 0 has one shard; Ray Data's executor begins one shard more rather than idle.
    in_last_window = sum(whole.commit("train", i).rows for i in range(9)) // BATCH + 2
    assert "train-000009.json" in (found := check(in_last_window, in_last_window + 1)) and len(found) <= 1 + 1
    # From the middle of epoch 1's first window into its second one; three shards are stored.
    order = [f"train-{shard:06d}.json" for shard in shard_order(10, 1, 1) if shard >= 3]
    needed = len([shard for shard in shard_order(10, 1, 1)[:6] if shard >= 3])
    begin = whole.rows("train") // BATCH + 10
    found = check(begin, begin + 15)
    assert set(order[:needed]) <= set(found) <= set(order[: needed + 1])
    assert next(asked) > 4


def test_another_attempt_ends_what_the_one_before_left_and_closing_frees_the_model_actors(
    partial: Store, whole: Store, first: list[Tensor], make_int8: Make, tmp_path: Path
) -> None:
    """Two workers that died in the middle, and those started in their place; nothing is known of any shard."""
    mine = copied(partial, tmp_path, make_int8())
    in_epoch_1 = whole.rows("train") // BATCH + 2
    service = Here(StreamService(make_int8().model_dump(mode="json"), str(tmp_path), mine.key))
    lost = Feed(mine, BATCH, 1, shards=StreamedShards(mine, service, "lost")).batches(in_epoch_1, 10_000)
    assert torch.equal(next(lost), first[in_epoch_1])
    assert sorted(records(mine)) == [f"train-{i:06d}.json" for i in range(3, 10)]  # the others are stored
    mended = Feed(mine, BATCH, 2, shards=StreamedShards(mine, service, "mended")).batches(40, 10_000)
    assert torch.equal(next(mended), next(Feed(whole, BATCH, 2).batches(40, 41)))
    with pytest.raises(TransientError, match=r"closed while it was read"):
        list(lost)
    assert model_actors()
    del mended
    wait_until(lambda: not model_actors())


def test_a_reader_that_is_collected_behind_the_end_of_the_session_calls_nobody(
    partial: Store, make_int8: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call would start another Ray session; at the end of the process it would never return."""
    told: list[str] = []

    class Service:
        def open(self, *_: object) -> SessionState:
            return SessionState({}, frozenset())

        def close(self, *_: object) -> None:
            told.append("closed")

    mine = copied(partial, tmp_path, make_int8())
    with StreamedShards(mine, Here(Service()), "one").open(1, 0, 1):  # type: ignore[arg-type]
        pass
    assert told == ["closed"]
    with StreamedShards(mine, Here(Service()), "two").open(1, 0, 1):  # type: ignore[arg-type]
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert told == ["closed"]


def test_killed_model_actors_change_nothing_and_an_actors_error_is_one_line(
    streamed: Streamed, whole: Store, first: list[Tensor], next_service: Any
) -> None:
    """SIGKILL to the process that hosts the model, in two windows; the tokens of the last window are gone."""
    mine, killed, seen = streamed.store, set(), []
    tokens = Path(mine.folder.uri) / "tokens" / "train-000009.safetensors"
    content = tokens.read_bytes()
    tokens.unlink()
    got = Feed(mine, BATCH, 1, shards=StreamedShards(mine, next_service, "killed")).batches(0, 100)
    with pytest.raises(DataError, match=r"^\S+train-000009.safetensors is missing; [^\n]*$"):
        for step, batch in enumerate(got):
            seen.append(batch)
            if step in (10, 30):
                wait_until(lambda: bool(model_actors()))
                for pid in model_actors():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.add(pid)
    tokens.write_bytes(content)
    assert len(killed) > 1
    assert len(seen) == sum(whole.commit("train", i).rows for i in range(9)) // BATCH  # three windows
    assert all(torch.equal(batch, want) for batch, want in zip(seen, first, strict=False))


def test_a_stream_of_what_is_stored_needs_no_model(whole: Store, first: list[Tensor], make_int8: Make) -> None:
    service = StreamService(make_int8().model_dump(mode="json"), str(Path(whole.folder.uri).parent), whole.key)
    before = set(model_actors())
    got = Feed(whole, BATCH, 1, shards=StreamedShards(whole, Here(service), "only")).batches(0, 30)
    for mine, theirs in zip(got, first[:30], strict=True):
        assert torch.equal(mine, theirs) and set(model_actors()) <= before
    assert records(whole) == {}


class OneAfterTheOther:
    """A service for the first epoch, whose one model actor runs here and computes a shard when it is asked for."""

    def __init__(self, actor: StreamActor):
        self._actor = actor
        self._blocks: dict[int, Any] = {}

    def open(self, *session: Any) -> SessionState:
        return SessionState({}, frozenset())

    def rows(self, session: str, place: int) -> int:
        self._blocks[place] = ray.put(self._actor(one_shard(place)))
        commit = (self._actor.job.folder / "streamed").read(f"train-{place:06d}.json")
        return int(json.loads(commit or b"")["rows"])

    def block(self, session: str, place: int) -> list[Any]:
        return [self._blocks[place]]

    def move(self, *place: Any) -> None: ...

    def close(self, *reader: Any) -> None: ...


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_dtype_comes_as_it_would_be_stored(
    dtype: str, store: Store, tmp_path: Path, make_experiment: Make
) -> None:
    experiment = make_experiment(activations__dtype=dtype)
    copy_tokens(store, experiment, tmp_path)
    mine = open_store(str(tmp_path), experiment)
    stored, actor = HarvestActor(job_of(mine, experiment)), StreamActor(job_of(mine, experiment))
    for shard in range(mine.layout.shards("train")):
        stored(one_shard(shard))
    table = actor(one_shard(4))
    folder = tmp_path / mine.key
    assert table.column(CONTENT)[0].as_py() == (folder / "activations" / "train-000004.safetensors").read_bytes()
    assert contents(folder / "streamed")["train-000004.json"] == contents(folder / "activations")["train-000004.json"]
    shards = StreamedShards(mine, Here(OneAfterTheOther(actor)), "only")
    got = list(Feed(mine, BATCH, 1, shards=shards).batches(0, 30))
    for mine_batch, theirs in zip(got, Feed(mine, BATCH, 1).batches(0, 30), strict=True):
        assert mine_batch.dtype == theirs.dtype == getattr(torch, dtype) and torch.equal(mine_batch, theirs)
