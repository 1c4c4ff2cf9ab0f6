"""What a Train worker does in one trial: it runs the loop of `distill`; Ray adds data, reports and restarts."""

import copy
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.train import CheckpointUploadMode

from dmsae_ray.config import Experiment, parse_experiment
from dmsae_ray.distill import (
    DISTILLED,
    Core,
    CycleCheckpoint,
    CycleReport,
    CycleRunner,
    WindowReport,
    derive_seed,
    empty_core,
    load_core,
    random_core,
    run_cycles,
    transfer,
)
from dmsae_ray.errors import DmsaeError, TransientError, one_line
from dmsae_ray.evaluation import evaluate
from dmsae_ray.feed import Feed, ShardSource
from dmsae_ray.files import Folder, be_patient, passes, retry_outages
from dmsae_ray.plan import CycleSetting, TransferSetting, Trial, cycle_settings, initial_sae
from dmsae_ray.results import Folders, Steered, TrialReport, cycle_name, folders_of, known_after, numbers_of
from dmsae_ray.sae import MatryoshkaSAE
from dmsae_ray.store import Store, note_of, open_store
from dmsae_ray.sweep.attempts import AttemptLog
from dmsae_ray.sweep.checkpoint import load_checkpoint, new_checkpoint_folder, save_checkpoint
from dmsae_ray.sweep.given import CORE, copy_here
from dmsae_ray.sweep.model_service import ModelServiceLost, await_metrics
from dmsae_ray.sweep.shared_cycles import cycle_store
from dmsae_ray.sweep.training_marks import TrainingMarks

T = TypeVar("T")

REPORTS_PER_CYCLE = 5
"""Reports with points of the curves per cycle, at least."""
REPORT_SECONDS = 30.0
"""After so long a report is sent with the next point, so that a person sees how far a long training is."""


@dataclass(frozen=True)
class TrialTask:
    """All that a worker gets: plain data, and the handles of the services.

    Attributes:
        experiment: The experiment, as `Experiment.model_dump` gives it.
        sweep: Name of the sweep's folder.
        trial: The trial, as `Trial.params` gives it.
        store: Key of the store.
        session: A name of the command, for `attempts.AttemptLog`.
        model: Handle of the sweep's `model_service.LanguageModelService`.
        stream: Handle of the `StreamService` (see `feed.start_stream`) that computes the training shards of the trial;
            None if they are in the store.
        given: Folders with copies of the SAEs and the core that the sweep is given, by setting.
        may_be_stopped: Whether a scheduler may stop the trial; the worker then ends, see `TrialStopped`.
        prepares_model: Whether the language model is started when the training begins, since it will be asked soon.
    """

    experiment: dict[str, Any]
    sweep: str
    trial: dict[str, Any]
    store: str
    session: str
    model: ActorHandle[Any]
    stream: ActorHandle[Any] | None = None
    given: dict[str, str] = field(default_factory=dict)
    may_be_stopped: bool = False
    prepares_model: bool = False


class TrialStopped(Exception):
    """A scheduler of Ray Tune has stopped the trial.

    Tune lets go of the trial's driver and no more: Ray Train's controller and its workers would go on, and keep their
    places. So the workers end the training themselves, all after the same report.
    """


