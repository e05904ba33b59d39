"""The training recipe: a moving average of the parameters, the epoch that is best on held-out data, calibration."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from i2moe._common.checks import check_at_least_one, check_rate
from i2moe._common.modalities import as_tensor, leaves
from i2moe._common.output import InteractionOutput, SoftTargets
from i2moe.interpretation.calibration import calibrate
from i2moe.interpretation.observation.batches import check_batch, check_batches, in_batch
from i2moe.interpretation.observation.observe import call_by_signature, device_of, move
from i2moe.moe.weights.computed import ComputedReweighter

__all__ = ["fit", "moving_average"]

_CURE = "return ((a, b), y) from the data set, or use `Batches`"
_LARGE = 10.0  # what a network with weights of the usual size does not say soon, nor take well
_SMALL = 0.1  # of a whole row

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
    _check_callable("loss_of", loss_of, "InteractionSupervision(criterion)")
    if optimizer is not None:
        _check_callable("optimizer", optimizer, "functools.partial(torch.optim.AdamW, lr=1e-3)")
    first, first_held_out = _first("train", train), _first("held_out", held_out)
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
        check_batch(batch, _CURE)
        modalities, target = move(batch, device, arrays=True)
        output = call(model, modalities)
        loss = loss_of(output, target)
        if reweighter is not None and model.training and not tried:
            tried.append(True)
            _warn_of_untrained(output, loss)
        return loss

    def calibrated(model: nn.Module, data: Iterable[Any]) -> object:
        return calibrate(model, data, call=call) if calibrator is None else calibrator(model)

    inputs = move(first[0], device, arrays=True)
    with torch.no_grad(), _noted_types(model, inputs):
        call(model.train(), inputs)  # sizes what waits for a first batch
    if reweighter is not None:  # what `calibrate` refuses, it shall refuse before the work
        _warn_of_scale(inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a batch may lack a class
            calibrated(copy.deepcopy(model), [first_held_out])
        if reweighter.task == "regression" and calibrator is None:
            _warn_of_units(first_held_out[1])
    _try_loss(model, first_held_out, loss_on)
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
def _try_loss(model: nn.Module, batch: Any, loss_on: Callable[[nn.Module, Any], Tensor]) -> None:
    """Compute the loss of a held-out batch, so that what is wrong with it is found before training."""
    try:
        loss = loss_on(model.eval(), batch)
    except (AttributeError, TypeError) as error:
        error.add_note(
            "loss_of is called with what the model returns and the targets, held-out ones too; "
            "InteractionSupervision(criterion) makes such a loss of a criterion"
        )
        raise
    if not isinstance(loss, Tensor) or loss.ndim:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"loss_of must return a scalar tensor, however it returned {found}; take the mean")


def _warn_of_untrained(output: Any, loss: Tensor) -> None:
    """Warn where the loss of a training step does not depend on the predictions from each modality alone."""
    if not isinstance(output, InteractionOutput):
        return
    found = [x for x in (output.marginals, output.member_marginals) if x is not None and x.requires_grad]
    if found and all(x is None for x in torch.autograd.grad(loss, found, retain_graph=True, allow_unused=True)):
        warnings.warn(
            "loss_of should train the predictions from each modality alone, of which weights are computed, however it "
            "does not depend on them; use InteractionSupervision(criterion)",
            stacklevel=5,
        )


@torch.no_grad()
def _mean_loss(model: nn.Module, data: Iterable[Any], loss_on: Callable[[nn.Module, Any], Tensor]) -> float:
    model.eval()
    losses = [(float(loss_on(model, batch)), len(leaves(batch[1])[0])) for batch in data]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def _first(name: str, data: Any) -> Any:
    """Return the first batch, and check its form and that each epoch will have batches."""
    check_batches(data, name)
    if isinstance(data, Iterator):
        raise TypeError(
            f"{name} must give its batches again in each epoch, however it is an iterator; give a list, a `Batches`, "
            "or a DataLoader of a data set that returns ((a, b), y)"
        )
    for batch in data:
        with in_batch(0, name):
            check_batch(batch, _CURE)
            if not all(hasattr(y, "shape") for y in leaves(batch[1])):
                raise ValueError(
                    "a batch's target must be a tensor (B, ...), or a tuple or dict of such, however it is a "
                    f"{type(batch[1]).__name__} of other values; convert lists by torch.as_tensor"
                )
        return batch
    raise ValueError(f"{name} must yield at least one batch, however it is empty; give it data")


def _check_callable(name: str, value: Any, example: str) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a function, however it is a {type(value).__name__}; give {example}, say")


@contextmanager
def _noted_types(model: nn.Module, inputs: Any) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        given = {x.dtype for x in leaves(inputs) if isinstance(x, Tensor) and x.is_floating_point()}
        own = {parameter.dtype for parameter in model.parameters()}
        if given - own:
            cure = f"x.to({', '.join(map(str, own))})"
            error.add_note(f"inputs are of {given}, however the parameters are of {own}; convert the inputs: {cure}")
        raise


@torch.no_grad()
def _warn_of_scale(inputs: Any) -> None:
    """Warn of modalities in units far from those of standardized features, by the median row; NaN does not count."""
    named = (
        inputs if isinstance(inputs, Mapping) else dict(enumerate(inputs)) if isinstance(inputs, list | tuple) else {}
    )
    for name, modality in named.items():
        for x in leaves(modality):
            if not x.is_floating_point() or not x.numel():
                continue
            length = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1, dtype=torch.float32).nanmedian().item()
            size = length / (x.numel() / len(x)) ** 0.5
            if size > _LARGE or 0 < length < _SMALL:
                warnings.warn(
                    "modalities should have values of about 1, as standardized features have, however a row of "
                    f"{name!r} has a root mean square of {size:.3g}: training may not get far; standardize each "
                    "feature by its mean and deviation. Where the backbone does, this can be ignored",
                    stacklevel=3,
                )


def _warn_of_units(target: Any) -> None:
    values = torch.as_tensor(as_tensor(target)).double()
    values = values.reshape(len(values), -1)
    means, deviations = values.mean(0), values.std(0, correction=0)
    largest = int(torch.maximum(means.abs(), deviations).argmax())
    mean, deviation = means[largest].item(), deviations[largest].item()
    if deviations.max() > _LARGE * deviations.min() > 0:
        warnings.warn(
            f"outputs of a regression should have deviations alike, however they are from {deviations.min():.3g} to "
            f"{deviations.max():.3g}: the loss and the weights are about the largest; standardize each",
            stacklevel=3,
        )
    elif max(abs(mean), deviation) > _LARGE:
        warnings.warn(
            "targets of a regression should have a mean of about 0 and a deviation of about 1, however in the first "
            f"held-out batch they have a mean of {mean:.3g} and a deviation of {deviation:.3g}: training may not reach "
            "them, and weights are of what it reaches; standardize them",
            stacklevel=3,
        )


def _report_divergence(losses: list[float]) -> None:
    """Raise, or where an epoch before is left, warn."""
    cure = "lower the learning rate, or look for NaN and huge values in the training data"
    if len(losses) == 1:
        raise ValueError(f"the held-out loss must be finite, however it is {losses[0]} after one epoch; {cure}")
    warnings.warn(
        f"the held-out loss became {losses[-1]} in epoch {len(losses)}: training stopped, and the best epoch before is "
        f"kept; {cure}",
        stacklevel=4,
    )
