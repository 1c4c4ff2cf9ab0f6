"""What determines one cycle, and the key under which its result is found again."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dmsae_ray.distill.attribution import check_score
from dmsae_ray.errors import ConfigError
from dmsae_ray.sae import MatryoshkaSAE, Recipe

KEY_VERSION = 1
"""Raised whenever the numerics of a cycle change, so that results of older versions are not taken for new ones."""


class DataSource(Protocol):
    """Where a trial's activations come from. Everything it returns is a pure function of `fingerprint` and the step."""

    @property
    def fingerprint(self) -> str:
        """Names all that determines the batches, the attribution set and the norm factor (not the worker count)."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def norm_factor(self) -> float:
        """sqrt(mean ||x||^2): activations are divided by it before training."""

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        """This rank's rows of the global batches start..stop-1: raw [b_local, d_model], one tensor a step.

        Of any float dtype: widening a stored bfloat16 to float32 is exact, and half the bytes go to the device.
        """

    def attribution(self) -> tuple[Tensor, Tensor]:
        """The attribution set (x, g), each [n, d_model], raw, of any float dtype, maybe memory-mapped."""


@dataclass(frozen=True)
class CycleSettings:
    """One training and its scoring, apart from core, seed and data."""

    n_latents: int
    """m: dictionary size, core included."""
    group_sizes: tuple[int, ...]
    """Sizes of the Matryoshka groups, smallest prefix first; the last gives up the core's latents."""
    k: int
    """Target L0 of the baseline; the non-core budget k' follows from it (Eq. 4)."""
    recipe: Recipe
    batch_size: int
    """Tokens of a global batch, over all ranks."""
    steps: int
    """Batches of one cycle."""
    core_sparsity: Literal["dense", "sparse"] = "dense"
    core_decoder_init: Literal["random", "tied"] = "random"
    quantile: float = 0.99
    """q of Eq. 6."""
    score: str = "quantile"
    """What latents are ranked by: a name of attribution.SCORES, or of a `scorer` given to run_cycles."""
    pool_groups: int = 1
    """Non-core groups in the candidate pool; 1 is the paper's prefix-0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group_sizes", tuple(int(g) for g in self.group_sizes))
        for name in ("n_latents", "k", "batch_size", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)!r} must be at least 1")
        if not 1 <= self.pool_groups <= len(self.group_sizes):
            raise ConfigError(f"pool_groups: {self.pool_groups!r} is not in 1..{len(self.group_sizes)}")
        if self.recipe.steps != self.steps:
            raise ConfigError(f"steps: {self.steps} contradicts recipe.steps {self.recipe.steps}; they must be equal")

    def scoring(self) -> dict[str, Any]:
        """The part that does not touch training: a stored SAE is scored again when only this differs."""
        return {"quantile": self.quantile, "score": self.score, "pool_groups": self.pool_groups}

    def check_scoring(self, *, has_scorer: bool) -> None:
        """ConfigError if the score is neither built in nor brought along."""
        if not has_scorer:
            check_score(self.score, self.quantile)


def cycle_key(settings: CycleSettings, fingerprint: str, core_rows: Tensor, seed: int, start_step: int) -> str:
    """Hex SHA-256 of all that determines the SAE of a cycle: data, recipe, core rows [c, d], seed, first batch.

    Not in it: the coverage and the scoring (applied to the result), the number of workers (it does not change it).
    """
    trained = {k: v for k, v in asdict(settings).items() if k not in settings.scoring()}
    what = {
        "version": KEY_VERSION,
        "settings": trained,
        "data": fingerprint,
        "core": _digest(core_rows),
        "seed": seed,
        "start_step": start_step,
    }
    return _hash(what)


def given_key(fingerprint: str, sae: MatryoshkaSAE) -> str:
    """Key of cycle 0 when its SAE is given, not trained: its weights and the data that it is scored on."""
    weights = {name: _digest(tensor) for name, tensor in sorted(sae.state_dict().items())}
    return _hash({"version": KEY_VERSION, "given": weights, "data": fingerprint})


def check_width(name: str, width: int, source: DataSource) -> None:
    """ConfigError naming `name` if its width is not that of the activations."""
    if width != source.d_model:
        raise ConfigError(f"{name}: width {width} is not the activations' {source.d_model}")


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous()
    header = f"{tuple(flat.shape)}{flat.dtype}".encode()
    return hashlib.sha256(header + flat.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _hash(what: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
