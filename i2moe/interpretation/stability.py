"""Stability: whether models trained from different seeds have the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from i2moe.interpretation.report import InteractionReport
from i2moe.interpretation.report.measures.comparison import check_same_samples, how_alike
from i2moe.interpretation.report.text.columns import number, table
from i2moe.interpretation.statistics import correlation, plain, reliability_of_means

__all__ = ["Stability", "stability"]

Verdict: TypeAlias = Literal["stable", "partly stable", "unstable"]


@dataclass(frozen=True, eq=False)
class Stability:
    """How far reports of one data set agree with each other.

    R reports, P = R (R - 1) / 2 pairs, E experts.

    Args:
        expert_names: the E names.
        pairs: the P pairs of reports, by their position.
        correlations: (P, E), Pearson correlation of each expert's weights over the samples; NaN where constant.
        same_largest: (P,), share of samples for which both reports have the same largest weight.
        distances: (P,), how much of a sample's weight goes to other experts in the other report: half the sum of
            the absolute differences, in [0, 1], mean over the samples.
        global_weights: (R, E), the mean weights.
        weights: (N, E), each sample's weights, mean over the reports. They depend less on the seed than those of one.

    Example:
        >>> result = stability([InteractionReport.example()] * 3)
        >>> result.same_largest
        tensor([1., 1., 1.], dtype=torch.float64)
        >>> result.verdict()
        'stable'
    """

    expert_names: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    correlations: Tensor
    same_largest: Tensor
    distances: Tensor
    global_weights: Tensor
    weights: Tensor

    def __repr__(self) -> str:
        return f"Stability({len(self.global_weights)} reports, {self.verdict()}, weights differ by up to " + (
            f"{float(self.distances.max()):.3f} of 1)"
        )

    def verdict(self, *, stable_below: float = 0.1, unstable_above: float = 0.2) -> Verdict:
        """Say whether the weights of single samples can be read.

        The pair of reports that is farthest apart decides. Distances tell what correlations cannot where weights are
        nearly constant, as in data of one interaction.

        Args:
            stable_below: "stable" if no distance is above: at most a tenth of a sample's weight depends on the seed.
            unstable_above: "unstable" if a distance is above: do not interpret single samples. In between "partly
                stable": read large weights and means over many samples, for example of a class.
        """
        largest = float(self.distances.max())
        if largest <= stable_below:
            return "stable"
        return "partly stable" if largest <= unstable_above else "unstable"

    @property
    def spread(self) -> Tensor:
        """(E,), the standard deviation of the global weights between reports."""
        return self.global_weights.std(0)

    @property
    def reliability(self) -> Tensor:
        """(E,), the correlation that the mean `weights` are expected to have with those of R other models.

        It follows from the mean correlation of two models, where their differences are independent.
        """
        return reliability_of_means(self.correlations.mean(0), len(self.global_weights))

    def summary(self) -> str:
        """Return a plain-text table. *Of means* is the `reliability`.

        Example:
            >>> print(stability([InteractionReport.example()] * 2).summary())
            2 reports, 1 pair: the same largest weight for 100.0% of the samples (lowest pair 100.0%)
            stable: weights differ by 0.000 of 1 (farthest pair 0.000; up to 0.1 stable, above 0.2 unstable)
            <BLANKLINE>
            expert             correlation  lowest  of means  global weight  spread
            uniqueness/image         1.000   1.000     1.000          0.350   0.000
            uniqueness/text          1.000   1.000     1.000          0.150   0.000
            synergy                  1.000   1.000     1.000          0.350   0.000
            redundancy               1.000   1.000     1.000          0.150   0.000
        """
        pairs = f"{len(self.pairs)} pair" + "s" * (len(self.pairs) > 1)
        rows = zip(
            self.expert_names,
            self.correlations.mean(0),
            self.correlations.amin(0),
            self.reliability,
            self.global_weights.mean(0),
            self.spread,
            strict=True,
        )
        return (
            f"{len(self.global_weights)} reports, {pairs}: the same largest weight for {self.same_largest.mean():.1%} "
            f"of the samples (lowest pair {self.same_largest.min():.1%})\n"
            f"{self.verdict()}: weights differ by {self.distances.mean():.3f} of 1 (farthest pair "
            f"{self.distances.max():.3f}; up to 0.1 stable, above 0.2 unstable)\n\n"
        ) + table(
            ["expert", "correlation", "lowest", "of means", "global weight", "spread"],
            [[name, *map(number, values)] for name, *values in rows],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON; None for NaN."""
        return {
            "expert_names": list(self.expert_names),
            "pairs": [list(pair) for pair in self.pairs],
            "correlations": plain(self.correlations),
            "same_largest": self.same_largest.tolist(),
            "distances": self.distances.tolist(),
            "reliability": plain(self.reliability),
            "verdict": self.verdict(),
            "global_weights": self.global_weights.tolist(),
            "spread": self.spread.tolist(),
        }


def stability(reports: Sequence[InteractionReport]) -> Stability:
    """Compare reports of models trained from different seeds on the same samples in the same order.

    Weights that change with the seed are an accident of training and no property of the data.

    Args:
        reports: at least two.

    Returns:
        Correlations, agreement on the largest weight, distances, a verdict, and mean weights.

    Raises:
        ValueError: if there are fewer than two reports, or experts, samples or their order differ.

    Example:
        >>> stability([InteractionReport.example(), InteractionReport.example()]).correlations.shape
        torch.Size([1, 4])
    """
    reports = list(reports)
    if len(reports) < 2:
        raise ValueError(f"stability must have at least two reports, however it has {len(reports)}")
    for index, report in enumerate(reports):
        check_same_samples(reports[0], report, index)

    pairs = tuple(combinations(range(len(reports)), 2))
    weights = torch.stack([report.weights.double() for report in reports])
    same_largest, distances = zip(*(how_alike(weights[a], weights[b]) for a, b in pairs), strict=True)
    n_experts = len(reports[0].expert_names)
    correlations = [[correlation(weights[a][:, e], weights[b][:, e]) for e in range(n_experts)] for a, b in pairs]
    return Stability(
        expert_names=reports[0].expert_names,
        pairs=pairs,
        correlations=torch.tensor(correlations, dtype=torch.float64),
        same_largest=torch.tensor(same_largest, dtype=torch.float64),
        distances=torch.tensor(distances, dtype=torch.float64),
        global_weights=weights.mean(1),
        weights=weights.mean(0),
    )
