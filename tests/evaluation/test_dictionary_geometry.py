"""Nearest decoder rows against plain loops over pairs, and chance levels against exact ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.evaluation import dictionary_geometry as module
from dmsae_ray.evaluation.dictionary_geometry import chance_nearness, decoder_geometry


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def plain(rows, left, right):
    """For each row of `left` the largest cosine with another one of `right`, ascending; by the definition."""
    found = []
    for i in left:
        others = [cosine(rows[i], rows[j]) for j in right if j != i]
        if others:
            found.append(max(others))
    return sorted(found)


@given(
    m=st.integers(2, 14),
    d=st.integers(2, 5),
    core=st.integers(0, 14),
    dead=st.sets(st.integers(0, 13), max_size=6),
    block=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_blocks_give_what_pairs_give(m, d, core, dead, block, seed):
    core = min(core, m)
    rows = 10 * torch.rand(m, d, generator=torch.Generator().manual_seed(seed)) - 4
    live = torch.tensor([n not in dead for n in range(m)])
    alive = [n for n in range(m) if n not in dead]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ELEMENTS", block)
        found = decoder_geometry(rows, core, live)
    assert found.left_out == m - len(alive)
    inside, outside = [n for n in alive if n < core], [n for n in alive if n >= core]
    for got, left, right in ((found.all, alive, alive), (found.core, inside, inside)):
        check(got, plain(rows.tolist(), left, right), len(left), len(right) - 1)
    check(found.core_to_rest, plain(rows.tolist(), inside, outside), len(inside), len(outside))


def check(got, want, rows, others):
    if rows == 0 or others < 1:
        assert got is None
        return
    assert (got.rows, got.others) == (rows, others) and len(want) == rows
    assert got.mean == pytest.approx(sum(want) / rows, abs=1e-5)
    assert got.median == pytest.approx(want[(rows - 1) // 2], abs=1e-5)
    assert got.p95 == pytest.approx(want[int(0.95 * (rows - 1))], abs=1e-5)
    for share, level in ((got.at_least_07, 0.7), (got.at_least_09, 0.9)):
        if all(abs(value - level) > 1e-4 for value in want):
            assert share == pytest.approx(sum(value >= level for value in want) / rows)


def test_a_dictionary_made_by_hand():
    """Two equal rows in the core, one opposite to them, one at 45 degrees outside, and a dead copy."""
    rows = torch.tensor([[1.0, 0, 0], [3.0, 0, 0], [-1.0, 0, 0], [1.0, 1.0, 0], [1.0, 0, 0]])
    found = decoder_geometry(rows, 3, torch.tensor([True, True, True, True, False]))
    half = math.sqrt(0.5)
    assert found.left_out == 1
    assert found.core.mean == pytest.approx((1 + 1 - 1) / 3) and found.core.at_least_09 == pytest.approx(2 / 3)
    assert found.core_to_rest.mean == pytest.approx((half + half - half) / 3)
    assert found.all.mean == pytest.approx((1 + 1 - half + half) / 4)
    assert (found.all.at_least_07, found.all.at_least_09) == (0.75, 0.5)
    assert decoder_geometry(rows, 0).core is None and decoder_geometry(rows, 5).core_to_rest is None
    assert decoder_geometry(rows[:1], 0).all is None


@pytest.mark.parametrize("n", [1, 2, 9, 500])
def test_chance_in_three_dimensions_is_known(n):
    """There a cosine is uniform on -1..1 (Archimedes), and the largest of n has the mean (n - 1) / (n + 1)."""
    assert chance_nearness(3, n) == pytest.approx((n - 1) / (n + 1), abs=1e-6)


@pytest.mark.parametrize(("d", "m"), [(2, 5), (16, 300), (64, 1000)])
def test_chance_is_what_random_rows_have(d, m):
    generator = torch.Generator().manual_seed(0)
    drawn = [decoder_geometry(torch.randn(m, d, generator=generator), 0).all for _ in range(200 if m < 50 else 5)]
    mean = sum(one.mean for one in drawn) / len(drawn)
    assert mean == pytest.approx(drawn[0].chance, abs=0.05 if m < 50 else 0.005)
