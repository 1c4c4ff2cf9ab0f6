"""Arms at equal L0: the rival's value is interpolated to the L0 that each SAE has, replica by replica.

A dense core's latents fire beside the k others, so that SAEs of one nominal k have different L0; a difference between
them may be one of L0 alone (METHOD.md: "a dense core is not free").
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from dmsae_ray.distill import DISTILLED
from dmsae_ray.report.evaluated import NO_CORE, Arm, Evaluated
from dmsae_ray.report.paired import Difference, holm, paired
from dmsae_ray.report.quality_metrics import limit_of, shown_metric

CLOSE = 1.05
"""Nothing is extrapolated: beyond the ends of the rival's curve, an L0 within this factor counts as that of the end."""

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class AtEqualL0:
    """The difference of two arms in one number, at equal measured L0.

    Attributes:
        name: the number.
        arm: the arm.
        rival: the arm that it is compared with.
        difference: mean of arm - rival over the SAEs of a replica, paired over the replicas.
        compared: SAEs that are compared, and how many there are: the others lie outside the L0 of the rival's SAEs of
            their seed, or that seed has none.
        flops: training FLOP of the arm's SAEs over those of the rival, and the same with the cycles that made the core;
            NaN where they are not known.
    """

    name: str
    arm: Arm
    rival: Arm
    difference: Difference
    compared: tuple[int, int]
    flops: tuple[float, float]

    @property
    def verdict(self) -> str:
        """'better', 'worse', or empty where nothing is shown or no way is better."""
        better = shown_metric(self.name).better
        if not self.difference.shown or better == "neither":
            return ""
        return "better" if (self.difference.mean > 0) == (better == "higher") else "worse"


def compare(evaluated: Evaluated, names: Sequence[str]) -> list[AtEqualL0]:
    """Compare each distilled arm with the SAEs without a core, and with random cores of its kind; corrected together.

    SAEs without a core of another budget are a rival of their own.

    Args:
        evaluated: the SAEs.
        names: the numbers.
    """
    found: list[AtEqualL0] = []
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
    corrected = holm([one.difference for one in found])
    return [
        AtEqualL0(one.name, one.arm, one.rival, difference, one.compared, one.flops)
        for one, difference in zip(found, corrected, strict=True)
    ]


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


def _flops(evaluated: Evaluated, arm: Arm, rival: Arm) -> tuple[float, float]:
    own, other = evaluated.of(arm), evaluated.of(rival)
    theirs = sum(sae.report.flops for sae in other) / len(other)
    if not theirs:
        return math.nan, math.nan
    one = sum(sae.report.flops for sae in own) / len(own) / theirs
    return one, sum(sae.whole_flops for sae in own) / len(own) / theirs
