import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.lm.filters import keep_mask


def test_each_filter_drops_its_own() -> None:
    tokens = torch.tensor([2, 7, 0, 9, 8, 2])
    x = torch.ones(6, 4) * torch.tensor([50.0, 1, 1, 30, 2, 1])[:, None]
    kept = keep_mask(tokens, x, bos_id=2, special_ids=(0, 1, 2, 3), max_norm_multiple=10)
    assert kept.mask.tolist() == [False, True, False, False, True, False]
    assert kept.dropped == {"bos": 2 / 6, "special": 1 / 6, "high_norm": 1 / 6}
    assert kept.share_dropped == pytest.approx(4 / 6)


def test_without_filters_everything_stays() -> None:
    x = torch.tensor([[1.0], [1e6]])
    kept = keep_mask(torch.tensor([2, 3]), x, max_norm_multiple=None)
    assert kept.mask.all() and kept.share_dropped == 0


def test_bos_does_not_move_the_median() -> None:
    tokens = torch.tensor([2, 2, 2, 5, 6])
    x = torch.tensor([[900.0], [900.0], [900.0], [1.0], [11.0]])
    assert keep_mask(tokens, x, bos_id=2).mask.tolist() == [False, False, False, True, False]


def test_no_rows_and_only_bos_are_no_special_case() -> None:
    assert keep_mask(torch.empty(0, dtype=torch.long), torch.empty(0, 3), bos_id=2).mask.tolist() == []
    assert keep_mask(torch.tensor([2, 2]), torch.ones(2, 3), bos_id=2).share_dropped == 1


@given(st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=40), st.sampled_from([1.5, 10.0]))
def test_high_norms_are_those_above_a_multiple_of_the_median(norms: list[float], multiple: float) -> None:
    ordered = sorted(norms)
    median = ordered[(len(ordered) - 1) // 2]
    kept = keep_mask(
        torch.zeros(len(norms), dtype=torch.long), torch.tensor(norms)[:, None], max_norm_multiple=multiple
    )
    far = [abs(n - multiple * median) > 1e-3 * multiple * median for n in norms]
    for norm, keep, clear in zip(norms, kept.mask.tolist(), far, strict=True):
        if clear:
            assert keep == (norm <= multiple * median)
