"""Recognises by name, within a bounded number of steps, that a training has gone wrong."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.sae.stats import StepStats

Trouble = Literal["not_finite", "spike", "no_latent_fires", "all_dead"]
"""not_finite: loss or gradient is NaN or infinite. spike: the loss left its running mean far below.
no_latent_fires: L0 is 0. all_dead: every latent is dead. The last two are what METHOD.md calls collapse."""

_NAMES: tuple[Trouble, ...] = ("not_finite", "no_latent_fires", "all_dead", "spike")


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong first, and in which step (counted from 0, by observations)."""

    trouble: Trouble
    step: int

    @property
    def collapsed(self) -> bool:
        """Whether this is a collapse: a result to report, not an error of the numbers."""
        return self.trouble in ("no_latent_fires", "all_dead")

    def __str__(self) -> str:
        return f"{self.trouble} at step {self.step}"


class UnhealthyTraining(DmsaeError):
    """Raised by a monitor whose action is 'stop'."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(f"training: {diagnosis}")
        self.diagnosis = diagnosis


class HealthMonitor:
    """Watches StepStats. On the device it looks at every step; the host reads what it saw every `every` steps.

    So trouble is reported at most `every` steps late, with the step it began at, and no step waits for the device
    otherwise. A spike is a loss above `spike_factor` times its running mean (decay 0.99, after 20 steps).
    action 'report' returns the diagnosis, once, and goes on; 'stop' raises UnhealthyTraining.
    """

    def __init__(
        self,
        n_latents: int,
        *,
        every: int = 100,
        spike_factor: float = 10.0,
        action: Literal["report", "stop"] = "report",
    ) -> None:
        if every < 1:
            raise ConfigError(f"every: {every!r} must be at least 1")
        if not spike_factor > 1:
            raise ConfigError(f"spike_factor: {spike_factor!r} must be above 1")
        if action not in ("report", "stop"):
            raise ConfigError(f"action: {action!r} must be 'report' or 'stop'")
        self._n_latents, self._every, self._factor, self._action = n_latents, every, spike_factor, action
        self._step = 0
        self._mean: Tensor | None = None
        self._first: Tensor | None = None
        self.diagnoses: list[Diagnosis] = []
        """All that was found so far: each trouble once, with the first step it was seen at."""

    def observe(self, stats: StepStats) -> Diagnosis | None:
        """Takes in one step. A new diagnosis, if the host looked and there is one (the earliest of several)."""
        loss = stats.loss.detach().double()
        if self._mean is None or self._first is None:
            self._mean = loss.clone()
            self._first = torch.full((len(_NAMES),), -1, dtype=torch.int64, device=loss.device)
        fine = torch.isfinite(loss) & torch.isfinite(stats.grad_norm)
        seen = torch.stack(
            [
                ~fine,
                fine & (stats.l0_core + stats.l0_non_core == 0),
                stats.dead >= self._n_latents,
                fine & (loss > self._factor * self._mean) & (self._step >= 20),
            ]
        )
        self._first = torch.where(seen & (self._first < 0), self._step, self._first)
        # A spike must not raise the mean that it is measured by, nor may a NaN ever enter it.
        usual = torch.where(fine, torch.minimum(loss, self._factor * self._mean), self._mean)
        self._mean = torch.where(torch.isfinite(self._mean), 0.99 * self._mean + 0.01 * usual, usual)
        self._step += 1
        return self.look() if self._step % self._every == 0 else None

    def look(self) -> Diagnosis | None:
        """Reads what was seen, now: the earliest new diagnosis, or None."""
        if self._first is None:
            return None
        known = {d.trouble for d in self.diagnoses}
        new = [
            Diagnosis(name, step)
            for name, step in zip(_NAMES, self._first.tolist(), strict=True)
            if step >= 0 and name not in known
        ]
        new.sort(key=lambda d: d.step)
        self.diagnoses += new
        if new and self._action == "stop":
            raise UnhealthyTraining(new[0])
        return new[0] if new else None
