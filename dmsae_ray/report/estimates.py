"""Means over replicas, with their uncertainty."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.special import stdtrit


@dataclass(frozen=True)
class Estimate:
    """Mean over replicas, with its 95% t-interval.

    Attributes:
        mean: The mean; NaN without replicas.
        half_width: Half width of the interval; None with fewer than two replicas.
        n: Number of replicas.
    """

    mean: float
    half_width: float | None
    n: int

    def text(self, digits: int = 2) -> str:
        """Return for example '0.81 ±0.07'; '0.81' with one replica, '-' without any."""
        if self.n == 0 or math.isnan(self.mean):
            return "-"
        mean = f"{self.mean:.{digits}f}"
        return mean if self.half_width is None else f"{mean} ±{self.half_width:.{digits}f}"


def estimate(values: Iterable[float | None]) -> Estimate:
    """Return mean and 95% interval (Student's t with n - 1 degrees of freedom) of the known values.

    None and NaN stand for replicas in which the quantity does not exist, such as a carryover without a core before it.
    They are left out.
    """
    known = [float(v) for v in values if v is not None and not math.isnan(v)]
    n = len(known)
    if n == 0:
        return Estimate(math.nan, None, 0)
    mean = math.fsum(known) / n
    if n == 1:
        return Estimate(mean, None, 1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (n - 1))
    return Estimate(mean, float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n), n)
