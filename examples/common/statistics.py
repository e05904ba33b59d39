"""Scores over seeds, splits or folds: mean ± deviation, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from statistics import mean, stdev
from typing import NamedTuple

__all__ = ["PairedDifference", "mean_and_deviation", "paired_difference"]


class PairedDifference(NamedTuple):
    """A paired difference: its mean, the ends of its 95% interval and the number of pairs.

    The ends are no numbers where the pairs cannot tell how much they vary: one pair, or differences that are all equal.

    Example:
        >>> print(PairedDifference(0.5, 0.25, 0.75, n=3))
        +0.5000 [+0.2500, +0.7500]
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        interval = f" [{self.low:+.4f}, {self.high:+.4f}]" if not isnan(self.low) else ""
        return f"{self.mean:+.4f}{interval}"


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> PairedDifference:
    """Compare scores pair by pair, by Student's t interval of their differences.

    Args:
        ours: at least one score.
        theirs: a score for each of ours, of the same seed, split or fold.

    Example:
        >>> print(paired_difference([1.0, 2.0, 3.0], [0.5, 1.0, 2.5]))
        +0.6667 [-0.0504, +1.3838]
    """
    from scipy.stats import t

    gains = [one - other for one, other in zip(ours, theirs, strict=True)]
    center, n = mean(gains), len(gains)
    largest = max(map(abs, (*ours, *theirs)))
    if max(gains) - min(gains) <= 1e-9 * largest:  # equal but for rounding: a width of 0 would claim certainty
        return PairedDifference(center, nan, nan, n)
    margin = float(t.ppf(0.975, n - 1)) * stdev(gains) / n**0.5
    return PairedDifference(center, center - margin, center + margin, n)


def mean_and_deviation(values: Sequence[float], form: str = ".3f") -> str:
    """Write the mean of scores and, of more than one, their standard deviation.

    Args:
        values: at least one.
        form: how a number is written, as in an f-string; the deviation has no sign.

    Example:
        >>> mean_and_deviation([0.5, 0.7]), mean_and_deviation([0.5]), mean_and_deviation([1, 3], "+.1f")
        ('0.600 ± 0.141', '0.500', '+2.0 ± 1.4')
    """
    deviation = f" ± {stdev(values):{form.removeprefix('+')}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{deviation}"
