"""Recognise, within a bounded number of steps, that a training has gone wrong, and name what is wrong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.stats import StepStats

Trouble = Literal["not_finite", "no_latent_fires", "all_dead", "spike"]
"""What can go wrong in a training.

- not_finite: the loss or a gradient is NaN or infinite (the trainer skips the update of such a step).
- no_latent_fires: L0 is below a hundredth of what BatchTopK may keep; a dense core, which it does not select, is not
  counted.
- all_dead: every latent is dead.
- spike: the reconstruction loss is far above its running mean.

no_latent_fires and all_dead are forms of collapse.
"""
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)

_LEAST_SHARE_OF_BUDGET = 0.01
_SPIKE_AFTER_STEPS = 20
_MEAN_STEPS = 100


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong, and in which step (counted from 0) it was first seen."""

    trouble: Trouble
    step: int

    def __str__(self) -> str:
        return f"{self.trouble} at step {self.step}"


class HealthMonitor:
    """Watches StepStats: the figures of each step stay on the device, and the host reads them every `every` steps.

    So a trouble is known at most `every` steps after it began, and no other step waits for the device. A spike is a
    step whose prefix_mse, averaged over prefixes, is above `spike_factor` times the running mean of that average over
    about the last 100 steps.

    Args:
        sae: the dictionary that is trained.
        stop_on: troubles that should end the training; once one of them is seen, `stopped` returns it.
        every: steps between two looks of the host.
        spike_factor: see above; must be above 1.

    Raises:
        ConfigError: an argument is outside its range, or names an unknown trouble.
    """

    def __init__(
        self,
        sae: MatryoshkaSAE,
        *,
        stop_on: Sequence[Trouble] = (),
        every: int = 100,
        spike_factor: float = 10.0,
    ) -> None:
        if every < 1:
            raise ConfigError(f"every: {every!r} must be at least 1")
        if not spike_factor > 1:
            raise ConfigError(f"spike_factor: {spike_factor!r} must be above 1")
        unknown = [trouble for trouble in stop_on if trouble not in TROUBLES]
        if unknown:
            raise ConfigError(f"stop_on: {unknown} must be names of {list(TROUBLES)}")
        self._n_latents, self._dense_core = sae.n_latents, sae.n_dense > 0
        self._least_l0 = _LEAST_SHARE_OF_BUDGET * sae.topk_budget
        self._stop_on, self._every, self._factor = tuple(stop_on), every, spike_factor
        self._looked_at = 0
        self._mean = math.nan
        self._unread: list[Tensor] = []
        self.diagnoses: list[Diagnosis] = []
        """Each trouble that was found, once, with the first step in which it was seen."""

    @property
    def stopped(self) -> Diagnosis | None:
        """The first trouble found of those that should end the training; None if there is none."""
        return next((d for d in self.diagnoses if d.trouble in self._stop_on), None)

    def observe(self, stats: StepStats) -> Diagnosis | None:
        """Take in one step; if the host looks now, return the earliest new diagnosis, otherwise None."""
        l0 = stats.l0_non_core if self._dense_core else stats.l0_core + stats.l0_non_core
        figures = (stats.loss, stats.grad_norm, stats.prefix_mse.mean(), l0, stats.dead)
        self._unread.append(torch.stack([figure.double() for figure in figures]))
        due = (self._looked_at + len(self._unread)) % self._every == 0
        return self.look() if due else None

    def look(self) -> Diagnosis | None:
        """Read all figures that are not read yet, and return the earliest new diagnosis, or None."""
        known = {d.trouble for d in self.diagnoses}
        new: list[Diagnosis] = []
        for figures in torch.stack(self._unread).tolist() if self._unread else ():
            for trouble in self._troubles(*figures):
                if trouble not in known:
                    known.add(trouble)
                    new.append(Diagnosis(trouble, self._looked_at))
            self._looked_at += 1
        self._unread = []
        self.diagnoses += new
        return new[0] if new else None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; reads nothing that is not due, so that checkpoints change no diagnosis."""
        return {
            "looked_at": self._looked_at,
            "mean": self._mean,
            "unread": list(self._unread),
            "diagnoses": [[d.trouble, d.step] for d in self.diagnoses],
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what `state` returned."""
        self._looked_at, self._mean = int(state["looked_at"]), float(state["mean"])
        self._unread = [figures.to(device) for figures in state["unread"]]
        self.diagnoses = [Diagnosis(trouble, int(step)) for trouble, step in state["diagnoses"]]

    def _troubles(self, loss: float, grad_norm: float, mse: float, l0: float, dead: float) -> list[Trouble]:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return ["not_finite"]
        found: list[Trouble] = []
        if l0 < self._least_l0:
            found.append("no_latent_fires")
        if dead >= self._n_latents:
            found.append("all_dead")
        if math.isnan(self._mean):
            self._mean = mse
        limit = self._factor * self._mean
        if mse > limit and self._looked_at >= _SPIKE_AFTER_STEPS:
            found.append("spike")
        # A spike must not raise the mean that it is compared with.
        self._mean += (min(mse, limit) - self._mean) / min(self._looked_at + 1, _MEAN_STEPS)
        return found
