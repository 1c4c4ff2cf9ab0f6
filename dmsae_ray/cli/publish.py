"""The command `dmsae publish`: a trained SAE with its core, its numbers and its card, as a repository of the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.stability import quick_rediscovery
from dmsae_ray.config import refuse_secrets, shell_command
from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.files import check_repo_name, upload_files

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from dmsae_ray.report import Rediscovery

_FORMATS = ("saelens", "dmsae", "dictionary_learning")


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="SWEEP", help="<output>/sweeps/<name>-<hash>")
    parser.add_argument("trial", metavar="TRIAL", help="trial of the sweep, such as k8-tau0.5-seed0")
    parser.add_argument("--cycle", type=int, help="its cycle; default: the last")
    parser.add_argument(
        "--arm", metavar="CONTROL", help="its control, such as gaussian, in place of the trial's own SAE"
    )
    parser.add_argument(
        "--repo", metavar="USER/NAME", help="repository of the Hub to upload to; without it nothing leaves this machine"
    )
    parser.add_argument("--private", action="store_true", help="where the repository is made: let nobody else read it")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="licence as the Hub names it, such as apache-2.0; default: that of the language model, where it is known",
    )
    parser.add_argument(
        "--format",
        dest="formats",
        action="append",
        choices=_FORMATS,
        help="write the SAE in this format only; may be given several times (default: all three, three times the size)",
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder to write (default: SWEEP/publish/TRIAL)")


def run(args: "Namespace") -> int:
    """Write the folder of the SAE, and upload it where a repository is named; return the exit code."""
    refuse_secrets({"SWEEP": args.folder, "repo": args.repo or "", "license": args.license or ""})
    if args.repo is not None:
        check_repo_name(args.repo)
    from dmsae_ray.lm import is_licence_id

    if args.license is not None and (args.license == "other" or not is_licence_id(args.license)):
        raise ConfigError(
            f"--license is '{args.license}'; it must be an id of the Hub's list, such as apache-2.0, or unknown"
        )
    formats = [name for name in _FORMATS if name in (args.formats or _FORMATS)]
    from dmsae_ray.cli.export import Wanted, chosen_sae
    from dmsae_ray.distill import is_chain
    from dmsae_ray.report import known_licence, write_published

    wanted = Wanted(args.trial, args.cycle, args.arm)
    with Screen() as screen, chosen_sae(args.folder, wanted, "TRIAL") as chosen:
        if is_chain(chosen.report.arm):
            raise ConfigError(f"--arm is {args.arm}; a control of all cycles can be exported, but has no model card")
        sweep = chosen.folders.sweep
        chosen.folders.fetch(chosen.result.trial_id)  # the report reads what is on this machine
        if args.repo is not None and args.license is None and known_licence(chosen.experiment) is None:
            raise ConfigError(
                f"--license is missing; the licence of '{chosen.experiment.model.name}' is not known here: give the id "
                "that its page on the Hub names, such as apache-2.0"
            )
        which = "" if wanted.arm is None else f"-{wanted.arm}"
        which += "" if wanted.cycle is None else f"-cycle{wanted.cycle}"
        name = f"{chosen.result.trial_id}{which}"
        out = sweep / "publish" / name if args.out is None else Path(args.out).expanduser().absolute()
        names = write_published(
            chosen.folders,
            chosen.here,
            chosen.result,
            chosen.report,
            chosen.experiment,
            out,
            formats=formats,
            repo=args.repo,
            licence=args.license,
            found=_stability(sweep, screen),
        )
    print(f"{out}:")
    for file in names:
        print(f"  {_size((out / file).stat().st_size):>9}  {file}")
    if args.repo is None:
        print(f"card: {out / 'README.md'}")
        print(f"nothing was uploaded; to do so: {shell_command('dmsae', 'publish', *_given(args))} --repo USER/NAME")
        return 0
    message = f"{chosen.result.trial_id}, by dmsae_ray"
    try:
        done = upload_files(out, names, args.repo, private=args.private, message=message)
    except DmsaeError as error:
        raise type(error)(f"{error}; the folder is kept, and the same command goes on") from None
    print(f"published: {done.address} (commit {done.commit})")
    return 0


def _given(args: "Namespace") -> list[object]:
    """Return the arguments of the command, as they were given."""
    given: list[object] = [args.folder, args.trial]
    options = [("--cycle", args.cycle), ("--arm", args.arm), ("--license", args.license), ("--out", args.out)]
    options += [("--format", name) for name in args.formats or ()]
    for option, value in options:
        given += [] if value is None else [option, value]
    return [*given, *(["--private"] if args.private else [])]


def _stability(sweep: Path, screen: Screen) -> "Rediscovery | None":
    """Return what `dmsae stability` has found of the sweep; else find it, where it takes seconds."""
    from dmsae_ray.report import read_stability

    found = read_stability(sweep)
    return quick_rediscovery(sweep, screen) if found is None else found


def _size(count: int) -> str:
    from dmsae_ray.plan import bytes_text

    return bytes_text(count)
