"""The command `dmsae eval`: what the trained SAEs of a sweep are worth, by SAEBench and by measures of our own."""

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED
from dmsae_ray.cli.interrupts import Interrupts
from dmsae_ray.config import refuse_secrets, shell_command
from dmsae_ray.errors import ConfigError, DataError, DmsaeError
from dmsae_ray.files import Folder
from dmsae_ray.saebench import SUITE, Given, check_needs, check_reachable, chosen, read_outcome

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from dmsae_ray.config import Experiment
    from dmsae_ray.report import EvaluatedSAE
    from dmsae_ray.results import Folders
    from dmsae_ray.saebench import Outcome
    from dmsae_ray.sweep import EvaluationTask

Place = tuple[str, str]
"""Cycle key and evaluation."""

OWN = "own"
LOGS = "evaluations"
"""Folder of a sweep for the output of evaluations that failed."""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="SWEEP", nargs="?", help="<output>/sweeps/<name>-<hash>")
    parser.add_argument(
        "--evals",
        metavar="LIST",
        default=f"{OWN},core",
        help=f"evaluations: {', '.join((OWN, *SUITE))} (default: %(default)s)",
    )
    parser.add_argument("--trials", metavar="LIST", help="trials, as in k8-*,k4-tau0.5-seed0 (default: all finished)")
    parser.add_argument(
        "--cycles",
        metavar="LIST",
        default="0,last",
        help="cycles, as in 0-3 or last or all; with the last come its controls (default: %(default)s)",
    )
    parser.add_argument(
        "--text",
        choices=("benchmark", "own"),
        help="what `core` reads: SAEBench's data set, or the held-out tokens of the sweep (default: the first; with "
        "the embedded model the second)",
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="for sparse_probing and tpp, texts of your own in place of the benchmark's: <name>.jsonl of {text, label}",
    )
    parser.add_argument("--forget-corpus", metavar="FILE", help="for unlearning: WMDP's bio-forget-corpus.jsonl")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="contexts at once (default: %(default)s)")
    parser.add_argument("--setup", action="store_true", help="only make SAEBench's environment on this machine")
    parser.add_argument("--address", help="Ray cluster to run on ('auto' on its head node); default: this machine")
    parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's own messages")


def run(args: "Namespace") -> int:
    """Evaluate, write the page and print what was found; return the exit code."""
    from dmsae_ray.saebench import make_environment

    if args.setup:
        print(f"SAEBench's environment: {make_environment().parent.parent}")
        return 0
    if args.folder is None:
        raise ConfigError("SWEEP is missing; it is the folder <output>/sweeps/<name>-<hash>")
    refuse_secrets({"SWEEP": args.folder})
    from dmsae_ray.results import experiment_of, folders_of

    sweep = Path(args.folder).expanduser().absolute()
    experiment = experiment_of(sweep)
    names = chosen(args.evals.split(","), (OWN,))
    benchmark = [name for name in names if name != OWN]
    if args.batch < 1:
        raise ConfigError(f"--batch is {args.batch}; it must be at least 1")
    data = None if args.data is None else Path(args.data).expanduser().absolute()
    corpus = None if args.forget_corpus is None else Path(args.forget_corpus).expanduser().absolute()
    own_text = args.text == "own" or (args.text is None and experiment.model.name == "tiny")
    given = Given(experiment.model.name, data, own_text, corpus)
    check_needs(benchmark, given)
    saes = _chosen_saes(sweep, args.trials, args.cycles)
    check_reachable(benchmark, given)
    folders = folders_of(experiment, sweep.name)
    with Screen() as screen, Interrupts(screen.say, screen.leave):
        tasks = _tasks(args, experiment, folders, {sae.key for sae in saes}, names, given)
        outcomes = _kept(Folder(folders.cycles), tasks)
        left = {place: task for place, task in tasks.items() if place not in outcomes}
        said = f", {len(outcomes)} of them kept from before" if outcomes else ""
        screen.say(f"{len({key for key, _ in tasks})} SAEs x {len(names)} evaluations: {len(tasks)}{said}")
        if any(name != OWN for _, name in left):
            make_environment(screen.say)
        failed = False
        try:
            if left:
                failed = _run_left(args, screen, experiment, sweep, left, saes, outcomes)
        except KeyboardInterrupt:
            done = sum(not outcome.error for outcome in outcomes.values())
            screen.say(f"dmsae: interrupted with {done} of {len(tasks)} evaluated; the same command goes on")
            return EXIT_INTERRUPTED
        _write(screen, experiment, sweep, saes, {place: o for place, o in outcomes.items() if not o.error})
    return EXIT_FAILED if failed else 0


