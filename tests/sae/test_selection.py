"""BatchTopK keeps what a full sort keeps, whatever the hint, the ties and the number of positives."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.sae.order_statistic import kth_largest
from dmsae_ray.sae.ranks import RankGroup
from dmsae_ray.sae.selection import BatchTopK

from .worlds import PretendSeveral


def by_sorting(u: torch.Tensor, n_keep: int) -> set[tuple[int, int]]:
    """Row-major positions of the n_keep largest positive numbers of u [b, m]; ties: first ones."""
    flat = u.flatten()
    order = torch.sort(flat, descending=True, stable=True).indices[:n_keep]
    return {divmod(int(i), u.shape[1]) for i in order if flat[i] > 0}


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 20),
    st.integers(1, 60),
    st.integers(0, 2**31),
    st.sampled_from(["generic", "coarse", "negative"]),
    st.sampled_from([None, 0.0, 0.5, 100.0]),
    st.booleans(),
)
def test_selection_equals_sorting(
    b: int, m: int, n_keep: int, seed: int, kind: str, hint: float | None, scans: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, 3, generator=g)
    if kind == "coarse":
        x = x.round()
    W, bias = torch.randn(m, 3, generator=g).round(), torch.zeros(m)
    if kind == "negative":
        bias -= 100.0
    n_keep = min(n_keep, b * m)
    select = BatchTopK(RankGroup(None), torch.device("cpu"))
    select._hint = hint
    select._scans = scans
    kept = select.select(x, W, bias, 0, n_keep)
    u = torch.addmm(bias[:, None], W, x.T).T.contiguous()
    positive = kept.values > 0
    assert bool(positive.all()) or not scans, "only the path of fixed size pads with zeros"
    rows, latents, values = kept.rows[positive], kept.latents[positive], kept.values[positive]
    found = set(zip(rows.tolist(), latents.tolist(), strict=True))
    if scans:
        assert found == by_sorting(u, n_keep)
    else:  # torch.topk chooses among ties as it likes
        assert sorted(u[rows, latents].tolist()) == sorted(u[p].item() for p in by_sorting(u, n_keep))
    assert torch.allclose(values, u[rows, latents], atol=1e-6)
    order = kept.latents * b + kept.rows
    assert bool((order[1:] > order[:-1]).all())
    smallest = float(values.min()) if len(values) else 0.0
    assert float(kept.smallest) == smallest


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=80), st.integers(1, 100), st.booleans())
def test_radix_selection_equals_partial_sorting(numbers: list[float], k: int, double: bool) -> None:
    values = torch.tensor(numbers, dtype=torch.float64 if double else torch.float32)
    cutoff, ties = kth_largest(values, k, RankGroup(None))
    by_radix, ties_by_radix = kth_largest(values, k, PretendSeveral())
    assert float(cutoff) == float(by_radix)
    assert int(ties) == int(ties_by_radix)
    assert float(cutoff) == sorted(numbers, reverse=True)[min(k, len(numbers)) - 1]
