"""One cycle's result, from the store or from training: shared by run_cycles and transfer."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dmsae_ray.distill.attribution import attribution_scores, firing_frequency
from dmsae_ray.distill.core import Core
from dmsae_ray.distill.cycle_settings import CycleSettings, DataSource, cycle_key, given_key
from dmsae_ray.distill.cycle_store import CycleStore
from dmsae_ray.distill.outcome import CycleOutcome, Health, health_of
from dmsae_ray.distill.ranks import Ranks
from dmsae_ray.distill.reports import WindowRecord
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.training import Trained, TrainingHooks, TrainingJob, train_sae, training_flops
from dmsae_ray.errors import ConfigError
from dmsae_ray.sae import MatryoshkaSAE

Evaluate = Callable[[MatryoshkaSAE], dict[str, float]]
"""Measures an SAE that takes raw activations, on the training device; must leave it as it is."""
Scorer = Callable[[MatryoshkaSAE], Tensor]
"""Scores [pool] of an SAE that takes raw activations, for scores that need more than the attribution set."""


@dataclass(frozen=True)
class CycleCheckpoint:
    """A training stopped between two steps.

    `trainer_state` holds tensors and plain values only (torch.load with weights_only=True reads it back). Its tensors
    may be live: write or copy it before returning from `save_checkpoint`.
    """

    cycle: int
    arm: str
    step: int
    trainer_state: dict[str, Any]
    key: str


@dataclass(frozen=True)
class Found:
    """A cycle's result; `outcome` is None on all ranks but the first."""

    key: str
    seed: int
    cached: bool
    outcome: CycleOutcome | None


