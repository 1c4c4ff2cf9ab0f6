import weakref

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.distill import attribution
from dmsae_ray.distill.attribution import attribution_scores, firing_frequency, pool_scores
from dmsae_ray.distill.attribution_set import halves
from dmsae_ray.distill.quantile import UpperTail, tail_quantile, tail_size
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.sae.dictionary import MatryoshkaSAE

from . import reference

D = 6


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 200),
    st.floats(0, 1),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    st.integers(0, 1000),
)
def test_the_streamed_quantile_is_torch_quantile(rows, q, chunk, zeros, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(rows, 3, generator=generator, dtype=torch.float64)
    values *= torch.rand(rows, 3, generator=generator) >= zeros
    tail = UpperTail(tail_size(rows, q), 3)
    for part in values.split(chunk):
        tail.add(part)
    largest = tail.largest()
    assert len(largest) == tail_size(rows, q)
    torch.testing.assert_close(tail_quantile(largest, rows, q), torch.quantile(values, q, dim=0), rtol=1e-9, atol=0)


def test_the_streamed_quantile_keeps_little_of_many_rows():
    rows, q = 200_000, 0.999
    tail = UpperTail(tail_size(rows, q), 1)
    values = torch.arange(rows, dtype=torch.float32)[torch.randperm(rows, generator=torch.Generator().manual_seed(0))]
    for part in values[:, None].split(1000):
        tail.add(part)
        assert sum(p.numel() for p in tail._parts) <= 2 * tail.keep + 1000
    assert float(tail_quantile(tail.largest(), rows, q)) == pytest.approx(q * (rows - 1), rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 120),
    q=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99, 1.0]),
    workers=st.integers(1, 5),
    zeros=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_merged_tails_are_the_tail_of_all_rows(rows, q, workers, zeros, seed, data):
    """Whoever read a row, and in whatever order the workers are merged: to the last bit, and within the memory."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(rows, 3, generator=generator) * (torch.rand(rows, 3, generator=generator) >= zeros)
    owners = torch.randint(workers, (rows,), generator=generator)
    keep = tail_size(rows, q)
    tails = [UpperTail(keep, 3) for _ in range(workers)]
    for worker, tail in enumerate(tails):
        for part in values[owners == worker].split(data.draw(st.integers(1, 50))):
            tail.add(part)
    alone = UpperTail(keep, 3)
    alone.add(values)
    first, *others = data.draw(st.permutations(tails))
    for other in others:
        before = [part.clone() for part in other._parts]
        first.merge(other)
        assert sum(part.shape[1] for part in first._parts) <= 2 * keep
        assert all(torch.equal(a, b) for a, b in zip(before, other._parts, strict=True))
    assert first.rows == alone.rows == rows and torch.equal(first.largest(), alone.largest())
    merged = tail_quantile(first.largest(), first.rows, q)
    assert torch.equal(merged, tail_quantile(alone.largest(), rows, q))
    torch.testing.assert_close(merged, torch.quantile(values.double(), q, dim=0), rtol=1e-9, atol=0)


def test_tails_that_keep_too_little_are_not_merged():
    """What a worker keeps of its own rows alone is not enough: all largest values may be among them."""
    tail = UpperTail(tail_size(200, 0.99), 2)
    for other in (UpperTail(tail_size(100, 0.99), 2), UpperTail(tail.keep, 3)):
        with pytest.raises(ValueError, match="both must keep what all rows ask for"):
            tail.merge(other)
    tail.merge(UpperTail(tail.keep, 2))  # of a worker without rows
    assert tail.rows == 0


def some_sae(core, seed, k=3):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(core, D, generator=generator) if core else None
    sae = MatryoshkaSAE(D, 24, [5, 7, 12], k, core=rows, seed=seed)
    with torch.no_grad():
        sae.W_dec.mul_(1 + torch.rand(24, 1, generator=generator))
        sae.b_enc.add_(0.3 * torch.randn(24, generator=generator))
        sae.b_dec.add_(0.3 * torch.randn(D, generator=generator))
    return sae


def some_pairs(n, seed):
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(n, D, generator=generator), torch.randn(n, D, generator=generator)


def dense_attributions(sae, x, g, pool):
    direction = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    return ((g @ direction.T).abs() * sae.encode(x)).detach()[:, :pool]


@settings(max_examples=60, deadline=None)
@given(
    core=st.sampled_from([0, 1, 4]),
    groups=st.integers(1, 3),
    n=st.integers(1, 40),
    q=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    chunk=st.sampled_from([1, 7, 64]),
    seed=st.integers(0, 100),
)
def test_scores_agree_with_the_reference(core, groups, n, q, chunk, seed):
    sae, (x, g) = some_sae(core, seed), some_pairs(n, seed)
    pool = core + [5, 12, 24 - core][groups - 1]
    weights = (t.detach().double().numpy() for t in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.threshold))
    expected = reference.attribution(*weights, x.double().numpy(), g.double().numpy(), pool, q)
    scores = attribution_scores(sae, x, g, q, groups=groups, chunk=chunk)
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_pool_too_large_for_the_memory_takes_several_passes(monkeypatch):
    sae, (x, g) = some_sae(2, 0), some_pairs(50, 0)
    whole = [attribution_scores(sae, x, g, 0.9, score=s, groups=3, chunk=10) for s in ("quantile", "trimmed_mean")]
    monkeypatch.setattr(attribution, "TAIL_ELEMENTS", 100)
    parts = [attribution_scores(sae, x, g, 0.9, score=s, groups=3, chunk=10) for s in ("quantile", "trimmed_mean")]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_stretches_of_a_large_pool_compute_only_their_own_columns(monkeypatch):
    """What is computed of a pool does not grow with the number of its stretches."""
    sae, (x, g) = some_sae(2, 0), some_pairs(50, 0)
    computed = []
    whole = sae.pre_activations

    def counting(part, start, stop):
        computed.append(len(part) * (stop - start))
        return whole(part, start, stop)

    sae.pre_activations = counting
    monkeypatch.setattr(attribution, "TAIL_ELEMENTS", 100)
    attribution_scores(sae, x, g, 0.9, groups=3, chunk=10)
    assert len(computed) > 5 * 5 and sum(computed) == len(x) * sae.pool_size(3)


class Parts:
    """An attribution set in parts; `alive` counts how many of them are held at a time."""

    def __init__(self, x, g, sizes):
        self.whole, self.sizes, self.held, self.most = (x, g), sizes, weakref.WeakSet(), 0

    def __len__(self):
        return len(self.whole[0])

    def parts(self):
        start = 0
        for size in self.sizes:
            part = tuple(t[start : start + size].clone() for t in self.whole)
            self.held.add(part[0])
            self.most = max(self.most, len(self.held))
            yield part
            del part
            start += size


@pytest.mark.parametrize("score", attribution.SCORES)
def test_a_set_in_parts_gives_the_same_bits_and_at_most_two_parts_are_held(score):
    sae, (x, g) = some_sae(2, 7), some_pairs(120, 7)
    pairs = Parts(x, g, (30, 0, 20, 3, 30, 1, 36))
    streamed = pool_scores(sae, pairs, 0.9, score=score, groups=2, chunk=16, seed=1)
    assert torch.equal(streamed, attribution_scores(sae, x, g, 0.9, score=score, groups=2, chunk=16, seed=1))
    assert torch.equal(firing_frequency(sae, pairs, chunk=16), firing_frequency(sae, x, chunk=16))
    assert pairs.most <= 2


def test_the_other_scores():
    sae, (x, g) = some_sae(3, 1), some_pairs(200, 1)
    a = dense_attributions(sae, x, g, 8).double().numpy()

    def score(name, q=0.9, **options):
        return attribution_scores(sae, x, g, q, score=name, chunk=33, **options).numpy()

    np.testing.assert_allclose(score("mean"), a.mean(0), rtol=1e-5)
    np.testing.assert_allclose(score("mean_square"), (a**2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(score("max"), a.max(0), rtol=1e-5)
    np.testing.assert_allclose(score("trimmed_mean"), scipy.stats.trim_mean(a, 0.1), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(score("frequency"), (a > 0).mean(0), atol=1e-12)
    np.testing.assert_array_equal(score("random", seed=5), score("random", seed=5))
    assert not np.array_equal(score("random", seed=5), score("random", seed=6))
    assert len(score("random")) == 8


def test_a_latent_whose_every_firing_is_trimmed_scores_exactly_0():
    sae, (x, g) = some_sae(0, 2), some_pairs(300, 2)
    with torch.no_grad():
        sae.b_enc[:4] -= torch.tensor([4.0, 5.0, 6.0, 8.0])
    a = dense_attributions(sae, x, g, 5).numpy()
    fired = (a > 0).sum(0)
    scores = attribution_scores(sae, x, g, 0.9, score="trimmed_mean").numpy()
    assert (fired <= 30).any() and ((scores == 0) == (fired <= 30)).all()


def test_firing_frequency_of_the_pool_is_that_of_the_dictionary():
    sae, (x, _) = some_sae(3, 3), some_pairs(100, 3)
    everything = firing_frequency(sae, x, chunk=17)
    assert len(everything) == 24
    torch.testing.assert_close(everything[:8], firing_frequency(sae, x, groups=1))
    torch.testing.assert_close(everything, (sae.encode(x) > 0).double().mean(0))


def test_half_precision_pairs_are_read_as_they_are():
    sae, (x, g) = some_sae(2, 4), some_pairs(80, 4)
    x, g = x.bfloat16(), g.half()
    torch.testing.assert_close(attribution_scores(sae, x, g, 0.9), attribution_scores(sae, x.float(), g.float(), 0.9))


@pytest.mark.parametrize("score", attribution.SCORES)
@pytest.mark.parametrize("which", ["x", "g"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(score, which, bad):
    sae, (x, g) = some_sae(2, 5), some_pairs(80, 5)
    {"x": x, "g": g}[which][41, 3] = bad
    with pytest.raises(DataError, match=f"^{which}: token 41 of the attribution set holds a value that is not finite$"):
        attribution_scores(sae, x, g, 0.9, score=score, chunk=7)


def test_wrong_shapes_and_names_are_refused():
    sae, (x, g) = some_sae(2, 6), some_pairs(10, 6)
    with pytest.raises(DataError, match="must be equal"):
        attribution_scores(sae, x, g[:-1])
    with pytest.raises(DataError, match="n > 0"):
        attribution_scores(sae, x[:0], g[:0])
    with pytest.raises(DataError, match="width 5"):
        attribution_scores(sae, x[:, :5], g[:, :5])
    with pytest.raises(ConfigError, match="score: 'median' is unknown"):
        attribution_scores(sae, x, g, score="median")
    with pytest.raises(ConfigError, match=r"quantile: 1\.5"):
        attribution_scores(sae, x, g, 1.5)
    with pytest.raises(ConfigError, match="trims everything"):
        attribution_scores(sae, x, g, 0.5, score="trimmed_mean")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_halves_hold_every_pair_once_however_the_set_is_cut(sizes):
    x = torch.arange(sum(sizes) * 2.0).reshape(-1, 2)

    class Cut:
        def __len__(self):
            return len(x)

        def parts(self):
            return ((part, -part) for part in x.split(sizes))

    found = halves(Cut())
    assert [len(half) for half in found] == [len(x) // 2, len(x) - len(x) // 2]
    for half in found:
        parts = list(half.parts())
        assert sum(len(p) for p, _ in parts) == len(half) and all(torch.equal(g, -p) for p, g in parts)
    assert torch.equal(torch.cat([x[:0], *(p for half in found for p, _ in half.parts())]), x)
