"""Data whose interactions are known per sample."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["KnownInteractions", "type_names"]


@dataclass(frozen=True)
class KnownInteractions:
    """Samples, and for each the interaction that really decides its target.

    Types of interaction are numbered as the experts are: uniqueness of modality 0..M-1, synergy, redundancy,
    E = M + 2 in all.

    Args:
        modalities: M tensors (n, D).
        target: (n,), classes as integers, or the numbers of a regression.
        interaction: (n,) integers, the type of each sample.
        mix: (E,), the share of each type in the population, summing to 1.
        n_classes: number of classes, or None for a regression.
        shows_type: (M,), whether each modality alone shows which type a sample is of.
    """

    modalities: tuple[Tensor, ...]
    target: Tensor
    interaction: Tensor
    mix: Tensor
    n_classes: int | None
    shows_type: tuple[bool, ...]

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
    return (*(f"uniqueness/{index}" for index in range(n_modalities)), "synergy", "redundancy")