@dataclass(frozen=True)
class Runner:
    """Trains, scores, evaluates and stores single cycles. All ranks call its methods in the same order."""

    settings: CycleSettings
    source: DataSource
    ranks: Ranks
    device: torch.device
    process_group: dist.ProcessGroup | None = None
    store: CycleStore | None = None
    evaluate: Evaluate | None = None
    scorer: Scorer | None = None
    window_steps: int = 100
    on_window: Callable[[WindowRecord], None] | None = None
    checkpoint_every_steps: int | None = None
    save_checkpoint: Callable[[CycleCheckpoint], None] | None = None
    resume: CycleCheckpoint | None = None

    def __post_init__(self) -> None:
        self.settings.check_scoring(has_scorer=self.scorer is not None)
        for name in ("window_steps", "checkpoint_every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: {value!r} must be at least 1")

    def cycle(self, cycle: int, arm: str, core: Core, seed: int, start_step: int) -> Found:
        """The outcome of training around `core` from `start_step` of the feed, trained only if it is not stored."""
        key = cycle_key(self.settings, self.source.fingerprint, core.rows, seed, start_step)
        stored = self._stored(key)
        if stored.cached:
            return self._tell(stored, cycle, arm, seed)
        with ExitStack() as claims:
            store = self.store
            if store is not None:
                self.ranks.wait_for(lambda: claims.enter_context(store.claim(key)))
                stored = self._stored(key)
                if stored.cached:
                    return self._tell(stored, cycle, arm, seed)
            outcome = self._train(cycle, arm, core, seed, start_step, key)
        return Found(key, seed, False, outcome)

    def given(self, sae: MatryoshkaSAE) -> Found:
        """Cycle 0 when its SAE is given: scored and evaluated, not trained."""
        key = self.ranks.share(lambda: given_key(self.source.fingerprint, sae))
        stored = self._stored(key)
        if stored.cached:
            return stored
        outcome = self._conclude(key, lambda: self._measured(Trained(sae.to(self.device), [], 0, 0.0), ()))
        return Found(key, 0, False, outcome)

    @cached_property
    def _attribution_set(self) -> tuple[Tensor, Tensor]:
        return self.source.attribution()

    def _stored(self, key: str) -> Found:
        """The stored outcome, scored and evaluated anew where this run asks for what it lacks."""
        if self.store is None:
            return Found(key, 0, False, None)
        store = self.store

        def look() -> CycleOutcome | None:
            outcome = store.load(key)
            return None if outcome is None else self._completed(key, outcome)

        outcome = self.ranks.wait_for(look)
        return Found(key, 0, self.ranks.share(lambda: outcome is not None), outcome)

    def _completed(self, key: str, outcome: CycleOutcome) -> CycleOutcome:
        outcome.sae.to(self.device)
        if outcome.health.collapsed is None and outcome.scoring != self.settings.scoring():
            scores, _ = self._scored(outcome.sae, outcome.health)
            outcome = replace(outcome, scores=scores, scoring=self.settings.scoring())
        if self.evaluate is not None and not outcome.evaluated:
            metrics = {**outcome.metrics, **self.evaluate(outcome.sae)}
            outcome = replace(outcome, metrics=metrics, evaluated=True)
            if self.store is not None:
                self.store.save(key, outcome)
        return outcome

    def _tell(self, found: Found, cycle: int, arm: str, seed: int) -> Found:
        """Tells a stored cycle's training curve again, on every rank."""
        outcome = found.outcome
        windows = self.ranks.share(lambda: outcome.windows if outcome is not None else ())
        if self.on_window is not None:
            for window in windows:
                self.on_window(replace(window, cycle=cycle, arm=arm, cached=True))
        return replace(found, seed=seed)

    def _train(self, cycle: int, arm: str, core: Core, seed: int, start_step: int, key: str) -> CycleOutcome | None:
        settings, resume = self.settings, self.resume
        state = None
        if resume is not None and (resume.cycle, resume.arm) == (cycle, arm):
            if resume.key != key:
                raise ConfigError(f"resume: the checkpoint of cycle {cycle} ({arm}) belongs to other settings or data")
            state = resume.trainer_state

        def window(step: int, stats: dict[str, float]) -> WindowRecord:
            return WindowRecord(cycle, arm, step, (start_step + step) * settings.batch_size, stats)

        def on_window(step: int, stats: dict[str, float]) -> None:
            if self.on_window is not None:
                self.on_window(window(step, stats))

        def on_checkpoint(step: int, trainer_state: dict[str, Any]) -> None:
            if self.save_checkpoint is not None:
                self.save_checkpoint(CycleCheckpoint(cycle, arm, step, trainer_state, key))

        hooks = TrainingHooks(
            self.window_steps,
            on_window,
            self.checkpoint_every_steps if self.save_checkpoint is not None else None,
            on_checkpoint,
        )
        job = TrainingJob(core.rows, seed, start_step, f"cycle {cycle}, {arm}")
        trained = train_sae(
            settings, self.source, job, hooks, state=state, process_group=self.process_group, device=self.device
        )
        windows = tuple(window(step, stats) for step, stats in trained.windows)
        return self._conclude(key, lambda: self._measured(trained, windows))

    def _conclude(self, key: str, measure: Callable[[], CycleOutcome]) -> CycleOutcome | None:
        """Measures and stores on the first rank; the others wait, and fail if it fails."""

        def conclude() -> CycleOutcome:
            outcome = measure()
            if self.store is not None:
                self.store.save(key, outcome)
            return outcome

        return self.ranks.wait_for(conclude)

    def _measured(self, trained: Trained, windows: tuple[WindowRecord, ...]) -> CycleOutcome:
        began, health = time.monotonic(), health_of(trained)
        sae, tokens = trained.sae, trained.steps * self.settings.batch_size
        scores, frequency = self._scored(sae, health)
        sampled = len(self._attribution_set[0])
        seconds = trained.seconds + time.monotonic() - began
        metrics = {
            "l0": float(frequency.sum()),
            "l0_core": float(frequency[: sae.n_core].sum()),
            "l0_non_core": float(frequency[sae.n_core :].sum()),
            "dead_fraction": float((frequency == 0).double().mean()),
        }
        if self.evaluate is not None and health.collapsed is None:
            metrics.update(self.evaluate(sae))
        flops = training_flops(sae.d_model, sae.n_latents, tokens)
        flops += 2.0 * sae.d_model * sampled * (sae.n_latents + 2 * len(scores))
        return CycleOutcome(
            sae=sae,
            scores=scores,
            frequency=frequency,
            metrics=metrics,
            tokens=tokens,
            flops=flops,
            seconds=seconds,
            health=health,
            scoring=self.settings.scoring(),
            evaluated=self.evaluate is not None,
            windows=windows,
        )

    def _scored(self, sae: MatryoshkaSAE, health: Health) -> tuple[Tensor, Tensor]:
        """Scores [pool] and firing frequency [m]; all zero when the training diverged."""
        settings = self.settings
        if health.collapsed is not None:
            pool = sae.pool_size(settings.pool_groups)
            return torch.zeros(pool, dtype=torch.float64), torch.zeros(sae.n_latents, dtype=torch.float64)
        x, g = self._attribution_set
        if self.scorer is not None:
            scores = self.scorer(sae).double().cpu()
        else:
            scores = attribution_scores(
                sae,
                x,
                g,
                settings.quantile,
                score=settings.score,
                groups=settings.pool_groups,
                seed=derive_seed(sae.seed, "score"),
            )
        return scores, firing_frequency(sae, x)
