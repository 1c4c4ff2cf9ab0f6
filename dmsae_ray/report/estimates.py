"""Means over replicas, with what they leave uncertain."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import t as student_t


@dataclass(frozen=True)
class Estimate:
    """Mean of `n` replicas and the half width of its 95% t-interval; None where one replica says nothing of it."""

    mean: float
    half_width: float | None
    n: int

    def text(self, digits: int = 2) -> str:
        """E.g. '0.81 ±0.07', '0.81' with one replica, '-' without any."""
        if self.n == 0 or math.isnan(self.mean):
            return "-"
        mean = f"{self.mean:.{digits}f}"
        return mean if self.half_width is None else f"{mean} ±{self.half_width:.{digits}f}"


def estimate(values: Iterable[float | None]) -> Estimate:
    """Mean and 95% interval (Student's t with n - 1 degrees of freedom) over the values that are there.

    None and NaN are replicas in which the quantity does not exist (a carryover without a core before it): left out.
    """
    known = [float(v) for v in values if v is not None and not math.isnan(v)]
    n = len(known)
    if n == 0:
        return Estimate(math.nan, None, 0)
    mean = math.fsum(known) / n
    if n == 1:
        return Estimate(mean, None, 1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (n - 1))
    return Estimate(mean, float(student_t.ppf(0.975, n - 1)) * deviation / math.sqrt(n), n)
