"""Arms at equal L0: the rival's value is interpolated to the L0 that each SAE has, replica by replica.

A dense core's latents fire beside the k others, so that SAEs of one nominal k have different L0; a difference between
them may be one of L0 alone (METHOD.md: "a dense core is not free").
Where there are SAEs without a core of several budgets, arms are compared at equal L0 and equal FLOP too.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dmsae_ray.distill import DISTILLED
from dmsae_ray.report.evaluated import NO_CORE, Arm, Evaluated, EvaluatedSAE, value_of
from dmsae_ray.report.paired import Difference, holm, paired
from dmsae_ray.report.quality_metrics import limit_of, shown_metric

CLOSE = 1.05
"""Nothing is extrapolated: beyond the ends of the rival's curve, an L0 within this factor counts as that of the end."""

Curve = Sequence[tuple[float, float]]
EqualFlop = Literal["own", "whole"]
EQUAL_FLOP: Mapping[EqualFlop, str] = {
    "own": "at equal FLOP",
    "whole": "at equal FLOP with the core's trainings",
}
"""The FLOP of an SAE that the rival's is interpolated to: of its own training, or with those that made its core."""


@dataclass(frozen=True)
class AtEqualL0:
    """The difference of two arms in one number, at equal measured L0.

    Attributes:
        name: the number.
        arm: the arm.
        rival: the arm that it is compared with; at equal FLOP those of all budgets, under the name of budget 1.
        difference: mean of arm - rival over the SAEs of a replica, paired over the replicas.
        compared: SAEs that are compared, and how many there are: the others lie outside the L0 of the rival's SAEs of
            their seed, or that seed has none.
        flops: training FLOP of the arm's SAEs over those of the rival, and the same with the cycles that made the core;
            NaN where they are not known. At equal FLOP, of the SAEs that are compared.
        equal_flop: the FLOP that the rival's is interpolated to; None where it is as it is.
    """

    name: str
    arm: Arm
    rival: Arm
    difference: Difference
    compared: tuple[int, int]
    flops: tuple[float, float]
    equal_flop: EqualFlop | None = None

    @property
    def rival_label(self) -> str:
        """A short name of the rival for tables."""
        return self.rival.label + ("" if self.equal_flop is None else f", {EQUAL_FLOP[self.equal_flop]}")

    @property
    def verdict(self) -> str:
        """'better', 'worse', or empty where nothing is shown or no way is better."""
        better = shown_metric(self.name).better
        if not self.difference.shown or better == "neither":
            return ""
        return "better" if (self.difference.mean > 0) == (better == "higher") else "worse"


def compare(evaluated: Evaluated, names: Sequence[str]) -> list[AtEqualL0]:
    """Compare each distilled arm with the SAEs without a core, and with random cores of its kind; corrected together.

    SAEs without a core of another budget are a rival of their own. Of several budgets there are two rivals more, at
    equal FLOP. Where each of these has the numbers of one budget alone, it is the same test and counts once.

    Args:
        evaluated: the SAEs.
        names: the numbers.
    """
    found: list[AtEqualL0] = []
    tests: list[tuple[str, Arm, Arm, EqualFlop | None]] = []
    for arm in evaluated.arms:
        if arm.core != DISTILLED:
            continue
        rivals = [a for a in evaluated.arms if a.is_without_core_of(arm) or _is_control_of(a, arm)]
        for rival in rivals:
            flops = _flops(evaluated, arm, rival)
            for name in names:
                one = _at_equal_l0(evaluated, arm, rival, name, flops)
                if one.compared[1]:
                    found.append(one)
                    tests.append((name, arm, rival, None))
        budgets = [rival for rival in rivals if rival.core == NO_CORE]
        for equal in EQUAL_FLOP if len(budgets) > 1 else ():
            for name in names:
                one, alone = _at_equal_flop(evaluated, arm, budgets, name, equal)
                if one.compared[0]:
                    same = alone is not None and _compared(found, name, arm, alone) == one.compared[0]
                    found.append(one)
                    tests.append((name, arm, alone, None) if alone and same else (name, arm, one.rival, equal))
    distinct: dict[tuple[str, Arm, Arm, EqualFlop | None], Difference] = {}
    for test, one in zip(tests, found, strict=True):
        distinct.setdefault(test, one.difference)
    corrected = dict(zip(distinct, holm(list(distinct.values())), strict=True))
    return [replace(one, difference=corrected[test]) for test, one in zip(tests, found, strict=True)]


def flops_of(sae: EvaluatedSAE, equal: EqualFlop) -> float:
    """Return the FLOP of an SAE that a rival at equal FLOP has; NaN where it is not known.

    Args:
        sae: the SAE.
        equal: of its own training, or with those that made its core.
    """
    return sae.report.flops if equal == "own" else sae.whole_flops


def interpolate(curve: Curve, l0: float) -> float | None:
    """Return the value of a curve of (L0, value) at an L0, linear in log L0; None outside it.

    Points without a positive L0 have no place on it: they are left out.

    Args:
        curve: by ascending L0.
        l0: the L0.
    """
    curve = [point for point in curve if point[0] > 0]
    if not curve or not l0 > 0:
        return None
    low, high = curve[0], curve[-1]
    if l0 <= low[0]:
        return low[1] if low[0] <= l0 * CLOSE else None
    if l0 >= high[0]:
        return high[1] if l0 <= high[0] * CLOSE else None
    place = bisect_left([x for x, _ in curve], l0)
    (x0, y0), (x1, y1) = curve[place - 1], curve[place]
    share = (math.log(l0) - math.log(x0)) / (math.log(x1) - math.log(x0))
    return y0 + share * (y1 - y0)


