"""Aggregate the replicas of each setting: means with intervals, and how similar their cores are."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, zip_longest
from typing import Generic, TypeVar

import torch

from dmsae_ray.distill import CycleReport, load_core, pw_mcc
from dmsae_ray.plan import Setting
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.results import CORE_FILE, TrialResult

S = TypeVar("S", bound=Setting)
S_co = TypeVar("S_co", bound=Setting, covariant=True)

METRICS = ("l0", "l0_core", "l0_non_core", "fvu", "explained_variance", "loss_recovered", "dead_fraction")


@dataclass(frozen=True)
class Consistency:
    """How similar the distilled cores of the seeds are: PW-MCC over all pairs of seeds.

    Attributes:
        mean: Mean over the pairs.
        low: Lowest value of a pair.
        high: Highest value of a pair.
        chance: Mean for cores of random directions, of the same sizes and width.
        pairs: Number of pairs.
    """

    mean: float
    low: float
    high: float
    chance: float
    pairs: int


@dataclass(frozen=True)
class Aggregate(Generic[S_co]):
    """One setting over its seeds.

    Carryover, chance, controls, margins, core_share, metrics and control_metrics are of the last cycle, in which the
    controls are trained too, and of the seeds that did not collapse.

    Attributes:
        setting: The setting.
        seeds: Its seeds.
        core_sizes: |C_0|..|C_L|.
        carryovers: Carryover by cycle, from the first cycle that has a core before it.
        carryover: Carryover in the last cycle.
        chance: |C_L| / |pool|: the carryover of a core drawn at random.
        controls: Carryover of the norm-matched control cores, by the control's name.
        margins: Carryover minus that of the control, seed by seed.
        distilled_size: Size of the distilled core.
        core_share: Share of the score that the core holds.
        metrics: METRICS of the last cycle.
        control_metrics: The same of the control cores, by the control's name.
        seconds: Seconds of one cycle, averaged over the cycles of a trial. A cycle found in the store counts with the
            time that its training took.
        flops: FLOPs of one cycle, averaged in the same way.
        consistency: How similar the cores of the seeds are; None with fewer than two cores.
        collapsed: How seeds collapsed, by seed.
    """

    setting: S_co
    seeds: tuple[int, ...]
    core_sizes: tuple[Estimate, ...]
    carryovers: tuple[Estimate, ...]
    carryover: Estimate
    chance: Estimate
    controls: dict[str, Estimate]
    margins: dict[str, Estimate]
    distilled_size: Estimate
    core_share: Estimate
    metrics: dict[str, Estimate]
    control_metrics: dict[str, dict[str, Estimate]]
    seconds: Estimate
    flops: Estimate
    consistency: Consistency | None
    collapsed: dict[int, str]


def aggregate(setting: S, results: Sequence[TrialResult]) -> Aggregate[S]:
    """Aggregate `results`, the replicas of `setting`."""
    controls = sorted({name for r in results for name in r.controls})
    sizes = zip_longest(*(r.core_sizes for r in results))
    whole = [r for r in results if r.collapse is None]
    with_core = [[c for c in r.reports if c.carryover is not None] for r in results]
    carryovers = zip_longest(*([c.carryover for c in reports] for reports in with_core))
    trained = [[c for c in (*r.reports, *r.controls.values()) if c.seconds > 0] for r in results]
    return Aggregate(
        setting=setting,
        seeds=tuple(r.trial.seed for r in results),
        core_sizes=tuple(estimate(at_cycle) for at_cycle in sizes),
        carryovers=tuple(estimate(at_cycle) for at_cycle in carryovers),
        carryover=estimate(r.last.carryover for r in whole),
        chance=estimate(r.last.chance for r in whole),
        controls={name: estimate(_carryover(r.controls.get(name)) for r in whole) for name in controls},
        margins={name: estimate(_margin(r, name) for r in whole) for name in controls},
        distilled_size=estimate(r.distilled_size for r in results),
        core_share=estimate(r.last.core_share for r in whole),
        metrics={name: estimate(r.metric(name) for r in whole) for name in METRICS},
        control_metrics={
            name: {
                metric: estimate(r.controls[name].metrics.get(metric) for r in whole if name in r.controls)
                for metric in METRICS
            }
            for name in controls
        },
        seconds=estimate(_mean([c.seconds for c in reports]) for reports in trained),
        flops=estimate(_mean([c.flops for c in reports]) for reports in trained),
        consistency=consistency(results),
        collapsed={r.trial.seed: r.collapse for r in results if r.collapse},
    )


def consistency(results: Sequence[TrialResult]) -> Consistency | None:
    """Return the PW-MCC of the distilled cores of the replicas; None with fewer than two cores that are not empty."""
    paths = [r.folder / CORE_FILE for r in results if r.folder is not None]
    rows = [core.rows for core in (load_core(path) for path in paths if path.is_file()) if len(core)]
    if len(rows) < 2:
        return None
    of_pairs = [pw_mcc(pair) for pair in combinations(rows, 2)]
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(r.shape, generator=generator) for r in rows]
    return Consistency(sum(of_pairs) / len(of_pairs), min(of_pairs), max(of_pairs), pw_mcc(drawn), len(of_pairs))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _carryover(report: CycleReport | None) -> float | None:
    return report.carryover if report is not None else None


def _margin(result: TrialResult, control: str) -> float | None:
    other = _carryover(result.controls.get(control))
    own = result.last.carryover
    return None if own is None or other is None else own - other
