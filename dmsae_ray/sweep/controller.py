"""The controller of a sweep: activations first, then every trial of the grid that is not finished yet."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.tune
from ray.actor import ActorHandle
from ray.train.torch import TorchTrainer

from dmsae_ray.config import Experiment
from dmsae_ray.corpus import check_corpus
from dmsae_ray.distill import load_core
from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.feed import ended, start_stream
from dmsae_ray.files import Folder
from dmsae_ray.harvest import Progress, check_model, prepare
from dmsae_ray.plan import (
    TrialSpec,
    check_fits,
    cluster_of_ray,
    expand,
    initial_sae,
    plan_experiment,
    trials_at_once,
    trials_beside_harvest,
)
from dmsae_ray.results import Folders
from dmsae_ray.store import Reading, file_hash, open_store, store_key
from dmsae_ray.sweep.background_harvest import BackgroundHarvest
from dmsae_ray.sweep.callbacks import FetchSummaries, StayingCallbacks
from dmsae_ray.sweep.leases import CycleClaims
from dmsae_ray.sweep.model_service import start_model_service
from dmsae_ray.sweep.session import DRIVER_CPUS, cpus_on_paper
from dmsae_ray.sweep.slots import admitted, start_gate
from dmsae_ray.sweep.worker import TrialTask, train_loop


class TrialFailed(DmsaeError):
    """A trial that ended for a reason which another attempt would not mend."""


@dataclass
class SweepResult:
    """What a sweep left: which trials are finished, which failed and why, which were not ended."""

    folders: Folders
    finished: list[str]
    errors: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def check_inputs(experiment: Experiment) -> None:
    """What can be known before any worker starts: the model, the layer, given checkpoints and cores.

    Raises:
        ConfigError, DataError: one line that names the field, its value and what is allowed.
    """
    d_model = check_model(experiment.model, experiment.corpus.context)
    initial_sae(experiment, d_model)
    check_corpus(experiment.corpus)
    transfer = experiment.transfer
    if transfer is not None and set(transfer.arms) != {"baseline"}:
        if transfer.core is None:
            raise ConfigError(
                f"transfer.core is missing; arms {list(transfer.arms)} need a core file: --core CORE, "
                "or transfer.arms=[baseline]"
            )
        try:
            rows = len(load_core(transfer.core, d_model))
        except DmsaeError as error:
            raise type(error)(f"transfer.core is '{transfer.core}'; {error}") from None
        most = experiment.sae.n_latents - max(len(experiment.sae.groups), *experiment.ks)
        if not 1 <= rows <= most:
            raise ConfigError(
                f"transfer.core is '{transfer.core}', of {rows} rows; beside sae.n_latents = "
                f"{experiment.sae.n_latents}, {len(experiment.sae.groups)} groups and k = {max(experiment.ks)} "
                f"it must have 1 to {most}"
            )


def inputs_of(experiment: Experiment) -> dict[str, str]:
    """What an experiment reads beside its config, by setting, as hashes."""
    inputs = {"model and corpus (and, for text that Python carries, its version)": store_key(experiment)}
    if experiment.transfer is not None and experiment.transfer.core is not None:
        inputs["transfer.core"] = file_hash(Path(experiment.transfer.core))
    if experiment.distill.initial_sae is not None:
        files = sorted(path for path in Path(experiment.distill.initial_sae).iterdir() if path.is_file())
        hashes = json.dumps([[path.name, file_hash(path)] for path in files])
        inputs["distill.initial_sae"] = hashlib.sha256(hashes.encode()).hexdigest()
    return inputs


def run_sweep(
    experiment: Experiment,
    folders: Folders,
    *,
    callbacks: Sequence[ray.tune.Callback] = (),
    progress: Callable[[Progress], None] | None = None,
    verbose: bool = False,
) -> SweepResult:
    """Run every trial of `experiment` that has no summary yet; needs a Ray session.

    Raises:
        ConfigError: the cluster at its largest cannot hold the harvest or one trial; or the sweep was begun with
            another model, text, core or initial SAE.
        DmsaeError: what ended the harvest.

    Where the cluster can hold both, trials begin while the harvest goes on.

    The same call after an interruption goes on where it stopped: shards and cycles are found by what determines
    them, trials by their summaries, and a cycle in the middle by Ray Train's last checkpoint.
    """
    plan, cluster = plan_experiment(experiment), cluster_of_ray()
    check_fits(plan, cluster)
    key = store_key(experiment)
    folders.keep_to(inputs_of(experiment))
    todo = [spec for spec in expand(experiment) if folders.fetch(spec.trial_id) is None]
    at_once, beside = trials_at_once(plan, cluster), trials_beside_harvest(plan, cluster, cpus_on_paper())

    def tune(gate: ActorHandle[Any] | None) -> SweepResult:
        errors = _tune(experiment, folders, key, todo, at_once, gate, callbacks, verbose) if todo else {}
        return state_of(experiment, folders, errors)

    with Reading(Folder(folders.stores) / key, folders.name):
        if beside == 0 or not todo or open_store(folders.stores, experiment, key).complete:
            prepare(experiment, folders.stores, progress=progress)
            return tune(None)
        gate = start_gate(beside)

        def done(reason: str | None) -> None:
            if reason is None:
                gate.widen.remote(at_once)
            else:
                gate.close.remote(f"the harvest failed: {reason}")

        with BackgroundHarvest(experiment, folders.stores, key, progress, done) as harvest:
            harvest.wait_for_first_shard()
            result = tune(gate)
            if harvest.failed or not result.unfinished:  # else it was interrupted, and the harvest is too
                harvest.finish()
            return result


def state_of(experiment: Experiment, folders: Folders, errors: dict[str, str] | None = None) -> SweepResult:
    """Which trials are finished, failed with one of `errors`, or neither."""
    errors = errors or {}
    trials = [spec.trial_id for spec in expand(experiment)]
    finished = [trial for trial in trials if folders.fetch(trial) is not None]
    unfinished = [trial for trial in trials if trial not in finished and trial not in errors]
    return SweepResult(folders, finished, errors, unfinished)


def _tune(
    experiment: Experiment,
    folders: Folders,
    store: str,
    specs: list[TrialSpec],
    at_once: int,
    gate: ActorHandle[Any] | None,
    callbacks: Sequence[ray.tune.Callback],
    verbose: bool,
) -> dict[str, str]:
    """Run the trials under Ray Tune; the errors of those that failed, by trial."""
    by_id = {spec.trial_id: spec for spec in specs}
    claims: Any = ray.remote(CycleClaims).options(num_cpus=DRIVER_CPUS, max_restarts=-1).remote()
    model = start_model_service(experiment, folders.stores, store)
    streams = experiment.activations.mode == "stream" and not open_store(folders.stores, experiment, store).complete
    tree = experiment.model_dump(mode="json")
    resources, storage = experiment.resources, folders.train

    def run_trial(config: dict[str, Any]) -> None:
        from ray.tune.integration.ray_train import TuneReportCallback

        forward: Any = TuneReportCallback()  # type: ignore[no-untyped-call]
        spec = by_id[config["trial_id"]]
        per_worker = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            per_worker["GPU"] = resources.gpus_per_worker
        stream = start_stream(experiment, folders.stores, store, cpus=DRIVER_CPUS) if streams else None
        trainer: Any = TorchTrainer  # Train V2 hands on what the loop returns; its types do not say so
        run = trainer(
            train_loop,
            train_loop_config=vars(TrialTask(tree, asdict(spec), store, claims, model, stream)),
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.workers_per_trial,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            run_config=ray.train.RunConfig(
                name=spec.trial_id,
                storage_path=storage,
                callbacks=[forward],
                failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        )
        with nullcontext() if gate is None else admitted(gate, spec.trial_id), ended(stream):
            result = run.fit()
        if result.return_value is not None:
            raise TrialFailed(result.return_value)

    # Tune's own experiment state holds pickles, and only repeats what stores, cycles and summaries say: start afresh.
    shutil.rmtree(folders.tune, ignore_errors=True)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(run_trial, {"CPU": DRIVER_CPUS}),
        param_space={
            "trial_id": ray.tune.grid_search(list(by_id)),
            "params": ray.tune.sample_from(lambda config: by_id[config["trial_id"]].params()),
        },
        tune_config=ray.tune.TuneConfig(
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial_id"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial_id"]),
        ),
        run_config=ray.tune.RunConfig(
            name=folders.tune.name,
            storage_path=str(folders.tune.parent),
            verbose=1 if verbose else 0,
            callbacks=[StayingCallbacks([FetchSummaries(folders), *callbacks])],
        ),
    )
    grid = tuner.fit()
    results = [grid[i] for i in range(len(grid))]
    return {r.config["trial_id"]: reason_of(str(r.error)) for r in results if r.error is not None and r.config}


def reason_of(trace: str) -> str:
    """What an error says that has come through several processes: the last line of its trace, without the type."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return re.sub(r"^(\w+\.)+\w+: ", "", lines[-1]) if lines else "no reason given"
