"""The command `dmsae groundtruth`: the benchmark with known features; its replicas are Ray tasks."""

import hashlib
import inspect
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.exit_codes import EXIT_INTERRUPTED
from dmsae_ray.cli.interrupts import Interrupts
from dmsae_ray.cli.latents import numbers
from dmsae_ray.cli.own_code import own_function, source_hash
from dmsae_ray.config import shell_command
from dmsae_ray.errors import ConfigError, DataError, DmsaeError, one_line
from dmsae_ray.files import replacing

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from dmsae_ray.groundtruth import BenchmarkSettings, Regime, Replica, Scorer
    from dmsae_ray.tracking import BenchmarkRecords

VERSION = 3
"""Increased whenever the numbers of a replica change, so that older ones are not taken for new ones."""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--regimes", metavar="LIST", help="pos, indep, neg, small_d, domains; several with commas (default: all)"
    )
    parser.add_argument("--seeds", metavar="LIST", default="0-5", help="as in 0-5 or 0,3,7 (default: 0-5)")
    parser.add_argument(
        "--world",
        metavar="MODULE:FUNCTION",
        action="append",
        default=[],
        help="a regime of your own: the function takes a seed and returns a dmsae_ray.groundtruth.World; it takes "
        "the place of the standard regimes, unless --regimes names some",
    )
    parser.add_argument(
        "--scorer",
        metavar="NAME=MODULE:FUNCTION",
        action="append",
        default=[],
        help="a score of your own: the function takes an SAE and a WorldSource and returns a score of every latent; "
        "--set score=NAME lets it select the cores",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="a setting of the benchmark, such as score=mean_square, quantile=0.999, steps=1000, cycles=7",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", default="dmsae-runs/groundtruth", help="folder to write (default: %(default)s)"
    )
    parser.add_argument(
        "--mlflow", metavar="URI", help="MLflow server or database (default: MLFLOW_TRACKING_URI, else a file in --out)"
    )
    parser.add_argument("--address", help="Ray cluster to run on ('auto' on its head node); default: this machine")
    parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's own messages")


def run(args: "Namespace") -> int:
    """Run the benchmark and write what it shows; return the exit code."""
    seeds = numbers(args.seeds, "--seeds")
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds is '{args.seeds}'; it names a seed twice, and a replica counts once")
    sys.path.insert(0, "")  # functions of one's own may lie in this folder
    settings = _settings(args.overrides)
    scorers = _scorers(args.scorer)
    _check_settings(settings, scorers)
    regimes, folder = _regimes(args), Path(args.out).expanduser()
    work = [(regime, seed) for seed in seeds for regime in regimes]
    worlds = [_fingerprint(regime, seed, own=regime.name in args.world) for regime, seed in work]
    sources = _sources(args)
    places = [_place(folder, *one, world, settings, sources) for one, world in zip(work, worlds, strict=True)]
    found = {n: replica for n, place in enumerate(places) if (replica := _kept(place)) is not None}
    from dmsae_ray.tracking import BenchmarkRecords, destination_at

    store = destination_at(args.mlflow, folder.absolute() / "mlflow.db", "--mlflow")
    with Screen() as screen, Interrupts(screen.say, screen.leave), BenchmarkRecords(store, folder) as records:
        left = [n for n in range(len(work)) if n not in found]
        kept = f", {len(found)} of them kept from before" if found else ""
        screen.say(f"{len(work)} replicas: {', '.join(r.name for r in regimes)}; {len(seeds)} seeds{kept}")
        for n, replica in found.items():
            records.replica(places[n].stem, replica, asdict(settings))
        try:
            _run_left(args, screen, settings, scorers, work, places, left, found, records)
        except KeyboardInterrupt:
            command = "the same command goes on where it stopped"
            screen.say(f"dmsae: interrupted with {len(found)} of {len(work)} replicas finished; {command}")
            return EXIT_INTERRUPTED
        from dmsae_ray.report import KnownFeatures, findings, write_known_features

        known = KnownFeatures([found[n] for n in range(len(work))])
        page = write_known_features(known, folder, {**asdict(settings), "version": VERSION})
        records.finish(findings(known), [page, *sorted(folder.glob("groundtruth*.png"))])
        screen.say("")
        for line in findings(known):
            screen.say(line)
        screen.say("")
        screen.say(f"report: {page}")
        own = store.sqlite_file == folder.absolute() / "mlflow.db"
        screen.say(f"MLflow: {shell_command('dmsae', 'ui', folder) if own else store.shown}")
    return 0


