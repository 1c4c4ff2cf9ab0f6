"""Batches of a real store: the same rows for any number of workers, from any step, in the order that `order` says."""

import gc
import shutil
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmsae_ray.config.experiment import Experiment
from dmsae_ray.errors import DataError
from dmsae_ray.feed.feed import Feed
from dmsae_ray.store.layout import Split
from dmsae_ray.store.order import row_order, windows_from
from dmsae_ray.store.reader import Store, open_store

Make = Callable[..., Experiment]
BATCH = 300


def batches(store: Store, start: int, stop: int, **more: int) -> list[Tensor]:
    return list(Feed(store, BATCH, **{"seed": 1, **more}).batches(start, stop))


@pytest.fixture(scope="module")
def first(store: Store) -> list[Tensor]:
    """Batches that reach into the third epoch."""
    return batches(store, 0, 2 * store.rows("train") // BATCH + 5)


def test_an_epoch_is_every_row_once(store: Store, first: list[Tensor]) -> None:
    n = store.rows("train")
    stream = torch.cat(first)
    every = torch.cat([store.read("train", i)["x"] for i in range(store.layout.shards("train"))])
    for epoch in range(2):
        got = stream[epoch * n : (epoch + 1) * n]
        assert torch.equal(got.sort(0).values, every.sort(0).values)
    assert not torch.equal(stream[:n], stream[n : 2 * n])


def test_rows_are_where_order_says(store: Store, first: list[Tensor]) -> None:
    """Cut the plain enumeration into batches, and sort each batch's part of a window by its place in the window."""
    n_shards = store.layout.shards("train")
    walk = windows_from(0, n_shards, lambda i: store.commit("train", i).rows, store.shuffle_shards, 1)
    places, rows = [], []
    for index, window in enumerate(islice(walk, 6)):
        rows.append(torch.cat([store.read("train", i)["x"] for i in window.shards]))
        places += [(index, int(number)) for number in row_order(window, 1)]
    for step in range(len(places) // BATCH):
        want = [rows[index][number] for index, number in sorted(places[step * BATCH : (step + 1) * BATCH])]
        assert torch.equal(first[step], torch.stack(want))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_workers_share_the_same_batch(store: Store, first: list[Tensor], world: int) -> None:
    shares = [batches(store, 0, 40, rank=rank, world=world) for rank in range(world)]
    for step in range(40):
        assert torch.equal(torch.cat([share[step] for share in shares]), first[step])


@pytest.mark.parametrize("start", [1, 17, 66, 130])
def test_a_restart_at_any_step_goes_on_the_same(store: Store, first: list[Tensor], start: int) -> None:
    for got, want in zip(batches(store, start, min(start + 4, len(first))), first[start:], strict=False):
        assert torch.equal(got, want)


def test_batches_are_the_callers_own(store: Store) -> None:
    (batch,) = batches(store, 3, 4)
    again = batch.clone()
    batch.add_(1)
    (fresh,) = batches(store, 3, 4)
    assert torch.equal(fresh, again)


def test_a_worker_reads_its_share_of_the_shards(store: Store, make_experiment: Make, stores: Path) -> None:
    """With rows in rising order, the first of ten workers has no use for a window's last shard."""
    mine = open_store(str(stores), make_experiment(activations__shuffle_shards=10))
    read: list[int] = []
    plain = mine.read

    def counted(split: Split, shard: int, stopped: Callable[[], bool] | None = None) -> dict[str, Tensor]:
        read.append(shard)
        return plain(split, shard, stopped)

    mine.read = counted  # type: ignore[method-assign]
    list(Feed(mine, 2000, seed=1, rank=0, world=10).batches(0, 5))
    assert set(read) <= {0, 1}


def test_seeds_of_the_data_give_other_orders(store: Store, first: list[Tensor]) -> None:
    assert not torch.equal(batches(store, 0, 1, seed=2)[0], first[0])


def test_closing_early_ends_the_thread(store: Store) -> None:
    stream = Feed(store, BATCH, 1).batches(0, 10_000)
    next(stream)
    assert any(thread.name == "dmsae-feed" for thread in threading.enumerate())
    del stream
    gc.collect()
    assert not any(thread.name == "dmsae-feed" for thread in threading.enumerate())


def test_damage_reaches_the_consumer(store: Store, stores: Path, tmp_path: Path, make_experiment: Make) -> None:
    shutil.copytree(stores / store.key, tmp_path / store.key)
    path = tmp_path / store.key / "activations" / "train-000000.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    damaged = open_store(str(tmp_path), make_experiment())
    with pytest.raises(DataError, match=r"train-000000.safetensors does not have its checksum"):
        list(Feed(damaged, BATCH, 1).batches(0, 3))


def test_an_error_comes_after_the_batches_before_it(
    store: Store, stores: Path, tmp_path: Path, make_experiment: Make
) -> None:
    """A window is opened while the one before it is read: the bad shard of the next one must not spoil this one."""
    shutil.copytree(stores / store.key, tmp_path / store.key)
    path = tmp_path / store.key / "activations" / "train-000004.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    whole = sum(store.commit("train", i).rows for i in range(3)) // BATCH
    seen = 0
    with pytest.raises(DataError, match=r"train-000004.safetensors"):
        for _ in Feed(open_store(str(tmp_path), make_experiment()), BATCH, 1).batches(0, 40):
            seen += 1
    assert seen == whole


def test_source_gives_pairs_and_held_out_rows(store: Store) -> None:
    source = Feed(store, BATCH, seed=1)
    pairs = source.attribution()
    parts = list(pairs.parts())
    assert len(pairs) == store.rows("attribution") and len(parts) == store.layout.shards("attribution")
    x, g = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    assert x.shape == g.shape == (store.rows("attribution"), store.d_model)
    assert bool((g != 0).any(1).float().mean() > 0.99)
    held_out = torch.cat(list(source.evaluation()))
    assert held_out.shape == (store.rows("eval"), store.d_model) and held_out.dtype == torch.float32
    assert source.norm_factor == store.norm_factor and source.d_model == 64
    assert torch.equal(next(iter(source.batches(5, 6))), batches(store, 5, 6)[0])


def test_fingerprint_names_what_decides_the_batches(store: Store) -> None:
    base = Feed(store, BATCH, seed=1).fingerprint
    assert Feed(store, BATCH, seed=1, rank=1, world=2).fingerprint == base
    assert len({base, Feed(store, BATCH, 2).fingerprint, Feed(store, 8, 1).fingerprint}) == 3


def test_another_norm_factor_is_another_source_of_the_same_store(
    store: Store, stores: Path, make_experiment: Make
) -> None:
    """Two shards of 2048 tokens stand behind the one, three behind the other; nothing is harvested again."""
    less = open_store(str(stores), make_experiment(activations__norm_tokens=2_049))
    assert less.key == store.key and less.complete
    assert less.norm_factor != store.norm_factor
    assert Feed(less, BATCH, 1).fingerprint != Feed(store, BATCH, 1).fingerprint
