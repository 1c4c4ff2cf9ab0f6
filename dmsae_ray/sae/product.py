"""The large matrix products of a step; their factors are rounded where that is faster."""

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor, low: torch.dtype | None, *, out: Tensor | None = None) -> Tensor:
    """Return a [n, l] @ b [l, m], written to `out` [n, m] if it is given.

    Args:
        a: [n, l].
        b: [l, m].
        low: dtype to which the factors are rounded first; sums and results stay float32. None: nothing is rounded.
        out: [n, m], where the result goes.
    """
    if low is None:
        return torch.mm(a, b, out=out)
    if not a.is_cuda:  # the same numbers for tests; it is not faster here
        return torch.mm(a.to(low).float(), b.to(low).float(), out=out)
    if out is None:
        return torch.mm(a.to(low), b.to(low), out_dtype=torch.float32)
    return torch.mm(a.to(low), b.to(low), out_dtype=torch.float32, out=out)
