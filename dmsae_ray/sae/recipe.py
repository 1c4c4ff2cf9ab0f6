"""How one SAE is trained: SAEBench's Matryoshka recipe, with every value as a field."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

from dmsae_ray.errors import ConfigError
from dmsae_ray.sae.health import TROUBLES, Trouble

Threshold = Literal["calibrated", "running_mean"]

_COUNTS = {
    "steps": 1, "warmup_steps": 0, "decay_start": 0, "k_aux": 1, "dead_after_tokens": 1, "threshold_start_step": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """The settings of one training; the defaults are SAEBench's (vintage A in RECIPE.md).

    That holds for lr, schedule, AuxK, running threshold and clipping; SAEBench's inference threshold is
    `threshold="running_mean"`.

    Raises:
        ConfigError: a value is outside its range.
    """

    steps: int
    """Number of optimiser steps."""
    lr: float = 3e-4
    """Peak learning rate of Adam."""
    warmup_steps: int = 1000
    """Steps of linear warm-up from 0: the first step has lr 0 and moves nothing."""
    decay_start: int | None = None
    """Step from which lr falls linearly to 0 at `steps`; default int(0.8 * steps). `steps` means no decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    eps: float = 1e-8
    """Adam's epsilon."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient, which is measured after the projection of the decoder's gradient."""
    auxk_alpha: float = 1 / 32
    """Weight of the AuxK loss on dead latents."""
    k_aux: int | None = None
    """Dead latents per token in the AuxK loss; default d_model // 2."""
    dead_after_tokens: int = 10_000_000
    """A latent that is silent for so many tokens is dead."""
    threshold_beta: float = 0.999
    """Decay of the running mean that estimates the inference threshold."""
    threshold_start_step: int = 1000
    """The threshold is estimated in steps after this one."""
    threshold: Threshold = "calibrated"
    """The inference threshold of the trained SAE.

    'calibrated': set after the last step, from the last batches, so that as many latents fire as BatchTopK keeps
    (`calibrated_threshold`). 'running_mean': the estimate of the steps, as SAEBench has it; it lags the decay of lr.
    No step depends on it.
    """
    group_weights: tuple[float, ...] | None = None
    """Weight of each prefix's loss; the loss is the *mean* of weight * loss.

    Default 1 / groups, as in dictionary_learning.
    """

    stop_on: tuple[Trouble, ...] = ("not_finite", "no_latent_fires", "all_dead")
    """Troubles that end a training (see HealthMonitor); other troubles are only reported."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_on", tuple(self.stop_on))
        if not set(self.stop_on) <= set(TROUBLES):
            raise ConfigError(f"recipe.stop_on: {list(self.stop_on)} must be names of {list(TROUBLES)}")
        if self.threshold not in get_args(Threshold):
            raise ConfigError(f"recipe.threshold: {self.threshold!r} must be one of {list(get_args(Threshold))}")
        for name in ("betas", "group_weights"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, tuple(_number(name, value, 0.0) for value in values))
        for name, low in _COUNTS.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < low):
                raise ConfigError(f"recipe.{name}: {value!r} must be a whole number, at least {low}")
        for name in ("lr", "clip_norm", "eps", "auxk_alpha", "threshold_beta"):
            value = _number(name, getattr(self, name), 0.0)
            if value == 0 and name in ("lr", "clip_norm", "eps"):
                raise ConfigError(f"recipe.{name}: {value!r} must be above 0")
        if len(self.betas) != 2 or not all(beta < 1 for beta in (*self.betas, self.threshold_beta)):
            raise ConfigError(
                f"recipe.betas: {self.betas} must be two numbers, and they and threshold_beta "
                f"{self.threshold_beta} in [0, 1)"
            )
        if self.decay_start is not None and self.decay_start > self.steps:
            raise ConfigError(f"recipe.decay_start: {self.decay_start!r} is not in 0..{self.steps}")

    def lr_at(self, step: int) -> float:
        """Return the learning rate of step 0, 1, …: linear warm-up from 0, constant, then linear to 0 at `steps`."""
        if step < self.warmup_steps:
            return self.lr * (step / self.warmup_steps)
        decay_start = int(0.8 * self.steps) if self.decay_start is None else self.decay_start
        if step >= decay_start and decay_start < self.steps:
            return self.lr * (max(0, self.steps - step) / (self.steps - decay_start))
        return self.lr

    def prefix_weights(self, groups: int) -> tuple[float, ...]:
        """Return the factor of each prefix's loss in the total: group_weights[j] / groups.

        Raises:
            ConfigError: `group_weights` has another length.
        """
        weights = (1 / groups,) * groups if self.group_weights is None else self.group_weights
        if len(weights) != groups:
            raise ConfigError(f"recipe.group_weights: {len(weights)} values for {groups} groups")
        return tuple(weight / groups for weight in weights)


def _number(name: str, value: object, low: float) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not low <= float(value) < math.inf:
        raise ConfigError(f"recipe.{name}: {value!r} must be a number, at least {low:g}")
    return float(value)