class Reporter:
    """Collect reports and send them through Ray Train, at the same steps in all workers.

    No training waits for a report: Ray Train sends them in their order from a thread, each checkpoint when it is
    uploaded. Only a checkpoint waits for the upload of the one before, so that they never fill the local disk.

    Args:
        windows_per_report: Points of the training curves in one report.
        progress: Called when the trial has come further: after a checkpoint is uploaded, or a cycle was trained.
        failed: Called in a thread with the error of an upload; Ray Train then ends the attempt.
        resumed: Where the training was taken up again, for the first report.
        agree: Returns to all workers what the first of them gives; called by all at the same steps.
        arm: The arm of the trial itself; others are its controls.
        stopped: Whether the trial has been stopped; called by all after each report.
    """

    def __init__(
        self,
        windows_per_report: int,
        progress: Callable[[], None],
        failed: Callable[[Exception], None],
        resumed: str = "",
        agree: Callable[[bool], bool] = bool,
        arm: str = DISTILLED,
        stopped: Callable[[], bool] = bool,
    ) -> None:
        self._per_report, self._progress, self._failed, self._resumed = windows_per_report, progress, failed, resumed
        self._agree, self._sent, self._arm, self._stopped = agree, time.monotonic(), arm, stopped
        self._numbers: dict[str, float] = {}
        self._known: dict[str, float] = {}
        self._windows: list[WindowReport] = []
        self._cycles: list[CycleReport] = []
        self._uploading: Path | None = None

    def window(self, report: WindowReport) -> None:
        """Add one point of the training curves; send the report when it is full, or long after the one before."""
        self._windows.append(report)
        self._note(report)
        if report.cached:
            return
        full = len(self._windows) >= self._per_report
        if full or self._agree(time.monotonic() - self._sent >= REPORT_SECONDS):
            self.send()

    def wait(self, cycle: int, arm: str) -> None:
        """Say at once that another sweep's training is waited for."""
        self.send(waits=cycle_name(arm, cycle))

    def cycle(self, report: CycleReport) -> None:
        """Add a finished cycle and send the report at once."""
        self._cycles.append(report)
        self._note(report)
        if "tokens" in self._known and report.arm == self._arm:
            self._numbers["tokens"] = self._known["tokens"]  # its last point may be in the report before
        self.send()
        if not report.cached:
            self._progress()

    def _note(self, report: WindowReport | CycleReport) -> None:
        if report.arm == self._arm:
            self._numbers |= numbers_of(report)
            self._known = known_after(self._known, report)

    def checkpoint(self, state: CycleCheckpoint) -> None:
        """Give Ray Train a checkpoint to resume from; it keeps the last two."""
        if ray.train.get_context().get_world_rank() != 0:
            self.send()
            return
        while self._uploading is not None and self._uploading.exists():
            time.sleep(_UPLOAD_POLL_SECONDS)
        self._uploading = new_checkpoint_folder()  # Ray Train deletes it after the upload
        save_checkpoint(state, self._uploading)
        self.send(ray.train.Checkpoint.from_directory(self._uploading))

    def send(self, checkpoint: ray.train.Checkpoint | None = None, *, waits: str = "") -> None:
        """Send what has been collected, with a checkpoint if one is given, and what is waited for.

        Raises:
            TrialStopped: A scheduler has stopped the trial.
        """
        numbers, known = self._numbers, dict(self._known)
        report = TrialReport(tuple(self._windows), tuple(self._cycles), self._resumed, waits, numbers, known)
        self._windows, self._cycles, self._resumed, self._numbers = [], [], "", {}
        self._sent = time.monotonic()
        ray.train.report(
            report.to_metrics(),
            checkpoint=checkpoint,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._upload,
        )
        if self._stopped():
            raise TrialStopped

    def _upload(self, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Upload a checkpoint as Ray Train does, and wait for a storage that does not answer; called in a thread."""
        storage: Any = ray.train.get_context().get_storage()
        try:
            uploaded: ray.train.Checkpoint = retry_outages(
                lambda: storage.persist_current_checkpoint(checkpoint, name), f"checkpoint {name}"
            )
        except Exception as error:
            self._failed(error)
            raise
        self._progress()
        return uploaded


_UPLOAD_POLL_SECONDS = 0.05
LOOK_SECONDS = 5.0
"""Time between two looks at whether a machine is about to be taken away; the cloud says it two minutes before."""


class MachineEnds:
    """Says once that a machine of the trial will be taken away soon, so that a last checkpoint is made.

    Ray knows it from whoever drains the node, see `spot_notice`. Each look is a call of an actor, and a barrier of the
    workers; a worker that is alone need not look more often than every `LOOK_SECONDS`.
    """

    def __init__(self) -> None:
        self._told = False
        self._alone = ray.train.get_context().get_world_size() == 1
        self._looked = time.monotonic()

    def __call__(self) -> bool:
        """Return whether the end of a machine was announced since the trial's workers were started, the first time."""
        if self._alone and time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        announced = ray.train.get_preemption_info() is not None
        told, self._told = self._told, self._told or announced
        return announced and not told


def train_loop(task: dict[str, Any]) -> str | None:
    """Run one trial; each of its Train workers calls this with the same task.

    Ray Train calls it again, without limit, after it has raised an error or a worker was lost; see `attempts`.

    Args:
        task: The fields of a `TrialTask`.

    Returns:
        Why the trial cannot go on, if another attempt would not help; None if it finished.

    Raises:
        TransientError: Something was lost that the next attempt may find.
        DmsaeError: The trial cannot go on, and has several workers. Perhaps only one of them met the error and the
            others wait for it; raising ends them all, and the next attempt returns the reason.
        Exception: Any other error; the next attempt counts it.
    """
    be_patient()
    given = TrialTask(**task)
    experiment, trial = parse_experiment(given.experiment), Trial.from_params(given.trial)
    folders = folders_of(experiment, given.sweep)
    attempts = attempts_of(experiment, folders, trial, given.session)
    reason = _from_rank_0(attempts.begin)
    if reason is not None:
        return reason
    if given.may_be_stopped and _is_stopped(folders, trial):
        return None
    try:
        _run(given, experiment, folders, trial, attempts)
    except TrialStopped:
        return None
    except ModelServiceLost as error:
        attempts.fail(str(error), permanent=False)
        raise
    except TransientError:
        raise
    except DmsaeError as error:
        if ray.train.get_context().get_world_size() == 1:
            return str(error)
        attempts.fail(str(error), permanent=True)
        raise
    except Exception as error:
        _note_failure(attempts, error)
        raise
    return None


def _note_failure(attempts: AttemptLog, error: Exception) -> None:
    if not passes(error):
        attempts.fail(f"{type(error).__name__}: {one_line(error)}", permanent=False)


def attempts_of(experiment: Experiment, folders: Folders, trial: Trial, session: str) -> AttemptLog:
    """Return the record of a command's attempts at a trial."""
    return AttemptLog(Folder(folders.train) / trial.trial_id, experiment.resources.max_failures, session)


def _from_rank_0(call: Callable[[], T]) -> T:
    """Return to all workers of the trial what the call returns to the first of them."""
    context = ray.train.get_context()
    found: list[Any] = [call() if context.get_world_rank() == 0 else None]
    if context.get_world_size() > 1:
        dist.broadcast_object_list(found, device=ray.train.torch.get_device())
    first: T = found[0]
    return first


def _is_stopped(folders: Folders, trial: Trial) -> bool:
    def look() -> bool:
        with suppress(DmsaeError):  # the next report looks again
            return trial.trial_id in Steered.read(folders.shared).stopped
        return False

    return _from_rank_0(look)


def _run(task: TrialTask, experiment: Experiment, folders: Folders, trial: Trial, attempts: AttemptLog) -> None:
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if world > 1 or not torch.cuda.is_available():
        torch.set_num_threads(max(1, int(experiment.resources.cpus_per_worker)))

    store = open_store(folders.stores, experiment, task.store)
    shards = None if task.stream is None else _streamed(store, task.stream, world)
    feed = Feed(store, experiment.recipe.batch_size, trial.data_seed, rank, world, shards)
    settings = cycle_settings(experiment, trial.setting, feed.d_model)
    window = experiment.tracking.window_steps or max(1, settings.steps // 50)
    progress = attempts.progress if rank == 0 else lambda: None
    failed = partial(_note_failure, attempts)
    last = _last_checkpoint()
    resumed = "" if last is None else f"{cycle_name(last.arm, last.cycle)}, step {last.step:,} of {settings.steps:,}"
    windows = max(1, settings.steps // window // REPORTS_PER_CYCLE)
    arm = DISTILLED if isinstance(trial.setting, CycleSetting) else trial.setting.arm
    reporter = Reporter(
        windows,
        progress,
        failed,
        resumed,
        agree=lambda due: _from_rank_0(lambda: due),
        arm=arm,
        stopped=partial(_is_stopped, folders, trial) if task.may_be_stopped else bool,
    )
    runner = CycleRunner(
        settings,
        feed,
        store=cycle_store(folders.cycles, note_of(experiment, store.key, store.layout)),
        others=TrainingMarks(Folder(folders.cycles), folders.name),
        on_wait=reporter.wait,
        evaluate=_evaluation(feed, task.model),
        on_window=reporter.window,
        window_steps=window,
        save_checkpoint=reporter.checkpoint,
        checkpoint_every_steps=max(1, experiment.resources.checkpoint_every_tokens // settings.batch_size),
        checkpoint_wanted=MachineEnds(),
        resume=last,
        process_group=dist.group.WORLD if world > 1 else None,
        device=ray.train.torch.get_device(),
    )
    if task.prepares_model and rank == 0:
        task.model.prepare.remote()
    if isinstance(trial.setting, CycleSetting):
        summary, core = _run_cycles(task, experiment, trial, trial.setting, runner, reporter)
    else:
        summary, core = _run_transfer(task, experiment, trial, trial.setting, runner, reporter), None
    if rank == 0:
        folders.publish_trial(trial, summary, core)


def _run_cycles(
    task: TrialTask,
    experiment: Experiment,
    trial: Trial,
    setting: CycleSetting,
    runner: CycleRunner,
    reporter: Reporter,
) -> tuple[dict[str, Any], Core]:
    given = experiment.distill.initial_setting(setting.k)
    with copy_here(task.given.get(given), given) as here:
        first = initial_sae(experiment, runner.source.d_model, setting.k, here)
    result = run_cycles(
        runner,
        cycles=experiment.distill.cycles,
        coverage=setting.coverage,
        seed=trial.seed,
        core_size=setting.core_size,
        min_cycles=experiment.distill.min_cycles,
        initial_sae=first,
        controls=experiment.distill.controls,
        chains=experiment.distill.control_chains,
        on_cycle=reporter.cycle,
    )
    return result.summary(), result.distilled


def _run_transfer(
    task: TrialTask,
    experiment: Experiment,
    trial: Trial,
    setting: TransferSetting,
    runner: CycleRunner,
    reporter: Reporter,
) -> dict[str, Any]:
    core = _transfer_core(task, trial, setting, runner.source.d_model)
    done = transfer(
        runner,
        core,
        seed=trial.seed,
        coverage=experiment.distill.coverage,
        core_size=experiment.distill.core_size,
        arm=setting.arm,
        on_cycle=reporter.cycle,
    )
    return {
        "records": [done.report.as_dict()],
        "tokens": done.report.tokens,
        "flops": done.report.flops,
        "core_trainings": core.trainings,
    }


def _streamed(store: Store, service: ActorHandle[Any], world: int) -> ShardSource:
    """Return the training shards of a stream.

    The workers share a new name for this attempt, so that the service can tell it from one before a restart.
    """
    from dmsae_ray.feed import StreamedShards  # here, since a worker that reads a store needs no Ray Data

    attempt = [uuid.uuid4().hex]
    if world > 1:
        dist.broadcast_object_list(attempt, device=ray.train.torch.get_device())
    return StreamedShards(store, service, attempt[0])


def _transfer_core(task: TrialTask, trial: Trial, setting: TransferSetting, d_model: int) -> Core:
    """Return the core of a transfer trial: the given one, random rows of the same norms, or an empty one."""
    if setting.arm == "baseline":
        return empty_core(d_model)
    with copy_here(task.given[CORE], CORE) as here:  # prepared.prepare_sweep makes sure of it
        core = load_core(here[CORE], d_model)
    if setting.arm == "distilled":
        return core
    return random_core(setting.arm, core, derive_seed(trial.seed, "control", setting.arm))


def _evaluation(feed: Feed, model: ActorHandle[Any]) -> Callable[[MatryoshkaSAE], dict[str, float]]:
    """Return a function that measures an SAE on held-out data: FVU and L0 here, loss recovered in the model service."""

    def measure(sae: MatryoshkaSAE) -> dict[str, float]:
        loss: Any = model.loss_recovered.remote([ray.put(copy.deepcopy(sae).cpu())])
        metrics = evaluate(sae, feed.evaluation())
        return {**metrics.floats(), **await_metrics(loss)}

    return measure


def _last_checkpoint() -> CycleCheckpoint | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return load_checkpoint(Path(folder))
