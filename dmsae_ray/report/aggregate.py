"""The replicas of each setting brought together: means with intervals, and how alike their cores are."""

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
    """How alike the distilled cores of the seeds are (PW-MCC, over all pairs of seeds).

    mean, low, high   over the pairs
    chance            the same for cores of random directions, of the same sizes and width
    pairs             number of pairs
    """

    mean: float
    low: float
    high: float
    chance: float
    pairs: int


@dataclass(frozen=True)
class Aggregate(Generic[S_co]):
    """One setting over its seeds.

    core_sizes       |C_0|..|C_L|
    carryovers       by cycle, from the first that has a core before it
    carryover        in the last cycle, in which the controls are trained too; this, chance, controls, margins,
                     core_share and metrics are of the seeds that did not collapse before it
    chance           |C_L| / |pool|: the carryover of a core drawn by lot
    controls         carryover of the norm-matched control cores
    margins          carryover less the control's, seed by seed
    core_share       share of the score that the core holds
    metrics          METRICS of the last cycle
    seconds, flops   of one cycle, averaged over a trial's, as trained (a cycle found in the store has those it took)
    collapsed        which seeds collapsed, and how
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
    """Bring the replicas `results` of `setting` together."""
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
    """PW-MCC of the distilled cores of the replicas; None with fewer than two cores that hold anything."""
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
