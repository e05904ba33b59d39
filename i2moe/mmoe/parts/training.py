"""A plain training loop, deterministic under a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from i2moe._common.modalities import Modality, leaves, map_leaves

__all__ = ["OnEpoch", "Training", "in_batches", "n_samples_of", "select", "train"]

OnEpoch = Callable[[int, int, float], None]
"""Called after each epoch with its number (from 1), the number of epochs, and the mean loss."""


@dataclass(frozen=True)
class Training:
    """How one component is trained: AdamW on shuffled batches.

    Args:
        n_epochs: passes over the data; 0 leaves the component as it is.
        batch_size: samples a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.

    Raises:
        ValueError: if a value is out of range.
    """

    n_epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        if self.n_epochs < 0 or self.batch_size < 1 or not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ValueError(
                "Training must have n_epochs >= 0, batch_size >= 1, learning_rate > 0 and weight_decay >= 0, "
                f"however it is {self}"
            )


def train(
    module: nn.Module,
    loss: Callable[[tuple[Modality, ...], Tensor], Tensor],
    modalities: tuple[Modality, ...],
    target: Tensor,
    training: Training,
    *,
    generator: torch.Generator | None = None,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Minimize a loss over a module's parameters, and leave the module in evaluation mode.

    Args:
        module: whose parameters are trained.
        loss: maps a batch of modalities and their targets to a scalar.
        modalities: M modalities of N samples.
        target: (N, ...).
        training: epochs, batch size, optimizer.
        generator: draws the order of the samples.
        on_epoch: called after every epoch.

    Raises:
        ValueError: if the loss stops being finite.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        module.eval()
        return
    _materialize(module, loss, modalities, target)
    optimizer = torch.optim.AdamW(parameters, training.learning_rate, weight_decay=training.weight_decay)
    module.train()
    for epoch in range(training.n_epochs):
        total = 0.0
        for index in _shuffled(len(target), training.batch_size, generator):
            optimizer.zero_grad()
            value = loss(select(modalities, index), target[index.to(target.device)])
            value.backward()
            optimizer.step()
            total += float(value.detach()) * len(index)
        mean = total / len(target)
        if mean != mean or mean in (float("inf"), float("-inf")):
            raise ValueError(
                f"the training loss must stay finite, however in epoch {epoch + 1} it is {mean}; "
                "lower the learning rate, and check the inputs for nan"
            )
        if on_epoch is not None:
            on_epoch(epoch + 1, training.n_epochs, mean)
    module.eval()


def select(modalities: tuple[Modality, ...], index: Tensor) -> tuple[Modality, ...]:
    """Take some samples, by number or by a mask (B,)."""
    return tuple(map_leaves(lambda x: x[index.to(x.device)], modality) for modality in modalities)


def in_batches(modalities: tuple[Modality, ...], batch_size: int) -> Iterator[tuple[Modality, ...]]:
    """Yield the samples in order, some at a time."""
    for index in torch.split(torch.arange(n_samples_of(modalities)), batch_size):
        yield select(modalities, index)


def n_samples_of(modalities: tuple[Modality, ...]) -> int:
    """Count the samples."""
    return leaves(modalities)[0].shape[0]


def _materialize(
    module: nn.Module, loss: Callable[[tuple[Modality, ...], Tensor], Tensor], modalities: Any, target: Tensor
) -> None:
    """Let lazy layers find their sizes, which an optimizer has to know."""
    if any(is_lazy(parameter) for parameter in module.parameters()):
        module.eval()
        with torch.no_grad():
            loss(select(modalities, torch.arange(1)), target[:1])


def _shuffled(n_samples: int, batch_size: int, generator: torch.Generator | None) -> list[Tensor]:
    """Split a random order into batches; a last batch of one sample, which batch norm refuses, joins its neighbor."""
    batches = list(torch.split(torch.randperm(n_samples, generator=generator), batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
