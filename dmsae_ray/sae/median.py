"""The geometric median of the first batch, at which b_dec starts."""

import torch
from torch import Tensor

from dmsae_ray.sae.ranks import RankGroup

_ITERATIONS = 100
_TOLERANCE = 1e-5


def geometric_median(points: Tensor, ranks: RankGroup) -> Tensor:
    """Return the point [d] with the least sum of distances to `points` [b, d] of all ranks (Weiszfeld's iteration).

    It starts at the mean and stops after 100 iterations, or when it moves by less than 1e-5, as in dictionary_learning.
    A point at distance 0 from the guess would cause a division by 0, so distances are kept above a tiny number.
    """
    count = ranks.sum(torch.full((), len(points), dtype=points.dtype, device=points.device))
    guess = ranks.sum(points.sum(0)) / count
    least = torch.finfo(points.dtype).tiny * 1e12
    done = torch.zeros((), dtype=torch.bool, device=points.device)
    for _ in range(_ITERATIONS):
        weights = 1 / torch.linalg.vector_norm(points - guess, dim=1).clamp(min=least)
        total = ranks.sum(torch.cat([weights @ points, weights.sum(0, keepdim=True)]))
        moved = total[:-1] / total[-1]
        # On CUDA the loop runs to its end and the guess stays where it is: to ask whether it is done would wait.
        step = torch.linalg.vector_norm(moved - guess)
        guess = torch.where(done, guess, moved)
        done = done | (step < _TOLERANCE)
        if points.device.type == "cpu" and bool(done):
            break
    return guess
