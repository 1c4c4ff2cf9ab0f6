"""Means and intervals, against scipy's and against what values are possible."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dmsae_ray.report.estimates import Scale, estimate

BOUNDS: dict[str, tuple[float, float]] = {
    "real": (-math.inf, math.inf),
    "amount": (0, math.inf),
    "share": (0, 1),
    "difference": (-1, 1),
}


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=10))
def test_interval_is_students(values: list[int]) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(float(np.mean(values)), abs=1e-9)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    if np.ptp(values) == 0:
        assert found.interval is None
    else:
        assert found.interval == pytest.approx((low, high), rel=1e-6, abs=1e-9)


@given(st.data(), st.sampled_from(get_args(Scale)), st.integers(1, 8))
def test_no_interval_leaves_what_is_possible(data: st.DataObject, scale: Scale, n: int) -> None:
    low, high = BOUNDS[scale]
    value = st.floats(max(low, -1e6), min(high, 1e6), allow_subnormal=False)
    values = data.draw(st.lists(value, min_size=n, max_size=n))
    found = estimate(values, scale)
    assert found.n == n and found.values == tuple(values)
    if n < 3 or max(values) - min(values) <= 1e-12 * max(1.0, *map(abs, values)):
        assert found.interval is None
        return
    assert found.interval is not None
    slack = 1e-9 * max(1.0, max(map(abs, values)))
    assert low <= found.interval[0] <= found.mean + slack and found.mean - slack <= found.interval[1] <= high + slack


def test_the_interval_of_a_share_holds_its_mean_as_often_as_it_says() -> None:
    """Shares near 1, where an interval cut at 1 holds it in 89% of draws."""
    draws = np.random.default_rng(0).beta(19, 1, size=(4000, 3))
    intervals = [estimate(row, "share").interval for row in draws.tolist()]
    assert np.mean([i is not None and i[0] <= 0.95 <= i[1] for i in intervals]) > 0.93


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert estimate([0.5]).text() == "0.50"
    assert estimate([0.5, 0.75]).text() == "0.62 (0.50, 0.75)"
    assert estimate([1, 2, 3]).text() == "2.00 [-0.48, 4.48]"
    assert estimate([1, 2, 3], "amount").text() == "2.00 [0.00, 4.48]"
    for same in (0.0, 0.5, 1.0):  # nor have equal values
        found = estimate([same] * 3, "share")
        assert found.interval is None and found.percent() == f"{same:.0%} (3 equal)"
    assert estimate([None, math.nan, 3.0]).n == 1
    assert estimate([]).text() == "-"
