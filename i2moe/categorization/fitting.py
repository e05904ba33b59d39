"""Fitting a threshold: categories without labels that come close to those with labels."""

from __future__ import annotations

import torch

from i2moe._common.checks import check_at_least_one
from i2moe._common.modalities import Array
from i2moe.categorization.categories import categorize
from i2moe.categorization.checks import read_predictions
from i2moe.categorization.distances import DistanceLike, as_distance
from i2moe.categorization.thresholds import quantile, to_reference

__all__ = ["fit_threshold"]


def fit_threshold(
    unimodal: Array,
    multimodal: Array,
    target: Array,
    *,
    distance: DistanceLike = "l1",
    n_candidates: int = 99,
) -> float:
    """Find the distance at which categories without labels come closest to those with labels (`Calibrated()`).

    Closest means the highest recall, averaged over the categories there are; of equal ones the lowest threshold.

    Args:
        unimodal: (B, M, C) class probabilities.
        multimodal: (B, C) class probabilities.
        target: (B,) classes.
        distance: a name or a `Distance`.
        n_candidates: how many evenly spaced quantiles of the distances are tried.

    Returns:
        The threshold, for `categorize(..., threshold=...)` on data without labels.

    Raises:
        ValueError: as `categorize`.
    """
    check_at_least_one(n_candidates=n_candidates)
    truth = categorize(unimodal, multimodal, target).category
    there = torch.bincount(truth) > 0

    def recall(threshold: float) -> float:
        found = categorize(unimodal, multimodal, distance=distance, threshold=threshold).category
        hits = torch.bincount(truth[found == truth], minlength=len(there))
        return float((hits[there] / torch.bincount(truth)[there]).mean())

    given = read_predictions(unimodal, multimodal, None, "classification", None)
    quantiles = torch.linspace(0, 1, n_candidates + 2, dtype=torch.float64)[1:-1]
    distances = to_reference(given, as_distance(distance)).flatten().double()
    return max((float(theta) for theta in quantile(distances, quantiles)), key=recall)
