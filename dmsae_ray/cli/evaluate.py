"""The command `dmsae eval`: what the trained SAEs of a sweep are worth, by SAEBench and by measures of our own."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED
from dmsae_ray.cli.interrupts import Interrupts
from dmsae_ray.config import refuse_secrets, shell_command
from dmsae_ray.errors import ConfigError, DataError, DmsaeError
from dmsae_ray.files import PATIENCE_SECONDS, Folder, file_sha256, patience
from dmsae_ray.saebench import SUITE, Given, check_needs, check_reachable, chosen, read_outcome

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from dmsae_ray.config import Experiment
    from dmsae_ray.report import EvaluatedSAE
    from dmsae_ray.results import Folders
    from dmsae_ray.saebench import Outcome
    from dmsae_ray.sweep import EvaluationTask

Place = tuple[str, str, str]
"""Of an outcome: the place of the cycles, the cycle's key and the name of the file."""

OWN = "own"
LOGS = "evaluations"
"""Folder of a sweep for the output of evaluations that failed."""
TOGETHER = "together"
"""Folder of the first of several sweeps for the page of all."""
STOPPING = "stopping: what is evaluated is kept; Ctrl-C again ends hard"
_OPTIONS = ("text", "data", "forget_corpus")
"""What of an evaluation's settings follows from options of the command."""
_SAME = ("model.name", "model.revision", "model.layer", "sae.n_latents")
"""Settings that sweeps have in common whose SAEs stand in one page."""


@dataclass(frozen=True)
class Evaluable:
    """A sweep whose SAEs are evaluated.

    Attributes:
        folder: its folder.
        experiment: its experiment.
        folders: its folders.
        stores: keys of the stores that it reads, by `Experiment.store_label`.
        label: its name, or where several have this name its folder.
        saes: all SAEs of its finished trials that did not collapse, without numbers yet.
        collapsed: how many trials did.
    """

    folder: Path
    experiment: "Experiment"
    folders: "Folders"
    stores: dict[str, str]
    label: str
    saes: "list[EvaluatedSAE]"
    collapsed: int

    @cached_property
    def _points(self) -> dict[Any, tuple[dict[str, Any], str]]:
        """The experiment, as JSON, and the key of the store, for the SAEs at each point of further axes."""
        from dmsae_ray.config import store_label

        return {
            axes: (self.experiment.at(axes).model_dump(mode="json"), self.stores[store_label(axes)])
            for axes in dict.fromkeys(sae.result.setting.axes for sae in self.saes)
        }

    def task(self, task: "EvaluationTask", sae: "EvaluatedSAE") -> "EvaluationTask":
        """Return a task of the sweep for one of its SAEs: with the activations on which this was trained."""
        tree, store = self._points[sae.result.setting.axes]
        return replace(task, experiment=tree, store=store, key=sae.key)

    def place(self, sae: "EvaluatedSAE", settings: Mapping[str, Any]) -> Place:
        """Return where the outcome of an evaluation with these settings is; store and model are those of the SAE."""
        from dmsae_ray.sweep import outcome_file

        tree, store = self._points[sae.result.setting.axes]
        own = dict(settings)
        own |= {"store": store} if "store" in own else {}
        own |= {"text": {"store": store}} if "store" in own.get("text", ()) else {}
        own |= {"model": {name: tree["model"][name] for name in own["model"]}} if "model" in own else {}
        return self.folders.cycles, sae.key, outcome_file(own)


@dataclass(frozen=True)
class Left:
    """An evaluation that is not done yet.

    Attributes:
        task: the task.
        name: what a person calls it: trial, cycle and evaluation.
        log: file for its output, should it fail.
    """

    task: "EvaluationTask"
    name: str
    log: Path


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "folders",
        metavar="SWEEP",
        nargs="*",
        help="<output>/sweeps/<name>-<hash>; of several, such as transfers of the cores of several seeds, a page of "
        "all is written too, with intervals over the sweeps",
    )
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
    parser.add_argument(
        "--run-data-set-code",
        action="store_true",
        help="for sparse_probing: let codeparrot/github-code run its own loading script, as SAEBench does",
    )
    parser.add_argument("--forget-corpus", metavar="FILE", help="for unlearning: WMDP's bio-forget-corpus.jsonl")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="contexts at once (default: %(default)s)")
    parser.add_argument(
        "--out", metavar="FOLDER", help=f"folder for the page of several sweeps (default: {TOGETHER} in the first's)"
    )
    parser.add_argument("--setup", action="store_true", help="only make SAEBench's environment on this machine")
    parser.add_argument("--address", help="Ray cluster to run on ('auto' on its head node); default: this machine")
    parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's own messages")


