import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dmsae_ray.distill.selection import agreement, select_core
from dmsae_ray.errors import ConfigError, DataError

from . import reference

tied = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.0, 2.0])
score_lists = st.lists(st.one_of(tied, st.floats(0, 1e6, allow_subnormal=False)), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(score_lists, st.floats(0.01, 1.0))
@example([0.0] * 5, 0.9)
@example([1.0] * 10, 1.0)
@example([0.1] * 10, 0.9)
def test_selection_agrees_with_the_reference(scores, coverage):
    chosen = select_core(torch.tensor(scores, dtype=torch.float64), coverage)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == reference.select(scores, coverage)


@settings(max_examples=100, deadline=None)
@given(score_lists, st.floats(0.01, 1.0))
def test_selection_is_the_shortest_prefix_that_covers(scores, coverage):
    chosen = select_core(torch.tensor(scores, dtype=torch.float64), coverage).tolist()
    total = math.fsum(scores)
    assert all(scores[i] > 0 for i in chosen)
    if total > 0:
        assert math.fsum(scores[i] for i in chosen) >= coverage * total * (1 - 1e-12)
        assert math.fsum(scores[i] for i in chosen[:-1]) < coverage * total * (1 + 1e-12)


def test_ties_go_to_the_lower_index_and_zeros_are_never_selected():
    assert select_core(torch.tensor([0.0, 2.0, 1.0, 2.0, 0.0]), 1.0).tolist() == [1, 3, 2]


def test_all_zero_scores_select_nothing():
    assert select_core(torch.zeros(7), 0.9).tolist() == []


def test_many_float32_scores_are_summed_in_float64():
    scores = torch.full((1 << 20,), 0.1)
    scores[0] = 1e6
    assert len(select_core(scores, 1.0)) == 1 << 20


@pytest.mark.parametrize("coverage", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_coverage_outside_its_range_is_refused_in_one_line(coverage):
    with pytest.raises(ConfigError, match=r"coverage: .* is not in \(0, 1\]") as error:
        select_core(torch.ones(3), coverage)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_impossible_scores_are_refused(bad):
    with pytest.raises(DataError, match="latent 1 has score"):
        select_core(torch.tensor([1.0, bad]), 0.9)


def test_agreement_is_carryover_at_equal_size_and_the_same_both_ways():
    three, other, none = torch.tensor([4, 1, 2]), torch.tensor([2, 9, 4, 7, 8]), torch.tensor([], dtype=torch.int64)
    assert agreement(three, three.flip(0)) == 1.0
    assert agreement(three, other) == agreement(other, three) == 2 / 4
    assert agreement(three, none) == 0.0 and agreement(none, none) is None
