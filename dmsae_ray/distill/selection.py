"""Eq. 7, Algorithm 2: the next core is the shortest list of top-scoring latents that reaches the coverage."""

import math

import numpy as np
import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError, DataError


def check_coverage(coverage: float) -> float:
    """Return the coverage (tau) if it is in (0, 1].

    Raises:
        ConfigError: it is not.
    """
    if not (math.isfinite(coverage) and 0.0 < coverage <= 1.0):
        raise ConfigError(f"coverage: {coverage!r} is not in (0, 1]")
    return float(coverage)


def check_size(size: int | None) -> None:
    """Check the size of a core that is asked for; None asks for none.

    Raises:
        ConfigError: it is below 1.
    """
    if size is not None and size < 1:
        raise ConfigError(f"core_size: {size!r} must be at least 1, or None for the coverage")


def select_core(scores: Tensor, coverage: float, size: int | None = None) -> Tensor:
    """Return the latents of the next core (Eq. 7), by descending score.

    Ties go to the lower index. Latents with score 0 are never selected, so the result is empty if all scores are 0 (the
    cycle has collapsed). Sums are sequential float64 sums in the sorted order, and the total is the last of them. So
    coverage 1 is always reached, at the latest by all the positive scores.

    Args:
        scores: [pool], all >= 0.
        coverage: tau in (0, 1].
        size: take so many of the best in place of a coverage (all positive scores, where they are fewer); so cores,
            scores and cycles can be compared at one size.

    Returns:
        int64 [c], indices into the pool.

    Raises:
        ConfigError: the coverage is not in (0, 1], or the size is below 1.
        DataError: a score is negative or not finite, or there is not one score per latent.
    """
    check_coverage(coverage)
    check_size(size)
    if scores.ndim != 1:
        raise DataError(f"scores: shape {tuple(scores.shape)} is not one score a latent")
    values = scores.detach().to(device="cpu", dtype=torch.float64).numpy()
    if not np.isfinite(values).all() or (values < 0).any():
        where = int(np.flatnonzero(~np.isfinite(values) | (values < 0))[0])
        raise DataError(f"scores: latent {where} has score {values[where]}; scores must be finite and >= 0")
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > 0]
    if order.size == 0:
        return torch.empty(0, dtype=torch.int64)
    if size is not None:
        return torch.from_numpy(order[:size].astype(np.int64))
    reached = np.cumsum(values[order])
    stop = int(np.searchsorted(reached, coverage * reached[-1], side="left")) + 1
    return torch.from_numpy(order[:stop].astype(np.int64))


def agreement(a: Tensor, b: Tensor) -> float | None:
    """Return how far two selections agree: |A and B| over the mean of |A| and |B| (Dice), as a carryover at equal size.

    Args:
        a: int64 [n_a], distinct latents.
        b: int64 [n_b], distinct latents of the same SAE.

    Returns:
        A number in [0, 1]; None if both are empty.
    """
    size = len(a) + len(b)
    return 2 * len(set(a.tolist()) & set(b.tolist())) / size if size else None
