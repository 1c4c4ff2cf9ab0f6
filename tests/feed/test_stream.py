"""Batches of mode 'stream' on a real Ray cluster: those of the store, bit for bit, with no storage behind them."""

import contextlib
import itertools
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from dmsae_ray.config.experiment import Experiment
from dmsae_ray.config.sections import ActivationSettings
from dmsae_ray.errors import DataError
from dmsae_ray.feed.feed import Feed
from dmsae_ray.feed.stream import StreamedShards
from dmsae_ray.feed.stream_service import start_stream
from dmsae_ray.files.folder import Folder
from dmsae_ray.store.reader import Store
from tests.small_store import contents, prepare

Make = Callable[..., Experiment]
OpenStream = Callable[..., StreamedShards]
BATCH = 300


@pytest.fixture(scope="module")
def make_streamed(make_experiment: Make) -> Make:
    def make(**changes: Any) -> Experiment:
        return make_experiment(activations__mode="stream", **changes)

    return make


@pytest.fixture(scope="module")
def partial(store: Store, tmp_path_factory: pytest.TempPathFactory, make_streamed: Make) -> Store:
    """The same store as `store`, prepared for streaming."""
    return prepare(make_streamed(), str(tmp_path_factory.mktemp("streamed")))


@pytest.fixture
def open_stream(make_streamed: Make) -> OpenStream:
    """Makes the stream of a worker; workers of one trial share a service."""
    services: dict[str, Any] = {}

    def make(store: Store, trial: str = "", attempt: str = "only", **changes: Any) -> StreamedShards:
        experiment, root = make_streamed(**changes), str(Path(store.folder.uri).parent)
        trial = trial or uuid.uuid4().hex
        if trial not in services:
            services[trial] = start_stream(experiment, root, store.key, cpus=0.05)
        return StreamedShards(store, services[trial], attempt)

    return make


