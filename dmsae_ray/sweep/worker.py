"""What a Train worker does in one trial: the plain loop of `distill`; Ray brings data, reports and restarts."""

import copy
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.actor import ActorHandle

from dmsae_ray.config import Experiment, parse_experiment
from dmsae_ray.distill import (
    Core,
    CycleCheckpoint,
    CycleReport,
    CycleRunner,
    WindowReport,
    derive_seed,
    empty_core,
    gaussian_core,
    load_core,
    run_cycles,
    transfer,
)
from dmsae_ray.errors import DmsaeError
from dmsae_ray.evaluation import evaluate
from dmsae_ray.feed import Feed, ShardSource
from dmsae_ray.plan import CycleSetting, TransferSetting, Trial, cycle_settings, initial_sae
from dmsae_ray.results import TrialReport, folders_of
from dmsae_ray.sae import MatryoshkaSAE
from dmsae_ray.store import Store, open_store
from dmsae_ray.sweep.checkpoint import load_checkpoint, save_checkpoint
from dmsae_ray.sweep.model_service import await_metrics
from dmsae_ray.sweep.shared_cycles import SharedCycleStore

REPORTS_PER_CYCLE = 5
"""Curves have more points than that; a report carries several, since each waits for the controller."""


@dataclass(frozen=True)
class TrialTask:
    """All that a worker is told; plain data, but for the handles of the services.

    Attributes:
        experiment: as `Experiment.model_dump` gives it.
        trial: as `Trial.params` gives it.
        store: key of the store.
        leases: `leases.CycleLeases` of the sweep.
        model: `model_service.LanguageModelService` of the sweep.
        stream: computes its training shards (`feed.StreamService`); None: they are in the store.
    """

    experiment: dict[str, Any]
    trial: dict[str, Any]
    store: str
    leases: ActorHandle[Any]
    model: ActorHandle[Any]
    stream: ActorHandle[Any] | None = None


class Reporter:
    """Collects reports and sends them through Ray Train, every worker at the same steps as all the others.

    Args:
        windows_per_report: curves have more points than that; a report carries several, since each waits for the
            controller.
    """

    def __init__(self, windows_per_report: int) -> None:
        self._per_report = windows_per_report
        self._windows: list[WindowReport] = []
        self._cycles: list[CycleReport] = []

    def window(self, report: WindowReport) -> None:
        """One point of the curves."""
        self._windows.append(report)
        if not report.cached and len(self._windows) >= self._per_report:
            self.send()

    def cycle(self, report: CycleReport) -> None:
        """A finished cycle; sent at once."""
        self._cycles.append(report)
        self.send()

    def checkpoint(self, state: CycleCheckpoint) -> None:
        """Hand Ray Train what resuming needs; it keeps the last two."""
        if ray.train.get_context().get_world_rank() != 0:
            self.send()
            return
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(state, Path(folder))
            self.send(ray.train.Checkpoint.from_directory(folder))

    def send(self, checkpoint: ray.train.Checkpoint | None = None) -> None:
        """Report what has been collected."""
        report = TrialReport(tuple(self._windows), tuple(self._cycles))
        self._windows, self._cycles = [], []
        ray.train.report(report.to_metrics(), checkpoint=checkpoint)


def train_loop(task: dict[str, Any]) -> str | None:
    """Run one trial; each of its Train workers calls this with the same task.

    Returns:
        Why it cannot go on, if taking it up again would not mend that. Of several workers one alone may have met the
        reason while the others wait for it: it then ends them all by raising.
    """
    try:
        _run(TrialTask(**task))
    except DmsaeError as error:
        if ray.train.get_context().get_world_size() > 1:
            raise
        return str(error)
    return None


