"""Data whose interactions are known per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from i2moe._common.names import interaction_names
from i2moe.moe.weights import interaction_shares

__all__ = ["UNKNOWN", "KnownInteractions", "Part", "Posteriors", "type_names"]

Part = Literal["train", "validation", "test"]
"""What samples are for. Where a generator draws from real data, no part has material of another."""

UNKNOWN = -1
"""The type of a sample whose interaction is not known."""


@dataclass(frozen=True)
class Posteriors:
    """What an observer who knows the rules of a generator believes of each sample: Bayes' rule, exactly.

    Args:
        alone: (n, M, C), p(y | x_i) of each modality i alone; of a regression the mean of y, (n, M, 1).
        joint: (n, C), p(y | x_0, ..., x_{M-1}); of a regression (n, 1).
        prior: (C,), p(y); of a regression (1,).
    """

    alone: Tensor
    joint: Tensor
    prior: Tensor

    @property
    def shares(self) -> Tensor:
        """(n, E), the shares of the interactions by `interaction_shares`."""
        return interaction_shares(self.alone, self.joint, self.prior)[0]


@dataclass(frozen=True)
class KnownInteractions:
    """Samples, and for each the interaction that really decides its target.

    Types of interaction are numbered as the experts are: uniqueness of modality 0..M-1, synergy, redundancy,
    E = M + 2 in all.

    Args:
        modalities: M tensors (n, ...).
        target: (n,), classes as integers, or the numbers of a regression.
        interaction: (n,) integers, the type of each sample, or `UNKNOWN`.
        mix: (E,), the share of each type in the population, summing to 1; NaN where it is not known.
        n_classes: number of classes, or None for a regression.
        shows_type: (M,), whether each modality alone shows which type a sample is of.
        exact: the exact posteriors, where the generator has them.
        answers: (n, E), what the target would be by each type, where the generator knows that: classes, or of a
            regression the mean.
    """

    modalities: tuple[Tensor, ...]
    target: Tensor
    interaction: Tensor
    mix: Tensor
    n_classes: int | None
    shows_type: tuple[bool, ...]
    exact: Posteriors | None = None
    answers: Tensor | None = None

    @property
    def type_names(self) -> tuple[str, ...]:
        """Name of each type, in the order of `interaction`."""
        return type_names(len(self.modalities))


def type_names(n_modalities: int) -> tuple[str, ...]:
    """Name the types of interaction of so many modalities.

    Example:
        >>> type_names(2)
        ('uniqueness/0', 'uniqueness/1', 'synergy', 'redundancy')
    """
    return interaction_names([str(i) for i in range(n_modalities)])
