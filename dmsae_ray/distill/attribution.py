"""Eq. 6: how much a latent matters to the language model's loss, over a sample of tokens.

    a[t, i] = |<g_t, dhat_i>| * z[t, i],    s_i = Quantile_q over t of a[t, i],    dhat_i = W_dec[i] / ||W_dec[i]||

x and g come from the unmodified model, so one attribution set of (x, g) pairs serves every SAE of a sweep. The
candidate pool is the core and the first `groups` non-core groups; z is their activation under a mask (`pool_mask`).
The set is read block by block (`AttributionSet`); where the values that decide exact quantiles do not fit, it is read
once for each stretch of the pool, and of each stretch only its own columns are computed.

A score that needs the language model itself (exact latent ablation) does not belong in this room: `CycleRunner` takes
it as its `scorer`.
"""

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from dmsae_ray.distill.attribution_set import AttributionSet, TensorPairs, blocks
from dmsae_ray.distill.pool_mask import mask_thresholds
from dmsae_ray.distill.quantile import UpperTail, tail_quantile, tail_size
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.sae import MatryoshkaSAE

Score = Literal["quantile", "mean", "mean_square", "trimmed_mean", "max", "frequency", "random"]
SCORES: tuple[str, ...] = get_args(Score)

CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Elements of one [tokens, latents] block of a pass: 4 MiB (a CPU's cache) and 256 MiB in float32."""
TAIL_ELEMENTS = 1 << 27
"""Elements kept for exact quantiles (512 MiB in float32); a larger pool is scored stretch by stretch."""


def check_score(score: str, q: float) -> None:
    """Check the name of a score, and that it can use the quantile.

    Raises:
        ConfigError: the score is unknown, or it cannot use the quantile q.
    """
    if score not in SCORES:
        raise ConfigError(f"score: {score!r} is unknown; known are {', '.join(SCORES)}")
    if not 0.0 <= q <= 1.0:
        raise ConfigError(f"quantile: {q!r} is not in [0, 1]")
    if score == "trimmed_mean" and q <= 0.5:
        raise ConfigError(f"quantile: {q!r} trims everything; score trimmed_mean needs a quantile above 0.5")


def attribution_scores(
    sae: MatryoshkaSAE,
    x: Tensor,
    g: Tensor,
    q: float = 0.99,
    *,
    score: str = "quantile",
    groups: int = 1,
    mask: str = "threshold",
    chunk: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Return the scores of the candidate pool (Eq. 6 with score="quantile") from an attribution set in memory.

    Args:
        sae: as in `pool_scores`, like all but the next two.
        x: [n, d] raw activations of any float dtype, possibly memory-mapped; computed in float32 on the SAE's device.
        g: [n, d] gradients dCE/dx at these activations; as x.
        q: the quantile, in [0, 1].
        score: one of SCORES.
        groups: number of non-core groups in the pool.
        mask: one of MASKS.
        chunk: tokens that are read at a time.
        seed: seed of the score "random".

    Returns:
        float64 [pool] on the CPU.

    Raises:
        ConfigError: as `pool_scores`.
        DataError: as `pool_scores`.
    """
    return pool_scores(sae, TensorPairs(x, g), q, score=score, groups=groups, mask=mask, chunk=chunk, seed=seed)


@torch.no_grad()
def pool_scores(
    sae: MatryoshkaSAE,
    pairs: AttributionSet,
    q: float = 0.99,
    *,
    score: str = "quantile",
    groups: int = 1,
    mask: str = "threshold",
    chunk: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Return the scores of the candidate pool (Eq. 6 with score="quantile").

    With a[t, i] as in Eq. 6, the scores are:

    - quantile: Quantile_q of a over all tokens, zeros included, exact, with linear interpolation.
    - mean, max: the mean or the maximum of a over all tokens.
    - mean_square: the mean of a². Where labels are drawn from the model's own softmax it is, but for a factor, the
      change of the loss to second order when the latent is taken away (E[g gᵀ] is then the curvature). It counts how
      often a latent matters and how much; a quantile gives 0 to each that fires at less than 1-q of the tokens.
    - trimmed_mean: the mean of a without the share 1-q of the tokens at either end.
    - frequency: the share of the tokens at which the latent fires.
    - random: uniform random numbers from `seed`.

    Memory does not grow with the number of tokens, but for the share 1-q of the values that decides a quantile, which
    is bounded by TAIL_ELEMENTS.

    Args:
        sae: takes raw activations (folded).
        pairs: the attribution set; however it is cut into parts, the scores are the same.
        q: the quantile, in [0, 1].
        score: one of SCORES.
        groups: number of non-core groups in the pool.
        mask: which activations count, one of MASKS, see `pool_mask.mask_thresholds`.
        chunk: tokens that are read at a time; None: as CHUNK_ELEMENTS allows.
        seed: seed of the score "random".

    Returns:
        float64 [pool] on the CPU.

    Raises:
        ConfigError: the score or the mask is unknown, or the score cannot use the quantile.
        DataError: x and g differ in shape, are empty, have another width than the SAE, or hold a value that is not
            finite.
    """
    check_score(score, q)
    pool, n = sae.pool_size(groups), len(pairs)
    if n == 0:
        raise DataError("attribution set: it is empty; x and g must be [n > 0, d_model]")
    chunk = chunk or _chunk(sae, pool)
    if score == "random":
        for first, x, g in blocks(pairs, chunk, sae.d_model):
            _check_pairs(x, g, first)
        return torch.rand(pool, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    thresholds = mask_thresholds(sae, pairs, pool, mask, chunk)
    if score == "frequency":
        return _frequency(sae, pairs, thresholds, chunk)
    if score == "quantile":
        return _quantile(sae, pairs, thresholds, q, chunk)
    if score == "trimmed_mean":
        return _trimmed_mean(sae, pairs, thresholds, q, chunk)
    total = torch.zeros(pool, dtype=torch.float64)
    for a in _attributions(sae, pairs, thresholds, 0, pool, chunk):
        if score == "max":
            total = torch.maximum(total, a.amax(dim=0).double().cpu())
        else:
            total += (a if score == "mean" else a.square_()).sum(dim=0, dtype=torch.float64).cpu()
    return total if score == "max" else total / n


@torch.no_grad()
def firing_frequency(
    sae: MatryoshkaSAE, x: Tensor | AttributionSet, *, groups: int | None = None, chunk: int | None = None
) -> Tensor:
    """Return the share of the tokens at which each latent fires.

    Args:
        sae: takes raw activations.
        x: [n, d] raw activations of any float dtype; or an attribution set.
        groups: number of non-core groups in the pool; None for all latents.
        chunk: tokens that are read at a time; None: as CHUNK_ELEMENTS allows.

    Returns:
        float64 on the CPU: [pool], or [m] if `groups` is None.

    Raises:
        DataError: the tokens have another width than the SAE, or hold a value that is not finite.
    """
    width = sae.n_latents if groups is None else sae.pool_size(groups)
    chunk = chunk or _chunk(sae, width)
    return _frequency(sae, TensorPairs(x, x) if isinstance(x, Tensor) else x, sae.threshold[:width], chunk)


def _frequency(sae: MatryoshkaSAE, pairs: AttributionSet, thresholds: Tensor, chunk: int) -> Tensor:
    count = torch.zeros(len(thresholds), dtype=torch.float64)
    for first, x, g in blocks(pairs, chunk, sae.d_model):
        _check_pairs(x, g, first)
        u = sae.pre_activations(x.to(sae.W_enc.device, torch.float32), 0, len(thresholds))
        count += (u > thresholds.clamp_min(0)).sum(dim=0).double().cpu()  # theta may be unset, below 0
    return count / max(1, len(pairs))


def _check_pairs(x: Tensor, g: Tensor, first: int) -> None:
    """Check that all values are finite.

    Args:
        x: [n, d].
        g: [n, d].
        first: number of the first pair in the attribution set.

    Raises:
        DataError: a value is not finite; the message has the number of its token.
    """
    for name, values in (("x", x), ("g", g)):
        good = torch.isfinite(values).all(dim=1)
        if not bool(good.all()):
            row = first + int((~good).nonzero()[0])
            raise DataError(f"{name}: token {row} of the attribution set holds a value that is not finite")


def _chunk(sae: MatryoshkaSAE, width: int) -> int:
    elements = CHUNK_ELEMENTS.get(sae.W_enc.device.type, CHUNK_ELEMENTS["cpu"])
    return max(16, elements // max(width, sae.d_model))


def _attributions(
    sae: MatryoshkaSAE, pairs: AttributionSet, thresholds: Tensor, start: int, stop: int, chunk: int
) -> Iterator[Tensor]:
    """Yield a (see Eq. 6) of the latents start..stop-1, of one chunk of tokens after the other: float32 [chunk, n]."""
    device = sae.W_enc.device
    directions = torch.nn.functional.normalize(sae.W_dec[start:stop].detach().float(), dim=1)
    for first, x, g in blocks(pairs, chunk, sae.d_model):
        part_x, part_g = (t.to(device, torch.float32) for t in (x, g))
        _check_pairs(part_x, part_g, first)
        u = sae.pre_activations(part_x, start, stop)
        yield (part_g @ directions.T).abs_() * (u * (u > thresholds[start:stop]))


def _quantile(sae: MatryoshkaSAE, pairs: AttributionSet, thresholds: Tensor, q: float, chunk: int) -> Tensor:
    n, pool = len(pairs), len(thresholds)
    keep = tail_size(n, q)
    width = max(1, min(pool, TAIL_ELEMENTS // (2 * keep + chunk)))
    parts = []
    for first in range(0, pool, width):
        stop = min(first + width, pool)
        tail = UpperTail(keep, stop - first)
        for a in _attributions(sae, pairs, thresholds, first, stop, chunk):
            tail.add(a)
        parts.append(tail_quantile(tail.largest(), n, q).cpu())
    return torch.cat(parts)


def _trimmed_mean(sae: MatryoshkaSAE, pairs: AttributionSet, thresholds: Tensor, q: float, chunk: int) -> Tensor:
    n, pool = len(pairs), len(thresholds)
    cut = min(math.floor(round((1 - q) * n, 6)), (n - 1) // 2)
    width = max(1, min(pool, TAIL_ELEMENTS // (4 * max(cut, 1) + chunk)))
    parts = []
    for first in range(0, pool, width):
        stop = min(first + width, pool)
        high, low = UpperTail(max(cut, 1), stop - first), UpperTail(max(cut, 1), stop - first)
        total = torch.zeros(stop - first, dtype=torch.float64)
        fired = torch.zeros(stop - first, dtype=torch.int64)
        for a in _attributions(sae, pairs, thresholds, first, stop, chunk):
            high.add(a)
            low.add(-a)
            total += a.sum(dim=0, dtype=torch.float64).cpu()
            fired += (a > 0).sum(dim=0).cpu()
        if cut:
            total -= high.largest().sum(dim=0, dtype=torch.float64).cpu()
            total += low.largest().sum(dim=0, dtype=torch.float64).cpu()
        # If every firing of a latent was trimmed, its score must be exactly 0: rounding could make it selectable.
        parts.append(torch.where(fired > cut, total.clamp_min(0), 0.0) / (n - 2 * cut))
    return torch.cat(parts)
