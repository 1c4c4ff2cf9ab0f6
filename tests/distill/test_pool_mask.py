"""The masks of the candidate pool, against a sort of all activations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmsae_ray.distill.attribution import attribution_scores, pool_scores
from dmsae_ray.distill.attribution_set import TensorPairs, halves
from dmsae_ray.distill.cycle_settings import CycleSettings, cycle_key
from dmsae_ray.distill.pool_mask import mask_thresholds
from dmsae_ray.errors import ConfigError
from dmsae_ray.sae import MatryoshkaSAE, Recipe

D, M = 6, 24


def some_sae(core: int, sparsity: str, k: int, bias: float, seed: int) -> MatryoshkaSAE:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(core, D, generator=generator) if core else None
    sae = MatryoshkaSAE(D, M, [5, 7, 12], k, core=rows, core_sparsity=sparsity, seed=seed)  # type: ignore[arg-type]
    with torch.no_grad():
        sae.W_dec.mul_(1 + torch.rand(M, 1, generator=generator))
        sae.b_enc.add_(0.3 * torch.randn(M, generator=generator) + bias)
    sae.theta.fill_(0.4)
    return sae


def batch_topk(sae: MatryoshkaSAE, x: Tensor, pool: int) -> Tensor:
    """z [n, pool] as in training, of the whole set as one batch: a sort of all values, written out."""
    u = torch.relu((x - sae.b_dec) @ sae.W_enc[:pool].T + sae.b_enc[:pool])
    exempt = sae.n_core if sae.core_sparsity == "dense" else 0
    others = u[:, exempt:]
    budget = sae.k if sae.core_sparsity == "sparse" else max(1, round(sae.k * (M - sae.n_core) / M))
    kept = torch.zeros(others.numel())
    order = others.flatten().argsort(descending=True)[: budget * len(x)]
    kept[order] = 1.0
    return torch.cat([u[:, :exempt], others * kept.view_as(others)], dim=1)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([0, 2, 4]),
    st.sampled_from(["dense", "sparse"]),
    st.integers(1, 3),
    st.integers(1, 6),
    st.sampled_from([0.0, -2.0, 1.0]),
    st.integers(2, 60),
    st.integers(1, 70),
    st.integers(0, 100),
)
def test_batch_topk_keeps_the_largest_of_the_whole_set(
    core: int, sparsity: str, groups: int, k: int, bias: float, n: int, chunk: int, seed: int
) -> None:
    sae = some_sae(core, sparsity, k, bias, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    x, g = (torch.randn(n, D, generator=generator) for _ in range(2))
    pool = sae.pool_size(groups)
    z = batch_topk(sae, x, pool)
    thresholds = mask_thresholds(sae, TensorPairs(x, g), pool, "batch_topk", chunk)
    u = torch.relu((x - sae.b_dec) @ sae.W_enc[:pool].T + sae.b_enc[:pool])
    # Rounding of other block sizes may move one value across the threshold, if it is as large to six digits.
    near = (u - thresholds).abs() < 1e-5 * thresholds
    assert torch.equal((u > thresholds) | near, (z > 0) | near)
    directions = sae.W_dec[:pool] / sae.W_dec[:pool].norm(dim=1, keepdim=True)
    a = ((g @ directions.T).abs() * u * (u > thresholds)).double()
    for score, expected in (
        ("quantile", torch.quantile(a, 0.9, dim=0)),
        ("mean_square", a.square().mean(dim=0)),
        ("frequency", (u > thresholds).double().mean(dim=0)),
    ):
        found = attribution_scores(sae, x, g, 0.9, score=score, groups=groups, mask="batch_topk", chunk=chunk)
        if not bool(near.any()):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_the_threshold_of_inference_is_the_other_mask() -> None:
    sae = some_sae(3, "dense", 1, 0.0, 0)
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(1))
    pairs = TensorPairs(x, x)
    found = mask_thresholds(sae, pairs, sae.pool_size(2), "threshold", 8)
    assert torch.equal(found, sae.threshold[: sae.pool_size(2)]) and set(found.tolist()) == {0.0, sae.theta.item()}
    plain = pool_scores(sae, pairs, score="mean")
    assert torch.equal(pool_scores(sae, pairs, score="mean", mask="threshold"), plain)
    assert not torch.equal(pool_scores(sae, pairs, score="mean", mask="batch_topk"), plain)
    # Each half is a batch of its own.
    first, second = (mask_thresholds(sae, half, 8, "batch_topk", 8) for half in halves(pairs))
    assert not torch.equal(first, second)


def test_all_count_where_fewer_fire_than_may() -> None:
    sae = some_sae(0, "sparse", 5, -2.5, 0)
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(1))
    assert mask_thresholds(sae, TensorPairs(x, x), 5, "batch_topk", 16).tolist() == [0.0] * 5


def test_values_that_are_equal_count_together() -> None:
    sae = some_sae(0, "sparse", 1, 0.0, 0)
    x = torch.ones(4, D)  # each latent has the same value at every token
    u = sae.pre_activations(x, 0, 5)
    thresholds = mask_thresholds(sae, TensorPairs(x, x), 5, "batch_topk", 4)
    assert float(u.max()) > 0
    assert ((u > thresholds).sum(dim=0) == torch.where(u[0] == u[0].max(), 4, 0)).all()


def test_a_mask_is_a_matter_of_scoring() -> None:
    recipe = Recipe(steps=10, warmup_steps=1)
    plain, other = (CycleSettings(M, (12, 12), 4, recipe, 8, 10, mask=mask) for mask in ("threshold", "batch_topk"))
    assert "mask" not in plain.scoring() and other.scoring()["mask"] == "batch_topk"
    rows = torch.zeros(0, D)
    assert cycle_key(plain, "data", rows, 0, 0) == cycle_key(other, "data", rows, 0, 0)
    with pytest.raises(ConfigError, match=r"^mask: 'top' is unknown; known are threshold, batch_topk$"):
        CycleSettings(M, (12, 12), 4, recipe, 8, 10, mask="top").check_scoring(has_scorer=True)