def run(args: "Namespace") -> int:
    """Evaluate, write the pages and print what was found; return the exit code."""
    from dmsae_ray.saebench import make_environment

    if args.setup:
        print(f"SAEBench's environment: {make_environment().parent.parent}")
        return 0
    if not args.folders:
        raise ConfigError("SWEEP is missing; it is the folder <output>/sweeps/<name>-<hash>")
    refuse_secrets({"SWEEP": " ".join(args.folders), "out": args.out or ""})
    names = chosen([name.strip() for name in args.evals.split(",")], (OWN,))
    if args.batch < 1:
        raise ConfigError(f"--batch is {args.batch}; it must be at least 1")
    sweeps = _sweeps([Path(folder).expanduser().absolute() for folder in args.folders])
    if args.out is not None and len(sweeps) == 1:
        raise ConfigError(f"--out is '{args.out}'; it is for several sweeps: the page of one is in the sweep's folder")
    models_read = list(dict.fromkeys(part.model.name for sweep in sweeps for part in sweep.experiment.parts()))
    if len(models_read) > 1 and args.text is None and "tiny" in models_read:
        raise ConfigError(f"--text is missing; the sweep reads {', '.join(models_read)}: say benchmark or own")
    model = models_read[0]
    data = None if args.data is None else Path(args.data).expanduser().absolute()
    corpus = None if args.forget_corpus is None else Path(args.forget_corpus).expanduser().absolute()
    given = Given(
        model, data, args.text == "own" or (args.text is None and model == "tiny"), corpus, args.run_data_set_code
    )
    benchmark = [name for name in names if name != OWN]
    for name in models_read:
        check_needs(benchmark, replace(given, model=name))
    wanted = _chosen_saes(sweeps, args.trials, args.cycles)
    check_reachable(benchmark, given)
    with Screen() as screen, Interrupts(screen.say, screen.leave, STOPPING):
        models = [_models(sweep, given, args.batch) for sweep in sweeps]
        settings = [_settings(sweep, names, tasks) for sweep, tasks in zip(sweeps, models, strict=True)]
        outcomes = _kept(screen, sweeps, settings)
        tasks: dict[Place, Left] = {}
        for sweep, saes, task, own in zip(sweeps, wanted, models, settings, strict=True):
            for name in names:
                for sae in saes:
                    place = sweep.place(sae, own[name])
                    tasks.setdefault(place, _left(sweep, sae, task[name], several=len(sweeps) > 1))
        left = {place: task for place, task in tasks.items() if place not in outcomes}
        before = len(tasks) - len(left)
        said = f", {before} of them kept from before" if before else ""
        screen.say(f"{len({place[:2] for place in tasks})} SAEs x {len(names)} evaluations: {len(tasks)}{said}")
        collapsed = sum(sweep.collapsed for sweep in sweeps)
        if collapsed:
            screen.say(f"note: {collapsed} trials collapsed; they are left out")
        failures = 0
        try:
            if any(task.task.evaluation != OWN for task in left.values()):
                make_environment(screen.say)
            if left:
                failures = _run_left(args, screen, sweeps[0], left, outcomes)
        except KeyboardInterrupt:
            done = sum(place in outcomes for place in tasks)
            screen.say(f"dmsae: interrupted with {done} of {len(tasks)} evaluated; the same command goes on")
            return EXIT_INTERRUPTED
        _write(args, screen, sweeps, settings, outcomes)
    return EXIT_FAILED if failures else 0


def _sweeps(places: Sequence[Path]) -> list[Evaluable]:
    """Read the sweeps.

    Raises:
        ConfigError: one is none, or they cannot be compared.
        DataError: one has no finished trial.
    """
    from dmsae_ray.report import EvaluatedSAE
    from dmsae_ray.results import experiment_of, folders_of, load_results, recorded_stores

    found: list[Evaluable] = []
    names = [place.name for place in places]
    for place in places:
        if place in [sweep.folder for sweep in found]:
            raise ConfigError(f"SWEEP is '{place}' twice; give each sweep once")
        experiment = experiment_of(place)
        folders = folders_of(experiment, place.name)
        finished = load_results(place)
        if not finished:
            raise DataError(f"'{place}' has no finished trial: there is nothing to evaluate yet")
        stores = recorded_stores(folders.shared, experiment)
        if len(stores) < len(experiment.parts()):
            raise DataError(f"'{place}' does not say which activations it reads (inputs.json is gone)")
        label = place.name if names.count(place.name) == 1 else str(place)
        saes = [
            EvaluatedSAE(result, report, label)
            for result in finished
            if result.collapse is None
            for report in (*result.reports, *result.beside)
            if report.key and not report.collapsed
        ]
        collapsed = sum(result.collapse is not None for result in finished)
        found.append(Evaluable(place, experiment, folders, stores, label, saes, collapsed))
        for setting in _SAME:
            section, name = setting.split(".")
            here, first = (
                sweep.experiment.sweep.axes.get(setting, getattr(getattr(sweep.experiment, section), name))
                for sweep in (found[-1], found[0])
            )
            if here != first:
                raise ConfigError(
                    f"'{place}' has {setting} = {here} and '{places[0]}' {first}: they cannot be compared"
                )
    return found


