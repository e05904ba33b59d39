"""The training recipe: a moving average of the parameters, the epoch that is best on held-out data, calibration."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from i2moe._common.checks import check_at_least_one, check_callable, check_rate
from i2moe._common.modalities import leaves
from i2moe._common.output import SoftTargets
from i2moe.interpretation.calibration import calibrate
from i2moe.interpretation.observation.batches import check_batch
from i2moe.interpretation.observation.observe import call_by_signature, device_of, move
from i2moe.moe.weights.computed import ComputedReweighter
from i2moe.training.checks import (
    CURE,
    first_batch,
    noted_types,
    try_loss,
    warn_of_scale,
    warn_of_units,
    warn_of_untrained,
)

__all__ = ["fit", "moving_average"]

Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]


def moving_average(decay: float = 0.99) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return how an `AveragedModel` moves its parameters to the newest ones: by 1 - decay, at first by more.

    In the first steps it forgets the start sooner.
    """

    def move_averages(averages: Tensors, newest: Tensors, n_steps: Tensor | int) -> None:
        torch._foreach_lerp_(averages, newest, max(1 - decay, 9 / (float(n_steps) + 9)))

    return move_averages


def fit(
    model: nn.Module,
    train: Iterable[Any],
    held_out: Iterable[Any],
    loss_of: Callable[[Any, Any], Tensor],
    n_epochs: int,
    *,
    optimizer: Callable[[Iterator[nn.Parameter]], Optimizer] | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    decay: float = 0.99,
    calibrator: Callable[[nn.Module], object] | None = None,
    call: Callable[[nn.Module, Any], object] | None = None,
    after_epoch: Callable[[float], None] | None = None,
) -> list[float]:
    """Train a model, and leave it at the averaged parameters that lose least on held-out data, in evaluation mode.

    Computed weights are as good as the model's predictions, from all modalities and from each alone. An average of the
    parameters over the last hundred steps or so predicts better than the last ones, and so does the best epoch. A model
    with computed weights is calibrated at the end.

    Args:
        model: an `InteractionMoE`, or any module that holds one. Batches are moved to its device.
        train: the batches `(modalities, target)` of an epoch, each time it is iterated over: a `Batches`, or a
            `DataLoader`.
        held_out: batches that the model is not trained on, with their own targets.
        loss_of: maps what the model returns and the target to the loss, in training and on the held-out data: an
            `InteractionSupervision`, say, which takes the `SoftTargets` of a `Teacher` too.
        n_epochs: most epochs.
        optimizer: makes the optimizer of the model's parameters; None for AdamW with a learning rate of 0.002.
        patience: epochs without a lower held-out loss before training stops; None for no early stop.
        min_delta: by how much the loss must be lower for that.
        decay: of the average; 0 for the last parameters. Buffers, as those of a BatchNorm, are always the last.
        calibrator: calibrates the trained model, in place of `calibrate` on the held-out batches. For targets that are
            no plain labels, or for samples with weights: `partial(calibrate, data=..., sample_weight=...)`.
        call: how to call the model with the modalities of a batch, as for `explain`. A batch that is a dict is its
            keyword arguments, `available` among them.
        after_epoch: called with the held-out loss after each epoch.

    Returns:
        The held-out loss of each epoch.

    Raises:
        TypeError: if the data are no batches or can be iterated over only once, a function is none, or held-out targets
            are a teacher's.
        ValueError: if there is no batch, a number is out of range, or no held-out loss is finite. Also, before it
            trains, if the first batch does not fit, `calibrate` refuses it, or soft targets are of another task.

    Warns:
        UserWarning: if a later held-out loss is not finite: training stops, and the best epoch before is kept. With
            computed weights also if the loss does not train the predictions from each modality alone; if modalities are
            far from standardized, or the targets of a regression are, or these differ much in size from output to
            output.

    Example:
        >>> from i2moe import InteractionMoE, InteractionSupervision
        >>> from i2moe.training import Batches, fit
        >>> model = InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, reweighter="computed")
        >>> train = Batches((torch.randn(48, 8), torch.randn(48, 4)), torch.randint(3, (48,)), batch_size=16)
        >>> held_out = [((torch.randn(16, 8), torch.randn(16, 4)), torch.randint(3, (16,)))]
        >>> len(fit(model, train, held_out, InteractionSupervision(nn.functional.cross_entropy), n_epochs=2))
        2
    """
    check_at_least_one(n_epochs=n_epochs, patience=1 if patience is None else patience)
    check_rate(decay=decay)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, however it is a {type(model).__name__}; call what builds it")
    check_callable("loss_of must be a function such as InteractionSupervision(criterion)", loss_of)
    if optimizer is not None and not callable(optimizer):
        raise TypeError(
            "optimizer must be a function of the parameters such as functools.partial(torch.optim.AdamW, lr=1e-3), "
            f"however it is an object of {type(optimizer).__name__}"
        )
    first, first_held_out = first_batch("train", train), first_batch("held_out", held_out)
    reweighter = next((module for module in model.modules() if isinstance(module, ComputedReweighter)), None)
    if calibrator is not None and reweighter is None:
        raise ValueError(
            "calibrator must come with computed weights, however the model has none; build it with "
            "reweighter='computed'"
        )
    if isinstance(first_held_out[1], SoftTargets):
        raise TypeError(
            "held_out must have the samples' own targets, however it has the SoftTargets of a teacher; teachers are "
            "for the training samples"
        )
    if reweighter is not None and isinstance(first[1], SoftTargets):
        first[1].check(reweighter.task)
    call = call_by_signature if call is None else call
    device = device_of(model)

    tried: list[bool] = []  # the loss of a training step

    def loss_on(model: nn.Module, batch: Any) -> Tensor:
        check_batch(batch, CURE)
        modalities, target = move(batch, device, arrays=True)
        output = call(model, modalities)
        loss = loss_of(output, target)
        if reweighter is not None and model.training and not tried:
            tried.append(True)
            warn_of_untrained(output, loss)
        return loss

    def calibrated(model: nn.Module, data: Iterable[Any]) -> object:
        return calibrate(model, data, call=call) if calibrator is None else calibrator(model)

    inputs = move(first[0], device, arrays=True)
    with torch.no_grad(), noted_types(model, inputs):
        call(model.train(), inputs)  # sizes what waits for a first batch
    if reweighter is not None:  # what `calibrate` refuses, it shall refuse before the work
        warn_of_scale(inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a batch may lack a class
            calibrated(copy.deepcopy(model), [first_held_out])
        if reweighter.task == "regression" and calibrator is None:
            warn_of_units(first_held_out[1])
    try_loss(model, first_held_out, loss_on)
    losses = _train_to_best(
        model,
        train,
        AdamW(model.parameters(), lr=2e-3) if optimizer is None else optimizer(model.parameters()),
        loss_on,
        lambda averaged: _mean_loss(averaged, held_out, loss_on),
        decay=decay,
        n_epochs=n_epochs,
        patience=patience,
        min_delta=min_delta,
        after_epoch=after_epoch,
    )
    model.zero_grad()
    model.eval()
    if reweighter is not None:
        calibrated(model, held_out)
    return losses


def _train_to_best(
    model: nn.Module,
    train: Iterable[Any],
    optimizer: Optimizer,
    loss_on: Callable[[nn.Module, Any], Tensor],
    held_out_loss: Callable[[nn.Module], float],
    *,
    decay: float,
    n_epochs: int,
    patience: int | None,
    min_delta: float,
    after_epoch: Callable[[float], None] | None,
) -> list[float]:
    """Train, leave the model at the averages of the epoch with the lowest loss, and return the losses."""
    averaged = AveragedModel(model, multi_avg_fn=moving_average(decay))
    losses: list[float] = []
    best: dict[str, Any] = {}
    lowest = reference = float("inf")
    n_waited = 0
    for _ in range(n_epochs):
        model.train()
        for batch in train:
            loss = loss_on(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            averaged.update_parameters(model)
        found = held_out_loss(averaged.module)
        losses.append(found)
        if after_epoch is not None:
            after_epoch(found)
        if not isfinite(found):
            _report_divergence(losses)
            break
        if found < lowest:
            lowest, best = found, copy.deepcopy(averaged.module.state_dict())
        n_waited += 1
        if found < reference - min_delta:
            reference, n_waited = found, 0
        if n_waited == patience:
            break
    model.load_state_dict(best)
    return losses


@torch.no_grad()
def _mean_loss(model: nn.Module, data: Iterable[Any], loss_on: Callable[[nn.Module, Any], Tensor]) -> float:
    model.eval()
    losses = [(float(loss_on(model, batch)), len(leaves(batch[1])[0])) for batch in data]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def _report_divergence(losses: list[float]) -> None:
    """Raise, or where an epoch before is left, warn."""
    cure = (
        "look for NaN in the data, and say by `available` which samples lack a modality; or for huge values, or lower "
        "the learning rate"
    )
    if len(losses) == 1:
        raise ValueError(f"the held-out loss must be finite, however it is {losses[0]} after one epoch; {cure}")
    warnings.warn(
        f"the held-out loss became {losses[-1]} in epoch {len(losses)}: training stopped, and the best epoch before is "
        f"kept; {cure}",
        stacklevel=4,
    )
