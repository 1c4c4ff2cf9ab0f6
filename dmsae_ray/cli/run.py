"""One run of an experiment from the command line: checks, cluster, activations, trials, tracking, report."""

import re
from typing import TYPE_CHECKING

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED
from dmsae_ray.cli.interrupts import Interrupts
from dmsae_ray.cli.live_report import LiveReport, publish_and_attach
from dmsae_ray.cli.more_sections import more_sections
from dmsae_ray.cli.recorded_progress import progress_of
from dmsae_ray.cli.records import where_to_look
from dmsae_ray.cli.trial_lines import TrialLines
from dmsae_ray.config import Experiment, shell_command
from dmsae_ray.errors import DmsaeError
from dmsae_ray.lm import read_meta, tiny_model
from dmsae_ray.plan import Cluster, left_line, many
from dmsae_ray.results import Steered, grouped
from dmsae_ray.store import open_store
from dmsae_ray.sweep import (
    NOBODY,
    PreparedSweep,
    SoleController,
    Steering,
    SweepResult,
    check_steering,
    prepare_sweep,
    ray_session,
    run_sweep,
    sweep_state,
    with_matched_baselines,
)
from dmsae_ray.tracking import (
    Status,
    SweepTracker,
    TrackingCallback,
    TrialRecords,
    describe_software,
    describe_sweep,
    record_finished,
    save_views,
)

if TYPE_CHECKING:
    from dmsae_ray.report import Report


def run_and_report(
    experiment: Experiment,
    *,
    address: str | None = None,
    largest: Cluster | None = None,
    verbose: bool = False,
    steering: Steering = NOBODY,
) -> int:
    """Run an experiment, or continue it, and print what it found.

    Ray starts after the inputs, the output folder and the tracking server are checked; workers start after the size of
    the cluster is checked.

    Args:
        experiment: The experiment to run.
        address: Address of a Ray cluster; None starts one on this machine.
        largest: What the cluster may become, if Ray does not know it.
        verbose: Show Ray's and Tune's own messages.
        steering: Who chooses among the trials of the grid, and stops some. Without a scheduler, trials that one had
            stopped go on; without a searcher, all trials are run.

    Returns:
        The exit code of the command.

    Raises:
        DmsaeError: The experiment cannot be run; the message is one line.
    """
    check_steering(steering, experiment)
    with Screen() as screen, Interrupts(screen.say, screen.leave):
        if any(part.model.name == "tiny" for part in experiment.parts()):
            _make_tiny_model(screen)
        sweep = prepare_sweep(experiment, screen.say)
        with SoleController(sweep.folders, screen.say):
            sweep = with_matched_baselines(sweep, screen.say)
            tracker = SweepTracker.of(experiment, sweep.folders.sweep)
            tracker.start(sweep.plan.params())
            status: Status = "KILLED"
            try:
                _describe(sweep, tracker)
                save_views(tracker, experiment)
                screen.say(f"sweep folder: {sweep.folders.sweep}")
                result = _steer(sweep, steering, screen)
                sweep.folders.remove_checkpoints([*result.finished, *result.stopped])
                if result.unfinished:
                    describe_software(tracker)
                    sweep, result = _run(sweep, screen, tracker, address, largest, verbose, steering)
                    sweep.folders.remove_checkpoints([*result.finished, *result.stopped])
                else:
                    screen.say(f"{_all_there(result)}: nothing to run")
                report = _report(result, tracker, _records(sweep, tracker), screen)
                status = "KILLED" if result.unfinished else "FAILED" if result.errors else "FINISHED"
            except DmsaeError:
                status = "FAILED"
                raise
            finally:
                tracker.close(status)
        return _say(screen, tracker, result, report, experiment, steering)


def _steer(sweep: PreparedSweep, steering: Steering, screen: Screen) -> SweepResult:
    """Return which trials are left, finished or stopped, for those who choose and stop them now."""
    before, steered = sweep_state(sweep), Steered.read(sweep.folders.shared)
    samples = steering.samples(len(sweep.plan.trials))
    stops, searcher = steering.scheduler is not None, steering.searcher_name
    steered.go_on(before.finished, stops=stops, searcher=searcher, samples=samples)
    steered.write(sweep.folders)
    after = sweep_state(sweep)
    if go_on := set(before.stopped) & set(after.unfinished):
        screen.say(f"{many(len(go_on), 'trial')} that had been stopped or not been asked for may run")
    return after


def _all_there(result: SweepResult) -> str:
    if not result.stopped:
        return f"all {len(result.finished)} trials are finished"
    return f"{many(len(result.finished), 'trial')} are finished, {len(result.stopped)} are not to run"


def _describe(sweep: PreparedSweep, tracker: SweepTracker) -> None:
    describe_sweep(tracker, sweep.experiment, {part.store_key: part.experiment.corpus for part in sweep.parts()})


def _make_tiny_model(screen: Screen) -> None:
    """Find the embedded model, or train one if this Python's text is not that of the shipped model; print its loss."""
    meta = read_meta(tiny_model(progress=screen.tiny_training))
    screen.say(
        f"language model: embedded tiny Gemma-2, {meta['val_loss']:.2f} nats a token on held-out text "
        f"(unigram statistics: {meta['unigram_loss']:.2f})"
    )


