"""The gradients of one step, and which weights are trained at all; frozen rows are not."""

import torch
from torch import Tensor

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.ranks import RankGroup


class Gradients:
    """Gradients of all trained weights: W_enc [m - c, d] without the core's rows, b_enc [m], W_dec [m, d], b_dec [d].

    Each is overwritten in place, or replaced by a tensor that was computed as a whole.
    """

    def __init__(self, sae: MatryoshkaSAE) -> None:
        trained = {name: torch.zeros_like(p) for name, p in trainable(sae).items()}
        self.W_enc, self.b_enc = trained["W_enc"], trained["b_enc"]
        self.W_dec, self.b_dec = trained["W_dec"], trained["b_dec"]

    def named(self) -> dict[str, Tensor]:
        """Return the gradients by parameter name, in the order of `trainable`."""
        return {"W_enc": self.W_enc, "W_dec": self.W_dec, "b_enc": self.b_enc, "b_dec": self.b_dec}

    def sum_over(self, ranks: RankGroup) -> None:
        """Add up the gradients of all ranks, in place."""
        for gradient in self.named().values():
            ranks.sum(gradient)


def trainable(sae: MatryoshkaSAE) -> dict[str, Tensor]:
    """Return what an optimiser may change, as views: W_enc without the frozen rows 0..c-1, and the rest complete."""
    return {
        "W_enc": sae.W_enc.detach()[sae.n_core :],
        "W_dec": sae.W_dec.detach(),
        "b_enc": sae.b_enc.detach(),
        "b_dec": sae.b_dec.detach(),
    }


def row_blocks(rows: int, width: int, device: torch.device) -> list[tuple[int, int]]:
    """Return the stretches (start, stop) of rows of a [rows, width] matrix that are processed at a time.

    On the CPU a block fits in the cache. On CUDA a block is so small that a temporary tensor of its size, 134 MB,
    hardly counts.
    """
    elements = 1 << 20 if device.type == "cpu" else 1 << 25
    size = max(1, elements // max(1, width))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
