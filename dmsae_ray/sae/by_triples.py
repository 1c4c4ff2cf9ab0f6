"""Decoding and differentiating the kept activations one by one: cost grows with their number alone."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.gradients import Gradients, row_blocks
from dmsae_ray.sae.triples import Triples


class ByTriples:
    """The latents of `kept`, of b rows, in the reconstruction of each of `groups`; group_of [m] says whose they are.

    in_blocks: gradients are written a block of latents at a time, which asks the device where a block begins.
    kernels: what sums rows there, see `kernel_choice`; None for torch.
    """

    def __init__(
        self,
        sae: MatryoshkaSAE,
        kept: Triples,
        b: int,
        group_of: Tensor,
        groups: int,
        *,
        in_blocks: bool,
        kernels: ModuleType | None = None,
    ) -> None:
        self._sae, self._kept, self._b, self._groups = sae, kept, b, groups
        self._in_blocks, self._kernels = in_blocks, kernels
        self._bags = group_of[kept.latents] * b + kept.rows

    def decode(self) -> Tensor:
        """[groups, b, d]: what each group adds to each row."""
        kept, n_bags = self._kept, self._groups * self._b
        order = torch.argsort(self._bags.to(torch.int32), stable=True)
        offsets = torch.searchsorted(self._bags[order], torch.arange(n_bags + 1, device=order.device))
        latents, values = kept.latents[order], kept.values[order]
        if self._kernels is None:
            sums = _weighted_bags(self._sae.W_dec, latents, offsets[:-1], values)
        else:
            sums = self._sae.W_dec.new_empty(n_bags, self._sae.d_model)
            self._kernels.weighted_bags(self._sae.W_dec, latents, offsets, values, sums)
        return sums.view(self._groups, self._b, self._sae.d_model)

    def write(self, gradients: Gradients, centred: Tensor, pushes: Tensor) -> None:
        """Overwrites the gradients of W_enc, b_enc and W_dec.

        centred [b, d] = x - b_dec; pushes [groups, b, d]: derivative of the loss by what `decode` gives.
        """
        sae, kept = self._sae, self._kept
        flat = pushes.view(-1, sae.d_model)
        edges = torch.arange(sae.n_latents + 1, device=kept.latents.device)
        offsets = torch.searchsorted(kept.latents, edges)
        d_values = _paired_dots(sae.W_dec, kept.latents, flat, self._bags)
        d_values = torch.where(kept.values > 0, d_values, 0)
        one = torch.zeros_like(kept.rows)
        gradients.b_enc.copy_(_weighted_bags(d_values.new_ones(1, 1), one, offsets[:-1], d_values).view(-1))
        if self._in_blocks:
            _by_latent(gradients.W_dec, 0, flat, self._bags, kept.values, offsets)
            _by_latent(gradients.W_enc, sae.n_core, centred, kept.rows, d_values, offsets)
            return
        if self._kernels is not None:
            self._kernels.weighted_bags(flat, self._bags, offsets, kept.values, gradients.W_dec)
            self._kernels.weighted_bags(centred, kept.rows, offsets[sae.n_core :], d_values, gradients.W_enc)
            return
        # Frozen rows are computed and left out. What is replaced is freed before.
        del gradients.W_dec, gradients.W_enc
        gradients.W_dec = _weighted_bags(flat, self._bags, offsets[:-1], kept.values)
        gradients.W_enc = _weighted_bags(centred, kept.rows, offsets[:-1], d_values)[sae.n_core :]


def _by_latent(out: Tensor, first: int, table: Tensor, index: Tensor, weights: Tensor, offsets: Tensor) -> None:
    """out[i - first] = sum of weight * table[index] over the triples of latent i >= first; out [m - first, d].

    A block of `out` at a time: the sums are brought where they belong while they are in the cache.
    """
    for start, stop in row_blocks(len(out), out.shape[1], out.device):
        edges = offsets[first + start : first + stop + 1]
        low, high = int(edges[0]), int(edges[-1])
        out[start:stop] = _weighted_bags(table, index[low:high], edges[:-1] - low, weights[low:high])


def _weighted_bags(table: Tensor, index: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """[len(offsets), d]: sums of weights[i] * table[index[i]] over consecutive stretches that start at `offsets`."""
    if not len(index):
        return table.new_zeros(len(offsets), table.shape[1])
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weights)


def _paired_dots(table: Tensor, index: Tensor, other: Tensor, other_index: Tensor) -> Tensor:
    """[n]: <table[index[i]], other[other_index[i]]> without gathering either; index and other_index [n]."""
    if not len(index):
        return table.new_zeros(0)
    # The derivative of a weighted bag sum by its weights is just this, and torch has it fused.
    backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
    dots: Tensor = backward(other, table, index, torch.zeros_like(index[:1]), other_index, 0)
    return dots
