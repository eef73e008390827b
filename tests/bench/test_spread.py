"""Medians, paired ratios, and when a ratio is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixfast_bench.spread import CONFIDENCE, Spread, compare, fewest_rounds, median_interval
from scipy.stats import binom

POSITIVE = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30)


def test_quartiles_by_hand():
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


@given(st.integers(1, 300))
def test_the_interval_is_the_narrowest_that_reaches_the_confidence(count):
    interval = median_interval([float(value) for value in np.random.default_rng(count).permutation(count)])
    if interval is None:
        assert 1 - 2 * binom.cdf(0, count, 0.5) < CONFIDENCE
        assert count < fewest_rounds()
        return
    low, high = interval
    below = int(low)  # values under the interval's lower end: 0 .. low - 1
    assert high == count - 1 - low
    assert 1 - 2 * binom.cdf(below, count, 0.5) >= CONFIDENCE
    assert 1 - 2 * binom.cdf(below + 1, count, 0.5) < CONFIDENCE


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(list(random.exponential(size=25)))
        hits += low <= np.log(2) <= high
    assert 0.94 < hits / 2000 < 0.975  # 25 values: exactly 95.7%


def test_what_slows_both_down_cancels():
    """A machine that gets three times slower in the middle still tells 2% exactly."""
    machine = [1.0] * 10 + [3.0] * 10
    ratio = compare([1.02 * seconds for seconds in machine], machine, 0.03)
    assert ratio.refusal is None
    assert ratio.value.median == pytest.approx(1.02)
    assert ratio.interval == pytest.approx((1.02, 1.02))


def test_a_ratio_that_cannot_be_told_is_refused():
    numerators = [1.0, 1.1] * 10
    ratio = compare(numerators, [1.0] * 20, 0.03)
    assert ratio.refusal == "too noisy"
    assert "known to 9.5%, not 3%" in ratio.detail  # the interval reaches from 1.0 to 1.1 around 1.05
    assert compare(numerators, [1.0] * 20, 0.1).refusal is None


def test_few_rounds_are_refused_however_alike_they_are():
    assert compare([2.0] * 5, [1.0] * 5, 0.03).refusal == "too few rounds"
    assert compare([2.0] * 6, [1.0] * 6, 0.03).refusal is None


@given(POSITIVE, st.floats(0.1, 10))
def test_units_do_not_matter(seconds, unit):
    plain = compare(seconds, seconds[::-1], 0.03)
    scaled = compare([unit * value for value in seconds], [unit * value for value in seconds[::-1]], 0.03)
    assert scaled.value.median == pytest.approx(plain.value.median)
    assert scaled.value.upper_quartile == pytest.approx(plain.value.upper_quartile)


@pytest.mark.parametrize(
    ("numerators", "denominators", "message"),
    [([1.0], [1.0, 2.0], "same rounds"), ([], [], "at least one"), ([0.0], [1.0], "positive")],
)
def test_bad_measurements(numerators, denominators, message):
    with pytest.raises(ValueError, match=message):
        compare(numerators, denominators, 0.03)