def _run_left(
    args: "Namespace",
    screen: Screen,
    settings: "BenchmarkSettings",
    scorers: "dict[str, Scorer]",
    work: "list[tuple[Regime, int]]",
    places: list[Path],
    left: list[int],
    found: "dict[int, Replica]",
    records: "BenchmarkRecords",
) -> None:
    """Run the replicas that are not there, and keep each as it finishes."""
    if not left:
        return
    from dmsae_ray.groundtruth import run_replica
    from dmsae_ray.sweep import ray_session, run_tasks

    began = time.monotonic()
    folder = places[0].parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    with ray_session(args.address, log=folder / "ray.log", verbose=args.verbose):
        tasks = [(*work[n], settings, scorers) for n in left]
        for number, replica in run_tasks(run_replica, tasks):
            n = left[number]
            found[n] = replica
            places[n].parent.mkdir(parents=True, exist_ok=True)
            with replacing(places[n]) as temporary:
                temporary.write_text(json.dumps(replica.as_dict(), indent=1), encoding="utf-8")
            records.replica(places[n].stem, replica, asdict(settings))
            lost = [f"{variant} core collapsed, {why}" for variant, why in replica.collapsed.items() if why]
            said = f"; {'; '.join(lost)}" if lost else ""
            done, spent = len(found), time.monotonic() - began
            screen.bar("replicas", done, len(work), "", f"{spent:.0f} s")
            screen.say(f"  {done} of {len(work)}: {replica.regime}, seed {replica.seed}, {replica.seconds:.0f} s{said}")


def _settings(overrides: list[str]) -> "BenchmarkSettings":
    from dmsae_ray.groundtruth import BenchmarkSettings

    plain = BenchmarkSettings()
    known = {f.name: getattr(plain, f.name) for f in fields(plain)}
    changed: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise ConfigError(f"--set is '{text}'; it must be NAME=VALUE with one of {', '.join(known)}")
        changed[name] = _value(name, value, known[name])
    return BenchmarkSettings(**changed)


def _value(name: str, text: str, plain: Any) -> Any:
    """Return the value of a text, of the same kind as the default of its setting."""
    if isinstance(plain, str):
        return text
    try:
        value = yaml.safe_load(text)
        if isinstance(plain, tuple):
            if isinstance(value, list) and value and all(type(item) is int for item in value):
                return tuple(value)
        elif type(value) is int or (isinstance(plain, float) and isinstance(value, float)):
            return type(plain)(value)
        elif isinstance(plain, float) and isinstance(value, str):
            return float(value)  # 1e-2, which YAML 1.1 reads as text
    except (ValueError, yaml.YAMLError):
        pass
    kind = {tuple: "a list of whole numbers", int: "a whole number", float: "a number"}[type(plain)]
    raise ConfigError(f"--set {name} is '{text}'; it must be {kind}, such as {plain if plain != () else '[]'}")


def _check_settings(settings: "BenchmarkSettings", scorers: "dict[str, Scorer]") -> None:
    from dmsae_ray.distill import SCORES

    known = (*SCORES, *scorers)
    if settings.score not in known:
        raise ConfigError(f"--set score is '{settings.score}'; known are {', '.join(known)}")
    dense = settings.cycle_settings("dense")
    dense.check_scoring(has_scorer=settings.score in scorers)
    import torch

    from dmsae_ray.sae import MatryoshkaSAE

    with torch.device("meta"):  # groups and k are checked when an SAE is made
        MatryoshkaSAE(1, dense.n_latents, dense.group_sizes, dense.k)


