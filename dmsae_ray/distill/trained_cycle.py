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
"""Collapse: no latent of the pool matters to the loss."""
NOT_FINITE = "not_finite"
"""Collapse: the loss or a weight is NaN or infinite."""
NO_LATENT_FIRES = "no_latent_fires"
"""Collapse: L0 was 0 throughout the last window of the training."""


@dataclass(frozen=True)
class Health:
    """How the training went.

    Attributes:
        collapsed: None, or why there is nothing to select from: the trouble that ended the training, or in which it
            ended.
        troubles: all that sae.HealthMonitor noticed, whether the training went on or not: the first step, by name.
    """

    collapsed: str | None = None
    troubles: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TrainedCycle:
    """One trained and scored SAE.

    Attributes:
        sae: takes raw activations (folded).
        scores: float64 [pool], Eq. 6 or another score, as `scoring` says.
        frequency: float64 [m], share of the attribution set's tokens at which each latent fires.
        metrics: what CycleRunner measured, and what `evaluate` measured if `evaluated`.
        tokens: tokens of the training.
        flops: FLOPs of training and scoring.
        seconds: time of training and scoring.
        health: how the training went.
        scoring: the settings of the scoring, see CycleSettings.scoring.
        evaluated: whether `evaluate` was called.
        windows: the training curve, which is reported again to every trial that finds this cycle in the store.
        square_scores: float64 [pool], the scores by mean_square; None where the training collapsed.
        half_scores: two of float64 [pool], the scores by the first and by the second half of the attribution set; None
            where they cannot be had (a collapsed training, a `scorer` of the user's).
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
    square_scores: Tensor | None = None
    half_scores: tuple[Tensor, Tensor] | None = None

    @property
    def collapsed(self) -> str | None:
        """None, or the name of the collapse."""
        if self.health.collapsed is not None:
            return self.health.collapsed
        return None if bool((self.scores > 0).any()) else ALL_SCORES_ZERO

    @property
    def core_share(self) -> float | None:
        """Share of the summed score that the core of the SAE holds; None without a core or if all scores are 0."""
        total = float(self.scores.sum())
        return float(self.scores[: self.sae.n_core].sum()) / total if self.sae.n_core and total > 0 else None


def health_of(training: TrainingResult) -> Health:
    """Return the health of a training, or of an SAE that was not trained here (no windows)."""
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
