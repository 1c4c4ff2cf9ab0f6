"""Small settings that the tests of this room share."""

from typing import Any

import torch
from torch import Tensor

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.ranks import RankGroup
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.sae.trainer import SAETrainer

from .reference import DenseReference

RECIPE: dict[str, Any] = {
    "steps": 60,
    "lr": 1e-3,
    "warmup_steps": 5,
    "decay_start": 40,
    "threshold_start_step": 8,
    "dead_after_tokens": 96,
}


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{**RECIPE, **changes})


def make_sae(
    d: int = 12, m: int = 64, groups: tuple[int, ...] = (8, 16, 40), k: int = 4, n_core: int = 0, **options: Any
) -> MatryoshkaSAE:
    core = torch.randn(n_core, d, generator=torch.Generator().manual_seed(77)) if n_core else None
    return MatryoshkaSAE(d, m, list(groups), k, core=core, **options)


class PretendSeveral(RankGroup):
    """One process that takes the path of several."""

    def __init__(self) -> None:
        super().__init__(None)
        self.size = 2

    def sum(self, value: Tensor) -> Tensor:
        return value

    minimum = maximum = sum


def as_on_cuda(trainer: SAETrainer) -> SAETrainer:
    """Nothing is asked of the device: a fixed number of triples, whole gradients, dead latents bounded before."""
    trainer._objective._select._scans = False
    trainer._objective._in_blocks = False
    trainer._silence._lags = True
    return trainer


def features(rows: int, d: int, seed: int, n: int = 30) -> Tensor:
    """[rows, d]: sparse mixtures of n directions, as activations are."""
    directions = torch.randn(n, d, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(seed)
    on = (torch.rand(rows, n, generator=g) < 0.12).float() * torch.rand(rows, n, generator=g)
    return on @ directions / d**0.5 + 0.05 * torch.randn(rows, d, generator=g) + 0.1


def reference_of(sae: MatryoshkaSAE, recipe: Recipe, dtype: torch.dtype = torch.float32) -> DenseReference:
    weights = None if recipe.group_weights is None else list(recipe.group_weights)
    return DenseReference(
        *(t.detach().clone().to(dtype) for t in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)),
        n_core=sae.n_core,
        groups=list(sae.group_sizes),
        k=sae.k,
        sparse_core=sae.core_sparsity == "sparse",
        steps=recipe.steps,
        lr=recipe.lr,
        warmup=recipe.warmup_steps,
        decay_start=recipe.decay_start,
        alpha=recipe.auxk_alpha,
        k_aux=recipe.k_aux,
        dead_after=recipe.dead_after_tokens,
        beta=recipe.threshold_beta,
        threshold_start=recipe.threshold_start_step,
        clip=recipe.clip_norm,
        weights=weights,
    )


def assert_same_weights(sae: MatryoshkaSAE, reference: DenseReference, tolerance: float = 1e-4) -> None:
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        error = (getattr(sae, name) - getattr(reference, name).detach()).abs().max()
        assert error < tolerance, f"{name} differs by {float(error)}"