def _regimes(args: "Namespace") -> "list[Regime]":
    from dmsae_ray.groundtruth import REGIMES, Regime, chosen_regimes

    for text in args.world:
        if args.world.count(text) > 1:
            raise ConfigError(f"--world is '{text}' more than once; a replica counts once")
    own = [Regime(text, "a world of your own", own_function("--world", text), transfer=True) for text in args.world]
    names = [name.strip() for name in args.regimes.split(",")] if args.regimes else [] if own else list(REGIMES)
    return [*(chosen_regimes(names) if names else []), *own]


def _fingerprint(regime: "Regime", seed: int, *, own: bool) -> str:
    """Return the fingerprint of the world of a seed; one of a user's own is checked."""
    from dmsae_ray.groundtruth import check_world

    if not own:
        return regime.make(seed).fingerprint
    try:
        return check_world(regime.make(seed)).fingerprint
    except DmsaeError as error:
        raise ConfigError(f"--world is '{regime.name}'; seed {seed}: {error}") from None
    except Exception as error:  # the code of a user
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"--world is '{regime.name}'; seed {seed}: {said}") from error


def _scorers(texts: list[str]) -> "dict[str, Scorer]":
    from dmsae_ray.distill import SCORES
    from dmsae_ray.groundtruth import COMPARED

    found: dict[str, Scorer] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--scorer is '{text}'; it must be NAME=MODULE:FUNCTION")
        if name in (*SCORES, *COMPARED):
            raise ConfigError(f"--scorer is '{text}'; '{name}' is a score that is built in, give it another name")
        if name in found:
            raise ConfigError(f"--scorer is '{text}'; '{name}' is there twice, give one of them another name")
        found[name] = own_function("--scorer", place)
        _check_call(text, found[name])
    return found


def _check_call(text: str, scorer: "Scorer") -> None:
    """Check that a scorer takes what it is given."""
    try:
        parameters = inspect.signature(scorer)
    except (TypeError, ValueError):  # of some that are not written in Python nothing is known
        return
    try:
        parameters.bind(None, None)
    except TypeError as error:
        raise ConfigError(f"--scorer is '{text}'; it must take an SAE and a WorldSource ({one_line(error)})") from None


def _sources(args: "Namespace") -> dict[str, str]:
    """Return hashes of the source of worlds and scorers of a user's own, by their names."""
    found = {text: source_hash("--world", text) for text in args.world}
    for text in args.scorer:
        name, _, place = text.partition("=")
        found[f"{name}="] = source_hash("--scorer", place)
    return found


def _place(
    folder: Path,
    regime: "Regime",
    seed: int,
    world: str,
    settings: "BenchmarkSettings",
    sources: Mapping[str, str],
) -> Path:
    """Return the file of a replica, whose name says all that its numbers depend on.

    Args:
        folder: the folder of the benchmark.
        regime: the regime.
        seed: the seed.
        world: fingerprint of its world.
        settings: the settings.
        sources: hashes of the source of worlds (by the regime's name) and scorers (name and '=') of a user's own.
    """
    what = {
        "version": VERSION,
        "world": world,
        "world's source": sources.get(regime.name),
        "transfer": regime.transfer,
        "settings": asdict(settings),
        "scorers": {name: source for name, source in sorted(sources.items()) if name.endswith("=")},
    }
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    name = regime.name.replace(":", "-").replace("/", "-")
    return folder / "replicas" / f"{name}-seed{seed}-{key}.json"


def _kept(place: Path) -> "Replica | None":
    from dmsae_ray.groundtruth import Replica

    if not place.is_file():
        return None
    try:
        return Replica.from_dict(json.loads(place.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise DataError(f"groundtruth: {place} cannot be read ({one_line(error)}); delete it to run it again") from None
