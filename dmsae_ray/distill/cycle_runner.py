"""The result of one cycle, from the store or from training; `run_cycles` and `transfer` share this."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dmsae_ray.distill.attribution import firing_frequency, pool_scores
from dmsae_ray.distill.attribution_set import AttributionSet, cut, halves, pairs_of
from dmsae_ray.distill.core import Core
from dmsae_ray.distill.cost import scoring_flops, training_flops
from dmsae_ray.distill.cycle_settings import CycleSettings, DataSource, cycle_key, given_key
from dmsae_ray.distill.cycle_store import CycleStore, OtherTrainings
from dmsae_ray.distill.ranks import Ranks
from dmsae_ray.distill.reports import WindowReport
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.trained_cycle import Health, TrainedCycle, health_of
from dmsae_ray.distill.training import TrainingHooks, TrainingJob, TrainingResult, train_sae
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.sae import MatryoshkaSAE

SQUARE = "mean_square"
"""The score beside every other, see `attribution.pool_scores`: it follows exact ablation."""
Evaluate = Callable[[MatryoshkaSAE], dict[str, float]]
"""Measures an SAE that takes raw activations, on the training device, and must not change it."""
Scorer = Callable[[MatryoshkaSAE], Tensor]
"""Returns scores [pool] of an SAE that takes raw activations, if they need more than the attribution set."""


@dataclass(frozen=True)
class CycleCheckpoint:
    """A training that was stopped between two steps.

    Attributes:
        cycle: number of the cycle.
        arm: what is trained, 'distilled' or the name of another arm.
        step: finished steps of the cycle.
        trainer_state: tensors and plain values only, which torch.load reads back with weights_only=True. Its tensors
            may be live: write or copy it before returning from `save_checkpoint`.
        key: key of the cycle, see `cycle_key`.
    """

    cycle: int
    arm: str
    step: int
    trainer_state: dict[str, Any]
    key: str


@dataclass(frozen=True)
class CycleRun:
    """One cycle that a `CycleRunner` has finished or found in the store.

    Attributes:
        key: key of the cycle, see `cycle_key`.
        seed: seed of the training; 0 for a given SAE.
        cached: whether the cycle was found in the store.
        trained: the result on the first rank; None on the others.
    """

    key: str
    seed: int
    cached: bool
    trained: TrainedCycle | None


class CycleRunner:
    """Trains, scores, evaluates and stores single cycles, for `run_cycles` and `transfer`.

    All ranks make one with the same arguments and call its methods in the same order. The first rank loads, scores,
    evaluates and stores. `on_window` and `save_checkpoint` are called on every rank at the same points: they may
    contain a barrier, and only one rank needs to write.

    Args:
        settings: what determines a cycle, apart from core, seed and data.
        source: where activations and the attribution set come from.
        store: keeps finished cycles; None: nothing is kept.
        others: who else trains cycles of the store; None: nobody is waited for.
        on_wait: called once, with cycle and arm, before another's training of that cycle is waited for.
        evaluate: measures an SAE on held-out data; None: no such metrics.
        scorer: scores an SAE, instead of the score that `settings` names.
        on_window: called with the training curve, every `window_steps` steps.
        window_steps: steps of a window.
        save_checkpoint: called with a checkpoint every `checkpoint_every_steps` steps; None: no checkpoints.
        checkpoint_every_steps: steps between two checkpoints.
        checkpoint_wanted: asked some times a window; if it returns True, a checkpoint is made at once.
        resume: the last checkpoint of an earlier run. Its cycle continues bit for bit; the cycles before it come from
            the store or, without one, are trained again with the same result.
        process_group: the ranks that share a training; None: this process alone.
        device: where the SAE is trained.

    Raises:
        ConfigError: a setting cannot work; the message names it.
    """

    def __init__(
        self,
        settings: CycleSettings,
        source: DataSource,
        *,
        store: CycleStore | None = None,
        others: OtherTrainings | None = None,
        on_wait: Callable[[int, str], None] | None = None,
        evaluate: Evaluate | None = None,
        scorer: Scorer | None = None,
        on_window: Callable[[WindowReport], None] | None = None,
        window_steps: int = 100,
        save_checkpoint: Callable[[CycleCheckpoint], None] | None = None,
        checkpoint_every_steps: int | None = None,
        checkpoint_wanted: Callable[[], bool] | None = None,
        resume: CycleCheckpoint | None = None,
        process_group: dist.ProcessGroup | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        settings.check_scoring(has_scorer=scorer is not None)
        for name, value in (("window_steps", window_steps), ("checkpoint_every_steps", checkpoint_every_steps)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: {value!r} must be at least 1")
        self.settings, self.source = settings, source
        self.store, self.evaluate, self.scorer = store, evaluate, scorer
        self.others, self.on_wait = others, on_wait
        self.on_window, self.window_steps = on_window, window_steps
        self.save_checkpoint, self.checkpoint_every_steps = save_checkpoint, checkpoint_every_steps
        self.checkpoint_wanted = checkpoint_wanted
        self.resume, self.process_group = resume, process_group
        self.device = torch.device(device)
        self.ranks = Ranks(process_group, self.device)

    def cycle(self, cycle: int, arm: str, core: Core, seed: int, start_step: int) -> CycleRun:
        """Return the cycle trained around `core`; it is trained only if it is not stored.

        Args:
            cycle: number of the cycle.
            arm: what is trained, 'distilled' or the name of another arm.
            core: the core that is frozen; may be empty.
            seed: seed of the training.
            start_step: first step of the feed.

        Raises:
            ConfigError: the checkpoint to resume belongs to other settings or data.
            DataError: the feed or the attribution set cannot be used, or the stored cycle is damaged.
        """
        key = cycle_key(self.settings, self.source.fingerprint, core.rows, seed, start_step)
        stored = self._stored(key, cycle)
        if stored.cached:
            return self._tell(stored, cycle, arm, seed)
        try:
            if self.others is not None:
                self._begin(self.others, cycle, arm, key)
                stored = self._stored(key, cycle)  # another may have finished it since
                if stored.cached:
                    return self._tell(stored, cycle, arm, seed)
            return CycleRun(key, seed, False, self._train(cycle, arm, core, seed, start_step, key))
        finally:
            if self.others is not None and self.ranks.first:
                self.others.end()

    def _begin(self, others: OtherTrainings, cycle: int, arm: str, key: str) -> None:
        """Wait while another process trains the cycle, then tell the others that it is trained here."""
        goes_on = self.resume is not None and self.resume.key == key
        waits = False
        while not self.ranks.share(lambda: others.begin(key, wait=not goes_on)):
            if not waits and self.on_wait is not None:
                self.on_wait(cycle, arm)
            waits = True

    def given(self, sae: MatryoshkaSAE) -> CycleRun:
        """Return cycle 0 for a given SAE, which takes raw activations: it is scored and evaluated, not trained."""
        key = self.ranks.share(lambda: given_key(self.source.fingerprint, sae))
        stored = self._stored(key, 0)
        if stored.cached:
            return stored
        trained = self._finish(key, 0, lambda: self._measured(TrainingResult(sae.to(self.device), [], 0, 0.0), (), 0))
        return CycleRun(key, 0, False, trained)

    @cached_property
    def _attribution_set(self) -> AttributionSet:
        return pairs_of(self.source.attribution())

    def _pairs(self, cycle: int) -> AttributionSet:
        """Return the part of the attribution set on which a cycle is scored."""
        parts = self.settings.attribution_parts
        return self._attribution_set if parts == 1 else cut(self._attribution_set, parts)[cycle % parts]

    def _stored(self, key: str, cycle: int) -> CycleRun:
        """Return the stored cycle; scores and metrics that this run asks for and that it lacks are computed."""
        if self.store is None:
            return CycleRun(key, 0, False, None)
        store = self.store

        def look() -> TrainedCycle | None:
            trained = store.load(key)
            return None if trained is None else self._completed(key, cycle, trained)

        trained = self.ranks.wait_for(look)
        return CycleRun(key, 0, self.ranks.share(lambda: trained is not None), trained)

    def _completed(self, key: str, cycle: int, trained: TrainedCycle) -> TrainedCycle:
        trained.sae.to(self.device)
        store, scoring = self.store, self.settings.scoring(cycle)
        assert store is not None, "it was found there"
        if self.evaluate is not None and not trained.evaluated:
            metrics = {**trained.metrics, **self.evaluate(trained.sae)}
            trained = replace(trained, metrics=metrics, evaluated=True)
            store.save(key, trained)
        if trained.health.collapsed is None and trained.scoring != scoring:
            scores = self._kept(key, scoring, lambda: self._scores(trained.sae, cycle))
            trained = replace(trained, scores=scores, scoring=scoring)
        return self._with_others(key, cycle, trained)

    def _with_others(self, key: str, cycle: int, trained: TrainedCycle) -> TrainedCycle:
        """Add what the selection is compared with: mean_square, and the scores by each half of the cycle's tokens."""
        if trained.health.collapsed is not None:
            return trained
        pairs, scoring = self._pairs(cycle), self.settings.scoring(cycle)
        square = trained.scores
        if self.scorer is not None or self.settings.score != SQUARE:
            of_square = {**scoring, "score": SQUARE}
            square = self._kept(key, of_square, lambda: self._scores_by(trained.sae, pairs, "score", score=SQUARE))
        trained = replace(trained, square_scores=square)
        if self.scorer is not None or len(pairs) < 2 * self.settings.intersect:
            return trained

        def half_scores(number: int) -> Tensor:
            return self._scores_by(trained.sae, halves(pairs)[number], "score", "half", number)

        first, second = (self._kept(key, {**scoring, "half": n}, partial(half_scores, n)) for n in range(2))
        return replace(trained, half_scores=(first, second))

    def _kept(self, key: str, scoring: dict[str, Any], compute: Callable[[], Tensor]) -> Tensor:
        """Return scores of a cycle from the store; they are computed, and stored, if it has none."""
        found = self.store.load_scores(key, scoring) if self.store is not None else None
        if found is None:
            found = compute()
            if self.store is not None:
                self.store.save_scores(key, scoring, found)
        return found

    def _tell(self, found: CycleRun, cycle: int, arm: str, seed: int) -> CycleRun:
        """Report the training curve of a stored cycle again, on every rank."""
        trained = found.trained
        windows = self.ranks.share(lambda: trained.windows if trained is not None else ())
        if self.on_window is not None:
            for window in windows:
                self.on_window(replace(window, cycle=cycle, arm=arm, cached=True))
        return replace(found, seed=seed)

    def _train(self, cycle: int, arm: str, core: Core, seed: int, start_step: int, key: str) -> TrainedCycle | None:
        settings, resume = self.settings, self.resume
        state = None
        if resume is not None and (resume.cycle, resume.arm) == (cycle, arm):
            if resume.key != key:
                raise ConfigError(f"resume: the checkpoint of cycle {cycle} ({arm}) belongs to other settings or data")
            state = resume.trainer_state

        def window(step: int, stats: dict[str, float]) -> WindowReport:
            return WindowReport(cycle, arm, step, (start_step + step) * settings.batch_size, stats)

        def on_window(step: int, stats: dict[str, float]) -> None:
            if self.others is not None and self.ranks.first:
                self.others.progress()
            if self.on_window is not None:
                self.on_window(window(step, stats))

        def on_checkpoint(step: int, trainer_state: dict[str, Any]) -> None:
            if self.save_checkpoint is not None:
                self.save_checkpoint(CycleCheckpoint(cycle, arm, step, trainer_state, key))

        def wanted() -> bool:
            if self.others is not None and self.ranks.first:
                self.others.progress()
            return self.checkpoint_wanted is not None and self.checkpoint_wanted()

        hooks = TrainingHooks(
            self.window_steps,
            on_window,
            self.checkpoint_every_steps if self.save_checkpoint is not None else None,
            on_checkpoint,
            wanted if self.save_checkpoint is not None else None,
        )
        job = TrainingJob(core.rows, seed, start_step, f"cycle {cycle}, {arm}")
        training = train_sae(
            settings, self.source, job, hooks, state=state, process_group=self.process_group, device=self.device
        )
        windows = tuple(window(step, stats) for step, stats in training.windows)
        return self._finish(key, cycle, lambda: self._measured(training, windows, cycle))

    def _finish(self, key: str, cycle: int, measure: Callable[[], TrainedCycle]) -> TrainedCycle | None:
        """Measure and store the cycle on the first rank; the others wait, and fail if it fails."""

        def measure_and_store() -> TrainedCycle:
            trained = measure()
            if self.store is not None:
                self.store.save(key, trained)
            return self._with_others(key, cycle, trained)

        return self.ranks.wait_for(measure_and_store)

    def _measured(self, training: TrainingResult, windows: tuple[WindowReport, ...], cycle: int) -> TrainedCycle:
        began, health = time.monotonic(), health_of(training)
        sae, tokens = training.sae, training.steps * self.settings.batch_size
        scores, frequency = self._scored(sae, health, cycle)
        # How often latents fire, and the cost, are of the whole set: who finds this cycle may score another part of it.
        sampled = len(self._attribution_set)
        seconds = training.seconds + time.monotonic() - began
        metrics = {
            "l0": float(frequency.sum()),
            "l0_core": float(frequency[: sae.n_core].sum()),
            "l0_non_core": float(frequency[sae.n_core :].sum()),
            "dead_fraction": float((frequency == 0).double().mean()),
            "l0_target": float(sae.topk_budget),
        }
        if self.evaluate is not None and health.collapsed is None:
            metrics.update(self.evaluate(sae))
        flops = training_flops(sae.d_model, sae.n_latents, tokens)
        flops += scoring_flops(sae.d_model, sae.n_latents, len(scores), sampled)
        return TrainedCycle(
            sae=sae,
            scores=scores,
            frequency=frequency,
            metrics=metrics,
            tokens=tokens,
            flops=flops,
            seconds=seconds,
            health=health,
            scoring=self.settings.scoring(cycle),
            evaluated=self.evaluate is not None,
            windows=windows,
        )

    def _scored(self, sae: MatryoshkaSAE, health: Health, cycle: int) -> tuple[Tensor, Tensor]:
        """Return scores [pool] and firing frequency [m]; both are all zero if the training collapsed."""
        if health.collapsed is not None:
            pool = sae.pool_size(self.settings.pool_groups)
            return torch.zeros(pool, dtype=torch.float64), torch.zeros(sae.n_latents, dtype=torch.float64)
        return self._scores(sae, cycle), firing_frequency(sae, self._attribution_set)

    def _scores(self, sae: MatryoshkaSAE, cycle: int) -> Tensor:
        """Return scores [pool]."""
        if self.scorer is not None:
            return _checked(self.scorer(sae).double().cpu(), sae.pool_size(self.settings.pool_groups))
        return self._scores_by(sae, self._pairs(cycle), "score")

    def _scores_by(
        self, sae: MatryoshkaSAE, pairs: AttributionSet, *draw: str | int, score: str | None = None
    ) -> Tensor:
        """Return scores [pool] by some pairs, by the settings' score or another; `draw` names the seed of 'random'."""
        settings = self.settings
        parts = [
            pool_scores(
                sae,
                part,
                settings.quantile,
                score=score or settings.score,
                groups=settings.pool_groups,
                mask=settings.mask,
                seed=derive_seed(sae.seed, *draw),
            )
            for part in (cut(pairs, settings.intersect) if settings.intersect > 1 else (pairs,))
        ]
        return torch.stack(parts).amin(dim=0)


def _checked(scores: Tensor, pool: int) -> Tensor:
    """Return the scores of a `Scorer` if there is one for each latent of the pool; else they look like a collapse.

    Raises:
        DataError: there is not, or one is negative or not finite.
    """
    if scores.shape != (pool,):
        raise DataError(f"scorer: shape {tuple(scores.shape)} is not one score for each of {pool} latents of the pool")
    bad = ~(torch.isfinite(scores) & (scores >= 0))
    if bool(bad.any()):
        latent = int(bad.nonzero()[0])
        raise DataError(f"scorer: latent {latent} has score {float(scores[latent])}; scores must be finite and >= 0")
    return scores
