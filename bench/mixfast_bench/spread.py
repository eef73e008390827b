"""From repeated timings to a figure: medians with quartiles, and ratios that are refused when they cannot be told.

A ratio of two contenders is taken round by round, since both then ran within the same seconds: what slows the whole
machine down cancels. Reported is the median of the per-round ratios, with their quartiles.

The rule of refusal: the 95% confidence interval of that median, from order statistics, must be no wider than the
``resolution`` asked for, a share of the median. It assumes nothing about the noise but that rounds are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

CONFIDENCE = 0.95

# An overhead of 1.03 must be told from none.
FINE = 0.03
# Speed-ups and shares of what the machine can do are far from 1.
COARSE = 0.05
# Operators take microseconds and are compared with what takes several times as long.
ROUGH = 0.1


@dataclass(frozen=True)
class Spread:
    """The median and quartiles of some measurements, in their unit."""

    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Quartiles by linear interpolation between the sorted values.

        Raises:
            ValueError: no values.
        """
        if len(values) == 0:
            raise ValueError("values must hold at least one measurement, got none")
        lower, median, upper = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75))
        return cls(float(median), float(lower), float(upper))


@dataclass(frozen=True)
class Ratio:
    """How one contender compares with another, or why that cannot be told.

    Attributes:
        value: median and quartiles of the per-round ratios.
        interval: the confidence interval of the median; None where the rounds are too few for one.
        refusal: None where the ratio may be quoted; else ``"too few rounds"`` or ``"too noisy"``.
        detail: of the refusal, for people; else empty.
    """

    value: Spread
    interval: tuple[float, float] | None
    refusal: str | None = None
    detail: str = ""


def compare(numerators: Sequence[float], denominators: Sequence[float], resolution: float) -> Ratio:
    """The ratio of two contenders' measurements of the same rounds, in the same order; see the top of this file.

    Raises:
        ValueError: no measurements, not equally many, or one that is not positive.
    """
    if len(numerators) != len(denominators):
        raise ValueError(
            f"numerators and denominators must be of the same rounds, got {len(numerators)} and {len(denominators)}"
        )
    if min((*numerators, *denominators), default=1.0) <= 0:
        raise ValueError("measurements must be positive")
    ratios = [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]
    value = Spread.of(ratios)
    interval = median_interval(ratios)
    if interval is None:
        return Ratio(value, None, "too few rounds", f"{len(ratios)} of at least {fewest_rounds()}")
    width = (interval[1] - interval[0]) / value.median
    if width > resolution:
        return Ratio(value, interval, "too noisy", f"known to {100 * width:.1f}%, not {100 * resolution:.0f}%")
    return Ratio(value, interval)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """A confidence interval of the median, between two of the sorted values; None where they are too few.

    The number of values below the true median is binomial (n, 1/2): the k-th smallest and the k-th largest enclose the
    median with probability ``1 - 2 P(X < k)``. The largest k that reaches ``CONFIDENCE`` is taken.
    """
    count = len(values)
    tail, rank = 0.0, 0
    while True:
        tail += comb(count, rank) / 2**count
        if 2 * tail > 1 - CONFIDENCE:
            break
        rank += 1
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[count - rank]


def fewest_rounds() -> int:
    """The smallest number of rounds that has a confidence interval at all."""
    rounds = 1
    while 2 / 2**rounds > 1 - CONFIDENCE:
        rounds += 1
    return rounds