def _chosen_saes(sweep: Path, trials: str | None, cycles: str) -> "list[EvaluatedSAE]":
    """Return the SAEs that are asked for, without numbers yet; those of collapsed trials are left out.

    Raises:
        ConfigError: there is no such trial, or the cycles are no list.
        DataError: no SAE is among them.
    """
    from dmsae_ray.cli.latents import numbers
    from dmsae_ray.report import EvaluatedSAE
    from dmsae_ray.results import load_results

    finished = load_results(sweep)
    known = [result.trial_id for result in finished]
    if not finished:
        raise DataError(f"'{sweep}' has no finished trial: there is nothing to evaluate yet")
    wanted = set(known)
    if trials is not None:
        wanted = set()
        for pattern in trials.split(","):
            found = fnmatch.filter(known, pattern.strip())
            if not found:
                raise ConfigError(f"--trials has '{pattern}'; finished are {', '.join(known)}")
            wanted |= set(found)
    parts = cycles.split(",")
    last, every = "last" in parts, "all" in parts
    listed = [part for part in parts if part not in ("last", "all")]
    asked = set(numbers(",".join(listed), "--cycles")) if listed else set()
    saes = [
        EvaluatedSAE(result, report)
        for result in finished
        if result.trial_id in wanted and result.collapse is None
        for report in (*result.reports, *result.controls.values())
        if every or report.cycle in asked or (last and report.cycle == result.last.cycle)
    ]
    saes = [sae for sae in saes if sae.key]
    if not saes:
        raise DataError(f"--cycles is '{cycles}'; no finished trial that did not collapse has such a cycle")
    return saes


def _tasks(
    args: "Namespace",
    experiment: "Experiment",
    folders: "Folders",
    keys: set[str],
    names: tuple[str, ...],
    given: Given,
) -> "dict[Place, EvaluationTask]":
    from dmsae_ray.results import recorded_store
    from dmsae_ray.sweep import EvaluationTask

    store = recorded_store(folders.output / "sweeps" / folders.name)
    if store is None:
        raise DataError(f"'{folders.sweep}' does not say which activations it reads (inputs.json is gone)")
    texts = {}
    if given.data is not None:
        texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(given.data.glob("*.jsonl"))}
    return {
        (key, name): EvaluationTask(
            experiment=experiment.model_dump(mode="json"),
            stores=folders.stores,
            store=store,
            cycles=folders.cycles,
            key=key,
            evaluation=name,
            own_text=given.own_text and name == "core",
            data=texts if name != OWN and SUITE[name].own_data else {},
            forget_corpus=None if given.forget_corpus is None else str(given.forget_corpus),
            batch=args.batch,
        )
        for name in names
        for key in sorted(keys)
    }


def _kept(cycles: Folder, tasks: "dict[Place, EvaluationTask]") -> "dict[Place, Outcome]":
    found = {}
    for place, task in tasks.items():
        folder = cycles / task.key
        content = folder.read(task.file)
        if content is not None:
            found[place] = read_outcome(content, str(folder / task.file))
    return found


def _run_left(
    args: "Namespace",
    screen: Screen,
    experiment: "Experiment",
    sweep: Path,
    left: "dict[Place, EvaluationTask]",
    saes: "list[EvaluatedSAE]",
    outcomes: "dict[Place, Outcome]",
) -> bool:
    """Run what is left, keep each outcome as it comes, and return whether an evaluation failed."""
    from dmsae_ray.sweep import evaluate_sae, ray_session, run_tasks

    cpus, gpus = experiment.resources.evaluation
    names = {sae.key: sae.name for sae in reversed(saes)}
    places, failures = list(left), 0
    with ray_session(args.address, log=sweep / "ray.log", verbose=args.verbose):
        work = [(task,) for task in left.values()]
        for n, (number, outcome) in enumerate(run_tasks(evaluate_sae, work, cpus=cpus, gpus=gpus)):
            place = places[number]
            task, name = left[place], f"{names[place[0]]}: {place[1]}"
            outcomes[place] = outcome
            if outcome.error:
                failures += 1
                screen.say(f"  {n + 1} of {len(left)}: {name} failed: {outcome.error}")
                if outcome.log:
                    _keep_log(sweep / LOGS / f"{task.key[:16]}-{task.evaluation}.txt", outcome.log)
            else:
                (Folder(task.cycles) / task.key).write(task.file, [task.content(outcome)])
                screen.say(f"  {n + 1} of {len(left)}: {name} [{outcome.seconds:.0f} s]")
            screen.bar("evaluations", n + 1, len(left))
    if failures:
        screen.say(f"dmsae: {failures} of {len(left)} evaluations failed; the same command runs them again")
        if (sweep / LOGS).is_dir():
            screen.say(f"dmsae: what they printed: {sweep / LOGS}")
    return bool(failures)


def _keep_log(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write(
    screen: Screen,
    experiment: "Experiment",
    sweep: Path,
    saes: "list[EvaluatedSAE]",
    outcomes: "dict[Place, Outcome]",
) -> None:
    """Write the page, give the numbers to MLflow, and say what was found."""
    if not outcomes:
        return
    from dataclasses import replace

    from dmsae_ray.report import quality_findings, write_quality
    from dmsae_ray.tracking import record_evaluations

    evaluated = []
    for sae in saes:
        own = {name: outcome for (key, name), outcome in outcomes.items() if key == sae.key}
        numbers = {f"{name}/{metric}": v for name, outcome in own.items() for metric, v in outcome.metrics.items()}
        if numbers:
            evaluated.append(replace(sae, metrics=numbers))
    page = write_quality(evaluated, sweep, name=sweep.name)
    for line in quality_findings(evaluated):
        screen.say(line)
    try:
        record_evaluations(experiment, sweep, [(s.result, s.report, s.metrics) for s in evaluated], page)
    except DmsaeError as error:  # the numbers are on the disk; the same command logs them
        screen.say(f"dmsae: MLflow has no record of this: {error}")
    screen.say(f"report: {page} (also a part of the sweep's report: {shell_command('dmsae', 'report', sweep)})")
