"""What a Train worker does in one trial: the plain loop of `distill`; Ray brings data, reports and restarts."""

import copy
import json
import math
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
    CycleRecord,
    WindowRecord,
    derive_seed,
    empty_core,
    gaussian_core,
    load_core,
    run_cycles,
    transfer,
)
from dmsae_ray.errors import DmsaeError
from dmsae_ray.evaluation import evaluate
from dmsae_ray.feed import ShardSource, StoreSource
from dmsae_ray.plan import TrialSpec, cycle_settings, initial_sae
from dmsae_ray.results import CORE_FILE, SUMMARY_FILE, Folders, folders_of
from dmsae_ray.sae import MatryoshkaSAE
from dmsae_ray.store import Store, open_store
from dmsae_ray.sweep.checkpoint import load_checkpoint, save_checkpoint
from dmsae_ray.sweep.model_service import answer
from dmsae_ray.sweep.shared_cycles import SharedCycleStore

REPORTS_PER_CYCLE = 5
"""Curves have more points than that; a report carries several, since each waits for the controller."""


@dataclass(frozen=True)
class TrialTask:
    """All that a worker is told; plain data, but for the handles of the two services."""

    experiment: dict[str, Any]
    spec: dict[str, Any]
    store: str
    """Its key."""
    claims: ActorHandle[Any]
    model: ActorHandle[Any]
    stream: ActorHandle[Any] | None = None
    """Computes its training shards; None: they are in the store."""


class Reporter:
    """Collects records and sends them through Ray Train, every worker at the same steps as all the others."""

    def __init__(self, windows_per_report: int) -> None:
        self._per_report = windows_per_report
        self._records: list[dict[str, Any]] = []

    def window(self, record: WindowRecord) -> None:
        """One point of the curves."""
        self._records.append({"kind": "window", **asdict(record)})
        if not record.cached and sum(r["kind"] == "window" for r in self._records) >= self._per_report:
            self.send()

    def cycle(self, record: CycleRecord) -> None:
        """A finished cycle; sent at once."""
        self._records.append({"kind": "cycle", **record.as_dict()})
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
        records, self._records = self._records, []
        ray.train.report({"records": records}, checkpoint=checkpoint)


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
    experiment = parse_experiment(task.experiment)
    spec = TrialSpec(**task.spec)
    folders = folders_of(experiment)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if world > 1 or not torch.cuda.is_available():
        torch.set_num_threads(max(1, int(experiment.resources.cpus_per_worker)))

    store = open_store(folders.stores, experiment, task.store)
    shards = None if task.stream is None else _streamed(store, task.stream, world)
    source = StoreSource(store, experiment.recipe.batch_size, spec.data_seed, rank, world, shards)
    settings = cycle_settings(experiment, spec, source.d_model)
    window = experiment.tracking.window_steps or max(1, settings.steps // 50)
    reporter = Reporter(max(1, settings.steps // window // REPORTS_PER_CYCLE))
    common: dict[str, Any] = {
        "seed": spec.seed,
        "store": SharedCycleStore(folders.cycles, task.claims, _about(experiment)),
        "evaluate": _evaluation(source, task.model),
        "checkpoint_every_steps": max(1, experiment.resources.checkpoint_every_tokens // settings.batch_size),
        "save_checkpoint": reporter.checkpoint,
        "resume": _last_checkpoint(),
        "on_window": reporter.window,
        "window_steps": window,
        "on_cycle": reporter.cycle,
        "process_group": dist.group.WORLD if world > 1 else None,
        "device": ray.train.torch.get_device(),
    }
    core: Core | None
    if spec.coverage is not None:
        history = run_cycles(
            settings,
            source,
            cycles=experiment.distill.cycles,
            coverage=spec.coverage,
            min_cycles=experiment.distill.min_cycles,
            initial_sae=initial_sae(experiment, source.d_model),
            controls=experiment.distill.controls,
            **common,
        )
        summary, core = history.summary(), history.distilled
    else:
        assert spec.arm is not None  # a trial has the one or the other
        around = _transfer_core(experiment, spec, source.d_model)
        done = transfer(settings, source, around, arm=spec.arm, coverage=experiment.distill.coverage, **common)
        summary, core = (
            {"records": [done.record.as_dict()], "tokens": done.record.tokens, "flops": done.record.flops},
            None,
        )
    if rank == 0:
        _write_result(folders, spec, summary, core)


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
    from dmsae_ray.feed import Stream  # a worker that reads a store needs no Ray Data

    attempt = [uuid.uuid4().hex]
    if world > 1:
        dist.broadcast_object_list(attempt, device=ray.train.torch.get_device())
    return Stream(store, service, attempt[0])


def _transfer_core(experiment: Experiment, spec: TrialSpec, d_model: int) -> Core:
    """The rows that a transfer trial trains around: the given core, rows like it in norm only, or none."""
    assert experiment.transfer is not None
    if spec.arm == "baseline":
        return empty_core(d_model)
    assert experiment.transfer.core is not None  # controller.check_inputs refuses it
    core = load_core(experiment.transfer.core, d_model)
    return core if spec.arm == "distilled" else gaussian_core(core, derive_seed(spec.seed, "control", "gaussian"))


def _evaluation(source: StoreSource, model: ActorHandle[Any]) -> Callable[[MatryoshkaSAE], dict[str, float]]:
    """Held-out metrics of a trained SAE: reconstruction and L0 here, loss recovered where the language model is."""

    def measure(sae: MatryoshkaSAE) -> dict[str, float]:
        loss: Any = model.loss_recovered.remote(ray.put(copy.deepcopy(sae).cpu()))
        metrics = evaluate(sae, source.evaluation())
        return {**metrics.floats(), **answer(loss)}

    return measure


def _last_checkpoint() -> CycleCheckpoint | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return load_checkpoint(Path(folder))


def _nulls(tree: Any) -> Any:
    """The same with null for what was not measured or is not finite: JSON has no NaN."""
    if isinstance(tree, dict):
        return {name: _nulls(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_nulls(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _write_result(folders: Folders, spec: TrialSpec, summary: dict[str, Any], core: Core | None) -> None:
    result = {"trial_id": spec.trial_id, "params": spec.params(), **summary}
    files = {SUMMARY_FILE: json.dumps(_nulls(result), indent=1, allow_nan=False).encode()}
    if core is not None:
        files[CORE_FILE] = core.to_bytes()
    folders.publish(spec.trial_id, files)
