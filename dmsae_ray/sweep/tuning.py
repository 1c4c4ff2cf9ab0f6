"""Ray Tune over Ray Train: each trial of Tune is one run of Train, which runs all cycles of the trial."""

import re
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import ray
import ray.train
import ray.tune
from ray.actor import ActorHandle
from ray.train.torch import TorchTrainer

from dmsae_ray.errors import DmsaeError
from dmsae_ray.feed import killed_on_exit, start_stream
from dmsae_ray.plan import DRIVER_CPUS, Trial
from dmsae_ray.store import open_store
from dmsae_ray.sweep.callbacks import FetchSummaries, StayingCallbacks
from dmsae_ray.sweep.leases import CycleLeases
from dmsae_ray.sweep.model_service import start_model_service
from dmsae_ray.sweep.prepared import PreparedSweep
from dmsae_ray.sweep.slots import holding_slot
from dmsae_ray.sweep.worker import TrialTask, train_loop


class TrialFailed(DmsaeError):
    """A trial failed for a reason that another attempt would not remove."""


def run_trials(
    sweep: PreparedSweep,
    trials: Sequence[Trial],
    at_once: int,
    slots: ActorHandle[Any] | None,
    callbacks: Sequence[ray.tune.Callback],
    verbose: bool,
) -> dict[str, str]:
    """Run trials under Ray Tune.

    Args:
        sweep: The sweep that the trials belong to.
        trials: The trials to run.
        at_once: How many run together, at most.
        slots: The actor of `slots.TrialSlots` that limits the trials while a harvest goes on; None if none does.
        callbacks: Callbacks of Ray Tune; they stay in this process.
        verbose: Show Tune's own messages.

    Returns:
        Why trials failed, by the name of the trial.
    """
    experiment, folders, key = sweep.experiment, sweep.folders, sweep.store_key
    by_id = {trial.trial_id: trial for trial in trials}
    leases: Any = ray.remote(CycleLeases).options(num_cpus=DRIVER_CPUS, max_restarts=-1).remote()
    model = start_model_service(experiment, folders.stores, key)
    streams = experiment.activations.mode == "stream" and not open_store(folders.stores, experiment, key).complete
    tree = experiment.model_dump(mode="json")
    resources, storage = experiment.resources, folders.train

    def run_trial(config: dict[str, Any]) -> None:
        from ray.tune.integration.ray_train import TuneReportCallback

        forward: Any = TuneReportCallback()  # type: ignore[no-untyped-call]
        trial = by_id[config["trial_id"]]
        per_worker = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            per_worker["GPU"] = resources.gpus_per_worker
        stream = start_stream(experiment, folders.stores, key, cpus=DRIVER_CPUS) if streams else None
        trainer: Any = TorchTrainer  # Train V2 returns the loop's result; its types do not say so
        run = trainer(
            train_loop,
            train_loop_config=vars(TrialTask(tree, trial.params(), key, leases, model, stream)),
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.workers_per_trial,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            run_config=ray.train.RunConfig(
                name=trial.trial_id,
                storage_path=storage,
                callbacks=[forward],
                failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        )
        with nullcontext() if slots is None else holding_slot(slots, trial.trial_id), killed_on_exit(stream):
            result = run.fit()
        if result.return_value is not None:
            raise TrialFailed(result.return_value)

    # Tune's own experiment state is pickled and only repeats what stores, cycles and summaries say: begin without it.
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
    # Tune keeps a copy of `run_trial`, so that these would live as long as the Ray session.
    with killed_on_exit(leases), killed_on_exit(model):
        grid = tuner.fit()
    results = [grid[i] for i in range(len(grid))]
    return {r.config["trial_id"]: reason_of(str(r.error)) for r in results if r.error is not None and r.config}


def reason_of(trace: str) -> str:
    """Return the message of an error that passed several processes: the last line of its trace, without the type."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return re.sub(r"^(\w+\.)+\w+: ", "", lines[-1]) if lines else "no reason given"