def _chosen_saes(sweeps: Sequence[Evaluable], trials: str | None, cycles: str) -> "list[list[EvaluatedSAE]]":
    """Return the SAEs of each sweep that are asked for.

    Raises:
        ConfigError: there is no such trial, or the cycles are no list.
        DataError: no SAE is among them.
    """
    from dmsae_ray.cli.latents import numbers

    known = list(dict.fromkeys(sae.result.trial_id for sweep in sweeps for sae in sweep.saes))
    patterns = ["*"] if trials is None else [pattern.strip() for pattern in trials.split(",")]
    for pattern in patterns:
        if known and not fnmatch.filter(known, pattern):
            raise ConfigError(f"--trials has '{pattern}'; finished and not collapsed are {', '.join(known)}")
    parts = [part.strip() for part in cycles.split(",")]
    last, every = "last" in parts, "all" in parts
    listed = [part for part in parts if part not in ("last", "all")]
    asked = set(numbers(",".join(listed), "--cycles")) if listed else set()
    found = [
        [
            sae
            for sae in sweep.saes
            if any(fnmatch.fnmatch(sae.result.trial_id, pattern) for pattern in patterns)
            and (every or sae.report.cycle in asked or (last and sae.report.cycle == sae.result.last.cycle))
        ]
        for sweep in sweeps
    ]
    if not any(found):
        raise DataError(f"--cycles is '{cycles}'; no finished trial that did not collapse has such a cycle")
    return found


def _models(sweep: Evaluable, given: Given, batch: int) -> "dict[str, EvaluationTask]":
    """Return the task of each evaluation, for no SAE yet, by its name."""
    from dmsae_ray.sweep import EvaluationTask

    texts = {}
    if given.data is not None:
        texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(given.data.glob("*.jsonl"))}
    corpus = given.forget_corpus
    return {
        name: EvaluationTask(
            experiment=sweep.experiment.at(sweep.experiment.points[0]).model_dump(mode="json"),
            stores=sweep.folders.stores,
            store=next(iter(sweep.stores.values())),
            cycles=sweep.folders.cycles,
            key="",
            evaluation=name,
            own_text=given.own_text and name == "core",
            data=texts if name != OWN and SUITE[name].own_data else {},
            forget_corpus=str(corpus) if corpus is not None and name == "unlearning" else None,
            forget_corpus_sha256=file_sha256(corpus) if corpus is not None and name == "unlearning" else None,
            batch=batch,
        )
        for name in (OWN, *SUITE)
    }


def _settings(
    sweep: Evaluable, names: Sequence[str], tasks: "Mapping[str, EvaluationTask]"
) -> dict[str, dict[str, Any]]:
    """Return, by evaluation, the settings of the numbers that the page shows.

    Those of the evaluations that are asked for now are the command's; of others, those of the page that is there.
    """
    from dmsae_ray.report import stored_settings

    before, found = stored_settings(sweep.folder), {}
    for name, task in tasks.items():
        now = task.identity
        if name in names:
            found[name] = now
        elif name in before and all(before[name].get(f) == value for f, value in now.items() if f not in _OPTIONS):
            found[name] = before[name]
    return found


def _left(sweep: Evaluable, sae: "EvaluatedSAE", task: "EvaluationTask", several: bool) -> Left:
    name = f"{sae.name}: {task.evaluation}"
    file = re.sub(r"[^A-Za-z0-9.]+", "-", name)
    shown = f"{sweep.label}, {name}" if several else name
    return Left(sweep.task(task, sae), shown, sweep.folder / LOGS / f"{file}.txt")


def _kept(
    screen: Screen, sweeps: Sequence[Evaluable], settings: Sequence[Mapping[str, Mapping[str, Any]]]
) -> "dict[Place, Outcome]":
    """Return the outcomes that are there, of all SAEs; a damaged one counts as none, and a line says so."""
    places = {
        sweep.place(sae, identity): None
        for sweep, own in zip(sweeps, settings, strict=True)
        for identity in own.values()
        for sae in sweep.saes
    }
    found = {}
    for place in places:
        cycles, key, file = place
        folder = Folder(cycles) / key
        content = folder.read(file)
        if content is not None:
            try:
                found[place] = read_outcome(content, str(folder / file))
            except DataError as error:
                screen.say(f"note: {error}; it counts as not evaluated")
    return found


