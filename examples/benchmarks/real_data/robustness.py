"""Robustness: scores with Gaussian noise or masked entries in one modality at a time, and training with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import fmean

import torch
from torch import Tensor

from examples.common.recipe import Batch
from examples.datasets._interface import MultimodalData

__all__ = ["MASKED", "NOISE", "Augmented", "robustness"]

NOISE = (0.25, 0.5, 1.0, 2.0)
"""Deviations of the noise, in those of the modality's training values."""
MASKED = (0.25, 0.5, 0.75)
"""Shares of a modality's entries that are set to their training mean."""


class Augmented:
    """Batches in which one modality of half of the samples has noise or masked entries, at a random level each.

    Args:
        batches: batches of M modalities (B, ...), followed by which are available, (B, M).
        train: M tensors (N, ...), which say the units.
    """

    def __init__(self, batches: Iterable[Batch], train: Iterable[Tensor]) -> None:
        self.batches, self.units = batches, [(x.mean(0), x.std(0)) for x in train]

    def __iter__(self) -> Iterator[Batch]:
        for (*modalities, available), target in self.batches:
            # Which modality of a sample is changed: none in half of them, noise in a quarter, a mask in a quarter.
            kind = torch.randint(4, (len(available),))
            changed = torch.randint(len(modalities), (len(available),))
            yield (
                (
                    *(
                        self._change(x, *units, torch.where(changed == i, kind, 0))
                        for i, (x, units) in enumerate(zip(modalities, self.units, strict=True))
                    ),
                    available,
                ),
                target,
            )

    def _change(self, x: Tensor, mean: Tensor, deviation: Tensor, kind: Tensor) -> Tensor:
        def drawn(levels: tuple[float, ...]) -> Tensor:
            return torch.tensor(levels)[torch.randint(len(levels), (len(x),))].reshape(-1, *(1,) * (x.ndim - 1))

        kind = kind.reshape(-1, *(1,) * (x.ndim - 1))
        noisy = x + drawn(NOISE) * deviation * torch.randn_like(x)
        masked = torch.where(torch.rand_like(x) < drawn(MASKED), mean, x)
        return torch.where(kind == 1, noisy, torch.where(kind == 2, masked, x))


def robustness(score: Callable[[list[Tensor]], float], data: MultimodalData, n_draws: int) -> dict[str, float]:
    """Return the mean score over modalities, levels and draws, for noise and for masked entries.

    Args:
        score: scores the model for changed modalities of the test split.
        data: says the units.
        n_draws: draws of each change.

    Source: after Liang et al., MultiBench, NeurIPS 2021.
    """
    train, test = (list(split[torch.arange(len(split))].modalities) for split in (data.train, data.test))

    def scores(change: Callable[[Tensor, Tensor, float, torch.Generator], Tensor], levels: tuple[float, ...]) -> float:
        return fmean(score(changed) for changed in _changed(train, test, change, levels, n_draws))

    return {"noise": scores(_add_noise, NOISE), "masked": scores(_mask, MASKED)}


def _changed(
    train: list[Tensor],
    test: list[Tensor],
    change: Callable[[Tensor, Tensor, float, torch.Generator], Tensor],
    levels: tuple[float, ...],
    n_draws: int,
) -> Iterator[list[Tensor]]:
    for draw in range(n_draws):
        generator = torch.Generator().manual_seed(draw)  # the same for all contenders
        for i, x in enumerate(test):
            for level in levels:
                yield [*test[:i], change(x, train[i], level, generator), *test[i + 1 :]]


def _add_noise(x: Tensor, train: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return x + level * train.std(0) * torch.randn(x.shape, generator=generator)


def _mask(x: Tensor, train: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return torch.where(torch.rand(x.shape, generator=generator) < level, train.mean(0), x)
