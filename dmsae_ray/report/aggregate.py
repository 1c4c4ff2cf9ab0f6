"""Aggregate the replicas of each setting: means with intervals, and how similar their cores are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Generic, TypeVar

from dmsae_ray.distill import CycleReport
from dmsae_ray.plan import Setting
from dmsae_ray.report.estimates import Estimate, Scale, estimate
from dmsae_ray.report.seed_similarity import Consistency, consistency
from dmsae_ray.results import TrialResult

S = TypeVar("S", bound=Setting)
S_co = TypeVar("S_co", bound=Setting, covariant=True)

METRICS: dict[str, Scale] = {
    "l0": "amount",
    "l0_core": "amount",
    "l0_non_core": "amount",
    "fvu": "amount",
    "explained_variance": "real",
    "loss_recovered": "real",
    "loss_recovered_from_mean": "real",
    "dead_fraction": "share",
    "core_dead_fraction": "share",
    "core_frequency_median": "share",
    "core_frequency_max": "share",
}
"""What is reported of the SAE of a cycle, and what values each can have."""


@dataclass(frozen=True)
class Aggregate(Generic[S_co]):
    """One setting over its seeds. Every number is over the same seeds: those that did not collapse.

    They are the finished ones. Of a setting without any, they are those that run, up to the last cycle that all of them
    have finished. Carryover, chance, retest, controls, margins, core_share, metrics and control_metrics are of the last
    cycle, in which the controls are trained too.

    Attributes:
        setting: The setting.
        seeds: The seeds behind every number.
        collapsed: How seeds collapsed, by seed; they are in no number.
        finished: Whether the trials behind the numbers are finished.
        running: Seeds with a finished cycle whose trial is not finished.
        stopped: Those of them that a scheduler has stopped.
        cycle: The last cycle of the numbers; None without any.
        core_sizes: |C_0|..|C_L|.
        carryovers: Carryover by cycle, from the first cycle that has a core before it.
        retests: Agreement of the selections by two halves of the attribution set, in the same cycles.
        carryover: Carryover in the last cycle.
        carried: How many latents came back in the last cycle, and of how many, summed over the seeds.
        chance: |C_L| / |pool|: the carryover of a core drawn at random.
        retest: How far the score agrees with itself: the overlap of what the two halves of the attribution set select
            from the SAE of the last cycle, see CycleReport.retest.
        controls: Carryover of the norm-matched control cores, by the control's name.
        margins: Carryover minus that of the control, seed by seed.
        distilled_size: Size of the distilled core.
        core_share: Share of the score that the core holds.
        metrics: METRICS of the last cycle.
        control_metrics: The same of the control cores, by the control's name.
        initial_metrics: The same of cycle 0, which has no core; without replicas where it was not trained.
        seconds: Seconds of one cycle, averaged over the cycles of a trial. A cycle found in the store counts with the
            time that its training took.
        flops: FLOPs of one cycle, averaged in the same way.
        trial_flops: FLOPs of all cycles of a trial, those found in the store included, without the controls: what a
            rival of equal compute may cost. A given SAE counts with its scoring alone.
        whole_flops: Of transfers the same with the trainings that made the core, see `TrialResult.whole_flops`.
        control_flops: FLOPs of the controls of a trial.
        consistency: How similar the cores of the seeds are; None with fewer than two cores.
    """

    setting: S_co
    seeds: tuple[int, ...]
    collapsed: dict[int, str]
    finished: bool
    running: tuple[int, ...]
    stopped: tuple[int, ...]
    cycle: int | None
    core_sizes: tuple[Estimate, ...]
    carryovers: tuple[Estimate, ...]
    retests: tuple[Estimate, ...]
    carryover: Estimate
    carried: tuple[int, int]
    chance: Estimate
    retest: Estimate
    controls: dict[str, Estimate]
    margins: dict[str, Estimate]
    distilled_size: Estimate
    core_share: Estimate
    metrics: dict[str, Estimate]
    control_metrics: dict[str, dict[str, Estimate]]
    initial_metrics: dict[str, Estimate]
    seconds: Estimate
    flops: Estimate
    trial_flops: Estimate
    whole_flops: Estimate
    control_flops: Estimate
    consistency: Consistency | None


def counted(finished: Sequence[TrialResult], running: Sequence[TrialResult] = ()) -> list[TrialResult]:
    """Return the replicas of a setting that its numbers are over, see `Aggregate`."""
    whole = [r for r in finished or running if r.collapse is None]
    if finished or not whole:
        return whole
    last = min(r.last.cycle for r in whole)
    cut = [tuple(c for c in r.reports if c.cycle <= last) for r in whole]
    sizes = [r.core_sizes[: last + 1] for r in whole]
    return [
        replace(r, reports=reports, core_sizes=size, controls={}, chains={})
        for r, reports, size in zip(whole, cut, sizes, strict=True)
    ]


def aggregate(setting: S, finished: Sequence[TrialResult], running: Sequence[TrialResult] = ()) -> Aggregate[S]:
    """Aggregate the replicas of `setting`: the finished trials, and those that run and have finished cycles."""
    results = counted(finished, running)
    controls = sorted({name for r in results for name in r.controls})
    sizes = zip_longest(*(r.core_sizes for r in results))
    with_core = [[c for c in r.reports if c.carryover is not None] for r in results]
    carryovers = zip_longest(*([c.carryover for c in reports] for reports in with_core))
    retests = zip_longest(*([c.retest for c in reports] for reports in with_core))
    trained = [[c for c in (*r.reports, *r.beside) if c.seconds > 0] for r in results]
    first = [r.reports[0].metrics if r.reports[0].n_core_in == 0 else {} for r in results]
    carried = [r.last for r in results if r.last.carried is not None]
    return Aggregate(
        setting=setting,
        seeds=tuple(r.trial.seed for r in results),
        collapsed={r.trial.seed: r.collapse for r in (*finished, *running) if r.collapse},
        finished=bool(finished),
        running=tuple(r.trial.seed for r in running if r.collapse is None),
        stopped=tuple(r.trial.seed for r in running if r.collapse is None and r.stopped is not None),
        cycle=max((r.last.cycle for r in results), default=None),
        core_sizes=tuple(estimate(at_cycle, "amount") for at_cycle in sizes),
        carryovers=tuple(estimate(at_cycle, "share") for at_cycle in carryovers),
        retests=tuple(estimate(at_cycle, "share") for at_cycle in retests),
        carryover=estimate((r.last.carryover for r in results), "share"),
        carried=(sum(c.carried or 0 for c in carried), sum(c.n_core_in for c in carried)),
        chance=estimate((r.last.chance for r in results), "share"),
        retest=estimate((r.last.retest for r in results), "share"),
        controls={
            name: estimate((_carryover(r.sound_controls.get(name)) for r in results), "share") for name in controls
        },
        margins={name: estimate((_margin(r, name) for r in results), "difference") for name in controls},
        distilled_size=estimate((r.distilled_size for r in results), "amount"),
        core_share=estimate((r.last.core_share for r in results), "share"),
        metrics=_metrics([r.last.metrics for r in results]),
        control_metrics={
            name: _metrics([r.sound_controls[name].metrics for r in results if name in r.sound_controls])
            for name in controls
        },
        initial_metrics=_metrics(first),
        seconds=estimate((_mean([c.seconds for c in reports]) for reports in trained), "amount"),
        flops=estimate((_mean([c.flops for c in reports]) for reports in trained), "amount"),
        trial_flops=estimate((r.flops for r in results), "amount"),
        whole_flops=estimate((r.whole_flops for r in results), "amount"),
        control_flops=estimate((r.control_flops for r in results), "amount"),
        consistency=consistency(results),
    )


def _metrics(measured: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    return {name: estimate((found.get(name) for found in measured), scale) for name, scale in METRICS.items()}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _carryover(report: CycleReport | None) -> float | None:
    return report.carryover if report is not None else None


def _margin(result: TrialResult, control: str) -> float | None:
    other = _carryover(result.sound_controls.get(control))
    own = result.last.carryover
    return None if own is None or other is None else own - other
