"""Ray Tune over Ray Train: each trial of Tune is one run of Train, which runs all cycles of the trial."""

import shutil
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
import ray.train
import ray.tune

from dmsae_ray.config import ON_HEAD
from dmsae_ray.errors import DmsaeError, one_line
from dmsae_ray.feed import killed_on_exit, start_stream
from dmsae_ray.files import Folder, be_patient, passes
from dmsae_ray.plan import DRIVER_BYTES
from dmsae_ray.results import failure_in, failure_metrics
from dmsae_ray.store import open_store
from dmsae_ray.sweep.callbacks import FetchSummaries, StayingCallbacks, Stops
from dmsae_ray.sweep.driver_end import ends_in_time
from dmsae_ray.sweep.model_service import IDLE_SECONDS, start_model_service
from dmsae_ray.sweep.prepared import PreparedSweep
from dmsae_ray.sweep.steering import OnlyStops
from dmsae_ray.sweep.trial_search import TrialSearch
from dmsae_ray.sweep.trial_trainer import Reports, TrialTrainer
from dmsae_ray.sweep.waiting import Waiting
from dmsae_ray.sweep.worker import TrialTask, attempts_of, train_loop


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo what Tune leaves behind: its handlers of signals, which would swallow the next Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise the error of one line that lies within one of Tune's, which shows the code where a callback failed.

    Raises:
        DmsaeError: It was the reason.
    """
    try:
        yield
    except Exception as error:
        link: BaseException | None = error
        while link is not None and not isinstance(link, DmsaeError):
            link = link.__cause__ or link.__context__
        if link is not None:
            raise link from None
        raise


def run_trials(
    sweep: PreparedSweep,
    search: TrialSearch,
    at_once: int,
    head_bytes: float,
    callbacks: Sequence[ray.tune.Callback],
    waiting: Waiting,
    verbose: bool,
    stops: Stops | None = None,
    overlap: bool = False,
) -> dict[str, str]:
    """Run trials under Ray Tune.

    Args:
        sweep: The sweep that the trials belong to.
        search: The trials to run; it says which one begins when.
        at_once: How many run together, at most.
        head_bytes: Memory of the head node.
        callbacks: Callbacks of Ray Tune; they stay in this process.
        waiting: Tells what waits for room on the cluster.
        verbose: Show Tune's own messages.
        stops: Tells which trials a scheduler has stopped; None if nothing stops any.
        overlap: Whether there is room for trials while the harvest goes on; else they wait for its end.

    Returns:
        Why trials failed, by the name of the trial.
    """
    experiment, folders, key = sweep.experiment, sweep.folders, sweep.store_key
    by_id = {trial.trial_id: trial for trial in search.trials}
    model = start_model_service(experiment, folders.stores, key)
    waiting.ask(", ".join(map(str, sweep.plan.service_needs)), model)
    is_short = 3600 * sweep.plan.training.hours < IDLE_SECONDS
    streams = experiment.activations.mode == "stream" and not open_store(folders.stores, experiment, key).complete
    points = {trial.setting.axes for trial in search.trials}
    trees = {axes: experiment.at(axes).model_dump(mode="json") for axes in points}
    resources, storage, session = experiment.resources, folders.train, uuid.uuid4().hex

    def run_trial(config: dict[str, Any]) -> None:
        with ends_in_time():
            run_once(config)

    def run_once(config: dict[str, Any]) -> None:
        be_patient()
        trial = by_id[config["trial_id"]]
        attempts = attempts_of(experiment, folders, trial, session)
        reason = attempts.begin()
        if reason is not None:
            ray.tune.report(failure_metrics(reason))
            return
        per_worker = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            per_worker["GPU"] = resources.gpus_per_worker
        stream = start_stream(experiment, folders.stores, key) if streams else None
        tree = trees[trial.setting.axes]
        task = TrialTask(
            tree, folders.name, trial.params(), key, session, model, stream, sweep.given, stops is not None, is_short
        )
        # Ray's types are those of Train V1: V2 returns the loop's result, and knows more kinds of failures.
        trainer: Any = TrialTrainer
        failures: Any = ray.train.FailureConfig
        reports: Any = Reports()
        run = trainer(
            train_loop,
            train_loop_config=vars(task),
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.workers_per_trial,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            run_config=ray.train.RunConfig(
                name=trial.trial_id,
                storage_path=storage,
                callbacks=[reports],
                # Without limit: `attempts` tells a lost machine from an error of the trial, and ends the latter.
                failure_config=failures(max_failures=-1, controller_failure_limit=-1, max_preemption_failures=-1),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        )
        try:
            if not streams:  # the worker could wait too, but would hold its place meanwhile
                open_store(folders.stores, experiment, key).wait(whole=not overlap)
            with killed_on_exit(stream):
                reason = reports.forward(run.fit, ray.tune.report).return_value
        except DmsaeError as error:
            reason = str(error)
        except Exception as error:
            # What Train's controller met is not in the chain of causes.
            if not passes(getattr(error, "controller_failure", error)):
                attempts.fail(f"{type(error).__name__}: {one_line(error)}", permanent=False)
            raise
        if reason is not None:
            ray.tune.report(failure_metrics(reason))  # not raised: Tune would try the trial again
        else:
            with suppress(DmsaeError, OSError):  # checkpoints that stay behind are no reason to run the trial again
                (Folder(storage) / trial.trial_id).remove()

    # Drivers, and with them Ray Train's controllers, are on the head node: they outlive the loss of other nodes.
    on_head = {"CPU": 0, **ON_HEAD, "memory": min(DRIVER_BYTES, head_bytes)}
    # Tune's own experiment state is pickled and only repeats what stores, cycles and summaries say: begin without it.
    shutil.rmtree(folders.tune, ignore_errors=True)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(run_trial, on_head),
        tune_config=ray.tune.TuneConfig(
            search_alg=search,
            scheduler=None if stops is None else OnlyStops.of(stops.scheduler, experiment),
            num_samples=len(by_id),
            max_concurrent_trials=at_once,
            # In the actor of a trial that was stopped, the next one would end as it begins.
            reuse_actors=stops is None,
            trial_name_creator=lambda trial: str(trial.config["trial_id"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial_id"]),
        ),
        run_config=ray.tune.RunConfig(
            name=folders.tune.name,
            storage_path=str(folders.tune.parent),
            verbose=1 if verbose else 0,
            callbacks=[StayingCallbacks([FetchSummaries(folders), *callbacks], stops)],
            failure_config=ray.tune.FailureConfig(max_failures=-1),  # a driver, or Train's controller, was lost
        ),
    )
    # Tune keeps a copy of `run_trial`, so that it would live as long as the Ray session.
    with killed_on_exit(model), _signals_kept(), own_errors():
        grid = tuner.fit()
    results = [grid[i] for i in range(len(grid))]
    failures = {str(r.config["trial_id"]): failure_in(r.metrics) for r in results if r.config}
    return {trial_id: reason for trial_id, reason in failures.items() if reason is not None}
