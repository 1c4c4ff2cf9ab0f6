"""The geometric median of the first batch: where b_dec starts."""

import torch
from torch import Tensor

from dmsae_ray.sae.ranks import RankGroup

_ITERATIONS = 100
_TOLERANCE = 1e-5


def geometric_median(points: Tensor, ranks: RankGroup) -> Tensor:
    """[d]: the point with the least sum of distances to all ranks' `points` [b, d], by Weiszfeld's iteration.

    Starts at the mean; stops after 100 iterations or when it moves less than 1e-5, as the peer's. A point that the
    guess falls on has distance 0 and would divide by it: distances are kept above the least normal number.
    """
    count = ranks.sum(torch.full((), len(points), dtype=points.dtype, device=points.device))
    guess = ranks.sum(points.sum(0)) / count
    least = torch.finfo(points.dtype).tiny * 1e12
    done = torch.zeros((), dtype=torch.bool, device=points.device)
    for _ in range(_ITERATIONS):
        weights = 1 / torch.linalg.vector_norm(points - guess, dim=1).clamp(min=least)
        total = ranks.sum(torch.cat([weights @ points, weights.sum(0, keepdim=True)]))
        moved = total[:-1] / total[-1]
        # The point reached when it stops is kept; on CUDA the loop runs on without moving instead of asking.
        step = torch.linalg.vector_norm(moved - guess)
        guess = torch.where(done, guess, moved)
        done = done | (step < _TOLERANCE)
        if points.device.type == "cpu" and bool(done):
            break
    return guess
