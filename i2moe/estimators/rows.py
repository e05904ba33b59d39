"""What the estimators train on: rows of samples, their batches, and their weighted loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold
from torch import Tensor, nn

from i2moe._common.modalities import BackboneOutput, as_backbone_output, map_leaves
from i2moe.interpretation.observation.observe import move
from i2moe.losses import InteractionSupervision
from i2moe.moe import InteractionOutput
from i2moe.moe.teacher import SoftTargets, Teacher

__all__ = ["Rows", "SampleLoss", "Shuffled", "call", "split", "weighted", "weighted_plain"]

SampleLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps predictions (B, C) and targets (B, ...) to the loss of each sample (B,)."""

_AUX_WEIGHT = 0.01
"""How much a backbone's own loss counts."""


class Rows(NamedTuple):
    """Samples as tensors.

    Args:
        modalities: M tensors (N, ...), standardized.
        available: (N, M) bool.
        target: (N,) classes, or (N, C) values.
        weight: (N,), how much each sample counts.
        marginal_target: (N, M, C), targets of each modality alone, where they are its own.
    """

    modalities: tuple[Tensor, ...]
    available: Tensor
    target: Tensor
    weight: Tensor
    marginal_target: Tensor | None = None

    def take(self, rows: Tensor) -> Rows:
        """Return some rows."""
        taken: Rows = map_leaves(lambda tensor: tensor[rows], self)
        return taken

    def taught_by(self, teacher: Teacher, device: torch.device) -> Rows:
        """Return the same samples with a teacher's predictions, mixed with the targets, as targets."""
        parts = []
        for inputs, target in self.for_reports():
            modalities, available = move(inputs, device)
            soft: SoftTargets = move(teacher(*modalities, available=available), torch.device("cpu"))
            parts.append(soft.mixed_with(target))
        soft = SoftTargets.cat(parts)
        return self._replace(target=soft.target, marginal_target=soft.marginal_target)

    def batches(self, size: int = 512, *, shuffle: bool = False) -> Iterator[Rows]:
        """Yield batches of at most `size` rows, of about the same size."""
        n = len(self.available)
        order = torch.randperm(n) if shuffle else torch.arange(n)
        return map(self.take, order.tensor_split(-(-n // size)))

    def for_reports(self) -> Iterator[tuple[Any, Tensor]]:
        """Yield batches as `explain` and `calibrate` take them, with `call`."""
        return (((batch.modalities, batch.available), batch.target) for batch in self.batches())

    def for_training(self) -> tuple[Any, Any]:
        """Return a batch as `fit` takes it, with `call` and what `weighted` returns."""
        return (self.modalities, self.available), (self.target, self.weight, self.marginal_target)


class Shuffled:
    """Batches for `fit` in a new order each time, of about the same size.

    Args:
        rows: the samples.
        size: rows of a batch, at most.
        drop: drops modalities.
    """

    def __init__(self, rows: Rows, size: int, drop: Callable[[Tensor], Tensor]) -> None:
        self.rows, self.size, self.drop = rows, size, drop

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.rows.batches(self.size, shuffle=True):
            yield batch._replace(available=self.drop(batch.available)).for_training()


def weighted(loss: SampleLoss) -> Callable[[InteractionOutput, tuple[Tensor, Tensor, Tensor | None]], Tensor]:
    """Return the loss of experts and modalities alone, of targets, the samples' weights, and targets of each alone."""
    supervise = InteractionSupervision(lambda prediction, y: _mean(loss(prediction, y[0]), y[1]))

    def loss_of(out: InteractionOutput, target: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        y, weight, alone = target
        of_each = None if alone is None else (alone, weight.unsqueeze(1).expand(alone.shape[:2]))
        return supervise(out, (y, weight), of_each) + _AUX_WEIGHT * out.aux_loss

    return loss_of


def weighted_plain(loss: SampleLoss) -> Callable[[Tensor | BackboneOutput, tuple[Tensor, Tensor, None]], Tensor]:
    """Return the loss of one network's predictions, of targets and the samples' weights."""

    def loss_of(out: Tensor | BackboneOutput, target: tuple[Tensor, Tensor, None]) -> Tensor:
        y, weight, _ = target
        output = as_backbone_output(out, "the backbone")
        mean = _mean(loss(output.prediction, y), weight)
        return mean if output.aux_loss is None else mean + _AUX_WEIGHT * output.aux_loss

    return loss_of


def _mean(losses: Tensor, weight: Tensor) -> Tensor:
    return (losses * weight).mean()


def call(model: nn.Module, inputs: tuple[tuple[Tensor, ...], Tensor]) -> Any:
    """Call a model with modalities and the mask of those available."""
    modalities, available = inputs
    return model(*modalities, available=available)


def split(target: Tensor, fraction: float, groups: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Split rows at random into those to train on and those held out; of each class about the same fraction.

    A row of each class at least is trained on.

    Args:
        target: (N,) classes, or (N, C) values.
        fraction: of rows held out; of groups in a regression.
        groups: (N,), rows of one are never in both parts; None for rows that may be parted as they come.

    Raises:
        ValueError: if nothing is left for one of the parts.
    """
    if groups is not None:
        return _split_groups(target, fraction, groups)
    n = len(target)
    order = torch.randperm(n)
    held_out = (torch.arange(n + 1, dtype=torch.float64) * fraction).floor().diff() > 0  # at regular intervals
    if not target.is_floating_point():
        order = order[target[order].argsort(stable=True)]
        held_out[1:] &= target[order].diff() == 0
        held_out[0] = False
    if not held_out.any() or held_out.all():
        raise ValueError(
            f"validation_fraction must leave samples to train on (one of each class at least) and to hold out, however "
            f"it is {fraction} of {n} samples"
            + ("" if target.is_floating_point() else f" of {len(target.unique())} classes")
            + "; give more samples or another fraction"
        )
    return order[~held_out], order[held_out]


def _split_groups(target: Tensor, fraction: float, groups: np.ndarray) -> tuple[Tensor, Tensor]:
    n_groups, seed = len(np.unique(groups)), int(torch.randint(2**31 - 1, ()))
    if n_groups < 2:
        raise ValueError(f"groups must be at least two, to hold some out, however there are {n_groups}")
    if target.is_floating_point():
        n_held_out = min(ceil(fraction * n_groups), n_groups - 1)
        splitter = GroupShuffleSplit(1, test_size=n_held_out, random_state=seed)
        train, held_out = map(torch.from_numpy, next(splitter.split(target, target, groups)))
        return train, held_out
    n_held_out, n_folds = _folds(fraction, n_groups)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = [torch.from_numpy(part) for _, part in folds.split(target, target, groups)]
    held_out, train = torch.cat(parts[:n_held_out]), torch.cat(parts[n_held_out:]).sort().values
    if lost := np.setdiff1d(target, target[train]).tolist():
        raise ValueError(
            f"each class must be in groups to train on, however class number {lost[0]} is in groups held out alone; "
            "give more groups of this class"
        )
    return train, held_out


def _folds(fraction: float, n_groups: int) -> tuple[int, int]:
    """Return of how many folds how many come nearest to a fraction, with the fewest folds."""
    most = min(n_groups, max(10, round(1 / min(fraction, 1 - fraction))))
    pairs = ((min(max(1, round(fraction * n)), n - 1), n) for n in range(2, most + 1))
    return min(pairs, key=lambda pair: abs(pair[0] / pair[1] - fraction))
