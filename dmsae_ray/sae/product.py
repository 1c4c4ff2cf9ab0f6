"""The large matrix products of a step, their factors rounded where that is faster."""

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor, low: torch.dtype | None, *, out: Tensor | None = None) -> Tensor:
    """A [n, l] @ b [l, m] -> [n, m].

    low: the factors are rounded to this dtype first, sums and results stay float32. None: nothing is rounded.
    """
    if low is None:
        return torch.mm(a, b, out=out)
    if not a.is_cuda:  # the same numbers, for tests: no faster here
        return torch.mm(a.to(low).float(), b.to(low).float(), out=out)
    if out is None:
        return torch.mm(a.to(low), b.to(low), out_dtype=torch.float32)
    return torch.mm(a.to(low), b.to(low), out_dtype=torch.float32, out=out)
