"""The inference threshold theta of a dictionary whose weights are final."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.ranks import RankGroup

_DROPPED_BITS = 11
"""Low bits of a float32 that a bin leaves out: its width is 2^-12 of the value, and there are 2^20 bins."""
_BINS = 1 << (31 - _DROPPED_BITS)
_BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}


@torch.no_grad()
def calibrated_threshold(
    sae: MatryoshkaSAE, batches: Iterable[Tensor], process_group: dist.ProcessGroup | None = None
) -> float | None:
    """Return the theta with which the latents under BatchTopK fire as often as their budget says, on average.

    Over all tokens of all batches and ranks, `sae.topk_budget` activations a token are above theta. They are counted in
    bins of relative width 2^-12, so that the counts of ranks and batches add up exactly and memory does not grow with
    the tokens. The dictionary is not changed.

    Args:
        sae: the dictionary.
        batches: x [b, d] in the space of its weights (divided by `sae.norm_factor`); with several ranks, the rows of
            this one.
        process_group: ranks that hold the same dictionary and other rows; None: this process alone.

    Returns:
        theta; 0 if fewer activations than the budget are positive; None if none is.
    """
    ranks, device = RankGroup(process_group), sae.W_enc.device
    counts = torch.zeros(_BINS, dtype=torch.int64, device=device)
    tokens = torch.zeros((), dtype=torch.int64, device=device)
    rows = max(1, _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS["cpu"]) // sae.n_topk)
    for batch in batches:
        tokens += len(batch)
        for part in torch.split(batch, rows):
            u = sae.pre_activations(part.to(device), sae.n_dense, sae.n_latents).float()
            # The bits of positive floats sort as integers.
            bins = u[u > 0].view(torch.int32) >> _DROPPED_BITS
            counts += torch.bincount(bins, minlength=_BINS)
    ranks.sum(counts)
    wanted = int(ranks.sum(tokens)) * sae.topk_budget
    at_least = counts.flip(0).cumsum(0).flip(0)  # [i]: activations in bin i and above
    positive = int(at_least[0])
    if positive <= wanted:
        return 0.0 if positive else None
    # at_least falls, so this is the first bin with no more activations than wanted at or above it.
    first = int((at_least > wanted).sum())
    edge = torch.tensor(first << _DROPPED_BITS, dtype=torch.int32).view(torch.float32)
    return float(edge)
