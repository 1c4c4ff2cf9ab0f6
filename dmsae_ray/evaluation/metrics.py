"""Reconstruction and sparsity of an SAE, streamed over activations with float64 sums."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dmsae_ray.evaluation.activation_batches import TotalVariance, checked_batches
from dmsae_ray.sae import MatryoshkaSAE


@dataclass(frozen=True, eq=False)
class Metrics:
    """Reconstruction and sparsity over some tokens, under the inference mask.

    Attributes:
        tokens: number of tokens.
        fvu: fraction of variance unexplained, sum ||x - xhat||^2 / sum ||x - mean(x)||^2; NaN if x does not vary.
        explained_variance: 1 - fvu.
        mse: mean of (x - xhat)^2 over tokens and dimensions.
        l0_core: mean number of active core latents per token (Eq. 9).
        l0_non_core: mean number of active other latents per token (Eq. 9).
        l0: mean number of all active latents per token, the sum of the two (Eq. 9).
        dead_fraction: share of all latents that never fire here.
        core_dead_fraction: share of the core's latents that never fire here; NaN without a core.
        core_frequency: float64 [c] on the CPU, the share of the tokens at which each core latent fires.
    """

    tokens: int
    fvu: float
    explained_variance: float
    mse: float
    l0_core: float
    l0_non_core: float
    l0: float
    dead_fraction: float
    core_dead_fraction: float
    core_frequency: Tensor

    def floats(self) -> dict[str, float]:
        """Return the numbers by name, core_frequency as its median and maximum; without a core its own are left out."""
        names = ("fvu", "explained_variance", "mse", "l0_core", "l0_non_core", "l0", "dead_fraction")
        values = {name: getattr(self, name) for name in names}
        if len(self.core_frequency):
            values["core_dead_fraction"] = self.core_dead_fraction
            values["core_frequency_median"] = float(self.core_frequency.median())
            values["core_frequency_max"] = float(self.core_frequency.max())
        return values


@torch.no_grad()
def evaluate(sae: MatryoshkaSAE, batches: Iterable[Tensor]) -> Metrics:
    """Measure an SAE on batches of activations, in one pass.

    Args:
        sae: takes raw activations.
        batches: raw x [n, d_model], of any float dtype.

    Raises:
        DataError: a value is not finite, a batch has another width, or there are no tokens.
    """
    device, c = sae.W_enc.device, sae.n_core
    spread = TotalVariance(sae.d_model, device)
    error = torch.zeros((), dtype=torch.float64, device=device)
    fired = torch.zeros(sae.n_latents, dtype=torch.int64, device=device)
    for x in checked_batches(batches, sae.d_model, device):
        z = sae.encode(x)
        wide = x.double()
        spread.add(wide)
        error += (wide - sae.decode(z).double()).square().sum()
        fired += (z > 0).sum(dim=0)
    tokens, fvu = spread.tokens, spread.unexplained(error)
    l0_core, l0_non_core = (int(part.sum()) / tokens for part in (fired[:c], fired[c:]))
    return Metrics(
        tokens=tokens,
        fvu=fvu,
        explained_variance=1 - fvu,
        mse=float(error) / (tokens * sae.d_model),
        l0_core=l0_core,
        l0_non_core=l0_non_core,
        l0=l0_core + l0_non_core,
        dead_fraction=float((fired == 0).double().mean()),
        core_dead_fraction=float((fired[:c] == 0).double().mean()) if c else float("nan"),
        core_frequency=(fired[:c].double() / tokens).cpu(),
    )
