"""How often latents fire: those that never do, those that nearly always do, and the histogram of all others."""

from dataclasses import dataclass

import torch
from torch import Tensor

DENSE = 0.1
"""A latent that fires at a larger share of the tokens is called dense."""
FREQUENCY_EDGES = tuple(-6 + 0.5 * n for n in range(13))
"""Edges of the histogram, in log10 of the frequency: two bins a decade, from one token in a million to every token."""


@dataclass(frozen=True)
class FiringFrequency:
    """At which share of some tokens the latents of a set fire.

    Attributes:
        latents: number of latents.
        dead: share of them that fire at no token; NaN without latents.
        dense: share of them that fire at more than `DENSE` of the tokens; NaN without latents.
        median: median frequency of those that fire (the lower one of two); NaN without any.
        histogram: number of latents in each bin of log10 frequency, between successive `FREQUENCY_EDGES`; a bin holds
            its lower edge, the last one its upper edge too, and the first one all that is lower. Dead latents are in
            none.
    """

    latents: int
    dead: float
    dense: float
    median: float
    histogram: tuple[int, ...]


def frequency_distribution(fired: Tensor, tokens: int) -> FiringFrequency:
    """Return the distribution of the frequencies of n latents.

    Args:
        fired: int64 [n], the number of tokens at which each latent fires.
        tokens: number of tokens, at least 1.
    """
    n, frequency = len(fired), fired.double() / tokens
    live = frequency[fired > 0]
    inner = torch.tensor(FREQUENCY_EDGES[1:-1], dtype=torch.float64, device=fired.device)
    bins = torch.bucketize(live.log10(), inner, right=True)
    nan = float("nan")
    return FiringFrequency(
        latents=n,
        dead=int((fired == 0).sum()) / n if n else nan,
        dense=int((frequency > DENSE).sum()) / n if n else nan,
        median=float(live.median()) if len(live) else nan,
        histogram=tuple(torch.bincount(bins, minlength=len(FREQUENCY_EDGES) - 1).tolist()),
    )
