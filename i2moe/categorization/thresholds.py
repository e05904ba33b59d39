"""Thresholds: when a modality counts as near the reference."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from i2moe._common.checks import check_fraction
from i2moe.categorization.calibration import Calibrated
from i2moe.categorization.checks import Predictions
from i2moe.categorization.distances import Distance, measure

__all__ = ["Halfway", "LikeliestClass", "Quantile", "Threshold", "quantile", "to_reference", "value_of"]


@dataclass(frozen=True)
class Quantile:
    """A threshold fitted to the data: the given quantile of all distances between a modality and the reference.

    Args:
        q: between 0 and 1; at 0.5 half of the unimodal predictions count as near.

    Raises:
        ValueError: if q is not in [0, 1].
    """

    q: float = 0.5

    def __post_init__(self) -> None:
        check_fraction(q=self.q)


@dataclass(frozen=True)
class Halfway:
    """The threshold halfway between guessing and certainty: half the distance from one class to the uniform.

    With labels and the L1 distance a modality is near if it gives the right class (1 + 1 / C) / 2 or more. A modality
    that merely guesses is then near no class, and neither is one that is right but weak.
    """


@dataclass(frozen=True)
class LikeliestClass:
    """Compare likeliest classes, as published: a modality is near if its likeliest class is the reference's.

    A modality at chance is then near by accident, as often as it guesses right.
    """


Threshold: TypeAlias = float | Calibrated | LikeliestClass | Quantile | Halfway | None
"""A distance, `Calibrated`, `LikeliestClass`, `Halfway`, a `Quantile` of the data's distances, or None: the default."""


def to_reference(given: Predictions, distance: Distance) -> Tensor:
    """Distances (B, M): for one that is not symmetric, from the reference to the modality, d(reference, u_i)."""
    return measure(distance, given.reference.unsqueeze(1).expand_as(given.unimodal).contiguous(), given.unimodal)


def _halfway(given: Predictions, distance: Distance) -> float:
    n_classes = given.unimodal.shape[-1]
    sure, guess = torch.eye(n_classes).to(given.unimodal)[:1], given.unimodal.new_full((1, n_classes), 1 / n_classes)
    return float(measure(distance, sure, guess)) / 2


def value_of(threshold: float | Quantile | Halfway, given: Predictions, distance: Distance, distances: Tensor) -> float:
    """Return the distance that a threshold stands for, given the distances (B, M) to the reference."""
    if isinstance(threshold, Halfway):
        return _halfway(given, distance)
    if isinstance(threshold, Quantile):
        return float(quantile(distances.flatten().double(), torch.tensor([threshold.q], dtype=torch.float64)))
    number: Any = threshold
    if not isinstance(number, Real) or not 0 <= float(number) < float("inf"):
        raise ValueError(
            "threshold must be a finite number that is not negative, Quantile(q) or Halfway(), however it is "
            f"{threshold!r}"
        )
    return float(threshold)


def quantile(values: Tensor, q: Tensor) -> Tensor:
    """Observed values at quantiles (the lower neighbor): torch.quantile refuses more than 2^24 of them."""
    ordered = values.sort().values
    return ordered[((len(ordered) - 1) * q).floor().long()]
