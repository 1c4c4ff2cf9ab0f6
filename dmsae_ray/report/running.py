"""The trials that are not finished, from the journal: what their finished cycles found, and how many are planned."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dmsae_ray.config import Experiment, load_experiment
from dmsae_ray.distill import DISTILLED, CycleReport
from dmsae_ray.errors import DmsaeError
from dmsae_ray.files import Folder
from dmsae_ray.plan import CycleSetting, Trial, expand
from dmsae_ray.results import Steered, TrialResult
from dmsae_ray.tracking import JOURNAL_FILE, read_journal

CONFIG_FILE = "config.yaml"
_CYCLE = "cycle"
_COLLAPSED = "nothing was selected"
_SUMS = ("tokens", "flops", "seconds")
_OF_CYCLE = ("core_size", "carryover", "chance", "retest", "core_share", "new", "collapsed", "margin_chance", *_SUMS)
_METRICS = {"dead_share": "dead_fraction", "core_dead_share": "core_dead_fraction"}
"""Names of the journal for what `CycleReport.metrics` calls otherwise."""


@dataclass(frozen=True)
class Planned:
    """What a sweep's config asks for.

    Attributes:
        experiment: The config.
        trials: Its trials by name.
    """

    experiment: Experiment
    trials: Mapping[str, Trial]

    @property
    def last_cycle(self) -> int:
        """Number of the last cycle, L; 1 for transfers."""
        return self.experiment.distill.cycles if self.experiment.transfer is None else 1


def planned_trials(sweep_dir: str | Path) -> Planned | None:
    """Return what the config of a sweep folder asks for; None if it has none that can be read."""
    try:
        experiment = load_experiment(Path(sweep_dir) / CONFIG_FILE)
    except (DmsaeError, OSError):
        return None
    return Planned(experiment, {trial.trial_id: trial for trial in expand(experiment)})


def unfinished_trials(sweep_dir: str | Path, planned: Planned | None, finished: Iterable[str]) -> list[TrialResult]:
    """Return what the finished cycles of unfinished trials found, sorted by setting and seed.

    The journal has no lineage, and numbers of four digits: what a finished trial has is in its summary.

    Args:
        sweep_dir: The sweep folder.
        planned: What its config asks for; without it no trial is known.
        finished: Names of the finished trials.

    Raises:
        DataError: The journal, or the record of stopped trials, is corrupt.
    """
    if planned is None:
        return []
    open_trials = set(planned.trials) - set(finished)
    found: dict[str, dict[int, Mapping[str, float]]] = defaultdict(dict)
    for record in read_journal(Path(sweep_dir) / JOURNAL_FILE) if open_trials else ():
        if record.run in open_trials and (record.kind, record.key) == ("metrics", _CYCLE):
            found[str(record.run)][record.step] = record.metrics
    reasons = {name: one.reason for name, one in Steered.read(Folder(str(sweep_dir))).stopped.items()}
    results = [replace(_result(planned.trials[name], c), stopped=reasons.get(name)) for name, c in found.items()]
    return sorted((r for r in results if r.reports), key=lambda r: (r.setting.order, r.trial.seed))


def _result(trial: Trial, cycles: Mapping[int, Mapping[str, float]]) -> TrialResult:
    arm = DISTILLED if isinstance(trial.setting, CycleSetting) else trial.setting.arm
    reports: list[CycleReport] = []
    for cycle in sorted(cycles):
        if reports and cycle != reports[-1].cycle + 1:
            break
        reports.append(_report(cycle, arm, cycles[cycle], reports))
    sizes = [r.n_core for r in reports] if isinstance(trial.setting, CycleSetting) else []
    if sizes and reports[0].cycle:  # a core was given: it is C_0
        sizes = [reports[0].n_core_in, *sizes]
    collapsed = next((r.cycle for r in reports if r.collapsed), None)
    return TrialResult(
        trial=trial,
        reports=tuple(reports),
        core_sizes=tuple(sizes),
        collapse=None if collapsed is None else f"{_COLLAPSED} in cycle {collapsed}",
    )


def _report(cycle: int, arm: str, logged: Mapping[str, float], before: Sequence[CycleReport]) -> CycleReport:
    """Return the report of a cycle from what `tracking` logged of it; tokens, FLOP and seconds are sums there."""
    numbers = {name: value for name, value in logged.items() if math.isfinite(value)}
    size, new, carryover = int(numbers.get("core_size", 0)), numbers.get("new"), numbers.get("carryover")
    carried = None if new is None else size - int(new)
    given = round(carried / carryover) if carried and carryover else 0
    own = {name: numbers.get(name, 0.0) - sum(getattr(r, name) for r in before) for name in _SUMS}
    return CycleReport(
        cycle=cycle,
        arm=arm,
        key="",
        seed=0,
        n_core_in=before[-1].n_core if before else given,
        n_core=size,
        pool=0,
        carried=carried,
        carryover=carryover,
        chance=numbers.get("chance"),
        new=None if new is None else int(new),
        jaccard=None,
        core_share=numbers.get("core_share"),
        collapsed=_COLLAPSED if numbers.get("collapsed") else None,
        tokens=int(own["tokens"]),
        flops=own["flops"],
        seconds=own["seconds"],
        cached=False,
        retest=numbers.get("retest"),
        metrics={_METRICS.get(name, name): value for name, value in numbers.items() if name not in _OF_CYCLE},
    )
