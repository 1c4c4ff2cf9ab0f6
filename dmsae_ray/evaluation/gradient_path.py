"""Integrated gradients: what each latent adds to the loss, on the straight path from none of them to all.

Sundararajan et al. 2017 (arXiv 1703.01365), for the latents of an SAE (as in Marks et al. 2024, arXiv 2403.19647): with
x(a) = x - (1 - a) sum_j z_j W_dec[j], from a = 0 (all latents taken out, the SAE's error kept) to a = 1 (the model as
it is), latent i has

    IG_i = -sum over tokens of z_i <integral over a of dL/dx(a), W_dec[i]>,

so that the IG of all latents add up to L(x(0)) - L(x(1)), by how much the loss rises without them. Ablation takes out
one latent beside all others and costs a run of the model for each; this costs one for each step of the path.
"""

from typing import Protocol

import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.evaluation.latent_ablation import SplicedModel
from dmsae_ray.sae import MatryoshkaSAE


class DifferentiableModel(SplicedModel, Protocol):
    """A `SplicedModel` whose losses can be differentiated."""

    def gradients(self, numbers: Tensor, x: Tensor) -> Tensor:
        """Return the gradient at x [r, t, d_model] of the summed losses of r units that have x: of x's shape."""


@torch.no_grad()
def integrated_gradients(
    model: DifferentiableModel, sae: MatryoshkaSAE, *, stop: int | None = None, steps: int = 16
) -> Tensor:
    """Return the integrated gradients of the latents 0..stop-1, on the path on which these are taken out together.

    Args:
        model: the model and its tokens; tokens that keep their own activation keep all latents.
        sae: takes raw activations, and is on the model's device; latents fire under the inference mask.
        stop: latent behind the last; None: all.
        steps: points of the path, the middles of as many equal parts. The sum over latents is exact to second order.

    Returns:
        float64 [stop] on the CPU, in nats a predicted token; above 0 where the latent lowers the loss.

    Raises:
        ConfigError: the latents are not of the SAE, or `steps` is below 1.
        DataError: there is nothing to predict, or a gradient is not finite.
    """
    stop = sae.n_latents if stop is None else stop
    if not 0 <= stop <= sae.n_latents:
        raise ConfigError(f"latents: 0..{stop} are not within 0..{sae.n_latents}")
    if steps < 1:
        raise ConfigError(f"steps: {steps!r} must be at least 1")
    if model.targets < 1:
        raise DataError("integrated gradients: the tokens have no targets to predict")
    total = torch.zeros(stop, dtype=torch.float64)
    for part in model.units():
        units, _, width = part.x.shape
        flat = part.x.reshape(-1, width).to(sae.W_dec.dtype)
        z = sae.encode(flat)[:, :stop]
        if part.keep is not None:
            z = z.masked_fill(part.keep.reshape(-1, 1).to(z.device), 0.0)
        taken = z @ sae.W_dec[:stop]
        numbers = part.first + torch.arange(units, device=flat.device)
        mean = torch.zeros_like(flat)
        for step in range(steps):
            x = flat - (1 - (step + 0.5) / steps) * taken
            mean += model.gradients(numbers, x.reshape(part.x.shape)).reshape(flat.shape).to(mean.dtype) / steps
        if not bool(torch.isfinite(mean).all()):
            raise DataError(f"integrated gradients: a gradient of units {part.first}.. is not finite")
        total -= (z * (mean @ sae.W_dec[:stop].T)).sum(dim=0, dtype=torch.float64).cpu()
    return total / model.targets