def _is_control_of(rival: Arm, arm: Arm) -> bool:
    return rival.core not in (DISTILLED, NO_CORE) and (
        (rival.sparsity, rival.selects, rival.axes, rival.cycle) == (arm.sparsity, arm.selects, arm.axes, arm.cycle)
    )


def _at_equal_l0(evaluated: Evaluated, arm: Arm, rival: Arm, name: str, flops: tuple[float, float]) -> AtEqualL0:
    own, other = evaluated.curves(arm, name), evaluated.curves(rival, name)
    a: dict[tuple[str, int], float] = {}
    b: dict[tuple[str, int], float] = {}
    compared, total = 0, sum(len(points) for points in own.values()) if other else 0
    for replica in own.keys() & other.keys():
        pairs = [(value, interpolate(other[replica], l0)) for l0, value in own[replica]]
        both = [(value, at) for value, at in pairs if at is not None]
        compared += len(both)
        if both:
            a[replica] = math.fsum(value for value, _ in both) / len(both)
            b[replica] = math.fsum(at for _, at in both) / len(both)
    difference = paired(evaluated.by_replica(a), evaluated.by_replica(b), limit_of(name))
    return AtEqualL0(name, arm, rival, difference, (compared, total), flops)


def _at_equal_flop(
    evaluated: Evaluated, arm: Arm, budgets: Sequence[Arm], name: str, equal: EqualFlop
) -> tuple[AtEqualL0, Arm | None]:
    """Return the difference at equal L0 and FLOP, and the budget that gave all of the rival's values; None if several.

    For each SAE, the values and FLOP of each budget are interpolated to its L0; then the value, between the budgets, to
    its FLOP: linear in the logarithm, and no further than they reach.
    """
    points = [(rival, _points(evaluated, rival, name)) for rival in budgets]
    a: dict[tuple[str, int], list[float]] = {}
    b: dict[tuple[str, int], list[float]] = {}
    alone: set[Arm | None] = set()
    compared, total, own, whole, theirs = 0, 0, 0.0, 0.0, 0.0
    for sae in evaluated.of(arm):
        value, flops = value_of(sae, name), flops_of(sae, equal)
        if math.isnan(value) or math.isnan(sae.l0):
            continue
        total += 1
        curve: list[tuple[float, float, Arm]] = []
        for rival, saes in points:
            here = saes.get((sae.sweep, sae.seed), [])
            cost = interpolate([(l0, each) for l0, _, each in here], sae.l0)
            level = interpolate([(l0, each) for l0, each, _ in here], sae.l0)
            if cost is not None and level is not None and cost > 0:
                curve.append((cost, level, rival))
        curve.sort(key=lambda point: point[:2])
        at = interpolate([(cost, level) for cost, level, _ in curve], flops)
        if at is None:
            continue
        compared += 1
        a.setdefault((sae.sweep, sae.seed), []).append(value)
        b.setdefault((sae.sweep, sae.seed), []).append(at)
        own, whole = own + sae.report.flops, whole + sae.whole_flops
        theirs += min(max(flops, curve[0][0]), curve[-1][0])
        near = (x for x in curve if max(x[0], flops) <= CLOSE * min(x[0], flops) and math.isclose(x[1], at))
        alone.add(next((rival for _, _, rival in near), None))
    difference = paired(evaluated.by_replica(_means(a)), evaluated.by_replica(_means(b)), limit_of(name))
    ratios = (own / theirs, whole / theirs) if theirs else (math.nan, math.nan)
    rival = replace(budgets[0], budget=1.0)
    one = AtEqualL0(name, arm, rival, difference, (compared, total), ratios, equal)
    return one, alone.pop() if len(alone) == 1 else None


def _points(evaluated: Evaluated, arm: Arm, name: str) -> dict[tuple[str, int], list[tuple[float, float, float]]]:
    """Return (measured L0, value, training FLOP) of the SAEs of an arm by sweep and seed, by ascending L0."""
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for sae in evaluated.of(arm):
        value = value_of(sae, name)
        if not math.isnan(value) and not math.isnan(sae.l0):
            found.setdefault((sae.sweep, sae.seed), []).append((sae.l0, value, sae.report.flops))
    return {replica: sorted(points) for replica, points in found.items()}


def _means(values: Mapping[tuple[str, int], Sequence[float]]) -> dict[tuple[str, int], float]:
    return {replica: math.fsum(own) / len(own) for replica, own in values.items()}


def _compared(found: Sequence[AtEqualL0], name: str, arm: Arm, rival: Arm) -> int:
    """Return how many SAEs are compared with a rival whose FLOP are as they are."""
    known = ((one.name, one.arm, one.rival, one.equal_flop, one.compared[0]) for one in found)
    return next((n for *row, n in known if row == [name, arm, rival, None]), 0)


def _flops(evaluated: Evaluated, arm: Arm, rival: Arm) -> tuple[float, float]:
    own, other = evaluated.of(arm), evaluated.of(rival)
    theirs = sum(sae.report.flops for sae in other) / len(other)
    if not theirs:
        return math.nan, math.nan
    one = sum(sae.report.flops for sae in own) / len(own) / theirs
    return one, sum(sae.whole_flops for sae in own) / len(own) / theirs
