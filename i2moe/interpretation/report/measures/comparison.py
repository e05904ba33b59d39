"""Two models, or two seeds of one, on the same samples: how good they are, and whether their weights agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from i2moe._common.tasks import difference_bounds, score_name
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.measures.quality import Quality, points
from i2moe.interpretation.report.text.columns import number, table
from i2moe.interpretation.statistics import mean_interval, plain, rank_correlation

__all__ = ["Comparison", "check_same_samples", "compare", "how_alike"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `report.compare(other)` found.

    Args:
        expert_names: the E names.
        score_name: what the scores are: accuracy, share of labels right, or R².
        qualities: of the two models.
        gain: by how much the other's score is higher, the mean of the samples' differences.
        low: lower end of the gain's interval, Student's of these differences.
        high: upper end.
        agreement: (E,), rank correlation of each expert's weights over the samples; NaN where constant.
        same_largest: share of samples for which both have the same largest weight.
        distance: how much of a sample's weight goes to other experts in the other report, in [0, 1], on average.
        mean_weights: (2, E), of the two models.
    """

    expert_names: tuple[str, ...]
    score_name: str
    qualities: tuple[Quality, Quality]
    gain: float
    low: float
    high: float
    agreement: Tensor
    same_largest: float
    distance: float
    mean_weights: Tensor

    def __repr__(self) -> str:
        first, second = self.qualities
        return (
            f"Comparison({self.score_name} {first.score:.3f} and {second.score:.3f}, weights differ by "
            f"{self.distance:.3f} of 1)"
        )

    def summary(self) -> str:
        """Return a plain-text table.

        Example:
            >>> from i2moe.interpretation import InteractionReport
            >>> report = InteractionReport.example()
            >>> print(report.compare(report).summary())
            accuracy 0.750 and 0.750, difference 0.000 [-0.602, 0.602]
            the same largest weight for 100.0% of the samples, weights differ by 0.000 of 1
            <BLANKLINE>
            expert            weight  other's  rank correlation
            uniqueness/image   0.350    0.350             1.000
            uniqueness/text    0.150    0.150             1.000
            synergy            0.350    0.350             1.000
            redundancy         0.150    0.150             1.000
        """
        first, second = self.qualities
        rows = zip(self.expert_names, *self.mean_weights, self.agreement, strict=True)
        return (
            f"{self.score_name} {first.score:.3f} and {second.score:.3f}, difference {self.gain:.3f} "
            f"[{self.low:.3f}, {self.high:.3f}]\n"
            f"the same largest weight for {self.same_largest:.1%} of the samples, weights differ by "
            f"{self.distance:.3f} of 1\n\n"
        ) + table(
            ["expert", "weight", "other's", "rank correlation"],
            [[name, *map(number, values)] for name, *values in rows],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON; None for NaN."""
        return {
            "expert_names": list(self.expert_names),
            "score_name": self.score_name,
            "qualities": [quality.to_dict() for quality in self.qualities],
            "gain": [plain(value) for value in (self.gain, self.low, self.high)],
            "agreement": plain(self.agreement),
            "same_largest": self.same_largest,
            "distance": self.distance,
            "mean_weights": plain(self.mean_weights),
        }


def compare(report: Diagnostics, other: Diagnostics) -> Comparison:
    """Compare with the report of another model, or of another seed, on the same samples in the same order.

    Samples are recognized by their inputs and targets, in single precision. For more than two use `stability`.

    Args:
        report: the report.
        other: the other.

    Raises:
        ValueError: if tasks, outputs, experts, samples or their order differ.
    """
    check_same_samples(report, other, 1)
    if (report.task, report.output_names) != (other.task, other.output_names):
        raise ValueError(
            f"both reports must be of one task and its outputs, however they are {report.task} of "
            f"{report.output_names} and {other.task} of {other.output_names}"
        )
    gains = points(other.task, other.prediction, other.target) - points(report.task, report.prediction, report.target)
    a, b = report.weights.double(), other.weights.double()
    same_largest, distance = how_alike(a, b)
    return Comparison(
        report.expert_names,
        score_name[report.task],
        (report.quality, other.quality),
        *mean_interval(gains, report.confidence, difference_bounds(report.task), report.clusters),
        agreement=torch.tensor(
            [rank_correlation(*pair) for pair in zip(_rounded(a), _rounded(b), strict=True)], dtype=torch.float64
        ),
        same_largest=same_largest,
        distance=distance,
        mean_weights=torch.stack([a.mean(0), b.mean(0)]),
    )


def _rounded(weights: Tensor) -> tuple[Tensor, ...]:
    """Return each expert's weights to six digits, as for `agreement`: ranks among smaller differences are noise."""
    return weights.round(decimals=6).unbind(1)


def how_alike(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Compare weights (N, E): the share of samples with the same largest one, and the mean half L1 distance."""
    return (a.argmax(1) == b.argmax(1)).double().mean().item(), ((a - b).abs().sum(1).mean() / 2).item()


def check_same_samples(first: Diagnostics, other: Diagnostics, index: int) -> None:
    """Raise a ValueError if report number `index` has other experts or samples than the first."""
    if not isinstance(other, Diagnostics):
        raise TypeError(f"report {index} must be a report, however it is a {type(other).__name__}")
    if other.expert_names != first.expert_names:
        raise ValueError(
            f"all reports must have the same experts, however report 0 has {first.expert_names} and report {index} "
            f"{other.expert_names}"
        )
    if len(other) != len(first):
        raise ValueError(
            f"all reports must be of the same samples, however report 0 has {len(first)} and report {index} "
            f"{len(other)}; explain every model on the same data"
        )
    if first.checksums.isnan().any() or other.checksums.isnan().any():
        raise ValueError(
            "reports must know their inputs to be compared, however those of an InteractionMetric do not; compare "
            "reports of explain"
        )
    same = torch.isclose(first.checksums, other.checksums, rtol=1e-6, atol=1e-6)
    if first.target.shape == other.target.shape:
        a, b = first.target.double().reshape(len(first), -1), other.target.double().reshape(len(first), -1)
        same &= torch.isclose(a, b, rtol=0, atol=1e-6 * float(a.abs().max())).all(1)  # scaled values are rounded
    if not same.all():
        raise ValueError(
            f"all reports must be of the same samples in the same order, however {int((~same).sum())} of {len(same)} "
            f"samples of report {index} are not those of report 0; use a loader with shuffle=False, no augmentation, "
            "and inputs that are scaled alike"
        )
