"""AuxK: dead latents learn to reconstruct what the live latents leave over, as in dictionary_learning."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dmsae_ray.sae.gradients import row_blocks
from dmsae_ray.sae.product import product
from dmsae_ray.sae.ranks import RankGroup


@dataclass(frozen=True)
class AuxK:
    """The auxiliary loss, and its gradients with respect to the rows of the dead latents."""

    loss: Tensor
    """[] squared error of the auxiliary reconstruction, divided by the residual's variance about the batch mean."""
    latents: Tensor
    """[a] the candidate latents, whose rows the gradients are of."""
    W_enc: Tensor
    """[a, d] gradient of the loss."""
    b_enc: Tensor
    """[a] gradient of the loss."""
    W_dec: Tensor
    """[a, d] gradient of the loss."""


def auxk(
    residual: Tensor,
    centred: Tensor,
    dead: Tensor,
    latents: Tensor,
    k_aux: int,
    n_tokens: int,
    weights: tuple[Tensor, Tensor, Tensor],
    ranks: RankGroup,
    low: torch.dtype | None = None,
) -> AuxK:
    """Compute this rank's share of the AuxK loss and of its gradients; the shares of all ranks add up.

    Each row keeps its k_aux largest activations of dead latents; b_dec is not added. The loss is 0 where no candidate
    is dead, or where the residual varies by no more than rounding (a batch of one row, or of equal rows).

    Args:
        residual: [b, d], x - xhat; it is a constant here.
        centred: [b, d], x - b_dec.
        dead: bool [a], which of the candidates are dead.
        latents: int64 [a], the candidates.
        k_aux: dead latents per token.
        n_tokens: tokens of the batch over all ranks.
        weights: W_enc [m, d], b_enc [m] and W_dec [m, d].
        ranks: the ranks that share the batch.
        low: dtype to which the factors of products are rounded, see `product`.
    """
    W_enc, b_enc, W_dec = (weight[latents] for weight in weights)
    mean = ranks.sum(residual.sum(0)) / n_tokens
    variance = ranks.sum((residual - mean).square().sum()) / n_tokens
    rounding = mean.square().sum() * torch.finfo(mean.dtype).eps ** 2
    scale = torch.where((variance > rounding) & dead.any(), 1 / (variance * n_tokens), 0)
    found = AuxK(
        scale.new_zeros(()), latents, torch.zeros_like(W_enc), torch.zeros_like(b_enc), torch.zeros_like(W_dec)
    )
    for start, stop in row_blocks(len(centred), len(latents), centred.device):
        rows = centred[start:stop]
        acts = product(rows, W_enc.T, low).add_(b_enc).relu_().masked_fill_(~dead, 0)
        if k_aux < len(latents):
            top = acts.topk(k_aux, sorted=False)
            acts = torch.zeros_like(acts).scatter_(1, top.indices, top.values)
        error = residual[start:stop] - product(acts, W_dec, low)
        found.loss.add_(error.square().sum() * scale)
        push = error.mul_(-2 * scale)
        d_acts = product(push, W_dec.T, low).masked_fill_(acts <= 0, 0)
        found.W_enc.add_(product(d_acts.T, rows, low))
        found.b_enc.add_(d_acts.sum(0))
        found.W_dec.add_(product(acts.T, push, low))
    found.loss.nan_to_num_()
    return found
