import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.errors import DataError
from dmsae_ray.evaluation import CoActivation


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31), st.integers(1, 20))
def test_it_is_pearsons_correlation(tokens: int, n: int, p: int, seed: int, block: int) -> None:
    """numpy's, column by column, over blocks of any size; constants correlate with nothing."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.rand(tokens, k, generator=generator) * (torch.rand(tokens, k, generator=generator) < 0.4) for k in (n, p)
    )
    collector = CoActivation(n, p)
    for a, b in zip(torch.split(left, block), torch.split(right, block), strict=True):
        collector.add(a, b)
    found = collector.correlation()
    assert collector.tokens == tokens
    for i in range(n):
        for j in range(p):
            x, y = left[:, i].double().numpy(), right[:, j].double().numpy()
            known = x.std() > 0 and y.std() > 0
            wanted = float(np.corrcoef(x, y)[0, 1]) if known else 0.0
            assert float(found[i, j]) == pytest.approx(wanted, abs=1e-4)


def test_both_sides_must_be_of_the_same_tokens() -> None:
    with pytest.raises(DataError, match="3 tokens on the left and 2 on the right"):
        CoActivation(1, 1).add(torch.zeros(3, 1), torch.zeros(2, 1))
