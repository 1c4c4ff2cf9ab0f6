"""Trains one SAE over its steps of the feed, with windows, checkpoints, and checks of health and of the feed."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dmsae_ray.distill.cycle_settings import CycleSettings, DataSource
from dmsae_ray.distill.ranks import Ranks
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.sae import (
    Diagnosis,
    HealthMonitor,
    MatryoshkaSAE,
    SAETrainer,
    StepStats,
    calibrated_threshold,
    non_core_groups,
)

CALIBRATION_TOKENS = 16_384
"""Tokens of the last batches from which the inference threshold is set; at most a tenth of the training."""
HEALTH_EVERY_STEPS = 100
"""The host looks at the training's health this often, and at least ten times per training."""


@dataclass(frozen=True)
class TrainingResult:
    """One trained SAE.

    Attributes:
        sae: takes raw activations (folded).
        windows: (finished steps, means) of each window.
        steps: finished steps.
        seconds: time of the training, the time before a resumption included.
        troubles: what HealthMonitor found, each with the first step in which it was seen.
        stopped: the trouble that ended the training before its last step, or None.
    """

    sae: MatryoshkaSAE
    windows: list[tuple[int, dict[str, float]]]
    steps: int
    seconds: float
    troubles: tuple[Diagnosis, ...] = ()
    stopped: Diagnosis | None = None


@dataclass(frozen=True)
class TrainingJob:
    """One training.

    Attributes:
        core_rows: [c, d], the encoder rows that are frozen.
        seed: seed of all other weights.
        start_step: first step of the feed that it reads.
        where: what it is, for error messages: "cycle 2, distilled".
    """

    core_rows: Tensor
    seed: int
    start_step: int
    where: str


LOOKS_A_WINDOW = 20
"""How often in a window it is asked whether a checkpoint is wanted; a window may last minutes."""


@dataclass(frozen=True)
class TrainingHooks:
    """What is called during a training, on every rank, at the same steps.

    Attributes:
        window_steps: steps of a window.
        on_window: called with (step, means) after every `window_steps` steps, and after the last.
        checkpoint_every_steps: steps between two checkpoints; None: no checkpoints.
        on_checkpoint: called with (step, state) after every `checkpoint_every_steps` steps but the last. `state` may
            hold live tensors: write or copy it before returning.
        checkpoint_wanted: asked `LOOKS_A_WINDOW` times a window; if it returns True, a checkpoint is made at once. It
            may contain a barrier, and must return the same on all ranks.
    """

    window_steps: int = 100
    on_window: Callable[[int, dict[str, float]], None] | None = None
    checkpoint_every_steps: int | None = None
    on_checkpoint: Callable[[int, dict[str, Any]], None] | None = None
    checkpoint_wanted: Callable[[], bool] | None = None


class WindowMeans:
    """Running means of StepStats, kept on the device: nothing waits for the GPU until the window ends."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, stats: StepStats) -> None:
        """Add one step."""
        for f in fields(stats):
            value = torch.as_tensor(getattr(stats, f.name)).detach().double()
            self._sums[f.name] = self._sums[f.name] + value if f.name in self._sums else value
        self._count += 1

    def take(self) -> dict[str, float]:
        """Return the means by the names of StepStats.floats, and start a new window."""
        means: dict[str, Any] = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return StepStats(**means).floats()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"sums": dict(self._sums), "count": self._count}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what `state` returned."""
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._count = int(state["count"])


class FiniteFeed:
    """Checks batches, and remembers the first step with a value that is not finite.

    One process on the CPU raises at once; otherwise the answer is fetched at the end of a window, so that no step
    waits.
    """

    def __init__(self, where: str, ranks: Ranks, device: torch.device) -> None:
        self._where, self._ranks, self._device = where, ranks, device
        self._eager = device.type == "cpu" and ranks.size == 1
        self._clean = torch.iinfo(torch.int64).min
        # The negative of the first bad step, so that the maximum over the ranks is the first step of all ranks.
        self._bad = torch.full((), self._clean, dtype=torch.int64, device=device)

    def check(self, x: Tensor, step: int) -> None:
        """Check x [b, d], this rank's rows of the feed's step `step`.

        Raises:
            DataError: as `settle`; only where the check is made at once.
        """
        bad = ~torch.isfinite(x).all()
        first = (self._bad == self._clean) & bad
        self._bad = torch.where(first, torch.full_like(self._bad, -step), self._bad)
        if self._eager:
            self.settle()

    def settle(self) -> None:
        """Fetch the answer.

        Raises:
            DataError: a value was not finite; on every rank.
        """
        bad = int(self._ranks.maximum(self._bad.clone()))
        if bad != self._clean:
            raise DataError(f"activations: step {-bad} of the feed ({self._where}) holds a value that is not finite")


