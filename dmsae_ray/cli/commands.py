"""The command line: `dmsae COMMAND`. Errors that a user can fix are printed as one line, with exit code 2."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray import __version__
from dmsae_ray.cli import evaluate, groundtruth, latents, publish, score, stability
from dmsae_ray.cli.encoding import degrade_output
from dmsae_ray.cli.exit_codes import EXIT_INTERRUPTED, EXIT_USAGE
from dmsae_ray.config import PRESETS, Experiment, TransferSettings, load_experiment, parse_experiment, set_environment
from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.files import is_full_disk, root_message

if TYPE_CHECKING:
    from dmsae_ray.plan import Cluster

DESCRIPTION = """Which features of a sparse autoencoder are stable?
(Distilled Matryoshka SAEs, arXiv 2512.24975).

A newcomer runs `dmsae demo`. An experiment is one YAML file: `dmsae plan FILE` says what it costs, `dmsae sweep FILE`
runs it, `dmsae status FOLDER` says how far it is, the same command (or `dmsae resume FOLDER`) goes on after an
interruption, `dmsae ui FOLDER` shows its runs.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    degrade_output()
    args, unknown = _parser().parse_known_args(argv)
    if unknown:
        print(f"dmsae: error: {_unknown_option(args, unknown[0])}", file=sys.stderr)
        return EXIT_USAGE
    command: Callable[[argparse.Namespace], int] = args.run
    set_environment(verbose=getattr(args, "verbose", False))
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is not worth a traceback
    # A plain `kill` works like Ctrl-C: workers are stopped and records are delivered.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return command(args)
    except DmsaeError as error:
        print(f"dmsae: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("dmsae: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `dmsae config FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not is_full_disk(error):
            raise
        said = "the disk is full, and stayed so; make room, and the same command goes on where it stopped"
        print(f"dmsae: error: {said} ({root_message(error)})", file=sys.stderr)
        return EXIT_USAGE


def _unknown_option(args: argparse.Namespace, text: str) -> str:
    """Say that a command has no such option; a setting is not given as an option of its own."""
    command = f"dmsae {args.command}"
    said = f"'{text}' is not an option of {command}; `{command} --help` lists them"
    path = text.lstrip("-").partition("=")[0]
    if text.startswith("--") and hasattr(args, "overrides") and path.split(".")[0] in Experiment.model_fields:
        said += f"; a setting is given as --set {path}=VALUE"
    return said


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dmsae", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dmsae_ray {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    def experiment(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("file", metavar="FILE", help="the experiment, a YAML file")
        sub.add_argument("--preset", choices=PRESETS, help="the same question on the embedded tiny model, in minutes")
        overrides(sub)

    def overrides(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="PATH=VALUE",
            dest="overrides",
            help="override a setting, as in --set sweep.seeds=[0,1,2]; may be given several times",
        )

    def running(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--address", help="Ray cluster to run on ('auto' on its head node); default: this machine")
        sub.add_argument("--cluster", metavar="FILE", help="what that cluster may become, as a cluster.yaml says it")
        sub.add_argument("-v", "--verbose", action="store_true", help="show Ray's, Tune's and MLflow's own messages")

    def of_trial(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--trial", metavar="NAME", help="trial of the sweep, such as k8-tau0.5-seed0")
        sub.add_argument("--cycle", type=int, help="its cycle; default: the last")
        sub.add_argument(
            "--arm",
            metavar="CONTROL",
            help="its control, such as gaussian or gaussian_chain, in place of the trial's own SAE",
        )

    sub = command("demo", _demo, "The whole system on the embedded tiny Gemma-2, in a few minutes on two cores.")
    overrides(sub)
    running(sub)
    for name, run, text in (
        ("sweep", _sweep, "Run every trial of an experiment: sparsities x coverages x seeds."),
        (
            "distill",
            _distill,
            "Run the cycles of one setting: sae.k, distill.coverage (else the first of the grid), seed.",
        ),
    ):
        sub = command(name, run, text)
        experiment(sub)
        running(sub)
    sub = command("transfer", _transfer, "Train SAEs around a fixed core at every k (Algorithm 3), with controls.")
    experiment(sub)
    sub.add_argument("--core", metavar="CORE", help="core file (core.safetensors of a trial), or user/repo on the Hub")
    running(sub)
    sub = command("resume", _resume, "Go on with an interrupted sweep.")
    sub.add_argument("folder", metavar="FOLDER", help="<output>/sweeps/<name>-<hash>")
    running(sub)
    sub = command("harvest", _harvest, "Make the activations of an experiment, and nothing else.")
    experiment(sub)
    running(sub)
    sub = command("store", _store, "List, verify or remove stores of activations.")
    actions = sub.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    for name, text in (
        ("ls", "list the stores, their sizes, and whether each is complete"),
        ("verify", "compare every shard with its checksum; exit code 2 where a file is damaged"),
        ("rm", "remove stores; refused while a harvest writes or a sweep reads them"),
    ):
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name != "ls":
            several = "*" if name == "verify" else "+"
            action.add_argument("keys", metavar="KEY", nargs=several, help="a store's key, or how it begins")
        if name == "rm":
            action.add_argument("--yes", action="store_true", help="do not ask")
        action.add_argument("--output", default="dmsae-runs", help="the `output` of experiments, a folder or s3://...")
    sub = command("plan", _plan, "Say what an experiment would do and cost; nothing is started.")
    experiment(sub)
    sub.add_argument(
        "--cluster", metavar="FILE", help="for this cluster.yaml at its largest: whether it fits, hours, dollars"
    )
    sub.add_argument(
        "--price", metavar="TYPE=DOLLARS", action="append", default=[], help="price of a node type, an hour"
    )
    sub = command("cluster", _cluster, "Print what a cluster is made of for an experiment; nothing is started.")
    kinds = sub.add_subparsers(title="kinds", required=True, metavar="KIND", dest="kind")
    text = "The manifest of a RayJob on Kubernetes (KubeRay), with MLflow beside it, for `kubectl apply -f -`."
    sub = kinds.add_parser("kuberay", help=text, description=text, allow_abbrev=False)
    experiment(sub)
    sub.add_argument("--image", required=True, help="image of all pods, with Ray and dmsae_ray")
    sub.add_argument("--name", help="name of the job; default: that of the experiment")
    sub.add_argument("--worker-memory", default="64Gi", help="memory of a worker pod (default: 64Gi)")
    sub.add_argument("--service-account", metavar="NAME", help="service account that may use the bucket of `output`")
    sub.add_argument("--hub-secret", metavar="NAME", help="Secret with a Hub login under the key `token`")
    sub = command("config", _config, "Print an experiment resolved: every setting, and what it means.")
    experiment(sub)
    sub = command("status", _status, "Say how far a sweep is, while it runs and after; nothing is locked or changed.")
    sub.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        default="dmsae-runs",
        help="<output>/sweeps/<name>-<hash>, or the `output` of sweeps; a folder or s3://... (default: dmsae-runs)",
    )
    sub.add_argument("--watch", action="store_true", help="say it again every few seconds, until the sweep has ended")
    sub.add_argument("--json", action="store_true", help="print one line of JSON, for scripts")
    sub = command("report", _report, "Make a sweep's report, also while it runs; or compare several sweeps.")
    sub.add_argument("folders", metavar="FOLDER", nargs="+", help="<output>/sweeps/<name>-<hash>; several are compared")
    out = "the page to write (default: report.html, of one sweep in its folder, of several in this one)"
    sub.add_argument("--out", metavar="FILE", help=out)
    less = "leave out the pages of the cores' latents, which take a pass over the held-out text"
    sub.add_argument("--no-latents", action="store_false", dest="latents", help=less)
    sub = command("latents", latents.run, "Show where latents fire and what they promote, as one HTML file.")
    latents.add_arguments(sub)
    sub = command("stability", stability.run, "Are the latents of a sweep's cores found again by SAEs of other seeds?")
    stability.add_arguments(sub)
    sub = command(
        "score", score.run, "Ask a sweep's SAEs again: every score, beside exact ablation; nothing is trained."
    )
    score.add_arguments(sub)
    sub = command("eval", evaluate.run, "What are a sweep's SAEs worth? SAEBench and measures of our own.")
    evaluate.add_arguments(sub)
    text = "Run the benchmark with known features: does distillation find what matters, and do its rivals?"
    sub = command("groundtruth", groundtruth.run, text)
    groundtruth.add_arguments(sub)
    sub = command("export", _export, "Write a trained SAE in a peer's format.")
    sub.add_argument(
        "sae",
        metavar="PLACE",
        help="folder of a sweep (with --trial), or of an SAE: <output>/cycles/<key>/sae, or user/repo on the Hub",
    )
    sub.add_argument("folder", metavar="FOLDER", help="folder to write")
    of_trial(sub)
    sub.add_argument("--format", choices=("saelens", "dictionary_learning"), default="saelens")
    sub.add_argument("--model", help="name of the language model; default: as noted with the SAE")
    sub.add_argument("--layer", type=int, help="block whose output the SAE reads; default: as noted with the SAE")
    sub.add_argument("--context", type=int, help="context length; default: as noted with the SAE")
    sub = command("publish", publish.run, "Write a trained SAE with its core and its card, and upload it to the Hub.")
    publish.add_arguments(sub)
    sub = command("register", _register, "Register a trained SAE in MLflow, as a model that encodes activations.")
    sub.add_argument("sweep", metavar="SWEEP", help="<output>/sweeps/<name>-<hash>")
    sub.add_argument("name", metavar="NAME", help="name of the model; a known one gets a new version")
    of_trial(sub)
    sub = command("ui", _ui, "Open MLflow's pages on a sweep (or on the output folder of several).")
    sub.add_argument("folder", metavar="FOLDER", nargs="?", default="dmsae-runs")
    sub.add_argument("--port", type=int, default=5000, help="port on this machine (default: 5000, or the next free)")
    sub.add_argument("--no-browser", action="store_false", dest="browser", help="print the address and open nothing")
    sub = command("sync", _sync, "Deliver to MLflow what an outage kept back of a sweep that has ended.")
    sub.add_argument("folder", metavar="FOLDER", help="<output>/sweeps/<name>-<hash>")
    return parser


def demo_experiment(overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of `dmsae demo`: demo.yaml, which is part of the package (`dmsae_ray/presets`)."""
    from importlib.resources import as_file, files

    with as_file(files("dmsae_ray.presets") / "demo.yaml") as path:
        return load_experiment(path, list(overrides))


def _demo(args: argparse.Namespace) -> int:
    experiment = demo_experiment(args.overrides)
    print(
        "dmsae demo: which features of a tiny Gemma-2 always come back?\n"
        "Real parts, small sizes: Ray Data harvests activations, Ray Train runs the cycles, Ray Tune the grid,\n"
        "MLflow keeps the records.\n",
        flush=True,
    )
    return _run(experiment, args)


def _sweep(args: argparse.Namespace) -> int:
    return _run(load_experiment(args.file, args.overrides, args.preset), args)


def _distill(args: argparse.Namespace) -> int:
    experiment = load_experiment(args.file, args.overrides, args.preset)
    return _run(experiment.single().model_copy(update={"transfer": None}), args)


def _transfer(args: argparse.Namespace) -> int:
    experiment = load_experiment(args.file, args.overrides, args.preset)
    transfer = experiment.transfer or TransferSettings()
    if args.core is not None:
        transfer = transfer.model_copy(update={"core": args.core})
    tree = {**experiment.model_dump(mode="json"), "transfer": transfer.model_dump(mode="json")}
    return _run(parse_experiment(tree).located(), args)


def _resume(args: argparse.Namespace) -> int:
    from dmsae_ray.results import experiment_of

    return _run(experiment_of(args.folder), args)


def _run(experiment: Experiment, args: argparse.Namespace) -> int:
    from dmsae_ray.cli.run import run_and_report

    return run_and_report(experiment, address=args.address, largest=_largest(args), verbose=args.verbose)


def _largest(args: argparse.Namespace) -> "Cluster | None":
    if args.cluster is None:
        return None
    if args.address is None:
        raise ConfigError("--cluster is given without --address; the cluster on this machine does not grow")
    from dmsae_ray.plan import cluster_of_yaml

    return cluster_of_yaml(args.cluster)


def _harvest(args: argparse.Namespace) -> int:
    experiment = load_experiment(args.file, args.overrides, args.preset)
    from dmsae_ray.cli.console import Screen
    from dmsae_ray.cli.interrupts import Interrupts
    from dmsae_ray.harvest import prepare
    from dmsae_ray.plan import check_harvest_fits, plan_experiment
    from dmsae_ray.results import create_folders
    from dmsae_ray.store import unpinned
    from dmsae_ray.sweep import (
        check_inputs,
        check_output_is_shared,
        check_saes_and_core,
        cluster_of_ray,
        ray_session,
    )

    largest = _largest(args)
    parts = experiment.parts()
    for part in parts:
        check_saes_and_core(part, check_inputs(part))
    plan, folders = plan_experiment(experiment), create_folders(experiment)
    with (
        Screen() as screen,
        Interrupts(screen.say, screen.leave),
        ray_session(args.address, log=folders.sweep / "ray.log", verbose=args.verbose),
    ):
        for note in dict.fromkeys(note for part in parts for note in unpinned(part)):
            screen.say(f"note: {note}")
        check_harvest_fits(plan, cluster_of_ray(largest))
        check_output_is_shared(folders.output, f"harvest-{folders.name}")
        for part in parts:
            if part.store_label:
                screen.say(f"store for {part.store_label}:")
            prepare(part, folders.stores, progress=screen.harvest())
        screen.say(f"activations are in {folders.stores}")
    return 0


def _store(args: argparse.Namespace) -> int:
    from dmsae_ray.cli import stores

    if args.action == "ls":
        return stores.show(args.output)
    if args.action == "verify":
        return stores.verify(args.output, args.keys)
    return stores.delete(args.output, args.keys, yes=args.yes)


def _plan(args: argparse.Namespace) -> int:
    experiment = load_experiment(args.file, args.overrides, args.preset)
    from dmsae_ray.harvest import check_documents
    from dmsae_ray.lm import is_configuration_only
    from dmsae_ray.plan import (
        check_fits,
        check_given,
        check_text,
        cluster_of_yaml,
        plan_experiment,
        plan_text,
        priced,
        trials_beside_harvest,
    )
    from dmsae_ray.results import matched_before
    from dmsae_ray.tracking import destination_of

    measured = matched_before(experiment)
    experiment = experiment if measured is None else measured.experiment
    matched = () if measured is None else (*measured.lines, *measured.left_out)
    plan = plan_experiment(experiment)
    parts = experiment.parts()
    checked = dict.fromkeys(note for part in parts for note in (*check_given(part), *check_text(part)))
    plan = replace(plan, notes=(*plan.notes, *matched, *checked))
    for part in parts:
        if Path(part.model.name).expanduser().is_dir() and not is_configuration_only(part.model.name):
            check_documents(part)
    if experiment.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI"):  # else a file, in a bucket perhaps: not asked
        destination_of(experiment)
    if not args.cluster:
        if args.price:
            raise ConfigError("--price is given without --cluster; prices are of the node types of a cluster file")
        print(plan_text(plan))
        return 0
    cluster = priced(cluster_of_yaml(args.cluster), dict(map(_price, args.price)), "--price")
    check_fits(plan, cluster)
    print(plan_text(plan, cluster))
    beside = trials_beside_harvest(plan, cluster)
    when = f"up to {beside} at once while the harvest goes on" if beside else "after the harvest"
    print(f"{args.cluster} can hold it; trials run {when}.")
    return 0


def _cluster(args: argparse.Namespace) -> int:
    experiment = load_experiment(args.file, args.overrides, args.preset)
    from dmsae_ray.plan import Pods, kuberay_manifest, plan_experiment

    name = args.name or experiment.name.replace("_", "-").lower()
    pods = Pods(name, args.image, args.worker_memory, args.service_account, args.hub_secret)
    print(kuberay_manifest(experiment, plan_experiment(experiment), pods), end="")
    return 0


def _price(text: str) -> tuple[str, float]:
    name, _, price = text.partition("=")
    try:
        return name, float(price)
    except ValueError:
        raise ConfigError(f"--price is '{text}'; it must be a node type and dollars an hour: gpu-spot=1.20") from None


def _config(args: argparse.Namespace) -> int:
    print(load_experiment(args.file, args.overrides, args.preset).described(), end="")
    return 0


def _report(args: argparse.Namespace) -> int:
    from rich.console import Console

    from dmsae_ray.cli.console import Screen
    from dmsae_ray.cli.more_sections import more_sections
    from dmsae_ray.report import HTML_FILE, compare, publish
    from dmsae_ray.results import experiment_of

    folders = [Path(folder).expanduser() for folder in args.folders]
    for folder in folders:
        experiment_of(folder)
    if len(folders) == 1 and args.out is None:
        with Screen() as screen, more_sections(folders[0], screen, latents=args.latents) as sections:
            report, files = publish(folders[0], sections=sections)
        reports = [report]
    else:
        reports, files = compare(folders, args.out or HTML_FILE)
    console = Console(emoji=False)
    for report in reports:
        console.print(report.rich() if len(reports) == 1 else f"{report.name}: {report.finding()}", markup=False)
    print(*(path for path in files if path.suffix in (".html", ".md", ".json")), sep="\n")
    print(next((f"figures: {path.parent}" for path in files if path.suffix == ".png"), "no figures"))
    return 0


def _export(args: argparse.Namespace) -> int:
    from dmsae_ray.cli.export import Wanted, export

    wanted = Wanted(args.trial, args.cycle, args.arm)
    given = {"model": args.model, "layer": args.layer, "context": args.context}
    return export(args.sae, args.folder, wanted, args.format, given)


def _register(args: argparse.Namespace) -> int:
    from dmsae_ray.cli.export import Wanted, register

    return register(args.sweep, args.name, Wanted(args.trial, args.cycle, args.arm))


def _status(args: argparse.Namespace) -> int:
    from dmsae_ray.cli.status import WATCH_SECONDS, show_status

    return show_status(args.folder, as_json=args.json, watch=WATCH_SECONDS if args.watch else None)


def _ui(args: argparse.Namespace) -> int:
    from dmsae_ray.cli import records

    return records.show(args.folder, args.port, browser=args.browser)


def _sync(args: argparse.Namespace) -> int:
    from dmsae_ray.cli import records

    return records.sync(args.folder)
