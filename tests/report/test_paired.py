import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_rel

from dmsae_ray.report.paired import LEVEL, Difference, holm, paired

values = st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=3, max_size=8)


@given(st.data())
def test_p_and_interval_are_those_of_the_paired_t_test(data: st.DataObject) -> None:
    a = data.draw(values)
    b = data.draw(st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=len(a), max_size=len(a)))
    found = paired(dict(enumerate(a)), dict(enumerate(b)))
    if len({round(x - y, 6) for x, y in zip(a, b, strict=True)}) == 1:
        return  # no spread: the next test
    known = ttest_rel(a, b)
    low, high = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_only_seeds_that_have_both_count_and_few_show_their_values() -> None:
    found = paired({0: 1.0, 1: 2.0, 2: 5.0, 4: math.nan}, {1: 1.5, 2: 4.0, 3: 9.0, 4: 1.0})
    assert (found.n, found.mean, found.values, found.p) == (2, 0.75, (0.5, 1.0), None)
    assert found.text() == "+0.75 (+0.50, +1.00)"
    assert paired({0: 1.0}, {1: 1.0}).text() == "-"


def test_equal_differences_are_tested_by_their_signs_and_have_no_interval() -> None:
    same = paired(dict.fromkeys(range(4), 0.3), dict.fromkeys(range(4), 0.3))
    assert (same.p, same.text()) == (1.0, "0.00 (4 equal)")
    apart = paired({0: 1.0, 1: 0.6, 2: 0.8}, {0: 0.5, 1: 0.1, 2: 0.3})  # 0.5 but for rounding
    assert apart.p == binomtest(3, 3).pvalue == 0.25
    assert holm([apart, same])[0].text() == "+0.50 (3 equal)"
    seven = paired(dict.fromkeys(range(7), -1.0), dict.fromkeys(range(7), -0.5))
    assert seven.p == binomtest(7, 7).pvalue
    assert holm([seven])[0].text() == "-0.50* (7 equal)"
    assert not any(d.shown for d in holm([seven, *[same] * 5]))


def test_intervals_end_where_differences_must() -> None:
    found = paired({0: 1.0, 1: 0.0, 2: 1.0}, {0: 0.0, 1: 0.9, 2: 0.0}, limit=1.0)
    assert (found.low, found.high) == (-1.0, 1.0)


def by_hand(ps: list[float]) -> list[bool]:
    """Holm 1979: reject while the i-th smallest p of m is at most LEVEL / (m - i + 1)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    rejected = [False] * len(ps)
    for rank, i in enumerate(order):
        if ps[i] > LEVEL / (len(ps) - rank):
            break
        rejected[i] = True
    return rejected


@given(
    st.lists(st.lists(st.floats(-0.2, 1).map(lambda v: round(v, 2)), min_size=3, max_size=6), min_size=1, max_size=8)
)
def test_holms_correction_by_hand(many: list[list[float]]) -> None:
    raw = [paired(dict(enumerate(v)), dict.fromkeys(range(len(v)), 0.0)) for v in many]
    found = holm(raw)
    assert [d.shown for d in found] == by_hand([d.p for d in raw if d.p is not None])
    for plain, d in zip(raw, found, strict=True):
        assert d.mean == plain.mean and d.p == plain.p
        if len(set(plain.values)) == 1:
            assert d.low is None and d.high is None
            continue
        assert d.low is not None and d.high is not None and plain.low is not None and plain.high is not None
        assert d.low <= plain.low + 1e-12 and d.high >= plain.high - 1e-12  # never narrower than alone
        # The interval says the same as the star.
        assert d.shown == (d.low > 0 or d.high < 0) or abs(d.mean) < 1e-12 or 0 in (d.low, d.high)


def test_differences_without_an_interval_are_left_as_they_are() -> None:
    few = Difference(0.5, 2, (0.4, 0.6))
    assert holm([few]) == [few]