@pytest.fixture(scope="module")
def first(store: Store) -> list[Tensor]:
    """Batches of the complete store that reach into the third epoch."""
    return list(Feed(store, BATCH, 1).batches(0, 2 * store.rows("train") // BATCH + 5))


def copied(store: Store, root: Path) -> Store:
    """A copy of a store in another folder, without the records of what was streamed."""
    shutil.copytree(store.folder.uri, root / store.key, ignore=shutil.ignore_patterns("streamed"))
    settings = ActivationSettings(mode="stream", shuffle_shards=store.shuffle_shards, norm_tokens=5000, dtype="float32")
    return Store(Folder(str(root)) / store.key, store.key, settings)


def model_actors() -> list[int]:
    """Processes of this test's own cluster that host the model."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ShardStreamer" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def training_files(store: Store) -> list[str]:
    return sorted(path.name for path in Path(store.folder.uri).glob("activations/train-*.safetensors"))


def test_a_store_for_streaming_holds_what_the_norm_factor_needs(store: Store, partial: Store) -> None:
    assert partial.key == store.key and not partial.complete
    assert training_files(partial) == [f"train-{i:06d}.safetensors" for i in range(3)]  # 5000 tokens in shards of 2048
    assert partial.norm_factor == store.norm_factor
    mine, whole = contents(Path(partial.folder.uri)), contents(Path(store.folder.uri))
    assert set(mine) - set(whole) == {"partial.json"}
    assert all(mine[name] == whole[name] for name in set(mine) & set(whole) - {"partial.json"})


def test_batches_are_those_of_the_store_over_epochs(
    store: Store, partial: Store, first: list[Tensor], open_stream: OpenStream
) -> None:
    got = Feed(partial, BATCH, 1, source=open_stream(partial)).batches(0, len(first))
    for mine, theirs in itertools.zip_longest(got, first):
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)
    assert len(training_files(partial)) == 3
    (other,) = Feed(partial, BATCH, 2, source=open_stream(partial)).batches(70, 71)
    assert torch.equal(other, next(Feed(store, BATCH, 2).batches(70, 71)))


def test_two_readers_share_the_batches(partial: Store, first: list[Tensor], open_stream: OpenStream) -> None:
    """Twice over the same steps, which are in the middle and reach into the next window."""

    def read(rank: int, source: StreamedShards) -> list[Tensor]:
        feed = Feed(partial, BATCH, 1, rank, 2, source)
        return [*feed.batches(30, 45), *feed.batches(30, 45)]

    with ThreadPoolExecutor(2) as readers:
        shares = list(readers.map(read, range(2), [open_stream(partial, "two readers") for _ in range(2)]))
    for mine, theirs, want in zip(*shares, first[30:45] * 2, strict=True):
        assert torch.equal(torch.cat([mine, theirs]), want)


def test_a_restart_computes_the_windows_it_needs_and_no_others(
    store: Store, partial: Store, first: list[Tensor], open_stream: OpenStream, tmp_path: Path
) -> None:
    """Rows of shards that were computed once are known for ever."""
    mine = copied(partial, tmp_path)
    records = tmp_path / mine.key / "streamed"

    def check(step: int) -> list[str]:
        """See that a batch is right, in a trial of its own; the shards that were computed for it."""
        before = {path.name: path.stat().st_mtime_ns for path in records.glob("*")}
        (batch,) = Feed(mine, BATCH, 1, source=open_stream(mine)).batches(step, step + 1)
        assert torch.equal(batch, first[step])
        wait_until(lambda: not model_actors())
        return sorted(path.name for path in records.iterdir() if before.get(path.name) != path.stat().st_mtime_ns)

    in_epoch_1 = store.rows("train") // BATCH + 2
    in_last_window = sum(store.commit("train", i).rows for i in range(9)) // BATCH + 2
    assert check(in_epoch_1) == [f"train-{i:06d}.json" for i in range(3, 10)]
    # A window, or what of it is not stored; Ray Data's executor begins one shard more rather than idle.
    assert len(check(in_epoch_1)) <= 3 + 1
    assert "train-000009.json" in (found := check(in_last_window)) and len(found) <= 1 + 1


def test_no_more_than_two_windows_are_computed_ahead(
    partial: Store, first: list[Tensor], open_stream: OpenStream, tmp_path: Path
) -> None:
    mine = copied(partial, tmp_path)
    records = tmp_path / mine.key / "streamed"
    got = Feed(mine, BATCH, 1, source=open_stream(mine)).batches(0, len(first))
    next(got)  # window 0, which is stored, is read, and window 1 opened
    wait_until(lambda: records.is_dir() and len(list(records.iterdir())) >= 3)
    time.sleep(3)
    assert len(list(records.iterdir())) <= 3 + 1
    for mine_batch, theirs in zip(got, first[1:], strict=True):
        assert torch.equal(mine_batch, theirs)


def test_killed_model_actors_change_nothing(
    partial: Store, first: list[Tensor], open_stream: OpenStream, tmp_path: Path
) -> None:
    """SIGKILL to the processes that host the model, in every window of the first epoch."""
    mine, killed = copied(partial, tmp_path), set()
    got = Feed(mine, BATCH, 1, source=open_stream(mine, resources__model_actors_max=1)).batches(0, 75)
    for step, batch in enumerate(got):
        assert torch.equal(batch, first[step])
        if step in (10, 30, 50):
            for pid in model_actors():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
    assert len(killed) > 1


def test_closing_frees_the_model_actors(partial: Store, open_stream: OpenStream) -> None:
    got = Feed(partial, BATCH, 1, source=open_stream(partial)).batches(40, 10_000)
    next(got)
    assert model_actors()
    del got
    wait_until(lambda: not model_actors())


def test_another_attempt_ends_what_the_one_before_left(
    partial: Store, first: list[Tensor], open_stream: OpenStream
) -> None:
    """Two workers that died in the middle, and those started in their place."""
    lost = Feed(partial, BATCH, 1, source=open_stream(partial, "again", "lost")).batches(40, 10_000)
    assert torch.equal(next(lost), first[40])
    (batch,) = Feed(partial, BATCH, 1, source=open_stream(partial, "again", "mended")).batches(20, 21)
    assert torch.equal(batch, first[20])
    with pytest.raises(DataError, match=r"closed while it was read"):
        list(lost)
    wait_until(lambda: not model_actors())


def test_an_actors_error_is_one_line(
    partial: Store, first: list[Tensor], open_stream: OpenStream, tmp_path: Path
) -> None:
    mine = copied(partial, tmp_path)
    (tmp_path / mine.key / "tokens" / "train-000007.safetensors").unlink()
    seen = []
    with pytest.raises(DataError, match=r"^\S+train-000007.safetensors is missing; [^\n]*$"):
        for batch in Feed(mine, BATCH, 1, source=open_stream(mine)).batches(0, 100):
            seen.append(batch)
    assert len(seen) >= 35  # two windows
    assert all(torch.equal(batch, want) for batch, want in zip(seen, first, strict=False))


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_every_dtype_comes_as_it_would_be_stored(
    dtype: str, partial: Store, tmp_path: Path, make_experiment: Make, open_stream: OpenStream
) -> None:
    changes = {"activations__dtype": dtype, "activations__norm_tokens": 2000}
    mine = prepare(make_experiment(**changes, activations__mode="stream"), str(tmp_path))
    got = list(Feed(mine, BATCH, 1, source=open_stream(mine, **changes)).batches(0, 30))
    assert training_files(mine) == ["train-000000.safetensors"] and not mine.complete
    whole = prepare(make_experiment(**changes), str(tmp_path))  # finds the one, makes the others
    assert whole.key == mine.key and whole.complete
    for mine_batch, theirs in zip(got, Feed(whole, BATCH, 1).batches(0, 30), strict=True):
        assert mine_batch.dtype == theirs.dtype and torch.equal(mine_batch, theirs)
    assert not (tmp_path / mine.key / "partial.json").exists()
    # Now that all is stored, a stream needs no model.
    before = set(model_actors())
    again = Feed(mine, BATCH, 1, source=open_stream(mine, **changes)).batches(0, 30)
    for mine_batch, theirs in zip(again, got, strict=True):
        assert torch.equal(mine_batch, theirs) and set(model_actors()) <= before
