"""Exchanged sensors: does the gyroscope of a smartwatch belong to its accelerometer?

Windows of the smartwatch data (see `examples.datasets.watch`), some of which have the gyroscope of another exercise and
another person. The classes are the exercises and "exchanged". Both signals of an exchanged window are real, so that
neither alone tells: this is synergy. Of other windows the interaction is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from examples.datasets.known import UNKNOWN, KnownInteractions, Part
from examples.datasets.watch import CLASS_NAMES, Windows, load_watch

__all__ = ["EXCHANGED", "ExchangedSensors"]

EXCHANGED = len(CLASS_NAMES)
"""The class of exchanged windows."""

SYNERGY = 2


@dataclass(frozen=True)
class ExchangedSensors:
    """A generator of `KnownInteractions` by the rules of this module.

    Args:
        fold: which two people to test on; the parts have different people.
        share: how many windows are exchanged, by default as many as of each exercise on average.

    Example:
        >>> data = ExchangedSensors()(100, seed=0)
        >>> data.modalities[0].shape, data.n_classes, data.interaction.unique()
        (torch.Size([100, 100, 3]), 8, tensor([-1,  2]))
    """

    fold: int = 0
    share: float = 1 / (EXCHANGED + 1)

    def __call__(self, n: int, seed: int, part: Part = "train") -> KnownInteractions:
        """Draw n windows with replacement, and exchange the gyroscope of some."""
        generator = torch.Generator().manual_seed(seed)
        windows: Windows = getattr(load_watch(self.fold), part)
        rows = torch.randint(len(windows), (n,), generator=generator)
        exchanged = torch.rand(n, generator=generator) < self.share

        partners = rows.clone()
        partners[exchanged] = _draw_partners(windows, rows[exchanged], generator)
        return KnownInteractions(
            modalities=(windows.accelerometer[rows], windows.gyroscope[partners]),
            target=windows.labels[rows].masked_fill(exchanged, EXCHANGED),
            interaction=torch.full((n,), UNKNOWN).masked_fill(exchanged, SYNERGY),
            mix=torch.full((4,), torch.nan),
            n_classes=EXCHANGED + 1,
            shows_type=(False, False),
        )


def _draw_partners(windows: Windows, rows: Tensor, generator: Generator) -> Tensor:
    """For each row (k,), draw one of another exercise and another person: (k,)."""
    other_exercise = windows.labels[rows].unsqueeze(1) != windows.labels
    other_person = windows.subjects[rows].unsqueeze(1) != windows.subjects
    return torch.multinomial((other_exercise & other_person).float(), 1, generator=generator).squeeze(1)
