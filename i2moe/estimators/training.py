"""The training loop inside the estimators: AdamW, averaged parameters, early stopping, calibration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from i2moe._common.modalities import map_leaves
from i2moe.interpretation.calibration import calibrate
from i2moe.losses import InteractionSupervision
from i2moe.missing import ModalityDropout
from i2moe.moe import InteractionMoE, InteractionOutput
from i2moe.moe.teacher import SoftTargets, Teacher

__all__ = ["Recipe", "Rows", "SampleLoss", "call", "fit", "seeded", "split"]

SampleLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps predictions (B, C) and targets (B, ...) to the loss of each sample (B,)."""

_DECAY = 0.99
_ROWS_DROPPED = 0.5
_LEAST_GAIN = 1e-3  # of the held-out loss, to go on
_ROWS_OF_EVALUATION = 512


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

    def take(self, rows: Tensor, device: torch.device) -> Rows:
        """Return some rows on a device."""
        taken: Rows = map_leaves(lambda tensor: tensor[rows].to(device), self)
        return taken

    def taught_by(self, teacher: Teacher, device: torch.device) -> Rows:
        """Return the same samples with a teacher's predictions, mixed with the targets, as targets."""
        batches = self.batches(_ROWS_OF_EVALUATION, device)
        soft = SoftTargets.cat(teacher(*b.modalities, available=b.available).mixed_with(b.target) for b in batches)
        return self._replace(target=soft.target.cpu(), marginal_target=soft.marginal_target.cpu())

    def batches(self, size: int, device: torch.device, *, shuffle: bool = False) -> Iterator[Rows]:
        """Yield batches of at most `size` rows, of about the same size."""
        n = len(self.available)
        order = torch.randperm(n) if shuffle else torch.arange(n)
        for rows in order.tensor_split(-(-n // size)):
            yield self.take(rows, device)

    def for_reports(self, device: torch.device) -> Iterator[tuple[Any, Tensor]]:
        """Yield batches as `explain` and `calibrate` take them, with `call`."""
        for batch in self.batches(_ROWS_OF_EVALUATION, device):
            yield (batch.modalities, batch.available), batch.target


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        batch_size: rows of a batch, at most.
        max_epochs: passes over the rows, at most.
        patience: epochs without a held-out loss better by 0.001 after which training ends.
        modality_dropout: probability by which a modality is dropped in training, in half of the rows, for more than
            two modalities.
        device: where to.
    """

    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int
    modality_dropout: float
    device: torch.device


def call(model: nn.Module, inputs: tuple[tuple[Tensor, ...], Tensor]) -> InteractionOutput:
    """Call a model with modalities and the mask of those available."""
    modalities, available = inputs
    output: InteractionOutput = model(*modalities, available=available)
    return output


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw torch's random numbers from a seed, then put its random state back."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def split(target: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Split rows at random into those to train on and those held out; of each class about the same fraction.

    A row of each class at least is trained on.

    Args:
        target: (N,) classes, or (N, C) values.
        fraction: of rows held out.

    Raises:
        ValueError: if nothing is left for one of the parts.
    """
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


def fit(
    model: InteractionMoE,
    loss: SampleLoss,
    train: Rows,
    held_out: Rows,
    recipe: Recipe,
    after_epoch: Callable[[float], None] = lambda held_out_loss: None,
) -> list[float]:
    """Train a model with computed weights, in place, and return the held-out loss after each epoch.

    The parameters kept are averages over the last hundred steps or so, of the epoch with the lowest held-out loss: that
    of the prediction plus that of the modalities alone.

    Args:
        model: on the recipe's device, sized.
        loss: of each sample.
        train: what to train on.
        held_out: what to stop and calibrate by.
        recipe: how to train.
        after_epoch: called with the held-out loss after each epoch.

    Raises:
        ValueError: if training diverges.
    """
    supervise = InteractionSupervision(lambda prediction, y: (loss(prediction, y[0]) * y[1]).mean())
    drop = ModalityDropout(recipe.modality_dropout if model.n_modalities > 2 else 0.0, rows=_ROWS_DROPPED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    averaged = copy.deepcopy(model)
    averages = copy.deepcopy(model.state_dict())
    best, lowest, waited = averages, float("inf"), 0
    losses: list[float] = []
    n_steps = 0
    for _ in range(recipe.max_epochs):
        model.train()
        for batch in train.batches(recipe.batch_size, recipe.device, shuffle=True):
            out = call(model, (batch.modalities, drop(batch.available)))
            alone = batch.marginal_target
            of_each = None if alone is None else (alone, batch.weight.unsqueeze(1).expand_as(batch.available))
            total = supervise(out, (batch.target, batch.weight), of_each) + 0.01 * out.aux_loss
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            n_steps += 1
            _average(averages, model.state_dict(), min(_DECAY, (1 + n_steps) / (10 + n_steps)))
        averaged.load_state_dict(averages)
        losses.append(_held_out_loss(averaged, loss, held_out, recipe.device))
        after_epoch(losses[-1])
        if losses[-1] == min(losses):
            best = copy.deepcopy(averages)
        waited += 1
        if losses[-1] < lowest - _LEAST_GAIN:
            lowest, waited = losses[-1], 0
        if waited >= recipe.patience:
            break
    model.load_state_dict(best)
    calibrate(model.eval(), held_out.for_reports(recipe.device), call=call)
    return losses


@torch.no_grad()
def _average(averages: dict[str, Tensor], state: dict[str, Tensor], decay: float) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and averages[name].shape == tensor.shape:
            averages[name].lerp_(tensor, 1 - decay)
        else:
            averages[name] = tensor.clone()


@torch.no_grad()
def _held_out_loss(model: nn.Module, loss: SampleLoss, rows: Rows, device: torch.device) -> float:
    """Return the loss of the prediction, plus that of the modalities alone, averaged over those a sample has."""
    model.eval()
    total, weight = 0.0, 0.0
    for batch in rows.batches(_ROWS_OF_EVALUATION, device):
        out = call(model, (batch.modalities, batch.available))
        assert out.marginals is not None
        alone = torch.stack([loss(marginal, batch.target) for marginal in out.marginals.unbind(1)], dim=1)  # (B, M)
        alone = (alone * batch.available).sum(1) / batch.available.sum(1)
        total += float(((loss(out.prediction, batch.target) + alone) * batch.weight).sum())
        weight += float(batch.weight.sum())
    held_out = total / weight
    if not torch.tensor(held_out).isfinite():
        raise ValueError(
            f"the held-out loss must be finite, however it is {held_out}; lower learning_rate, or look at the data"
        )
    return held_out
