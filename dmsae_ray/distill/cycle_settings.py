"""What determines one cycle, and the key under which its result is stored."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dmsae_ray.distill.attribution import check_score
from dmsae_ray.distill.attribution_set import AttributionSet
from dmsae_ray.distill.pool_mask import check_mask
from dmsae_ray.errors import ConfigError
from dmsae_ray.sae import CoreTakes, MatryoshkaSAE, Recipe

KEY_VERSION = 2
"""Increased whenever the numerics of a cycle change, so that results of older versions are not taken for new ones."""


SCORING = ("quantile", "score", "pool_groups", "mask", "intersect", "attribution_parts")
"""Fields of CycleSettings that are applied to a trained SAE."""
OPTIONAL_SCORING = ("mask", "intersect", "part")
"""Names of `CycleSettings.scoring` that are there only where they are not as in the paper."""


class DataSource(Protocol):
    """Where the activations of a trial come from.

    Everything that it returns is a pure function of `fingerprint` and the step.
    """

    @property
    def fingerprint(self) -> str:
        """Identifies all that determines batches, attribution set and norm factor (the worker count does not)."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def norm_factor(self) -> float:
        """sqrt(mean ||x||^2), by which activations are divided before training."""

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield this rank's rows of the global batches start..stop-1: raw x [b_local, d_model], one tensor per step.

        Any float dtype is allowed: to widen a stored bfloat16 to float32 is exact, and half the bytes go to the device.
        """

    def attribution(self) -> AttributionSet | tuple[Tensor, Tensor]:
        """Return the attribution set, to be read in parts; or (x, g), each [n, d_model], raw, of any float dtype."""


@dataclass(frozen=True)
class CycleSettings:
    """The settings of one training and its scoring, apart from core, seed and data.

    Raises:
        ConfigError: a value is outside its range, or two values contradict each other.
    """

    n_latents: int
    """m, the dictionary size, core included."""
    group_sizes: tuple[int, ...]
    """Sizes of the Matryoshka groups, smallest prefix first, before the core takes its latents."""
    k: int
    """Target L0 of the baseline; the non-core budget k' follows from it (Eq. 4)."""
    recipe: Recipe
    """How the SAE is trained."""
    batch_size: int
    """Tokens of a global batch, over all ranks."""
    steps: int
    """Number of batches of one cycle."""
    core_sparsity: Literal["dense", "sparse"] = "dense"
    """Whether the core is exempt from BatchTopK ('dense', Eq. 3) or not ('sparse')."""
    core_decoder_init: Literal["random", "tied"] = "random"
    """How the decoder rows of the core start: as random directions, or as its encoder rows with unit norm."""
    core_takes: CoreTakes = "last_group"
    """Which groups give up latents to the core: the last, or all in proportion."""
    quantile: float = 0.99
    """q of Eq. 6."""
    score: str = "quantile"
    """The score that ranks latents: a name of attribution.SCORES, or of the `scorer` given to CycleRunner."""
    pool_groups: int = 1
    """Number of non-core groups in the candidate pool; 1 is the paper's prefix-0."""
    mask: str = "threshold"
    """Which activations of the pool count: a name of pool_mask.MASKS."""
    intersect: int = 1
    """Score each of so many equal parts of the attribution set, and take each latent's lowest score.

    What is then selected matters in every part: in all halves, or all domains, where the set has one after the other.
    """
    attribution_parts: int = 1
    """Cut the attribution set into so many equal parts; cycle l is scored on part l (modulo their number).

    With one part for each cycle, every cycle draws fresh tokens.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "group_sizes", tuple(int(g) for g in self.group_sizes))
        for name in ("n_latents", "k", "batch_size", "steps", "intersect", "attribution_parts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)!r} must be at least 1")
        if not 1 <= self.pool_groups <= len(self.group_sizes):
            raise ConfigError(f"pool_groups: {self.pool_groups!r} is not in 1..{len(self.group_sizes)}")
        if self.recipe.steps != self.steps:
            raise ConfigError(f"steps: {self.steps} contradicts recipe.steps {self.recipe.steps}; they must be equal")

    def scoring(self, cycle: int = 0) -> dict[str, Any]:
        """Return how a cycle is scored, which does not touch training: if only it differs, an SAE is scored again."""
        found: dict[str, Any] = {"quantile": self.quantile, "score": self.score, "pool_groups": self.pool_groups}
        if self.mask != "threshold":
            found["mask"] = self.mask
        if self.intersect > 1:
            found["intersect"] = self.intersect
        if self.attribution_parts > 1:
            found["part"] = [cycle % self.attribution_parts, self.attribution_parts]
        return found

    def check_scoring(self, *, has_scorer: bool) -> None:
        """Check that the score is built in, or that a scorer is given.

        Raises:
            ConfigError: the score or the mask is unknown, or the score cannot use the quantile.
        """
        check_mask(self.mask)
        if not has_scorer:
            check_score(self.score, self.quantile)


def cycle_key(settings: CycleSettings, fingerprint: str, core_rows: Tensor, seed: int, start_step: int) -> str:
    """Return the key of a cycle, a hex SHA-256 of all that determines its SAE.

    The coverage and the scoring are not in it, because they are applied to the result. The number of workers is not in
    it, because it does not change the result.

    Args:
        settings: the settings.
        fingerprint: identifies the data, see `DataSource`.
        core_rows: [c, d], the frozen rows.
        seed: seed of the training.
        start_step: number of the first batch.
    """
    trained = {k: v for k, v in asdict(settings).items() if k not in SCORING}
    if len(core_rows) == 0:  # what is said of a core changes nothing where there is none
        trained |= {"core_sparsity": "dense", "core_decoder_init": "random", "core_takes": "last_group"}
    if trained["core_takes"] == "last_group":
        del trained["core_takes"]  # keys are those of the versions that had no such setting
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
    """Return the key of cycle 0 for a given SAE: a hash of its weights and of the data on which it is scored."""
    weights = {name: _digest(tensor) for name, tensor in sorted(sae.state_dict().items())}
    return _hash({"version": KEY_VERSION, "given": weights, "data": fingerprint})


def check_width(name: str, width: int, source: DataSource) -> None:
    """Check that a width is that of the activations.

    Raises:
        ConfigError: it is another width; the message begins with `name`.
    """
    if width != source.d_model:
        raise ConfigError(f"{name}: width {width} is not the activations' {source.d_model}")


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous()
    header = f"{tuple(flat.shape)}{flat.dtype}".encode()
    return hashlib.sha256(header + flat.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _hash(what: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
