"""The training recipe: a moving average of the parameters, the epoch that is best on held-out data, calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from examples.common.best_epoch import Progress, train_to_best_epoch
from i2moe import ComputedReweighter, InteractionOutput, Teacher, calibrate
from i2moe._common.modalities import map_leaves
from i2moe.missing import ModalityDropout
from i2moe.moe.teacher import SoftTargets

__all__ = [
    "DROPOUT",
    "MEMBERS",
    "STUDENT_PATIENCE",
    "TEACHERS",
    "Average",
    "Batch",
    "Batches",
    "Dropping",
    "dropout_of_three",
    "fit",
    "moving_average",
    "paper_objective",
    "soft_targets",
]

MEMBERS = 4
"""Members of each expert with computed weights."""
TEACHERS = 4
"""Models of the same kind that the experts with computed weights learn from."""
STUDENT_PATIENCE = 3
"""How often the patience of a teacher a model has that learns from them: what it learns has less noise to overfit."""
DROPOUT = 0.3
"""Share of the modalities that is dropped in half of the rows in training."""

Batch: TypeAlias = tuple[Any, Any]
"""`(modalities, target)`; the modalities are a tuple, or a dict of a model's arguments."""

Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]

Average: TypeAlias = Callable[[Tensor, Tensor, Tensor | int], Tensor]
"""Maps an average of the parameters, the newest ones and the number of steps to the new average."""


def moving_average(average: Tensor, new: Tensor, n_steps: Tensor | int) -> Tensor:
    """Move an average by 1% to the newest parameters; in the first steps by more, to forget the start."""
    return average.lerp(new, max(0.01, 9 / (float(n_steps) + 9)))


def fit(
    model: nn.Module,
    train: Iterable[Batch],
    validation: Iterable[Batch],
    loss_of: Callable[[Any, Any], Tensor],
    n_epochs: int,
    *,
    lr: float = 2e-3,
    patience: int | None = None,
    average: Average = moving_average,
    after_epoch: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train by AdamW, and leave the model at the averaged parameters that lose least on the validation data.

    A model with computed weights is calibrated on the same data.

    Args:
        model: what to train.
        train: the batches of an epoch, each time it is iterated over: a `Batches`, or a `DataLoader`.
        validation: batches of data that the model is not trained on.
        loss_of: maps what the model returns and the targets to the loss, in training and on the validation data: an
            `InteractionSupervision`, which alone takes the `SoftTargets` of a teacher, a `paper_objective`, or a
            function of torch for a model that returns a tensor.
        n_epochs: number of epochs.
        lr: learning rate.
        patience: epochs without a lower loss before training stops; None for no early stop.
        average: moves an average of the parameters to the newest ones.
        after_epoch: called after each epoch.

    Returns:
        What happened.

    Example:
        >>> from i2moe import InteractionMoE, InteractionSupervision
        >>> model = InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, reweighter="computed")
        >>> batches = [((torch.randn(16, 8), torch.randn(16, 4)), torch.randint(3, (16,)))]
        >>> fit(model, batches, batches, InteractionSupervision(nn.functional.cross_entropy), n_epochs=2).epoch
        2
    """
    with torch.no_grad():
        _call(model.train(), next(iter(train))[0])  # sizes what waits for a first batch
    averaged = AveragedModel(model, avg_fn=average)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def run_epoch(epoch: int) -> dict[str, float]:
        model.train()
        for modalities, target in train:
            loss = loss_of(_call(model, modalities), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            averaged.update_parameters(model)
        return {"validation loss": _mean_loss(averaged.module, validation, loss_of)}

    progress = train_to_best_epoch(
        averaged.module,
        run_epoch,
        "validation loss",
        n_epochs,
        patience=patience,
        is_better=lambda loss, best: loss == loss and (best is None or loss < best),
        after_epoch=after_epoch,
    )
    model.load_state_dict(averaged.module.state_dict())
    if any(isinstance(module, ComputedReweighter) for module in model.modules()):
        calibrate(model, validation)
    return progress


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
    train: Callable[[int], nn.Module], inputs: Sequence[Tensor], targets: Tensor, seed: int, n_teachers: int
) -> SoftTargets:
    """Train teachers, and return what they predict of samples on average, moved a fifth of the way to the targets.

    Args:
        train: makes a trained model with computed weights of a seed.
        inputs: the models' arguments, tensors (N, ...).
        targets: (N,) classes, or (N, C) labels or values.
        seed: of the model that learns from them; theirs follow from it.
        n_teachers: how many.
    """
    teacher = Teacher([train(1000 * (seed + 1) + i) for i in range(n_teachers)])
    parts = (teacher(*(x[rows] for x in inputs)) for rows in torch.arange(len(targets)).split(512))
    return SoftTargets.cat(parts).mixed_with(targets)


class Batches:
    """Batches `(modalities, target)` of tensors in memory, in a new order for each epoch.

    Args:
        modalities: M tensors (N, ...).
        target: (N, ...), or the `SoftTargets` of a teacher.
        batch_size: samples in a batch; the last one may have fewer.
        seed: of the orders.

    Example:
        >>> batches = Batches((torch.randn(5, 8), torch.randn(5, 4)), torch.arange(5), batch_size=2, seed=0)
        >>> [len(target) for modalities, target in batches]
        [2, 2, 1]
    """

    def __init__(self, modalities: Sequence[Tensor], target: Tensor | SoftTargets, batch_size: int, seed: int) -> None:
        self.modalities, self.target, self.batch_size = tuple(modalities), target, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Batch]:
        for rows in torch.randperm(len(self.modalities[0]), generator=self.generator).split(self.batch_size):
            yield map_leaves(lambda x, rows=rows: x[rows], (self.modalities, self.target))


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


def _call(model: nn.Module, modalities: Any) -> Any:
    return model(**modalities) if isinstance(modalities, Mapping) else model(*modalities)


@torch.no_grad()
def _mean_loss(model: nn.Module, data: Iterable[Batch], loss_of: Callable[[Any, Tensor], Tensor]) -> float:
    model.eval()
    losses = [(float(loss_of(_call(model, modalities), target)), len(target)) for modalities, target in data]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
