"""A small world and scorers, as a user would bring them."""

import torch
from torch import Tensor

from dmsae_ray.distill import pool_scores
from dmsae_ray.groundtruth import WorldSource
from dmsae_ray.sae import MatryoshkaSAE

D, F = 16, 12


class Orthogonal:
    """Twelve orthogonal features without noise; the first three matter, the second most."""

    domains = 1

    def __init__(self, seed: int) -> None:
        self.fingerprint = f"orthogonal {seed}"
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self.features = torch.linalg.qr(torch.randn(D, D, generator=generator))[0][:F].contiguous()
        self.out = torch.randn(3, 5, generator=generator) * torch.tensor([1.0, 6.0, 2.0])[:, None]

    def draw(self, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + self.seed) % 2**63)
        fires = torch.rand(tokens, F, generator=generator) < 0.2
        a = fires * (0.5 + torch.rand(tokens, F, generator=generator))
        return a @ self.features, a

    def logits(self, x: Tensor, domain: int) -> Tensor:
        return (x @ self.features[:3].T) @ self.out


def orthogonal(seed: int) -> Orthogonal:
    return Orthogonal(seed)


def no_twelve(seed: int) -> Orthogonal:
    if seed == 12:
        raise RuntimeError("no world 12\nsecond line")
    return Orthogonal(seed)


class Wide(Orthogonal):
    def logits(self, x: Tensor, domain: int) -> Tensor:
        return super().logits(x, domain).double()


def wide(seed: int) -> Wide:
    return Wide(seed)


def backwards(sae: MatryoshkaSAE, source: WorldSource) -> Tensor:
    """Wrong on purpose: what matters most comes last."""
    right = pool_scores(sae, source.attribution(), score="mean_square", groups=len(sae.group_sizes))
    return right.max() - right


def nothing(sae: MatryoshkaSAE, source: WorldSource) -> Tensor:
    return torch.zeros(sae.n_latents)


def too_few(sae: MatryoshkaSAE, source: WorldSource) -> Tensor:
    return torch.ones(3)


def fails(sae: MatryoshkaSAE, source: WorldSource) -> Tensor:
    return torch.ones(1 // 0)
