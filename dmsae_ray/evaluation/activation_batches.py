"""Batches of held-out activations: they are checked as they come, and their total variance is summed."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from dmsae_ray.errors import DataError


def checked_batches(batches: Iterable[Tensor], d_model: int, device: torch.device) -> Iterator[Tensor]:
    """Yield batches x [n, d_model] as float32 on `device`; empty ones are left out.

    Raises:
        DataError: a batch has another width or a value that is not finite, or there are no tokens.
    """
    tokens = 0
    for number, batch in enumerate(batches):
        if batch.ndim != 2 or batch.shape[1] != d_model:
            raise DataError(f"evaluation: batch {number} has shape {tuple(batch.shape)}, d_model is {d_model}")
        x = batch.to(device, torch.float32)
        if not bool(torch.isfinite(x).all()):
            raise DataError(f"evaluation: batch {number} holds a value that is not finite")
        tokens += len(x)
        if len(x):
            yield x
    if tokens == 0:
        raise DataError("evaluation: there are no tokens")


class TotalVariance:
    """Sums ||x - mean(x)||^2 over tokens, in float64.

    The sums are taken about the first batch's mean, so that a large common mean costs no precision.

    Args:
        d_model: width of x.
        device: where the sums are.

    Attributes:
        tokens: number of tokens that were added.
    """

    def __init__(self, d_model: int, device: torch.device) -> None:
        self.tokens = 0
        self._shift: Tensor | None = None
        self._first = torch.zeros(d_model, dtype=torch.float64, device=device)
        self._second = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """Add x float64 [n, d_model], n at least 1."""
        self._shift = x.mean(dim=0) if self._shift is None else self._shift
        self._first += (x - self._shift).sum(dim=0)
        self._second += (x - self._shift).square().sum()
        self.tokens += len(x)

    def unexplained(self, error: Tensor) -> float:
        """Return the FVU of a summed squared error []: its share of the variance; NaN if x does not vary."""
        variance = float(self._second - self._first.square().sum() / max(1, self.tokens))
        return float(error) / variance if variance > 0 else float("nan")
