"""What the examples train with besides `i2moe.training`: constants, teachers, the paper's loss, dropped modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from examples.datasets._interface import Task
from i2moe import InteractionOutput, Teacher
from i2moe.missing import ModalityDropout
from i2moe.moe.teacher import SoftTargets

__all__ = [
    "DROPOUT",
    "LONGER",
    "MEMBERS",
    "TEACHERS",
    "Batch",
    "Dropping",
    "dropout_of_three",
    "paper_objective",
    "soft_targets",
]

MEMBERS = 4
"""Members of each expert with computed weights."""
TEACHERS = 8
"""Networks of each kind, one for each modality alone and one for all, that experts with computed weights learn from."""
LONGER = 3
"""How many times longer a model trains that learns from teachers, at most, and without a better held-out loss: what it
learns has less noise to overfit."""
DROPOUT = 0.3
"""Share of the modalities that is dropped in half of the rows in training."""

Batch: TypeAlias = tuple[Any, Any]
"""`(modalities, target)`; the modalities are a tuple, or a dict of a model's arguments."""

Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def paper_objective(criterion: Criterion) -> Callable[[InteractionOutput, Tensor], Tensor]:
    """Return the paper's loss: that of the prediction and, in training, a tenth of the interaction loss.

    Args:
        criterion: the task's loss of predictions and targets.
    """

    def loss_of(out: InteractionOutput, target: Tensor) -> Tensor:
        loss = criterion(out.prediction, target)
        return loss if out.interaction_loss is None else loss + 0.1 * out.interaction_loss

    return loss_of


def dropout_of_three(n_modalities: int) -> float:
    """Return the rate of modality dropout: none for two, of which computed weights train each alone anyway."""
    return DROPOUT if n_modalities > 2 else 0.0


def soft_targets(
    train: Callable[[int | None, int], nn.Module],
    inputs: Sequence[Tensor],
    targets: Tensor,
    task: Task,
    *,
    seed: int,
    n_teachers: int,
) -> SoftTargets:
    """Train teachers, and return what they predict of samples on average, moved a tenth of the way to the targets.

    Args:
        train: makes a trained specialist of a modality, None for all, and of a seed.
        inputs: the models' arguments, M modalities (N, ...) and which are available, (N, M).
        targets: (N,) classes, or (N, C) labels or values.
        task: what they are.
        seed: of the model that learns from them; theirs follow from it.
        n_teachers: how many of each kind.
    """
    kinds = (*range(len(inputs) - 1), None)
    first = 1000 * (seed + 1)
    teacher = Teacher([train(kind, first + i) for i in range(n_teachers) for kind in kinds], task)
    parts = (teacher(*(x[rows] for x in inputs)) for rows in torch.arange(len(targets)).split(512))
    return SoftTargets.cat(parts).mixed_with(targets)


class Dropping:
    """Batches in which modalities of half of the samples are dropped.

    Args:
        batches: batches whose last argument says which modalities are available, (B, M) bool.
        rate: the share of the modalities that is dropped.
    """

    def __init__(self, batches: Iterable[Batch], rate: float) -> None:
        self.batches, self.drop = batches, ModalityDropout(rate, rows=0.5)

    def __iter__(self) -> Iterator[Batch]:
        for (*modalities, available), target in self.batches:
            yield (*modalities, self.drop(available)), target
