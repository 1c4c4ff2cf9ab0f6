"""Exact ablation: by how much the model's loss rises when one latent is taken out of the reconstruction.

The reconstruction xhat = b_dec + sum_j z_j W_dec[j] stands in the place of x, so the SAE's error is in neither loss.
For latent i it is xhat - z_i W_dec[i] instead, and its ablation is mean loss without it - mean loss with it, in nats a
predicted token. It is no estimate: the model runs again wherever the latent fires.

Where the SAE's error is kept, x stands in its own place, and x - z_i W_dec[i] instead of it. The two differ: at xhat
the loss is not at the best that the model can do, so a latent that has nothing to do with the loss may change it in
either direction, by what its direction shares with the error; at x such changes cancel out over tokens.

A `SplicedModel` says how far an activation reaches. Its *units* are the smallest pieces whose losses do not depend on
each other: contexts of a language model, single tokens where the loss of a token depends on that token alone. Only the
units in which a latent fires are run again for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.sae import MatryoshkaSAE


@dataclass(frozen=True, eq=False)
class Units:
    """Some units of a `SplicedModel`, each of t tokens.

    Attributes:
        first: number of the first of them.
        x: [u, t, d_model], their raw activations.
        keep: bool [u, t], the tokens that keep their own activation, as in `loss_recovered`; None: no token.
    """

    first: int
    x: Tensor
    keep: Tensor | None = None


class SplicedModel(Protocol):
    """A model whose activations at one place can be replaced, on a fixed sample of tokens."""

    @property
    def targets(self) -> int:
        """Number of tokens whose loss is counted, over all units."""

    def units(self) -> Iterator[Units]:
        """Yield all units, in parts that fit into memory with all their latents."""

    def losses(self, numbers: Tensor, x: Tensor) -> Tensor:
        """Return the summed loss in nats of each of r units, a float tensor [r].

        Args:
            numbers: int64 [r], the units, in any order; one may be there several times, with other activations.
            x: [r, t, d_model], what stands in the place of their activations.
        """


@torch.no_grad()
def ablation(
    model: SplicedModel,
    sae: MatryoshkaSAE,
    *,
    start: int = 0,
    stop: int | None = None,
    batch: int = 4096,
    keep_error: bool = False,
) -> Tensor:
    """Return by how much the mean loss rises when each latent is taken out of the spliced reconstruction.

    Args:
        model: the model and its tokens.
        sae: takes raw activations, and is on the model's device; all its latents reconstruct, under the inference mask.
        start: first latent that is taken out.
        stop: latent behind the last; None: all from `start` on.
        batch: units that the model runs at a time.
        keep_error: take latents out of x itself, that is, of reconstruction plus error.

    Returns:
        float64 [stop - start] on the CPU, in nats a predicted token; below 0 where the loss falls without the latent,
        and exactly 0 where it never fires.

    Raises:
        ConfigError: the latents are not of the SAE, or `batch` is below 1.
        DataError: there is nothing to predict, or a loss is not finite.
    """
    stop = sae.n_latents if stop is None else stop
    if not 0 <= start <= stop <= sae.n_latents:
        raise ConfigError(f"latents: {start}..{stop} are not within 0..{sae.n_latents}")
    if batch < 1:
        raise ConfigError(f"batch: {batch!r} must be at least 1")
    if model.targets < 1:
        raise DataError("ablation: the tokens have no targets to predict")
    total = torch.zeros(stop - start, dtype=torch.float64)
    for part in model.units():
        units, tokens, width = part.x.shape
        flat = part.x.reshape(-1, width).to(sae.W_dec.dtype)
        z = sae.encode(flat)
        spliced = flat if keep_error else sae.decode(z)
        z = z[:, start:stop]
        if part.keep is not None:
            keep = part.keep.reshape(-1, 1).to(flat.device)
            spliced, z = torch.where(keep, flat, spliced), z.masked_fill(keep, 0.0)
        spliced, z = spliced.reshape(part.x.shape), z.reshape(units, tokens, -1)
        numbers = part.first + torch.arange(units, device=flat.device)
        whole = torch.cat([_losses(model, numbers[n], spliced[n]) for n in _stretches(units, batch)])
        # Latent by latent, every unit in which it fires.
        latents, fires = (z > 0).any(dim=1).T.nonzero(as_tuple=True)
        for n in _stretches(len(latents), batch):
            i, u = latents[n], fires[n]
            without = spliced[u] - z[u, :, i][:, :, None] * sae.W_dec[start + i][:, None, :]
            rise = _losses(model, numbers[u], without) - whole[u]
            total.index_add_(0, i.cpu(), rise.cpu())
    return total / model.targets


def _stretches(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def _losses(model: SplicedModel, numbers: Tensor, x: Tensor) -> Tensor:
    """Return the losses of units as float64 [r].

    Raises:
        DataError: one is not finite.
    """
    losses = model.losses(numbers, x).double()
    good = torch.isfinite(losses)
    if not bool(good.all()):
        unit = int(numbers[int((~good).nonzero()[0])])
        raise DataError(f"ablation: the loss of unit {unit} is not finite")
    return losses
