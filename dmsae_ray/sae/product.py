"""The large product of a step: pre-activations from centred activations and encoder rows."""

import torch
from torch import Tensor


def product(centred: Tensor, W: Tensor, low: torch.dtype | None) -> Tensor:
    """centred [b, d] @ W.T -> [b, n] for W [n, d].

    low: the factors are rounded to this dtype first; sums and results keep the dtype of W. CUDA only; None does not.
    """
    if low is None or not centred.is_cuda:
        return centred @ W.T
    return torch.mm(centred.to(low), W.to(low).T, out_dtype=W.dtype)
