"""Eq. 6: how much a latent matters to the language model's loss, over a sample of tokens.

    a[t, i] = |<g_t, dhat_i>| * z[t, i],    s_i = Quantile_q over t of a[t, i],    dhat_i = W_dec[i] / ||W_dec[i]||

x and g come from the unmodified model, so one attribution set of (x, g) pairs serves every SAE of a sweep. The
candidate pool is the core and the first `groups` non-core groups; z is their activation under the inference mask.

A score that needs the language model itself (exact latent ablation) does not belong in this room: `CycleRunner` takes
it as its `scorer`.
"""

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from dmsae_ray.distill.quantile import UpperTail, tail_quantile, tail_size
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.sae import MatryoshkaSAE

Score = Literal["quantile", "mean", "trimmed_mean", "max", "frequency", "random"]
SCORES: tuple[str, ...] = get_args(Score)

CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Elements of one [tokens, latents] block of a pass: 4 MiB (a CPU's cache) and 256 MiB in float32."""
TAIL_ELEMENTS = 1 << 27
"""Elements kept for exact quantiles (512 MiB in float32); a larger pool takes several passes over the tokens."""


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


@torch.no_grad()
def attribution_scores(
    sae: MatryoshkaSAE,
    x: Tensor,
    g: Tensor,
    q: float = 0.99,
    *,
    score: str = "quantile",
    groups: int = 1,
    chunk: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Return the scores of the candidate pool (Eq. 6 with score="quantile").

    With a[t, i] as in Eq. 6, the scores are:

    - quantile: Quantile_q of a over all tokens, zeros included, exact, with linear interpolation.
    - mean, max: the mean or the maximum of a over all tokens.
    - trimmed_mean: the mean of a without the share 1-q of the tokens at either end.
    - frequency: the share of the tokens at which the latent fires.
    - random: uniform random numbers from `seed`.

    Args:
        sae: takes raw activations (folded).
        x: [n, d] raw activations of any float dtype, possibly memory-mapped; computed in float32 on the SAE's device.
        g: [n, d] gradients dCE/dx at these activations; as x.
        q: the quantile, in [0, 1].
        score: one of SCORES.
        groups: number of non-core groups in the pool.
        chunk: tokens that are read at a time; None: as CHUNK_ELEMENTS allows.
        seed: seed of the score "random".

    Returns:
        float64 [pool] on the CPU.

    Raises:
        ConfigError: the score is unknown, or it cannot use the quantile.
        DataError: x and g differ in shape, are empty, have another width than the SAE, or hold a value that is not
            finite.
    """
    check_score(score, q)
    _check_shapes(sae, x, g)
    pool, n = sae.pool_size(groups), len(x)
    if score in ("random", "frequency"):
        check_finite(x, "x")
        check_finite(g, "g")
    if score == "random":
        return torch.rand(pool, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chunk = chunk or _chunk(sae, pool)
    if score == "frequency":
        return firing_frequency(sae, x, groups=groups, chunk=chunk)
    if score == "quantile":
        return _quantile(sae, x, g, q, groups, chunk)
    if score == "trimmed_mean":
        return _trimmed_mean(sae, x, g, q, groups, chunk)
    total = torch.zeros(pool, dtype=torch.float64)
    for a in _attributions(sae, x, g, groups, chunk):
        if score == "mean":
            total += a.sum(dim=0, dtype=torch.float64).cpu()
        else:
            total = torch.maximum(total, a.amax(dim=0).double().cpu())
    return total / n if score == "mean" else total


@torch.no_grad()
def firing_frequency(sae: MatryoshkaSAE, x: Tensor, *, groups: int | None = None, chunk: int | None = None) -> Tensor:
    """Return the share of the tokens at which each latent fires.

    Args:
        sae: takes raw activations.
        x: [n, d] raw activations of any float dtype.
        groups: number of non-core groups in the pool; None for all latents.
        chunk: tokens that are read at a time; None: as CHUNK_ELEMENTS allows.

    Returns:
        float64 on the CPU: [pool], or [m] if `groups` is None.
    """
    width = sae.n_latents if groups is None else sae.pool_size(groups)
    chunk = chunk or _chunk(sae, width)
    count = torch.zeros(width, dtype=torch.float64)
    for start in range(0, len(x), chunk):
        part = x[start : start + chunk].to(sae.W_enc.device, torch.float32)
        z = sae.encode(part) if groups is None else sae.encode_pool(part, groups)
        count += (z > 0).sum(dim=0).double().cpu()
    return count / max(1, len(x))


def check_finite(values: Tensor, name: str, chunk: int = 8192, first: int = 0) -> None:
    """Check that all values are finite.

    Args:
        values: [n, d].
        name: name of the values in the message.
        chunk: rows that are checked at a time.
        first: number of the first row in the attribution set.

    Raises:
        DataError: a value is not finite; the message has the number of its token.
    """
    for start in range(0, len(values), chunk):
        good = torch.isfinite(values[start : start + chunk]).all(dim=1)
        if not bool(good.all()):
            row = first + start + int((~good).nonzero()[0])
            raise DataError(f"{name}: token {row} of the attribution set holds a value that is not finite")


def _chunk(sae: MatryoshkaSAE, width: int) -> int:
    elements = CHUNK_ELEMENTS.get(sae.W_enc.device.type, CHUNK_ELEMENTS["cpu"])
    return max(16, elements // max(width, sae.d_model))


def _check_shapes(sae: MatryoshkaSAE, x: Tensor, g: Tensor) -> None:
    if x.shape != g.shape or x.ndim != 2 or len(x) == 0:
        raise DataError(f"attribution set: x {tuple(x.shape)} and g {tuple(g.shape)} must be equal, [n > 0, d_model]")
    if x.shape[1] != sae.d_model:
        raise DataError(f"attribution set: width {x.shape[1]} is not the SAE's d_model {sae.d_model}")


def _attributions(sae: MatryoshkaSAE, x: Tensor, g: Tensor, groups: int, chunk: int) -> Iterator[Tensor]:
    """Yield a (see Eq. 6) of one chunk of tokens after the other: float32 [chunk, pool]."""
    pool, device = sae.pool_size(groups), sae.W_enc.device
    directions = torch.nn.functional.normalize(sae.W_dec[:pool].detach().float(), dim=1)
    for start in range(0, len(x), chunk):
        part_x, part_g = (t[start : start + chunk].to(device, torch.float32) for t in (x, g))
        check_finite(part_x, "x", chunk, start)
        check_finite(part_g, "g", chunk, start)
        yield (part_g @ directions.T).abs_() * sae.encode_pool(part_x, groups)


def _quantile(sae: MatryoshkaSAE, x: Tensor, g: Tensor, q: float, groups: int, chunk: int) -> Tensor:
    pool, n = sae.pool_size(groups), len(x)
    keep = tail_size(n, q)
    block = max(1, min(pool, TAIL_ELEMENTS // (2 * keep + chunk)))
    parts = []
    for first in range(0, pool, block):
        tail = UpperTail(keep, min(block, pool - first))
        for a in _attributions(sae, x, g, groups, chunk):
            tail.add(a[:, first : first + block])
        parts.append(tail_quantile(tail.largest(), n, q).cpu())
    return torch.cat(parts)


def _trimmed_mean(sae: MatryoshkaSAE, x: Tensor, g: Tensor, q: float, groups: int, chunk: int) -> Tensor:
    pool, n = sae.pool_size(groups), len(x)
    cut = min(math.floor(round((1 - q) * n, 6)), (n - 1) // 2)
    block = max(1, min(pool, TAIL_ELEMENTS // (4 * max(cut, 1) + chunk)))
    parts = []
    for first in range(0, pool, block):
        width = min(block, pool - first)
        high, low = UpperTail(max(cut, 1), width), UpperTail(max(cut, 1), width)
        total = torch.zeros(width, dtype=torch.float64)
        fired = torch.zeros(width, dtype=torch.int64)
        for a in _attributions(sae, x, g, groups, chunk):
            a = a[:, first : first + block]
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
