"""Means over replicas, with their uncertainty."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import expit, logit, stdtrit

Scale = Literal["real", "amount", "share", "difference"]
"""What values are possible: any; those >= 0; in [0, 1]; in [-1, 1], as of differences of shares, and of cosines."""

FEWEST = 3
"""With fewer replicas there is no interval: the values themselves are shown."""
ROUNDING = 1e-12
"""Values that differ by no more than this, times the largest of them where it is above 1, are equal: rounding."""


def are_equal(values: Sequence[float]) -> bool:
    """Whether values have no spread from which an interval could be had."""
    return max(values) - min(values) <= ROUNDING * max(1.0, *map(abs, values))


@dataclass(frozen=True)
class Estimate:
    """Mean over replicas, with its 95% interval.

    Attributes:
        mean: The mean; NaN without replicas.
        low: Lower end of the interval; None with fewer than `FEWEST` replicas, or where all values are equal.
        high: Upper end.
        n: Number of replicas.
        values: Their values, in the order of the replicas.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    values: tuple[float, ...]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval; None where there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def text(self, digits: int = 2) -> str:
        """Return the mean with its interval, '0.81 [0.74, 0.87]', or with two replicas, '0.81 (0.80, 0.82)'.

        Equal values of three and more give '0.81 (3 equal)', one replica its value alone, none '-'.
        """
        return self.written(lambda value: f"{value:.{digits}f}")

    def percent(self) -> str:
        """Return the same of a share, as '81% [74%, 87%]'."""
        return self.written(lambda value: f"{100 * value:.0f}%")

    def written(self, write: Callable[[float], str]) -> str:
        """Return the text whose numbers `write` writes."""
        if self.n == 0 or math.isnan(self.mean):
            return "-"
        if self.interval is not None:
            return f"{write(self.mean)} [{write(self.interval[0])}, {write(self.interval[1])}]"
        if self.n >= FEWEST:
            return f"{write(self.mean)} ({self.n} equal)"
        return write(self.mean) + (f" ({', '.join(map(write, self.values))})" if self.n > 1 else "")


NONE = Estimate(math.nan, None, None, 0, ())
"""An estimate from no replica."""


def estimate(values: Iterable[float | None], scale: Scale = "real") -> Estimate:
    """Return mean and 95% interval of the known values: Student's t with n - 1 degrees of freedom, from `FEWEST` on.

    Equal values have no interval: that none of 3 seeds found a thing does not say that none ever will.

    The interval of a share is computed on the logit scale, from the mean and its standard error by the delta method, so
    that it stays within (0, 1). (For shares near 1 it holds the mean in 94% to 95% of draws from beta distributions,
    where an interval cut at 1 does in 89%.) That of an amount is cut at 0, that of a difference of shares at -1 and 1.

    Args:
        values: None and NaN stand for replicas in which the quantity does not exist, such as a carryover without a core
            before it. They are left out.
        scale: What values are possible.
    """
    known = tuple(float(v) for v in values if v is not None and not math.isnan(v))
    n = len(known)
    if n == 0:
        return NONE
    mean = math.fsum(known) / n
    if n < FEWEST or are_equal(known):
        return Estimate(mean, None, None, n, known)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (n - 1))
    half_width = float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return Estimate(mean, *_interval(mean, half_width, scale), n, known)


def _interval(mean: float, half_width: float, scale: Scale) -> tuple[float, float]:
    low, high = mean - half_width, mean + half_width
    if scale == "amount":
        return max(low, min(mean, 0.0)), high
    if scale == "difference":
        return max(low, -1.0), min(high, 1.0)
    if scale == "share":  # 0 < mean < 1, since the values differ
        centre, reach = float(logit(mean)), half_width / (mean * (1 - mean))
        return min(float(expit(centre - reach)), mean), max(float(expit(centre + reach)), mean)
    return low, high
