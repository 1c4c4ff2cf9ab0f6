"""How alike the activations of latents of two SAEs are: Pearson's correlation over tokens, in one bounded pass."""

import torch
from torch import Tensor

from dmsae_ray.errors import DataError


class CoActivation:
    """Collects the correlation of each of n latents with each of p others.

    Args:
        n: latents on the left.
        p: latents on the right.
    """

    def __init__(self, n: int, p: int) -> None:
        self._tokens = 0
        self._sums = torch.zeros(n, dtype=torch.float64), torch.zeros(p, dtype=torch.float64)
        self._squares = torch.zeros(n, dtype=torch.float64), torch.zeros(p, dtype=torch.float64)
        self._products = torch.zeros(n, p, dtype=torch.float64)

    @property
    def tokens(self) -> int:
        """Tokens that were added."""
        return self._tokens

    @torch.no_grad()
    def add(self, left: Tensor, right: Tensor) -> None:
        """Add activations of the same t tokens: [t, n] and [t, p].

        Raises:
            DataError: they are not of as many tokens.
        """
        if len(left) != len(right):
            raise DataError(f"co-activation: {len(left)} tokens on the left and {len(right)} on the right")
        self._tokens += len(left)
        wide = left.double(), right.double()
        for z, sums, squares in zip(wide, self._sums, self._squares, strict=True):
            sums += z.sum(dim=0)
            squares += z.square().sum(dim=0)
        self._products += wide[0].T @ wide[1]

    def correlation(self) -> Tensor:
        """Return float64 [n, p]; 0 where one of both is constant, as a latent that never fires is."""
        t, spreads = max(1, self._tokens), []
        for sums, squares in zip(self._sums, self._squares, strict=True):
            variance = squares - sums.square() / t
            # What rounding leaves of a constant is no spread.
            spreads.append(torch.where(variance > 1e-12 * squares, variance, 0.0).sqrt())
        covariance = self._products - self._sums[0][:, None] * self._sums[1][None, :] / t
        scale = spreads[0][:, None] * spreads[1][None, :]
        return torch.where(scale > 0, covariance / scale.clamp_min(1e-300), 0.0).clamp(-1, 1)
