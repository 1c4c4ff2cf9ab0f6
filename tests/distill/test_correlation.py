import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from dmsae_ray.distill import rank_correlation


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=20))
def test_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    a, b = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    found = rank_correlation(a, b)
    if len(a.unique()) == 1 or len(b.unique()) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(float(spearmanr(a.numpy(), b.numpy())[0]), abs=1e-12)
