"""Some latents of an SAE, cut out so that a pass over many tokens computes nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError
from dmsae_ray.sae.dictionary import MatryoshkaSAE


@dataclass(frozen=True, eq=False)
class LatentRows:
    """n latents of an SAE, as copies of their own.

    Attributes:
        latents: their row numbers in the SAE.
        encoder: [n, d] rows of W_enc.
        bias: [n] of b_enc.
        centre: [d], what is subtracted from x: b_dec of the SAE.
        threshold: [n], what each must exceed at inference (`MatryoshkaSAE.threshold`).
        decoder: [n, d] rows of W_dec.
    """

    latents: tuple[int, ...]
    encoder: Tensor
    bias: Tensor
    centre: Tensor
    threshold: Tensor
    decoder: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def subset(self, places: Sequence[int]) -> "LatentRows":
        """Return those at these places of the n."""
        index = list(places)
        return replace(
            self,
            latents=tuple(self.latents[i] for i in index),
            encoder=self.encoder[index],
            bias=self.bias[index],
            threshold=self.threshold[index],
            decoder=self.decoder[index],
        )

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return these columns of `MatryoshkaSAE.encode`: z [tokens, n] of x [tokens, d], with the inference mask."""
        centred = x.to(self.encoder.dtype) - self.centre
        u = torch.relu(centred @ self.encoder.T + self.bias)
        return u * (u > self.threshold)


@torch.no_grad()
def latent_rows(sae: MatryoshkaSAE, latents: Sequence[int]) -> LatentRows:
    """Copy some latents of an SAE that takes raw activations.

    Raises:
        ConfigError: the SAE has no such latent.
    """
    for latent in latents:
        if not 0 <= latent < sae.n_latents:
            raise ConfigError(f"latent {latent}: the SAE has the latents 0..{sae.n_latents - 1}")
    index = torch.tensor(list(latents), dtype=torch.int64)
    return LatentRows(
        latents=tuple(int(i) for i in latents),
        encoder=sae.W_enc[index].clone(),
        bias=sae.b_enc[index].clone(),
        centre=sae.b_dec.detach().clone(),
        threshold=sae.threshold[index].clone(),
        decoder=sae.W_dec[index].clone(),
    )


@torch.no_grad()
def together(parts: Sequence[LatentRows]) -> LatentRows:
    """Return the latents of several SAEs of one width as one: they are encoded in one product.

    x is centred at the mean of their centres. What each centre differs from it, which is little where the SAEs are of
    the same activations, goes into the biases.
    """
    centres = torch.stack([part.centre for part in parts]).double()
    centre = centres.mean(dim=0)
    biases = [part.bias.double() + part.encoder.double() @ (centre - part.centre.double()) for part in parts]
    return LatentRows(
        latents=tuple(latent for part in parts for latent in part.latents),
        encoder=torch.cat([part.encoder for part in parts]),
        bias=torch.cat(biases).to(parts[0].bias.dtype),
        centre=centre.to(parts[0].centre.dtype),
        threshold=torch.cat([part.threshold for part in parts]),
        decoder=torch.cat([part.decoder for part in parts]),
    )
