"""The command `dmsae stability`: are the latents of cores found again by SAEs of other seeds?"""

from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.cli.console import Screen
from dmsae_ray.config import load_experiment, refuse_secrets, shell_command
from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.results import load_results

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from dmsae_ray.report import Rediscovery

QUICK = 2e7
"""Cosines that a sweep's report computes by itself; larger sweeps leave it to the command."""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="SWEEP", help="<output>/sweeps/<name>-<hash>")
    parser.add_argument(
        "--against",
        metavar="SWEEP",
        action="append",
        default=[],
        help="another sweep into whose SAEs is looked too: of another layer, other text, other settings",
    )
    parser.add_argument(
        "--tokens", type=int, default=65_536, metavar="N", help="held-out tokens to compare activations on; 0: do not"
    )
    parser.add_argument("--store", metavar="STORE", help="store of activations: folder or key; default: the SAEs' own")
    parser.add_argument("--out", metavar="FOLDER", help="folder to write (default: the sweep's)")


def run(args: "Namespace") -> int:
    """Look for the latents, write the page and print what was found; return the exit code."""
    refuse_secrets({"SWEEP": args.folder, "against": " ".join(args.against), "store": args.store or ""})
    for option, folder in (("SWEEP", args.folder), *(("--against", folder) for folder in args.against)):
        if not (Path(folder).expanduser() / "trials").is_dir():
            raise ConfigError(f"{option} is '{folder}'; it must be the folder of a sweep with finished trials")
    if args.tokens < 0:
        raise ConfigError(f"--tokens is {args.tokens}; it must be at least 0")
    sweep = Path(args.folder).expanduser().absolute()
    out = sweep if args.out is None else Path(args.out).expanduser().absolute()
    from dmsae_ray.report import HTML_FILE, rediscovery, rediscovery_findings, write_stability

    with Screen() as screen:
        found = rediscovery(
            sweep,
            against=[Path(folder).expanduser() for folder in args.against],
            store=args.store,
            tokens=args.tokens,
            progress=screen.bar,
        )
        report = HTML_FILE if out == sweep else (sweep / HTML_FILE).as_uri()
        settings = {"sweep": sweep.name, "against": args.against, "tokens": args.tokens}
        page = write_stability(found, out, name=sweep.name, report=report, settings=settings)
        for line in rediscovery_findings(found):
            screen.say(line)
        for line in found.lacks:
            screen.say(f"note: {line}")
        screen.say(f"report: {page}")
    return 0


def quick_rediscovery(sweep_dir: Path, screen: Screen) -> "Rediscovery | None":
    """Return what a sweep's cores are to other seeds, where it takes seconds; otherwise say how to have it."""
    results = [r for r in load_results(sweep_dir) if r.distilled_size]
    config = sweep_dir / "config.yaml"
    if len({r.trial.seed for r in results}) < 2 or not config.is_file():
        return None
    latents = load_experiment(config).sae.n_latents
    cosines = sum(r.distilled_size or 0 for r in results) * latents * len(results)
    if cosines > QUICK:
        screen.say(f"are the cores found again by other seeds? {shell_command('dmsae', 'stability', sweep_dir)}")
        return None
    from dmsae_ray.report import rediscovery

    try:
        return rediscovery(sweep_dir)
    except DmsaeError:
        return None  # where nothing can be looked into, the report says nothing of it
