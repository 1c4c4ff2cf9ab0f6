"""The command `dmsae score`: ask the SAEs of a finished sweep again, by every score and by exact ablation."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.exit_codes import EXIT_INTERRUPTED
from dmsae_ray.cli.interrupts import Interrupts
from dmsae_ray.config import refuse_secrets
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import replacing
from dmsae_ray.plan import CycleSetting

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from torch import Tensor

    from dmsae_ray.config import Experiment
    from dmsae_ray.results import TrialResult
    from dmsae_ray.sweep import ScoreTask

VERSION = 3
"""Increased whenever the numbers of a scored cycle change, so that older ones are not taken for new ones."""
QUANTILES = "0.9,0.95,0.99,0.995,0.999"
Pool = tuple[str, int]
"""Key of a cycle, and how many of its groups are scored."""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="SWEEP", help="<output>/sweeps/<name>-<hash>")
    parser.add_argument("--trial", metavar="NAME", help="only this trial; default: all that are finished")
    parser.add_argument("--cycles", metavar="LIST", default="0", help="cycles, as in 0 or 0-3 or all (default: 0)")
    parser.add_argument(
        "--pool-groups",
        metavar="LIST",
        help="groups of the pool, several for rows of each, as in 1,2 (default: as in the sweep)",
    )
    parser.add_argument(
        "--quantiles", metavar="LIST", default=QUANTILES, help="quantiles that are scores (default: %(default)s)"
    )
    parser.add_argument(
        "--masks",
        metavar="LIST",
        default="threshold",
        help="which activations count: threshold, batch_topk or both (default: %(default)s, and the sweep's own)",
    )
    parser.add_argument(
        "--intersect",
        metavar="LIST",
        default="1",
        help="each score of the attribution tokens as the lowest over so many equal parts of them, as in 1,4 "
        "(default: %(default)s, and the sweep's own)",
    )
    parser.add_argument(
        "--contexts",
        type=int,
        default=32,
        metavar="N",
        help="held-out contexts for the ablations, and as many others for integrated gradients (default: 32)",
    )
    parser.add_argument("--address", help="Ray cluster to run on ('auto' on its head node); default: this machine")
    parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's own messages")


def run(args: "Namespace") -> int:
    """Score the cycles, write the page and print what was found; return the exit code."""
    refuse_secrets({"SWEEP": args.folder})
    from dmsae_ray.results import experiment_of, folders_of, load_results

    sweep = Path(args.folder).expanduser().absolute()
    experiment = experiment_of(sweep)
    points = [experiment.at(axes) for axes in experiment.points]
    pools = _pools(args.pool_groups, min(len(at.sae.groups) for at in points))
    if args.contexts < 2:
        raise ConfigError(f"--contexts is {args.contexts}; it must be at least 2, one for each half")
    of_cycles = [r for r in load_results(sweep) if isinstance(r.setting, CycleSetting)]
    results = [r for r in of_cycles if r.collapse is None]
    collapsed = [r for r in of_cycles if r.collapse is not None]
    lacks = [f"{r.trial_id} collapsed ({r.collapse}): it is in no number" for r in collapsed]
    if collapsed and not results:
        raise DataError(f"'{sweep}' has only trials that collapsed: there is nothing to score")
    if args.trial is not None and args.trial not in {r.trial_id for r in results}:
        known = ", ".join(r.trial_id for r in results) or "none"
        raise ConfigError(f"--trial is '{args.trial}'; finished trials with cores are {known}")
    wanted = _wanted([r for r in results if args.trial in (None, r.trial_id)], args.cycles, experiment, pools)
    quantiles = _quantiles(args.quantiles, {at.distill.quantile for at in points})
    masks = _masks(args.masks, {at.distill.mask for at in points})
    intersects = _intersects(args.intersect, {at.distill.intersect for at in points}, experiment)
    trimmed = _trimmed(points)
    folders = folders_of(experiment, sweep.name)
    with Screen() as screen, Interrupts(screen.say, screen.leave):
        from dmsae_ray.sweep import ScoreTask

        tasks = {
            (key, groups): ScoreTask(
                experiment=experiment.at(result.setting.axes).model_dump(mode="json"),
                stores=folders.stores,
                store=_store(experiment.output, [r for r in results if r.setting.axes == result.setting.axes]),
                cycles=folders.cycles,
                key=key,
                groups=groups,
                quantiles=quantiles,
                contexts=args.contexts,
                masks=masks,
                intersects=intersects,
                trimmed=trimmed,
            )
            for (key, groups), result in {what: result for result, _, what in reversed(wanted)}.items()
        }
        folder = sweep / "scores"
        places = {what: folder / f"{what[0][:16]}-{_digest(task)}.safetensors" for what, task in tasks.items()}
        kept = [what for what, place in places.items() if place.is_file()]
        said = f", {len(kept)} of them kept from before" if kept else ""
        saes = len({key for key, _ in tasks})
        what = f"{saes} SAEs" if saes == len(tasks) else f"{saes} SAEs over {len(tasks)} pools"
        screen.say(f"{what}, each by {len(quantiles)} quantiles, other scores and ablation{said}")
        try:
            _run_left(args, screen, experiment.resources.evaluation, tasks, places)
        except KeyboardInterrupt:
            done = sum(place.is_file() for place in places.values())
            screen.say(f"dmsae: interrupted with {done} of {len(tasks)} scored; the same command goes on")
            return EXIT_INTERRUPTED
        _write(args, screen, sweep, wanted, places, quantiles, lacks)
    return 0


def _run_left(
    args: "Namespace",
    screen: Screen,
    resources: tuple[float, float],
    tasks: "dict[Pool, ScoreTask]",
    places: "dict[Pool, Path]",
) -> None:
    left = [what for what, place in places.items() if not place.is_file()]
    if not left:
        return
    from safetensors.torch import save

    from dmsae_ray.sweep import ray_session, run_tasks, score_cycle

    folder = places[left[0]].parent
    folder.mkdir(exist_ok=True)
    with ray_session(args.address, log=folder.parent / "ray.log", verbose=args.verbose):
        work = [(tasks[what],) for what in left]
        for n, (number, scores) in enumerate(run_tasks(score_cycle, work, cpus=resources[0], gpus=resources[1])):
            with replacing(places[left[number]]) as temporary:
                temporary.write_bytes(save({name: s.contiguous() for name, s in scores.items()}))
            screen.bar("SAEs", n + 1, len(left))
            screen.say(f"  {n + 1} of {len(left)}: {left[number][0][:16]}")


def _write(
    args: "Namespace",
    screen: Screen,
    sweep: Path,
    wanted: "list[tuple[TrialResult, int, Pool]]",
    places: "dict[Pool, Path]",
    quantiles: tuple[float, ...],
    lacks: list[str],
) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from dmsae_ray.report import Agreement, ScoredCycle, score_findings, write_scores
    from dmsae_ray.results import experiment_of
    from dmsae_ray.sweep import INTEGRATED, score_name

    experiment, scored = experiment_of(sweep), []
    read: dict[Pool, dict[str, Tensor]] = {}
    for result, cycle, what in wanted:
        try:
            scores = read.setdefault(what, load_file(places[what]))
        except (OSError, SafetensorError):
            raise DataError(f"scores: {places[what]} is damaged; delete it to score again") from None
        assert isinstance(result.setting, CycleSetting), "others were left out"
        (report,) = (r for r in result.reports if r.cycle == cycle)
        distill = experiment.at(result.setting.axes).distill
        own = score_name(distill.score, distill.quantile, distill.mask, distill.intersect)
        pool = None if what[1] == distill.pool_groups else what[1]
        # The score is that which chose the core if pool and tokens are those of the run, and no draw decides.
        chose = pool is None and not distill.fresh_attribution and own != "random"
        key = f"{what[0]}-{what[1]}"
        scored.append(
            ScoredCycle(result.setting, result.trial.seed, cycle, report.n_core, own, key, scores, chose, pool)
        )
    settings = {"contexts": args.contexts, "quantiles": list(quantiles), "cycles": args.cycles, "version": VERSION}
    settings |= {} if args.pool_groups is None else {"pool_groups": args.pool_groups}
    page = write_scores(scored, sweep, name=sweep.name, settings=settings, lacks=lacks)
    agreement = Agreement(scored)
    for line in (*score_findings(agreement), *agreement.lacks(), *lacks):
        screen.say(line)
    if not any(INTEGRATED in one.scores for one in scored):
        screen.say(f"no {INTEGRATED}: the store has no held-out contexts beside the {args.contexts} for the ablations")
    screen.say(f"report: {page}")


def _wanted(
    results: "list[TrialResult]", cycles: str, experiment: "Experiment", pools: tuple[int, ...]
) -> "list[tuple[TrialResult, int, Pool]]":
    """Return the cycles that are to be scored, with their pools, those of the runs if none is asked for.

    Settings may share some.
    """
    from dmsae_ray.cli.latents import numbers

    asked = None if cycles == "all" else set(numbers(cycles, "--cycles"))
    own = {r.trial_id: experiment.at(r.setting.axes).distill.pool_groups for r in results}
    found = [
        (r, c.cycle, (c.key, groups))
        for r in results
        for c in r.reports
        if c.key and (asked is None or c.cycle in asked)
        for groups in pools or (own[r.trial_id],)
    ]
    if not found:
        raise DataError(f"--cycles is '{cycles}'; no finished trial with cores has such a cycle")
    return found


def _pools(text: str | None, most: int) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    found = {int(part) if part.isdecimal() and len(part) <= len(str(most)) else 0 for part in parts}
    if not all(1 <= groups <= most for groups in found):
        one = text.removeprefix("-").isdecimal()
        said, several = text if one else f"'{text}'", "" if one or most == 1 else ", or several of these, as in 1,2"
        raise ConfigError(f"--pool-groups is {said}; it must be from 1 to {most}{several}")
    return tuple(sorted(found))


def _quantiles(text: str, own: set[float]) -> tuple[float, ...]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [-1.0]
    if not all(0 <= q <= 1 for q in values):
        raise ConfigError(f"--quantiles is '{text}'; it must be numbers from 0 to 1, as in {QUANTILES}")
    return tuple(sorted({*values, *own}))


def _trimmed(points: "list[Experiment]") -> tuple[float, ...]:
    """Return the quantiles of the trimmed means: 0.99, and those that the runs select by."""
    from dmsae_ray.sweep import TRIMMED

    return tuple(sorted({TRIMMED, *(at.distill.quantile for at in points if at.distill.score == "trimmed_mean")}))


def _masks(text: str, own: set[str]) -> tuple[str, ...]:
    from dmsae_ray.distill import MASKS

    asked = {part.strip() for part in text.split(",")}
    if not asked <= set(MASKS):
        raise ConfigError(f"--masks is '{text}'; it must be of {', '.join(MASKS)}")
    return tuple(mask for mask in MASKS if mask in asked | own)


def _intersects(text: str, own: set[int], experiment: "Experiment") -> tuple[int, ...]:
    most = max(1, experiment.corpus.attribution_tokens // 32)  # each half of the tokens is cut too
    written = {part.strip() for part in text.split(",")}
    asked = {int(part) if part.isdecimal() and len(part) <= len(str(most)) else 0 for part in written}
    if not all(1 <= parts <= most for parts in asked):
        raise ConfigError(f"--intersect is '{text}'; it must be whole numbers from 1 to {most}, as in 1,4")
    return tuple(sorted(asked | own))


def _store(output: str, results: "list[TrialResult]") -> str:
    """Return the key of the store that the SAEs were trained on, as noted with one of them."""
    from dmsae_ray.files import Folder, on_this_machine
    from dmsae_ray.sae import about_sae

    for result in results:
        folder = Folder(output) / "cycles" / result.reports[0].key / "sae"
        if folder.size("config.json") is not None:
            with on_this_machine(folder, ("config.json",)) as here:
                key = about_sae(here).get("store")
            if isinstance(key, str):
                return key
    raise DataError(f"'{output}' holds no SAE of the sweep's trials: there is nothing to score")


def _digest(task: "ScoreTask") -> str:
    """Return a hash of how a cycle is scored; its key says what it is."""
    from dmsae_ray.sweep import TRIMMED

    how = {name: value for name, value in asdict(task).items() if name in ("store", "groups", "quantiles", "contexts")}
    how |= {"masks": task.masks} if task.masks != ("threshold",) else {}
    how |= {"intersects": task.intersects} if task.intersects != (1,) else {}
    how |= {"trimmed": task.trimmed} if task.trimmed != (TRIMMED,) else {}
    how |= {"version": VERSION, "model": task.experiment["model"]}
    return hashlib.sha256(json.dumps(how, sort_keys=True, default=list).encode()).hexdigest()[:12]