def train_sae(
    settings: CycleSettings,
    source: DataSource,
    job: TrainingJob,
    hooks: TrainingHooks,
    *,
    state: dict[str, Any] | None = None,
    process_group: dist.ProcessGroup | None = None,
    device: str | torch.device = "cpu",
) -> TrainingResult:
    """Train an SAE around `job.core_rows` for settings.steps steps.

    It is deterministic: the result is a function of settings, source and job. On one device, to stop and resume does
    not change a bit of it. The training ends early on a trouble of recipe.stop_on. After the last step the inference
    threshold is calibrated on the last batches, which are kept for it (recipe.threshold); no step depends on that.

    Args:
        settings: what determines the training, apart from core, seed and data.
        source: where activations come from.
        job: which rows are frozen, the seed, and the first step.
        hooks: what is called on the way.
        state: state of a checkpoint from which it continues; None: from the start.
        process_group: the ranks that share the training; None: this process alone.
        device: where the SAE is trained.

    Raises:
        ConfigError: the feed gives more batches than were asked for.
        DataError: the feed holds a value that is not finite, has another width or batch size, or ends early; or `state`
            does not fit.
    """
    device = torch.device(device)
    ranks = Ranks(process_group, device)
    sae = MatryoshkaSAE(
        source.d_model,
        settings.n_latents,
        non_core_groups(settings.group_sizes, settings.n_latents, len(job.core_rows), settings.core_takes),
        settings.k,
        core=job.core_rows if len(job.core_rows) else None,
        core_sparsity=settings.core_sparsity,
        core_decoder_init=settings.core_decoder_init,
        seed=job.seed,
    ).to(device)
    sae.norm_factor = source.norm_factor
    trainer = SAETrainer(sae, settings.recipe, process_group=process_group)
    means, feed = WindowMeans(), FiniteFeed(job.where, ranks, device)
    looks = min(HEALTH_EVERY_STEPS, max(1, settings.steps // 10))
    health = HealthMonitor(sae, stop_on=settings.recipe.stop_on, every=looks)
    windows: list[tuple[int, dict[str, float]]] = []
    done, before = 0, 0.0
    if state is not None:
        trainer.load_state_dict(state["trainer"])
        means.restore(state["means"], device)
        health.restore(state["health"], device)
        windows = [(int(step), dict(stats)) for step, stats in state["windows"]]
        done, before = int(state["step"]), float(state["seconds"])
    began, checked = time.monotonic(), False
    stretch = _calibration_steps(settings)
    last_batches: deque[Tensor] = deque(maxlen=stretch)
    # A training that is resumed in its last stretch reads again what is kept of it.
    first = min(done, settings.steps - stretch)
    for step, x in enumerate(_steps(source, job, first, settings.steps, device), start=first):
        if ranks.size == 1 or not checked:
            _check_rows(x, settings.batch_size, job.start_step + step, ranks, device)
            checked = True
        if step >= settings.steps - stretch:
            last_batches.append(x)
        if step < done:
            continue
        feed.check(x, job.start_step + done)
        stats = trainer.step(x / source.norm_factor, global_rows=settings.batch_size)
        means.add(stats)
        # Every rank has the same figures, so all ranks stop at the same step.
        health.observe(stats)
        done += 1
        last = done == settings.steps or health.stopped is not None
        if last or done % hooks.window_steps == 0:
            feed.settle()
            windows.append((done, means.take()))
            if hooks.on_window:
                hooks.on_window(*windows[-1])
        if health.stopped is not None:
            break
        every, wanted = hooks.checkpoint_every_steps, hooks.checkpoint_wanted
        due = bool(every and done % every == 0)
        if wanted is not None and done % max(1, hooks.window_steps // LOOKS_A_WINDOW) == 0:
            due = wanted() or due
        if hooks.on_checkpoint and due and not last:
            feed.settle()
            spent = before + time.monotonic() - began
            hooks.on_checkpoint(done, _state(trainer, means, health, windows, done, spent))
    health.look()
    if health.stopped is None and last_batches:
        theta = calibrated_threshold(sae, (x / source.norm_factor for x in last_batches), process_group)
        if theta is not None:
            sae.theta.fill_(theta)
    seconds = before + time.monotonic() - began
    return TrainingResult(sae.folded(), windows, done, seconds, tuple(health.diagnoses), health.stopped)


def _calibration_steps(settings: CycleSettings) -> int:
    """Return how many of the last batches the inference threshold is calibrated on."""
    if settings.recipe.threshold == "running_mean":
        return 0
    return min(math.ceil(CALIBRATION_TOKENS / settings.batch_size), max(1, settings.steps // 10))


def _steps(source: DataSource, job: TrainingJob, done: int, steps: int, device: torch.device) -> Iterator[Tensor]:
    count = done
    for x in source.batches(job.start_step + done, job.start_step + steps):
        if x.ndim != 2 or x.shape[1] != source.d_model:
            raise DataError(f"activations: a batch has shape {tuple(x.shape)}, d_model is {source.d_model}")
        if count == steps:
            raise ConfigError(f"activations: the feed gave more than the {steps - done} batches asked for")
        count += 1
        yield x.to(device, torch.float32, non_blocking=True)
    if count < steps:
        needed = job.start_step + steps
        raise DataError(f"activations: the feed ends at step {job.start_step + count}, {job.where} needs {needed}")


def _check_rows(x: Tensor, batch_size: int, step: int, ranks: Ranks, device: torch.device) -> None:
    """Check that the rows of all ranks are a whole batch; with several ranks this waits, so it is done once."""
    rows = int(ranks.sum(torch.tensor(len(x), device=device)))
    if rows != batch_size:
        raise DataError(
            f"activations: step {step} of the feed has {rows} rows over all ranks, batch_size is {batch_size}"
        )


def _state(
    trainer: SAETrainer,
    means: WindowMeans,
    health: HealthMonitor,
    windows: list[tuple[int, dict[str, float]]],
    step: int,
    seconds: float,
) -> dict[str, Any]:
    return {
        "trainer": trainer.state_dict(),
        "means": means.state(),
        "health": health.state(),
        "windows": [[s, dict(stats)] for s, stats in windows],
        "step": step,
        "seconds": seconds,
    }
