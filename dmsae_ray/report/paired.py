"""Paired differences over seeds, and what several of them show together (Holm's step-down correction)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.special import stdtr, stdtrit

from dmsae_ray.report.estimates import FEWEST, ROUNDING, are_equal

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Mean difference of two quantities over the seeds that have both.

    Attributes:
        mean: the mean; NaN without seeds.
        n: number of seeds.
        values: the differences, in the order of the seeds.
        p: two-sided, of the paired t-test, or of the sign test where all differences are equal; None with fewer than
            `FEWEST` seeds.
        low: lower end of its interval; None where there is no p, or all differences are equal.
        high: upper end.
        shown: whether the difference is not 0, at `LEVEL` for all differences together.
        limit: no difference can be larger, nor smaller than its negative; intervals are cut there.
    """

    mean: float
    n: int
    values: tuple[float, ...]
    p: float | None = None
    low: float | None = None
    high: float | None = None
    shown: bool = False
    limit: float = math.inf

    def text(self, digits: int = 2) -> str:
        """Return it as '+0.03 [-0.01, +0.07]', with a star where it is shown; '-' without seeds.

        Equal differences of three and more seeds give '+0.03 (3 equal)'.
        """
        if self.n == 0:
            return "-"
        mean = signed(self.mean, digits) + ("*" if self.shown else "")
        if self.low is not None and self.high is not None:
            return f"{mean} [{signed(self.low, digits)}, {signed(self.high, digits)}]"
        if self.n >= FEWEST:
            return f"{mean} ({self.n} equal)"
        return mean + (f" ({', '.join(signed(v, digits) for v in self.values)})" if self.n > 1 else "")


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign; what is rounded to 0 has none."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def paired(a: Mapping[int, float], b: Mapping[int, float], limit: float = math.inf) -> Difference:
    """Return a - b over the seeds in both; NaN counts as missing. Its interval is of this difference alone.

    Equal differences have no spread that a t-test could use. Their p is that of the sign test, 2^(1 - n): so likely
    is it that n differences that are as often positive as negative all have one sign.

    Args:
        a: values by seed.
        b: values by seed.
        limit: no difference can be larger: 1 for shares, 2 for correlations.
    """
    both = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    values = tuple(v for v in both if not math.isnan(v))
    n = len(values)
    if n == 0:
        return Difference(math.nan, 0, (), limit=limit)
    mean = math.fsum(values) / n
    if n < FEWEST:
        return Difference(mean, n, values, limit=limit)
    if are_equal(values):
        return Difference(mean, n, values, 2.0 ** (1 - n) if abs(mean) > ROUNDING else 1.0, limit=limit)
    p = 2 * float(stdtr(n - 1, -abs(mean) / _error(values, mean)))
    return _with_interval(Difference(mean, n, values, p, limit=limit), LEVEL)


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences with what they show together, in the same order.

    The i-th smallest of m values of p is compared with LEVEL / (m - i + 1), until one is above: so the chance that any
    difference is called shown where there is none is at most LEVEL. Each interval has the level at which its p was
    compared; that of a difference that is not shown therefore holds 0. Equal differences have none.
    """
    tested = sorted((i for i, d in enumerate(differences) if d.p is not None), key=lambda i: differences[i].p or 0.0)
    found, going = list(differences), True
    level = LEVEL
    for rank, i in enumerate(tested):
        p = differences[i].p
        assert p is not None, "only those with p are tested"
        if going:
            level = LEVEL / (len(tested) - rank)
            going = p <= level
        # Those behind the first that fails keep its level: at their own, an interval might leave 0 out.
        found[i] = replace(_with_interval(differences[i], level), shown=going)
    return found


def _with_interval(d: Difference, level: float) -> Difference:
    if are_equal(d.values):
        return d
    reach = float(stdtrit(d.n - 1, 1 - level / 2)) * _error(d.values, d.mean)
    return replace(d, low=max(d.mean - reach, -d.limit), high=min(d.mean + reach, d.limit))


def _error(values: Sequence[float], mean: float) -> float:
    """Return the standard error of the mean."""
    n = len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
