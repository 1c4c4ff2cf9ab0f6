"""The settings of the benchmark: one training's recipe, small enough for seconds, and the method's own settings."""

from dataclasses import dataclass
from typing import Literal

from dmsae_ray.distill import CycleSettings, check_coverage
from dmsae_ray.errors import ConfigError
from dmsae_ray.sae import Recipe


@dataclass(frozen=True)
class BenchmarkSettings:
    """How replicas of the benchmark are run.

    Raises:
        ConfigError: a value is outside its range.
    """

    n_latents: int = 256
    group_sizes: tuple[int, ...] = (32, 32, 64, 128)
    k: int = 6
    batch_size: int = 256
    steps: int = 300
    lr: float = 1e-2
    cycles: int = 3
    """Cycles after cycle 0."""
    coverage: float = 0.9
    score: str = "quantile"
    """The score that selects cores: one of distill.SCORES, or the name of a scorer that is given."""
    quantile: float = 0.99
    pool_groups: int = 1
    """Groups of the candidate pool; all of them make it the whole dictionary."""
    tokens: int = 16_000
    """Attribution tokens of each loss; as many are held out."""
    importance_tokens: int = 20_000
    """Tokens behind the true importance."""
    decoder_cosine: float = 0.9
    encoder_cosine: float = 0.7
    draws: int = 20
    """Random sets are drawn so many times, and the mean is shown."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group_sizes", tuple(self.group_sizes))
        for name in ("steps", "cycles", "tokens", "importance_tokens", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)!r} must be at least 1")
        check_coverage(self.coverage)
        for name in ("decoder_cosine", "encoder_cosine"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: {getattr(self, name)!r} is not in (0, 1]")

    def cycle_settings(
        self, core_sparsity: Literal["dense", "sparse"], *, attribution_parts: int = 1, k: int | None = None
    ) -> CycleSettings:
        """Return the settings of the trainings around a dense or a sparse core."""
        recipe = Recipe(
            steps=self.steps,
            lr=self.lr,
            warmup_steps=min(20, self.steps // 2),
            threshold_start_step=min(50, self.steps // 2),
            threshold_beta=0.98,
            dead_after_tokens=20 * self.batch_size,
        )
        return CycleSettings(
            self.n_latents,
            self.group_sizes,
            self.k if k is None else k,
            recipe,
            self.batch_size,
            self.steps,
            core_sparsity=core_sparsity,
            quantile=self.quantile,
            score=self.score,
            pool_groups=self.pool_groups,
            attribution_parts=attribution_parts,
        )
