"""How well each prefix of a Matryoshka SAE reconstructs, and how often each latent fires: one pass over activations."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dmsae_ray.evaluation.activation_batches import TotalVariance, checked_batches
from dmsae_ray.sae import MatryoshkaSAE

_ELEMENTS = 1 << 26
"""Activations of latents that exist at a time: 268 MB in float32."""


@dataclass(frozen=True, eq=False)
class PrefixReconstruction:
    """What each prefix of an SAE does over some tokens, under the inference mask.

    Prefix j is the core and the groups 0..j (Eq. 5); the last one is the whole SAE.

    Attributes:
        tokens: number of tokens.
        sizes: latents of each prefix.
        fvu: fraction of variance unexplained by each prefix, sum ||x - xhat_j||^2 / sum ||x - mean(x)||^2; NaN if x
            does not vary.
        l0: mean number of active latents of each prefix per token.
        fired: int64 [m] on the CPU, the number of tokens at which each latent fires.
    """

    tokens: int
    sizes: tuple[int, ...]
    fvu: tuple[float, ...]
    l0: tuple[float, ...]
    fired: Tensor


@torch.no_grad()
def measure_prefixes(sae: MatryoshkaSAE, batches: Iterable[Tensor]) -> PrefixReconstruction:
    """Measure all prefixes of an SAE on batches of activations, in one pass.

    A latent is encoded once: xhat_j is xhat_{j-1} and what group j adds, as in
    `MatryoshkaSAE.prefix_reconstructions`. Memory grows neither with the tokens nor with the width of a batch.

    Args:
        sae: takes raw activations.
        batches: raw x [n, d_model], of any float dtype.

    Raises:
        DataError: a value is not finite, a batch has another width, or there are no tokens.
    """
    device, stops = sae.W_enc.device, [sae.n_core + size for size in sae.prefix_sizes]
    starts = [0, *stops[:-1]]
    rows = max(1, _ELEMENTS // max(stop - start for start, stop in zip(starts, stops, strict=True)))
    spread = TotalVariance(sae.d_model, device)
    errors = torch.zeros(len(stops), dtype=torch.float64, device=device)
    fired = torch.zeros(sae.n_latents, dtype=torch.int64, device=device)
    for batch in checked_batches(batches, sae.d_model, device):
        for x in torch.split(batch, rows):
            wide = x.double()
            spread.add(wide)
            total = sae.b_dec.data
            for j, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                z = sae.encode_range(x, start, stop)
                fired[start:stop] += (z > 0).sum(dim=0)
                total = total + z @ sae.W_dec[start:stop]
                errors[j] += (wide - total.double()).square().sum()
    return PrefixReconstruction(
        tokens=spread.tokens,
        sizes=tuple(stops),
        fvu=tuple(spread.unexplained(error) for error in errors),
        l0=tuple(int(fired[:stop].sum()) / spread.tokens for stop in stops),
        fired=fired.cpu(),
    )
