"""What `fit` finds out before it trains: whether batches, loss and units are what the recipe needs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._common.modalities import as_tensor, leaves
from i2moe._common.output import InteractionOutput
from i2moe.interpretation.observation.batches import check_batch, check_batches, check_not_empty, in_batch

__all__ = ["CURE", "first_batch", "noted_types", "try_loss", "warn_of_scale", "warn_of_units", "warn_of_untrained"]

CURE = "return ((a, b), y) from the data set, or use `Batches`"
"""For batches of another form."""

_LARGE = 10.0  # what a network with weights of the usual size does not say soon, nor take well
_SMALL = 0.1  # of a whole row


def first_batch(name: str, data: Any) -> Any:
    """Return the first batch, and check its form and that each epoch will have batches."""
    check_batches(data, name)
    if isinstance(data, Iterator):
        raise TypeError(
            f"{name} must give its batches again in each epoch, however it is an iterator; give a list, a `Batches`, "
            "or a DataLoader of a data set that returns ((a, b), y)"
        )
    begun = list(islice(data, 1))
    check_not_empty(begun, name)
    (batch,) = begun
    with in_batch(0, name):
        check_batch(batch, CURE)
        if not all(hasattr(y, "shape") for y in leaves(batch[1])):
            raise ValueError(
                "a batch's target must be a tensor (B, ...), or a tuple or dict of such, however it is a "
                f"{type(batch[1]).__name__} of other values; convert lists by torch.as_tensor"
            )
    return batch


@contextmanager
def noted_types(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Note on an error of the model that inputs are of other types than its parameters."""
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
def try_loss(model: nn.Module, batch: Any, loss_on: Callable[[nn.Module, Any], Tensor]) -> None:
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


def warn_of_untrained(output: Any, loss: Tensor) -> None:
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
def warn_of_scale(inputs: Any) -> None:
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


def warn_of_units(target: Any) -> None:
    """Warn of targets of a regression far from standardized, or whose outputs differ much in size."""
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
