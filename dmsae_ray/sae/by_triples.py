"""Decode and differentiate the kept activations one by one: the cost grows with their number alone."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.gradients import Gradients, row_blocks
from dmsae_ray.sae.triples import Triples


class ByTriples:
    """The kept latents of a batch of b rows, as parts of the reconstructions of `groups` groups.

    Args:
        sae: the dictionary.
        kept: the kept activations.
        b: rows of the batch.
        group_of: int64 [m], the group of each latent.
        groups: number of groups.
        in_blocks: whether gradients are written one block of latents at a time; this asks the device where a block
            begins.
        kernels: the module that sums rows on this device, see `kernel_choice`; None for torch.
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
        """Return what each group adds to each row: [groups, b, d]."""
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
        """Overwrite the gradients of W_enc, b_enc and W_dec.

        Args:
            gradients: what is overwritten.
            centred: [b, d], x - b_dec.
            pushes: [groups, b, d], the derivative of the loss with respect to what `decode` returns.
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
        # Frozen rows are computed too, and left out. The old gradients are freed first, to save memory.
        del gradients.W_dec, gradients.W_enc
        gradients.W_dec = _weighted_bags(flat, self._bags, offsets[:-1], kept.values)
        gradients.W_enc = _weighted_bags(centred, kept.rows, offsets[:-1], d_values)[sae.n_core :]


def _by_latent(out: Tensor, first: int, table: Tensor, index: Tensor, weights: Tensor, offsets: Tensor) -> None:
    """Write to out[i - first] the sum of weight * table[index] over the triples of latent i >= first.

    `out` is [m - first, d]. It is written one block at a time: the sums are copied to their place while they are in the
    cache.
    """
    for start, stop in row_blocks(len(out), out.shape[1], out.device):
        edges = offsets[first + start : first + stop + 1]
        low, high = int(edges[0]), int(edges[-1])
        out[start:stop] = _weighted_bags(table, index[low:high], edges[:-1] - low, weights[low:high])


def _weighted_bags(table: Tensor, index: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return the sums of weights[i] * table[index[i]] over the stretches that start at `offsets`: [len(offsets), d]."""
    if not len(index):
        return table.new_zeros(len(offsets), table.shape[1])
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weights)


def _paired_dots(table: Tensor, index: Tensor, other: Tensor, other_index: Tensor) -> Tensor:
    """Return <table[index[i]], other[other_index[i]]> for each i, [n], without gathering either factor."""
    if not len(index):
        return table.new_zeros(0)
    # This is the derivative of a weighted bag sum with respect to its weights, which torch computes in one pass.
    backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
    dots: Tensor = backward(other, table, index, torch.zeros_like(index[:1]), other_index, 0)
    return dots
