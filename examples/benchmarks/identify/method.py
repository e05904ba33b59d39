"""What a method must offer."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from examples.datasets.known import KnownInteractions

__all__ = ["Method"]


class Method(Protocol):
    """Something that learns from samples with a target, and then weighs the interactions of others.

    `KnownInteractions` also holds the true types. Only a method that is meant as a bound may look at them.
    """

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Learn; `validation` is for early stopping and calibration."""
        ...

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return (n, E), the weight of each interaction in each sample; rows sum to 1."""
        ...

    def accuracy(self, test: KnownInteractions) -> float:
        """Return the accuracy of the predicted targets, R2 for a regression; NaN if none are predicted."""
        ...
