import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.distill.matching import match_rows, mean_best_cosine, pw_mcc
from dmsae_ray.errors import DataError


def test_a_permuted_and_rescaled_core_matches_perfectly():
    a = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    match = match_rows(a, 7 * a[order])
    assert torch.equal(order[match.right], match.left)
    assert match.mean == pytest.approx(1.0)
    assert match.share_above(0.999) == 1.0


def test_the_matching_is_one_to_one_where_the_best_cosine_is_not():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    slope = math.atan(0.1)
    assert match_rows(a, b).mean == pytest.approx((1 + math.sin(slope)) / 2, rel=1e-6)
    assert mean_best_cosine(a, b) == pytest.approx((1 + math.cos(slope)) / 2, rel=1e-6)


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


def test_empty_cores_and_other_widths():
    assert math.isnan(match_rows(torch.empty(0, 3), torch.eye(3)).mean)
    assert math.isnan(mean_best_cosine(torch.eye(3), torch.empty(0, 3)))
    with pytest.raises(DataError, match="no common width"):
        match_rows(torch.eye(3), torch.eye(4))