def _records(sweep: PreparedSweep, tracker: SweepTracker) -> TrialRecords:
    return TrialRecords(tracker, sweep.plan.trials, sweep.experiment.recipe.batch_size, sweep.folders.cycles)


def _run(
    sweep: PreparedSweep,
    screen: Screen,
    tracker: SweepTracker,
    address: str | None,
    largest: Cluster | None,
    verbose: bool,
    steering: Steering,
) -> tuple[PreparedSweep, SweepResult]:
    """Run the unfinished trials in a Ray session, and then the baselines that match what they measured."""
    with ray_session(address, log=sweep.folders.sweep / "ray.log", verbose=verbose), LiveReport(tracker) as live:
        result = _run_round(sweep, screen, tracker, live, largest, verbose, steering)
        more = with_matched_baselines(sweep, screen.say)
        if more is not sweep and sweep_state(more).unfinished:
            _describe(more, tracker)
            sweep, result = more, _run_round(more, screen, tracker, live, largest, verbose, steering)
        elif (result.errors or result.stopped) and (transfer := sweep.experiment.transfer) and transfer.matches_l0:
            screen.say("note: baselines at measured L0 are not trained before all other trials have finished")
    if not result.unfinished and sweep.experiment.activations.mode == "store":
        for part in sweep.parts():
            _tell_dropped(part, screen, tracker)
    return sweep, result


def _run_round(
    sweep: PreparedSweep,
    screen: Screen,
    tracker: SweepTracker,
    live: LiveReport,
    largest: Cluster | None,
    verbose: bool,
    steering: Steering,
) -> SweepResult:
    progress = progress_of(sweep.experiment, sweep.folders)
    screen.say(f"plan: {sweep.plan.line()}")
    parts = sweep.parts()
    if any(item.trainings for item in progress.done().values()):
        harvested = all(open_store(p.folders.stores, p.experiment, p.store_key).complete for p in parts)
        screen.say(f"left: {left_line(sweep.plan, progress.work, progress.done(), harvested)}")
    for note in sweep.plan.notes:
        screen.say(f"note: {note}")
    errors: dict[str, str] = {}
    with screen.showing(progress):
        for part in parts:
            if not sweep_state(part).unfinished:
                continue
            if len(parts) > 1:
                screen.say(f"part {part.experiment.store_label}: {many(len(part.plan.trials), 'trial')}")
            found = run_sweep(
                part,
                largest=largest,
                callbacks=[
                    TrackingCallback(_records(sweep, tracker), sweep.folders.sweep),
                    TrialLines(screen, progress),
                    live,
                ],
                progress=screen.harvest(),
                say=lambda line: screen.say(f"  {line}"),
                waits=screen.waits,
                verbose=verbose,
                steering=steering,
            )
            errors |= found.errors
            if found.unfinished:
                break  # a person interrupted it
    return sweep_state(sweep, errors)


def _tell_dropped(sweep: PreparedSweep, screen: Screen, tracker: SweepTracker) -> None:
    """Print, and log to the parent run, which share of the tokens each filter kept out of training."""
    dropped = open_store(sweep.folders.stores, sweep.experiment, sweep.store_key).dropped("train")
    label = sweep.experiment.store_label
    group = f"tokens_dropped/{re.sub(r'[^A-Za-z0-9._-]+', '-', label)}".rstrip("/")
    shares = {f"{group}/{reason}": share for reason, share in dropped.items()}
    tracker.metrics(None, f"data {label}".rstrip(), shares, 0)
    said = ", ".join(f"{reason} {share:.2%}" for reason, share in dropped.items() if reason != "no_target")
    which = f" ({label})" if label else ""
    kept_out = f"tokens kept out of training{which}: {said}"
    screen.say(f"  {kept_out if said else f'no tokens were kept out of training{which}'}")


def _report(result: SweepResult, tracker: SweepTracker, records: TrialRecords, screen: Screen) -> "Report | None":
    """Write the report and attach it to the parent run; first log what an earlier controller could not log."""
    record_finished(records, result.folders.sweep)
    if result.unfinished:
        return publish_and_attach(tracker)
    with more_sections(result.folders.sweep, screen) as sections:
        return publish_and_attach(tracker, sections)


def _say(
    screen: Screen,
    tracker: SweepTracker,
    result: SweepResult,
    report: "Report | None",
    experiment: Experiment,
    steering: Steering,
) -> int:
    if report is not None:
        screen.console.print()
        screen.console.print(report.rich())
        screen.say("")
        for name, place in (("report", "report.html"), ("figures", "figures"), ("cores", "trials")):
            screen.say(f"{name + ':':<11}{result.folders.sweep / place}")
    screen.say(f"MLflow:    {where_to_look(tracker, experiment)}")
    if result.stopped:
        screen.say(f"{many(len(result.stopped), 'trial')} without a result, as was asked for:")
        for line in grouped(result.stopped):
            screen.say(f"  {line}")
    for trial_id, reason in result.errors.items():
        screen.say(f"error: trial {trial_id}: {reason}")
    if result.unfinished:
        command = shell_command("dmsae", "resume", result.folders.sweep)
        how = f"go on with: {command}" if steering == NOBODY else "call dmsae_ray.run again to go on"
        screen.say(f"{len(result.unfinished)} trials are unfinished; {how}")
        return EXIT_INTERRUPTED
    return EXIT_FAILED if result.errors else 0