def _run(task: TrialTask) -> None:
    experiment, trial = parse_experiment(task.experiment), Trial.from_params(task.trial)
    folders = folders_of(experiment)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if world > 1 or not torch.cuda.is_available():
        torch.set_num_threads(max(1, int(experiment.resources.cpus_per_worker)))

    store = open_store(folders.stores, experiment, task.store)
    shards = None if task.stream is None else _streamed(store, task.stream, world)
    feed = Feed(store, experiment.recipe.batch_size, trial.data_seed, rank, world, shards)
    settings = cycle_settings(experiment, trial.setting, feed.d_model)
    window = experiment.tracking.window_steps or max(1, settings.steps // 50)
    reporter = Reporter(max(1, settings.steps // window // REPORTS_PER_CYCLE))
    runner = CycleRunner(
        settings,
        feed,
        store=SharedCycleStore(folders.cycles, task.leases, _about(experiment)),
        evaluate=_evaluation(feed, task.model),
        on_window=reporter.window,
        window_steps=window,
        save_checkpoint=reporter.checkpoint,
        checkpoint_every_steps=max(1, experiment.resources.checkpoint_every_tokens // settings.batch_size),
        resume=_last_checkpoint(),
        process_group=dist.group.WORLD if world > 1 else None,
        device=ray.train.torch.get_device(),
    )
    if isinstance(trial.setting, CycleSetting):
        summary, core = _run_cycles(experiment, trial, trial.setting, runner, reporter)
    else:
        summary, core = _run_transfer(experiment, trial, trial.setting, runner, reporter), None
    if rank == 0:
        folders.publish_trial(trial, summary, core)


def _run_cycles(
    experiment: Experiment, trial: Trial, setting: CycleSetting, runner: CycleRunner, reporter: Reporter
) -> tuple[dict[str, Any], Core]:
    result = run_cycles(
        runner,
        cycles=experiment.distill.cycles,
        coverage=setting.coverage,
        seed=trial.seed,
        min_cycles=experiment.distill.min_cycles,
        initial_sae=initial_sae(experiment, runner.source.d_model),
        controls=experiment.distill.controls,
        on_cycle=reporter.cycle,
    )
    return result.summary(), result.distilled


def _run_transfer(
    experiment: Experiment, trial: Trial, setting: TransferSetting, runner: CycleRunner, reporter: Reporter
) -> dict[str, Any]:
    core = _transfer_core(experiment, trial, setting, runner.source.d_model)
    coverage = experiment.distill.coverage
    done = transfer(runner, core, seed=trial.seed, coverage=coverage, arm=setting.arm, on_cycle=reporter.cycle)
    return {"records": [done.report.as_dict()], "tokens": done.report.tokens, "flops": done.report.flops}


def _about(experiment: Experiment) -> dict[str, Any]:
    """What is noted with an SAE, so that it can be used without the experiment's config."""
    model, corpus = experiment.model, experiment.corpus
    return {
        "model": model.name,
        "revision": model.revision,
        "layer": model.layer,
        "context": corpus.context,
        "corpus": corpus.path or corpus.source,
    }


def _streamed(store: Store, service: ActorHandle[Any], world: int) -> ShardSource:
    """Training shards of a stream, under a name that the workers share, and that those before a restart had not."""
    from dmsae_ray.feed import StreamedShards  # a worker that reads a store needs no Ray Data

    attempt = [uuid.uuid4().hex]
    if world > 1:
        dist.broadcast_object_list(attempt, device=ray.train.torch.get_device())
    return StreamedShards(store, service, attempt[0])


def _transfer_core(experiment: Experiment, trial: Trial, setting: TransferSetting, d_model: int) -> Core:
    """The rows that a transfer trial trains around: the given core, rows like it in norm only, or none."""
    assert experiment.transfer is not None
    if setting.arm == "baseline":
        return empty_core(d_model)
    assert experiment.transfer.core is not None  # controller.check_inputs refuses it
    core = load_core(experiment.transfer.core, d_model)
    return core if setting.arm == "distilled" else gaussian_core(core, derive_seed(trial.seed, "control", "gaussian"))


def _evaluation(feed: Feed, model: ActorHandle[Any]) -> Callable[[MatryoshkaSAE], dict[str, float]]:
    """Held-out metrics of a trained SAE: reconstruction and L0 here, loss recovered where the language model is."""

    def measure(sae: MatryoshkaSAE) -> dict[str, float]:
        loss: Any = model.loss_recovered.remote(ray.put(copy.deepcopy(sae).cpu()))
        metrics = evaluate(sae, feed.evaluation())
        return {**metrics.floats(), **await_metrics(loss)}

    return measure


def _last_checkpoint() -> CycleCheckpoint | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return load_checkpoint(Path(folder))
