"""The result of one training and its scoring, as it is stored and shared between trials."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dmsae_ray.distill.reports import WindowReport
from dmsae_ray.distill.training import TrainingResult
from dmsae_ray.sae import MatryoshkaSAE

ALL_SCORES_ZERO = "all_scores_zero"
"""No latent of the pool matters to the loss."""
NOT_FINITE = "not_finite"
"""The loss or a weight is NaN or infinite."""
NO_LATENT_FIRES = "no_latent_fires"
"""L0 was 0 throughout the last window of the training."""


@dataclass(frozen=True)
class Health:
    """How the training went.

    collapsed    None, or why there is nothing to select from: the trouble that ended the training or that it ended in
    troubles     all that sae.HealthMonitor noticed, whether the training went on or not: first step by name
    """

    collapsed: str | None = None
    troubles: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TrainedCycle:
    """One cycle's result.

    sae          takes raw activations (folded)
    scores       [pool] float64, Eq. 6 or another score, by `scoring`
    frequency    [m] float64: share of the attribution set's tokens at which each latent fires
    metrics      measured by run_cycles, and by `evaluate` when `evaluated`
    tokens, flops, seconds   cost of training and scoring
    windows      the training curve, told again to every trial that finds this cycle in the store
    """

    sae: MatryoshkaSAE
    scores: Tensor
    frequency: Tensor
    metrics: dict[str, float]
    tokens: int
    flops: float
    seconds: float
    health: Health
    scoring: dict[str, Any]
    evaluated: bool = False
    windows: tuple[WindowReport, ...] = ()

    @property
    def collapsed(self) -> str | None:
        """None, or the collapse by name."""
        if self.health.collapsed is not None:
            return self.health.collapsed
        return None if bool((self.scores > 0).any()) else ALL_SCORES_ZERO

    @property
    def core_share(self) -> float | None:
        """Share of the summed score held by the latents of the core that the SAE was trained with."""
        total = float(self.scores.sum())
        return float(self.scores[: self.sae.n_core].sum()) / total if self.sae.n_core and total > 0 else None


def health_of(training: TrainingResult) -> Health:
    """Health of a training, or of an SAE that was not trained here (no windows)."""
    sae = training.sae
    last = training.windows[-1][1] if training.windows else {}
    finite = all(bool(torch.isfinite(p).all()) for p in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec))
    collapsed = None
    if not finite or not math.isfinite(last.get("loss", 0.0)):
        collapsed = NOT_FINITE
    elif training.stopped is not None:
        collapsed = training.stopped.trouble
    elif last and last["l0_core"] + last["l0_non_core"] == 0:
        collapsed = NO_LATENT_FIRES
    return Health(collapsed, {d.trouble: d.step for d in training.troubles})
