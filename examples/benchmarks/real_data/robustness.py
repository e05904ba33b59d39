"""Robustness: scores with Gaussian noise or masked entries in one modality at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean

import torch
from torch import Tensor

from examples.datasets._interface import MultimodalData

__all__ = ["MASKED", "NOISE", "robustness"]

NOISE = (0.25, 0.5, 1.0, 2.0)
"""Deviations of the noise, in those of the modality's training values."""
MASKED = (0.25, 0.5, 0.75)
"""Shares of a modality's entries that are set to their training mean."""


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
