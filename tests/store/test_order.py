"""Order of rows: held against a plain enumeration of the whole stream."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.errors import DataError
from dmsae_ray.store.order import BLOCK, permutation, row_order, shard_order, share, stored_order, windows_from

shards = st.lists(st.integers(0, 70), min_size=1, max_size=12).filter(lambda rows: sum(rows) > 0)


def stream(rows: list[int], window: int, seed: int, epochs: int) -> list[tuple[int, int]]:
    """The endless stream's first epochs as (shard, row), written down naively."""
    out: list[tuple[int, int]] = []
    for epoch in range(epochs):
        order = list(shard_order(len(rows), seed, epoch))
        for index in range(0, -(-len(order) // window)):
            blocks = [
                [(s, r) for r in range(first, min(first + BLOCK, rows[s]))]
                for s in order[index * window : (index + 1) * window]
                for first in range(0, rows[s], BLOCK)
            ]
            for i in permutation(len(blocks), seed, epoch, index, 1):
                out += blocks[i]
    return out


@given(shards, st.integers(1, 5), st.integers(0, 2**32), st.data())
@settings(max_examples=80, deadline=None)
def test_any_position_is_reached_directly(rows: list[int], window: int, seed: int, data: st.DataObject) -> None:
    expected = stream(rows, window, seed, epochs=6)
    position = data.draw(st.integers(0, 3 * sum(rows)))
    got: list[tuple[int, int]] = []
    first = None
    for found in windows_from(position, len(rows), rows.__getitem__, window, seed):
        first = found if first is None else first
        members = [(s, r) for s, n in zip(found.shards, found.rows, strict=True) for r in range(n)]
        got += [members[i] for i in row_order(found, seed)]
        if len(got) >= sum(rows):
            break
    assert first is not None and first.start <= position < first.stop
    assert got == expected[first.start : first.start + len(got)]


@given(shards, st.integers(1, 5), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_every_epoch_holds_every_row_once(rows: list[int], window: int, seed: int) -> None:
    every = sorted((s, r) for s, n in enumerate(rows) for r in range(n))
    total = sum(rows)
    seen = stream(rows, window, seed, epochs=3)
    for epoch in range(3):
        assert sorted(seen[epoch * total : (epoch + 1) * total]) == every


def test_first_epoch_asks_for_no_shard_beyond_its_window() -> None:
    asked: list[int] = []

    def rows_of(shard: int) -> int:
        asked.append(shard)
        return 10

    walk = windows_from(25, 100, rows_of, 2, seed=0)
    assert next(walk).shards == (2, 3)
    assert max(asked) == 3


def test_epochs_windows_and_seeds_have_different_orders() -> None:
    orders = [permutation(100, *key).tolist() for key in itertools.product((0, 1), (0, 1), (0, 1), (0, 1))]
    assert len({tuple(order) for order in orders}) == 16
    assert shard_order(5, 3, 0) == (0, 1, 2, 3, 4)
    assert shard_order(50, 3, 1) != shard_order(50, 3, 2)


def test_order_is_pinned_to_these_numbers() -> None:
    """A store read by another numpy, or next year, must give the same batches."""
    assert permutation(10, seed=7, epoch=1, index=2, purpose=1).tolist() == PINNED


def test_neighbours_in_the_text_are_no_neighbours_in_a_shard() -> None:
    order = stored_order(10_000, shard=3)
    assert sorted(order) == list(range(10_000)) and not np.array_equal(order, stored_order(10_000, shard=4))
    assert (np.abs(np.diff(order)) < 100).mean() == pytest.approx(0.02, abs=0.01)


PINNED = [7, 1, 2, 4, 8, 6, 5, 3, 9, 0]


@given(st.integers(1, 5000), st.integers(1, 64))
def test_shares_cut_a_batch_without_gap(batch: int, world: int) -> None:
    cuts = [share(batch, rank, world) for rank in range(world)]
    assert [a for a, _ in cuts] + [batch] == [0] + [b for _, b in cuts]
    assert max(b - a for a, b in cuts) - min(b - a for a, b in cuts) <= 1


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="holds no training rows"):
        next(windows_from(0, 3, [0, 0, 0].__getitem__, 2, 0))


def test_far_positions_are_cheap() -> None:
    found = next(windows_from(10**15, 50, lambda shard: 1000, 16, 5))
    assert found.epoch == 10**15 // 50_000
    assert np.array_equal(np.sort(row_order(found, 5)), np.arange(sum(found.rows)))
