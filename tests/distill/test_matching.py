import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.distill.core import Core
from dmsae_ray.distill.lineage import LineageId, Origin
from dmsae_ray.distill.matching import chance_mcc, match_rows, pw_mcc, shared_rows
from dmsae_ray.errors import DataError


def test_a_permuted_and_rescaled_core_matches_perfectly():
    a = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    match = match_rows(a, 7 * a[order])
    assert torch.equal(order[match.right], match.left)
    assert match.mean == pytest.approx(1.0)


def test_the_matching_is_one_to_one_where_the_best_cosine_is_not():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    slope = math.atan(0.1)  # the best of each alone would have the cosines 1 and cos(slope)
    assert match_rows(a, b).mean == pytest.approx((1 + math.sin(slope)) / 2, rel=1e-6)


def test_signs_count_unless_told_otherwise():
    a = torch.eye(3)
    assert match_rows(a, -a).mean == pytest.approx(0.0)
    assert match_rows(a, -a, absolute=True).mean == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))
def test_the_matching_is_the_best_of_all(n, p, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 3, generator=generator), torch.randn(p, 3, generator=generator)
    cosine = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    if n <= p:
        ways = (sum(cosine[i, j] for i, j in enumerate(w)) / n for w in itertools.permutations(range(p), n))
    else:
        ways = (sum(cosine[i, j] for j, i in enumerate(w)) / p for w in itertools.permutations(range(n), p))
    assert match_rows(a, b).mean == pytest.approx(float(max(ways)), abs=1e-5)


def test_pw_mcc_is_the_mean_over_pairs():
    a, b = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
    c = torch.eye(4)[:2]
    assert pw_mcc([a, b, c]) == pytest.approx(1.0)
    half = torch.tensor([[1.0, 1.0, 0, 0], [0, 0, 1.0, 1.0]])
    assert pw_mcc([c, half]) == pytest.approx((math.sqrt(0.5) + 0) / 2)
    assert math.isnan(pw_mcc([a]))
    assert pw_mcc([a, -a]) == pytest.approx(0.0), "latents have a sign: each is at best orthogonal to the others"


def test_empty_cores_and_other_widths():
    assert math.isnan(match_rows(torch.empty(0, 3), torch.eye(3)).mean)
    with pytest.raises(DataError, match="no common width"):
        match_rows(torch.eye(3), torch.eye(4))


def core(rows, origins=()):
    return Core(rows, tuple(LineageId(0, i) for i in range(len(rows))), {}, origins)


def test_rows_of_one_training_or_of_the_same_bits_are_shared():
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    a = core(rows[:3], (Origin("x", 1), Origin("z", 2), None))
    b = core(torch.stack([rows[4], rows[2], rows[5]]), (Origin("x", 2), None, Origin("y", 1)))
    of_a, of_b = shared_rows(a, b)
    assert of_a.tolist() == [True, False, True], "learned by a training that both have, and bit for bit the same"
    assert of_b.tolist() == [True, True, False]
    nothing = shared_rows(core(rows[:2]), core(rows[4:]))
    assert not any(found.any() for found in nothing), "an unknown origin is no origin"
    assert len(shared_rows(core(rows[:0]), core(rows))[1]) == 6


def test_chance_is_the_matching_of_random_subsets_of_the_pools():
    """By hand: of pools (e0, e1) and (e0, e1), one row each: cosine 1 in half of the draws, 0 in the others."""
    draws = chance_mcc(torch.eye(2), torch.eye(2), (1, 1), 4000, seed=1)
    assert set(draws.tolist()) == {0.0, 1.0} and float(draws.mean()) == pytest.approx(0.5, abs=0.04)
    whole = chance_mcc(torch.eye(3), torch.eye(3)[[2, 0, 1]], (3, 3), 5)
    assert whole.tolist() == [1.0] * 5, "all of both pools is one matching"
    assert chance_mcc(torch.eye(2), torch.eye(2), (3, 1), 5) is None
    same = [chance_mcc(torch.eye(4), torch.eye(4), (2, 2), 9, seed=s) for s in (1, 1, 2)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])