def _run_left(
    args: "Namespace", screen: Screen, first: Evaluable, left: dict[Place, Left], outcomes: "dict[Place, Outcome]"
) -> int:
    """Run what is left, keep each outcome as it comes, and return how many evaluations failed."""
    from dmsae_ray.sweep import evaluate_sae, failed, ray_session, run_tasks

    cpus, gpus = first.experiment.resources.evaluation
    places, failures, logs = list(left), 0, set()
    session = ray_session(args.address, log=first.folder / "ray.log", verbose=args.verbose)
    with patience(PATIENCE_SECONDS), session:  # a storage that does not answer for a while loses no outcome
        work = [(each.task,) for each in left.values()]
        done = run_tasks(evaluate_sae, work, cpus=cpus, gpus=gpus, instead=failed)
        for n, (number, outcome) in enumerate(done, 1):
            place = places[number]
            each = left[place]
            if outcome.error:
                failures += 1
                screen.say(f"  {n} of {len(left)}: {each.name} failed: {outcome.error}")
                if outcome.log:
                    each.log.parent.mkdir(exist_ok=True)
                    each.log.write_text(outcome.log, encoding="utf-8")
                    logs.add(each.log.parent)
            else:
                (Folder(place[0]) / place[1]).write(place[2], [each.task.content(outcome)])
                outcomes[place] = outcome
                each.log.unlink(missing_ok=True)
                screen.say(f"  {n} of {len(left)}: {each.name} [{outcome.seconds:.0f} s]")
            screen.bar("evaluations", n, len(left))
    if failures:
        screen.say(f"dmsae: {failures} of {len(left)} evaluations failed; the same command runs them again")
    for folder in sorted(logs):
        screen.say(f"dmsae: what they printed: {folder}")
    return failures


def _write(
    args: "Namespace",
    screen: Screen,
    sweeps: Sequence[Evaluable],
    settings: Sequence[Mapping[str, Mapping[str, Any]]],
    outcomes: "Mapping[Place, Outcome]",
) -> None:
    """Write the page of each sweep and of all together, give the numbers to MLflow, and say what was found."""
    from dmsae_ray.report import quality_findings, write_quality
    from dmsae_ray.tracking import record_evaluations

    together: list[EvaluatedSAE] = []
    pages = []
    for sweep, own in zip(sweeps, settings, strict=True):
        evaluated = []
        for sae in sweep.saes:
            numbers = {
                f"{name}/{metric}": value
                for name, identity in own.items()
                if (outcome := outcomes.get(sweep.place(sae, identity))) is not None
                for metric, value in outcome.metrics.items()
            }
            if numbers:
                evaluated.append(replace(sae, metrics=numbers))
        if not evaluated:
            continue
        together += evaluated
        pages.append(write_quality(evaluated, sweep.folder, name=sweep.label, settings=own))
        try:
            runs = [(sae.result, sae.report, sae.metrics) for sae in evaluated]
            record_evaluations(sweep.experiment, sweep.folder, runs, pages[-1])
        except DmsaeError as error:  # the numbers are on the disk
            screen.say(f"dmsae: MLflow has no record of this yet, the same command logs it: {error}")
    if not together:
        return
    if len(sweeps) > 1:
        out = sweeps[0].folder / TOGETHER if args.out is None else Path(args.out).expanduser().absolute()
        out.mkdir(parents=True, exist_ok=True)
        names = ", ".join(sweep.label for sweep in sweeps)
        alike = _alike(settings)
        together = [
            replace(sae, metrics={n: value for n, value in sae.metrics.items() if n.partition("/")[0] in alike})
            for sae in together
        ]
        pages = [write_quality(together, out, name=names, settings=alike)]
    for line in quality_findings(together):
        screen.say(line)
    again = "" if len(sweeps) > 1 else f" (also a part of the sweep's report: {_report(sweeps[0])})"
    screen.say(f"report: {pages[0]}{again}")


def _alike(settings: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of the evaluations that all sweeps have with the same settings, but for their stores."""

    def without_store(one: Mapping[str, Any]) -> dict[str, Any]:
        return {n: v.keys() if n == "text" and "store" in v else v for n, v in one.items() if n != "store"}

    return {
        name: one
        for name, one in settings[0].items()
        if all(name in own and without_store(own[name]) == without_store(one) for own in settings)
    }


def _report(sweep: Evaluable) -> str:
    return shell_command("dmsae", "report", sweep.folder)
