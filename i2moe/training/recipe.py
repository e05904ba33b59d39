"""The training recipe: a moving average of the parameters, the epoch that is best on held-out data, calibration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from i2moe._common.checks import check_at_least_one
from i2moe._common.modalities import leaves
from i2moe.interpretation.calibration import calibrate
from i2moe.interpretation.observation.batches import check_batch, check_batches
from i2moe.interpretation.observation.observe import call_by_signature, move
from i2moe.moe.weights.computed import ComputedReweighter
from i2moe.training.best_epoch import Progress, train_to_best_epoch

__all__ = ["Average", "fit", "moving_average"]

Average: TypeAlias = Callable[[Tensor, Tensor, Tensor | int], Tensor]
"""Maps an average of the parameters, the newest ones and the number of steps to the new average."""


def moving_average(average: Tensor, new: Tensor, n_steps: Tensor | int) -> Tensor:
    """Move an average by 1% to the newest parameters; in the first steps by more, to forget the start."""
    return average.lerp(new, max(0.01, 9 / (float(n_steps) + 9)))


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
    average: Average = moving_average,
    calibrate_on: Iterable[Any] | None = None,
    call: Callable[[nn.Module, Any], object] | None = None,
    after_epoch: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train a model, and leave it at the averaged parameters that lose least on held-out data, in evaluation mode.

    Computed weights are as good as the model's predictions, from all modalities and from each alone. An average of the
    parameters over the last hundred steps or so predicts better than the last ones, and so does the best epoch. A model
    with computed weights is calibrated at the end.

    Args:
        model: an `InteractionMoE`, or any module that holds one. On a GPU, batches follow it there.
        train: the batches `(modalities, target)` of an epoch, each time it is iterated over: a `Batches`, or a
            `DataLoader`.
        held_out: batches that the model is not trained on.
        loss_of: maps what the model returns and the targets to the loss, in training and on the held-out data: an
            `InteractionSupervision`, say, which takes the `SoftTargets` of a `Teacher` too.
        n_epochs: most epochs.
        optimizer: makes the optimizer of the model's parameters; None for AdamW with a learning rate of 0.002.
        patience: epochs without a lower held-out loss before training stops; None for no early stop.
        min_delta: by how much a held-out loss must be lower to count as such.
        average: moves an average of the parameters to the newest ones.
        calibrate_on: what to `calibrate` on in place of the held-out batches, where their targets are no plain labels.
        call: how to call the model with the modalities of a batch, as for `explain`.
        after_epoch: called after each epoch, to show it: `progress.history[-1]`.

    Returns:
        What happened.

    Raises:
        TypeError: if the data are no batches, or can be iterated over only once.
        ValueError: if there is no batch, or the held-out loss is never finite. Also if `calibrate` refuses something.

    Example:
        >>> from i2moe import InteractionMoE, InteractionSupervision
        >>> from i2moe.training import Batches, fit
        >>> model = InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, reweighter="computed")
        >>> train, held_out = (
        ...     Batches((torch.randn(48, 8), torch.randn(48, 4)), torch.randint(3, (48,)), batch_size=16)
        ...     for _ in range(2)
        ... )
        >>> fit(model, train, held_out, InteractionSupervision(nn.functional.cross_entropy), n_epochs=2).epoch
        2
    """
    check_at_least_one(n_epochs=n_epochs)
    first = _first("train", train)
    _first("held_out", held_out)
    calibrated = held_out if calibrate_on is None else calibrate_on
    call = call_by_signature if call is None else call
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)

    def loss_on(model: nn.Module, batch: Any) -> Tensor:
        modalities, target = move(batch, device, arrays=True)
        return loss_of(call(model, modalities), target)

    with torch.no_grad():
        call(model.train(), move(first[0], device, arrays=True))  # sizes what waits for a first batch
    averaged = AveragedModel(model, avg_fn=average)
    computes_weights = any(isinstance(module, ComputedReweighter) for module in model.modules())
    if computes_weights:  # what it refuses, it shall refuse before all the work
        calibrate(copy.deepcopy(model), [_first("calibrate_on", calibrated)], call=call)
    steps = AdamW(model.parameters(), lr=2e-3) if optimizer is None else optimizer(model.parameters())

    def run_epoch(epoch: int) -> dict[str, float]:
        model.train()
        for batch in train:
            loss = loss_on(model, batch)
            steps.zero_grad()
            loss.backward()
            steps.step()
            averaged.update_parameters(model)
        averaged.eval()
        with torch.no_grad():
            losses = [(float(loss_on(averaged.module, batch)), len(leaves(batch[1])[0])) for batch in held_out]
        return {"held-out loss": sum(loss * n for loss, n in losses) / sum(n for _, n in losses)}

    progress = train_to_best_epoch(
        averaged.module,
        run_epoch,
        "held-out loss",
        n_epochs,
        patience=patience,
        is_better=lambda loss, best: loss < (float("inf") if best is None else best - min_delta),
        after_epoch=after_epoch,
    )
    if not progress.best_epoch:
        raise ValueError(
            f"the held-out loss must be finite, however it is {progress.history[-1]['held-out loss']}; "
            "lower the learning rate, or look at the data"
        )
    model.load_state_dict(averaged.module.state_dict())
    model.eval()
    if computes_weights:
        calibrate(model, calibrated, call=call)
    return progress


def _first(name: str, data: Any) -> Any:
    """Return the first batch, and check that there will be more of them in each epoch."""
    check_batches(data, name)
    if isinstance(data, Iterator):
        raise TypeError(f"{name} must give its batches again in each epoch, however it is an iterator; give a list")
    for batch in data:
        check_batch(batch)
        return batch
    raise ValueError(f"{name} must yield at least one batch, however it is empty")
