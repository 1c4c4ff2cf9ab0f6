"""AuxK: dead latents learn to reconstruct what the living ones leave over (RECIPE section 1, items 6 and `Aux`)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dmsae_ray.sae.product import product
from dmsae_ray.sae.ranks import RankGroup


@dataclass(frozen=True)
class AuxK:
    """The auxiliary loss and its gradients by the rows of the dead latents."""

    loss: Tensor
    """[] squared error of the auxiliary reconstruction over the residual's variance about the batch mean."""
    latents: Tensor
    """[a] the dead latents."""
    W_enc: Tensor
    """[a, d] gradient of loss."""
    b_enc: Tensor
    """[a]"""
    W_dec: Tensor
    """[a, d]"""


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
    """Loss and gradients, this rank's share of both (they add up over the ranks).

    residual [b, d] = x - xhat, a constant here; centred [b, d] = x - b_dec; n_tokens counts over all ranks.
    latents [a] candidates, dead [a] which of them are dead; weights = (W_enc [m, d], b_enc [m], W_dec [m, d]);
    low: see `product`.
    Each row keeps its k_aux largest activations of dead latents; b_dec is not added. Where the residual has no
    variance but rounding (a batch of one, or of equal rows) the loss is 0.
    """
    W_enc, b_enc, W_dec = weights
    decoder = W_dec[latents]
    acts = torch.relu_(product(centred, W_enc[latents], low) + b_enc[latents])
    acts = torch.where(dead, acts, 0)
    if k_aux < len(latents):
        top = acts.topk(k_aux, sorted=False)
        acts = torch.zeros_like(acts).scatter_(1, top.indices, top.values)
    mean = ranks.sum(residual.sum(0)) / n_tokens
    variance = ranks.sum((residual - mean).square().sum()) / n_tokens
    error = residual - acts @ decoder
    rounding = mean.square().sum() * torch.finfo(mean.dtype).eps ** 2
    scale = torch.where(variance > rounding, 1 / (variance * n_tokens), 0)
    loss = torch.nan_to_num(error.square().sum() * scale)
    push = error * (-2 * scale)
    d_acts = torch.where(acts > 0, push @ decoder.T, 0)
    return AuxK(loss, latents, d_acts.T @ centred, d_acts.sum(0), acts.T @ push)
