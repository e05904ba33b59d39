"""What methods reach: how well weights name the true types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean

import torch
from torch import Tensor

from examples.datasets.known import UNKNOWN, KnownInteractions
from i2moe.interpretation.report.measures import quality

__all__ = ["Run", "Scores", "calibration_error", "distance", "score", "type_auroc"]


@dataclass(frozen=True)
class Run:
    """One trained method on the test data: its accuracy (R2 for a regression) and weights (n, E)."""

    accuracy: float
    weights: Tensor


@dataclass(frozen=True)
class Scores:
    """What the seeds of one method reach on one problem; NaN where a score means nothing there.

    Args:
        accuracy: per seed; R2 for a regression.
        named: per seed, share of the test samples of known type whose largest weight names it.
        auroc: per seed, see `type_auroc`.
        calibration: per seed, see `calibration_error`.
        mix: per seed, the `distance` of the mean weights from the true mix.
        correlation: mean over pairs of seeds of the correlation of their weights.
        mean_weights: (E, E), mean weights of the samples of each type; None where there are none.
        moved: of changed data, per seed, the `distance` of the weights from those that they should be, by the weights
            without the change: of the mean weights, and the mean of each sample's.
    """

    accuracy: list[float]
    named: list[float]
    auroc: list[float]
    calibration: list[float]
    mix: list[float]
    correlation: float
    mean_weights: list[list[float] | None]
    moved: dict[str, list[float]] | None = None


def score(runs: Sequence[Run], test: KnownInteractions, expected: Sequence[Tensor] | None = None) -> Scores:
    """Judge the seeds of one method.

    Args:
        runs: one a seed.
        test: what they were run on.
        expected: for changed data, the weights (n, E) that each run should have.
    """
    known = test.interaction != UNKNOWN
    truth = test.interaction[known]
    mean_weights = torch.stack([run.weights for run in runs]).mean(0)
    return Scores(
        accuracy=[run.accuracy for run in runs],
        named=[_named(run.weights[known], truth) for run in runs],
        auroc=[type_auroc(run.weights, test.interaction) for run in runs],
        calibration=[calibration_error(run.weights[known], truth) for run in runs],
        mix=[float(distance(run.weights.mean(0), test.mix)) for run in runs],
        correlation=_correlation([run.weights for run in runs]),
        mean_weights=[
            mean_weights[test.interaction == kind].mean(0).tolist() if (test.interaction == kind).any() else None
            for kind in range(len(test.mix))
        ],
        moved=None if expected is None else _moved([run.weights for run in runs], expected),
    )


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Return half the L1 distance between weights (..., E): the share that must be moved to make one the other.

    Example:
        >>> distance(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.2, 0.5, 0.3]))
        tensor(0.3000)
    """
    return (first - second).abs().sum(-1) / 2


def type_auroc(weights: Tensor, interaction: Tensor) -> float:
    """Ask of each type how well its weight tells samples of this type from all others: the mean AUROC over types.

    Types that no sample, or every sample, is of are left out. Samples of unknown type are of none.

    Args:
        weights: (n, E).
        interaction: (n,), the true types, or `UNKNOWN`.

    Returns:
        A share, 0.5 for weights that tell nothing; NaN where no type can be asked for.

    Example:
        >>> type_auroc(torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.7, 0.3]]), torch.tensor([0, 1, 1]))
        1.0
    """
    from sklearn.metrics import roc_auc_score

    of_type = [(interaction == kind, weights[:, kind]) for kind in range(weights.shape[1])]
    if weights.isnan().any():
        return math.nan
    found = [float(roc_auc_score(is_of, weight)) for is_of, weight in of_type if 0 < int(is_of.sum()) < len(is_of)]
    return mean(found) if found else math.nan


def calibration_error(weights: Tensor, interaction: Tensor, n_bins: int = 10) -> float:
    """Compare the largest weight with how often it is right: the mean gap over bins of equal width, by their size.

    Args:
        weights: (n, E).
        interaction: (n,), the true types.
        n_bins: number of bins.

    Example:
        >>> round(calibration_error(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1])), 3)
        0.3
    """
    if weights.isnan().any():
        return math.nan
    confidence, named = weights.max(1)
    return quality.calibration_error(confidence, named == interaction, n_bins=n_bins)[0]


def _named(weights: Tensor, truth: Tensor) -> float:
    return math.nan if weights.isnan().any() else float((weights.argmax(1) == truth).float().mean())


def _moved(weights: Sequence[Tensor], expected: Sequence[Tensor]) -> dict[str, list[float]]:
    pairs = list(zip(weights, expected, strict=True))
    return {
        "mean": [float(distance(found.mean(0), wanted.mean(0))) for found, wanted in pairs],
        "samples": [float(distance(found, wanted).mean()) for found, wanted in pairs],
    }


def _correlation(weights: Sequence[Tensor]) -> float:
    pairs = [torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1] for a, b in combinations(weights, 2)]
    return float(torch.stack(pairs).mean()) if pairs else math.nan
