"""The command `dmsae latents`: one HTML file with the latents of an SAE, or of the cores of a sweep."""

import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.exit_codes import EXIT_INTERRUPTED
from dmsae_ray.config import refuse_secrets
from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.files import hub_place

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from dmsae_ray.report import Section

log = logging.getLogger(__name__)

MOST_NAMED = 2000
"""Latents that may be named: more would be a file that no browser likes."""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "place",
        metavar="SAE|SWEEP",
        help="an SAE, <output>/cycles/<key>/sae or user/repo[@revision][/folder] on the Hub, or a sweep, "
        "<output>/sweeps/<name>-<hash>",
    )
    parser.add_argument("--latents", metavar="LIST", help="of an SAE: these, as in 0,5,17 or 0-31")
    parser.add_argument(
        "--core", action="store_true", help="of an SAE: those of its core; the default where it has one"
    )
    parser.add_argument("--trial", help="of a sweep: this trial only, as k8-tau0.5-seed0")
    parser.add_argument("--cycle", type=int, metavar="N", help="of a sweep: cores of this cycle; default: the last")
    parser.add_argument("--out", metavar="FILE", default="latents.html", help="file to write (default: latents.html)")
    parser.add_argument("--top", type=int, default=12, metavar="N", help="strongest snippets a latent (default: 12)")
    parser.add_argument("--most", type=int, default=300, metavar="N", help="latents with a page (default: 300)")
    parser.add_argument("--store", metavar="STORE", help="store of activations: folder or key; default: the SAE's own")


def run(args: "Namespace") -> int:
    """Make the page and write it; return the exit code."""
    try:
        return _run(args)
    except KeyboardInterrupt:
        print("dmsae: interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(args: "Namespace") -> int:
    of_sweep = (Path(args.place).expanduser() / "trials").is_dir()
    _check(args, of_sweep)
    from dmsae_ray.report import Wanted, sae_latents, sweep_latents, write_latents
    from dmsae_ray.sae import sae_folder

    wanted = Wanted(top=args.top)
    with Screen() as screen:
        if of_sweep:
            table = sweep_latents(
                Path(args.place).expanduser(),
                trial=args.trial,
                cycle=args.cycle,
                most=args.most,
                store=args.store,
                wanted=wanted,
                progress=screen.bar,
            )
        else:
            latents = None if args.latents is None else numbers(args.latents)
            on_hub = hub_place(args.place)
            table = sae_latents(
                args.place if on_hub is None else str(sae_folder(args.place, f"SAE is '{args.place}'")),
                latents,
                core=args.core,
                most=args.most,
                store=args.store,
                wanted=wanted,
                progress=screen.bar,
            )
        path = write_latents(table, args.out)
        for line in table.lacks:
            screen.say(f"note: {line}")
        pages = sum(row.firing is not None for row in table.rows)
        screen.say(f"{len(table.rows)} latents, {pages} with snippets, {path.stat().st_size / 1e6:.1f} MB: {path}")
    return 0


def core_sections(sweep_dir: Path, screen: Screen) -> "list[Section]":
    """Return the part of a sweep's report that shows its cores latent by latent; nothing where there are none."""
    from dmsae_ray.report import latent_sections

    try:
        return latent_sections(sweep_dir, progress=screen.bar)
    except DmsaeError as error:
        log.debug("no pages of latents: %s", error)
        return []


def numbers(text: str, option: str = "--latents") -> list[int]:
    """Return the numbers that a list such as '0,5,10-12' names.

    Raises:
        ConfigError: it is no such list, or names more than MOST_NAMED.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", part)
        if match is None:
            raise ConfigError(f"{option} is '{text}'; it must be numbers and ranges, as in 0,5,10-12")
        low, high = int(match[1]), int(match[2] or match[1])
        if high - low + len(found) >= MOST_NAMED:
            raise ConfigError(f"{option} is '{text}'; it may name {MOST_NAMED} at most")
        found += range(low, high + 1)
    return found


def _check(args: "Namespace", of_sweep: bool) -> None:
    refuse_secrets({"SAE": args.place, "store": args.store or ""})
    for name, value in (("--latents", args.latents), ("--core", args.core)):
        if of_sweep and value:
            raise ConfigError(f"{name} is given; '{args.place}' is a sweep, whose cores are shown: give an SAE folder")
    for name, value in (("--trial", args.trial), ("--cycle", args.cycle)):
        if not of_sweep and value is not None:
            raise ConfigError(f"{name} is given; '{args.place}' is no sweep folder (it has no folder trials)")
    if args.core and args.latents is not None:
        raise ConfigError("--core and --latents are given; give one")
    if args.most < 1:
        raise ConfigError(f"--most is {args.most}; it must be at least 1")
    folder = Path(args.out).expanduser().absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"--out is '{args.out}'; there is no folder '{folder}'")
