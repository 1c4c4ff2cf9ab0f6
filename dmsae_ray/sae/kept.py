"""The kept (row, latent, value) triples: all that is decoded and differentiated after selection."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Kept:
    """Activations that survived selection, ordered by latent, then by row.

    On CUDA the number of triples is fixed, so that nothing waits for a count: the surplus has value 0.
    """

    rows: Tensor
    """[n] int64, row of the local batch."""
    latents: Tensor
    """[n] int64, 0..m-1, ascending."""
    values: Tensor
    """[n] activations."""
    smallest: Tensor
    """[] smallest positive kept activation of all ranks; 0 if there is none."""

    def latent_offsets(self, n_latents: int) -> Tensor:
        """[m + 1]: the triples of latent i are offsets[i]..offsets[i + 1]-1."""
        edges = torch.arange(n_latents + 1, device=self.latents.device)
        return torch.searchsorted(self.latents, edges)


def decode_bags(values: Tensor, latents: Tensor, bags: Tensor, n_bags: int, W_dec: Tensor) -> Tensor:
    """[n_bags, d]: for each bag the sum of value * W_dec[latent] over its triples; values, latents, bags [n]."""
    order = torch.argsort(bags, stable=True)
    offsets = torch.searchsorted(bags[order], torch.arange(n_bags, device=bags.device))
    return weighted_bags(W_dec, latents[order], offsets, values[order])


def weighted_bags(table: Tensor, index: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """[len(offsets), d]: sums of weights[i] * table[index[i]] over consecutive stretches that start at `offsets`."""
    if not len(index):
        return table.new_zeros(len(offsets), table.shape[1])
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weights)


def paired_dots(table: Tensor, index: Tensor, other: Tensor, other_index: Tensor) -> Tensor:
    """[n]: <table[index[i]], other[other_index[i]]> without gathering either; index and other_index [n]."""
    if not len(index):
        return table.new_zeros(0)
    # The derivative of a weighted bag sum by its weights is just this, and torch has it fused.
    backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
    dots: Tensor = backward(other, table, index, torch.zeros_like(index[:1]), other_index, 0)
    return dots
