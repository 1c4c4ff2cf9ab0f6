"""One run of an experiment as a person sees it: checks, cluster, activations, trials, records, report."""

from dmsae_ray.cli.console import Screen, TrialLines
from dmsae_ray.config import Experiment, shell_command
from dmsae_ray.errors import EXIT_FAILED, EXIT_INTERRUPTED, DmsaeError
from dmsae_ray.plan import plan_experiment
from dmsae_ray.report import Report, publish
from dmsae_ray.results import create_folders
from dmsae_ray.store import open_store
from dmsae_ray.sweep import SweepResult, check_inputs, inputs_of, ray_session, run_sweep, state_of
from dmsae_ray.tracking import Status, SweepTracker, TrackingCallback, log_finished


def run_and_report(experiment: Experiment, *, address: str | None = None, verbose: bool = False) -> int:
    """Run an experiment, or go on with it, and say what it found; the exit code of the command.

    Ray is started when the inputs, the output folder and the tracking server are checked, workers when the cluster's
    size is.
    """
    with Screen() as screen:
        _check_model(experiment, screen)
        folders = create_folders(experiment)
        folders.keep_to(inputs_of(experiment))
        plan = plan_experiment(experiment)
        tracker = SweepTracker.of(experiment, folders.sweep)
        tracker.start(plan.params())
        status: Status = "KILLED"
        try:
            screen.say(f"sweep folder: {folders.sweep}")
            result = state_of(experiment, folders)
            if result.unfinished:
                screen.say(f"plan: {plan.line()}")
                for note in plan.notes:
                    screen.say(f"note: {note}")
                with ray_session(address, log=folders.sweep / "ray.log", verbose=verbose):
                    result = run_sweep(
                        experiment,
                        folders,
                        callbacks=[TrackingCallback(tracker), TrialLines(screen, plan.trainings_unshared)],
                        progress=screen.harvest(),
                        verbose=verbose,
                    )
                _tell_dropped(experiment, result, screen, tracker)
            else:
                screen.say(f"all {len(result.finished)} trials are finished: nothing to run")
            report = _report(result, tracker)
            status = "KILLED" if result.unfinished else "FAILED" if result.errors else "FINISHED"
        except DmsaeError:
            status = "FAILED"
            raise
        finally:
            tracker.close(status)
        return _say(screen, tracker, result, report)


def _check_model(experiment: Experiment, screen: Screen) -> None:
    """Check what is given; the embedded model is made here where this Python has other text than the shipped one."""
    if experiment.model.name == "tiny":
        from dmsae_ray.lm import read_meta, tiny_model

        meta = read_meta(tiny_model(progress=screen.tiny_training))
        screen.say(
            f"language model: embedded tiny Gemma-2, {meta['val_loss']:.2f} nats a token on held-out text "
            f"(unigram statistics: {meta['unigram_loss']:.2f})"
        )
    check_inputs(experiment)


def _tell_dropped(experiment: Experiment, result: SweepResult, screen: Screen, tracker: SweepTracker) -> None:
    """Say, and log on the parent run, which share of the tokens each filter kept out of training."""
    if result.unfinished or experiment.activations.mode != "store":
        return
    dropped = open_store(result.folders.stores, experiment).dropped("train")
    tracker.metrics(None, {f"tokens_dropped/{reason}": share for reason, share in dropped.items()}, 0)
    said = ", ".join(f"{reason} {share:.2%}" for reason, share in dropped.items() if reason != "no_target")
    screen.say(f"  tokens kept out of training: {said}" if said else "  no tokens were kept out of training")


def _report(result: SweepResult, tracker: SweepTracker) -> Report | None:
    """Write the report, and log what trials found before an interruption that the tracker may have missed."""
    if not result.finished:
        return None
    log_finished(tracker, result.folders.sweep)
    return publish(result.folders.sweep, tracker)[0]


def _say(screen: Screen, tracker: SweepTracker, result: SweepResult, report: Report | None) -> int:
    if report is not None:
        screen.console.print()
        screen.console.print(report.rich())
        screen.say("")
        for name, place in (("report", "report.md"), ("figures", "figures"), ("cores", "trials")):
            screen.say(f"{name + ':':<11}{result.folders.sweep / place}")
    screen.say(f"MLflow UI: {tracker.destination.ui_command}")
    for trial_id, reason in result.errors.items():
        screen.say(f"error: trial {trial_id}: {reason}")
    if result.unfinished:
        command = shell_command("dmsae", "resume", result.folders.sweep)
        screen.say(f"{len(result.unfinished)} trials are unfinished; go on with: {command}")
        return EXIT_INTERRUPTED
    return EXIT_FAILED if result.errors else 0
