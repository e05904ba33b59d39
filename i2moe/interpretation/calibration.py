"""Calibration of a model with computed weights: predictions no surer than they are right on held-out data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._common.checks import check_distribution, check_finite
from i2moe._common.modalities import leaves
from i2moe._common.output import InteractionOutput
from i2moe._common.tasks import Task, certain, check_target, probabilities
from i2moe.interpretation.observation.batches import check_batches, check_not_empty, in_batch, shuffles, split_batch
from i2moe.interpretation.observation.observe import (
    Observation,
    call_by_signature,
    device_of,
    find_moe,
    generators_of,
    move,
    observe,
    preserve_state,
)
from i2moe.losses import Interaction
from i2moe.missing import Fill, ZeroFill
from i2moe.moe.weights.computed import ComputedReweighter, mean_of_present

__all__ = ["calibrate"]

_RANGE = (0.05, 5.0)  # held-out data without an error would ask for any factor
_N_STEPS = 40


def calibrate(
    model: nn.Module,
    data: Iterable[Any],
    *,
    call: Callable[[nn.Module, Any], object] | None = None,
    sample_weight: Tensor | None = None,
    prior: Tensor | None = None,
) -> Tensor:
    r"""Scale the predictions of a model with computed weights so that they fit held-out data.

    A modality whose predictions are sure and wrong gets too much weight. So each modality alone gets a factor s, and
    predictions from several modalities get one. The factors minimize the loss on the data. It is the cross-entropy of
    $s \cdot$ logits (s is one over a temperature), or for a regression the squared error of
    $\bar{y} + s (\hat{y} - \bar{y})$. The mean of the targets becomes the model's `prior`. All predictions of the model
    are scaled from then on, and the weights follow.

    Args:
        model: an `InteractionMoE` with computed weights, or a module that holds one.
        data: batches `(modalities, target)`, as for `explain`, that the model was not trained on: those of early
            stopping will do.
        call: how to call the model with the modalities of a batch, as for `explain`.
        sample_weight: (N,), how much each sample counts, in the data's order, as it did in training; None for alike.
        prior: (C,), the mean of the targets (frequencies, or values) where other samples tell it better, as where the
            data is of few people; None for that of the data.

    Returns:
        (M + 1,), the factors, from 0.05 to 5: of each modality alone, and of several.

    Raises:
        TypeError: if the model is no module, or the data are no batches.
        ValueError: if it has no computed weights, the data is empty, a batch or a target does not fit, or a prediction
            is not finite, of which the message names the batch; or if the samples' weights do not fit, or are given
            beside a loader that shuffles.

    Warns:
        UserWarning: if a modality of integers holds the number that stands for its absence, if the prior is 0 for a
            class, as of data that lacks it, or if the model returns probabilities in place of logits.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (temperature scaling).

    Example:
        >>> from i2moe import InteractionMoE
        >>> model = InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, reweighter="computed")
        >>> held_out = [((torch.randn(16, 8), torch.randn(16, 4)), torch.randint(3, (16,)))]
        >>> calibrate(model, held_out).shape
        torch.Size([3])
    """
    check_batches(data)
    moe = find_moe(model)
    reweighter = moe.reweighter
    if not isinstance(reweighter, ComputedReweighter):
        raise ValueError(
            "calibrate must be given a model with computed weights, however its weights come from a "
            f"{type(reweighter).__name__}; build it with reweighter='computed'"
        )
    if sample_weight is not None and shuffles(data):
        raise ValueError(
            "sample_weight must be in the order of the data, however the loader shuffles it; give shuffle=False, "
            "and no sampler that draws"
        )
    device = device_of(model)
    call = call_by_signature if call is None else call
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    ambiguous: set[str] = set()
    with preserve_state(model, device, generators_of(data), seed=0):
        reweighter.scale = reweighter.scale.new_ones(0)  # a copy of the buffer, which the block puts back
        for index, batch in enumerate(data):
            with in_batch(index):
                modalities, target = split_batch(batch)
            seen = observe(moe, partial(call, model, move(modalities, device, arrays=True)))
            out = seen.output
            assert moe.fill is not None  # as the weights are computed
            ambiguous |= _filled_with_values(moe.modality_names, moe.fill, seen)
            with in_batch(index):
                rows.append(_rows(reweighter.task, out, target, moe.interactions))
    check_not_empty(rows)
    outputs, targets, present = (torch.cat(parts) for parts in zip(*rows, strict=True))
    weight = _share_of_each(len(targets), sample_weight)
    n_outputs = outputs.shape[2]
    prior = (
        weight @ certain(reweighter.task, targets, n_outputs)
        if prior is None
        else _checked(prior, reweighter.task, n_outputs)
    )
    center = prior if reweighter.task == "regression" else 0
    outputs, targets = outputs - center, targets - center
    scale = torch.stack(
        [
            _best_scale(reweighter.task, outputs[there, i], targets[there], weight[there])
            for i, there in enumerate(present.unbind(1))
        ]
    )
    if ambiguous:
        warnings.warn(
            f"integers should never hold the number that stands for absence, however those of {sorted(ambiguous)} do: "
            "the model cannot tell a sample of that number from one that lacks the modality; number categories from 2, "
            "or return a number that no sample has from the method `integer_value` of a fill of your own",
            stacklevel=2,
        )
    if reweighter.task == "classification" and outputs.min() >= 0 and (outputs.sum(2) - 1).abs().max() < 1e-4:
        warnings.warn(
            "the backbone should return logits, however all outputs are probabilities: weights and losses take the "
            "softmax of what it returns; leave the last softmax out",
            stacklevel=2,
        )
    reweighter.scale.resize_(len(scale)).copy_(scale)
    reweighter.prior.resize_(n_outputs).copy_(prior)
    if reweighter.task == "classification" and not prior.all():
        warnings.warn(
            f"the prior should be above 0 for each class, however of {(prior == 0).nonzero().flatten().tolist()} it is "
            "0: for the weights such a class never occurs; hold out samples of it, or give the classes' frequencies "
            "as prior=",
            stacklevel=2,
        )
    return reweighter.scale.clone()


def _filled_with_values(names: Sequence[str], fills: Iterable[Fill], seen: Observation) -> set[str]:
    """Return the modalities of integers alone in which a sample has the number that stands for none."""
    found: set[str] = set()
    for i, (name, fill, modality) in enumerate(zip(names, fills, seen.modalities, strict=True)):
        tensors = leaves(modality)
        if isinstance(fill, ZeroFill) and not any(x.is_floating_point() for x in tensors):
            same = torch.stack([(x == fill.integer_value(x)).reshape(len(x), -1).all(1) for x in tensors]).all(0)
            if (same if seen.available is None else same & seen.available[:, i]).any():
                found.add(name)
    return found


def _rows(
    task: Task, out: InteractionOutput, target: Tensor, interactions: Sequence[Interaction]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch's outputs (B, M + 1, C), of each modality alone and of several, targets, and which there are."""
    assert out.marginals is not None
    assert out.available is not None
    joint = mean_of_present(out.expert_predictions, out.available, interactions)
    outputs = torch.cat((out.marginals, joint.unsqueeze(1)), dim=1).double().cpu()
    outputs = outputs.reshape(*outputs.shape[:2], -1)
    check_finite("predictions", outputs)
    several = out.available.sum(1, keepdim=True) > 1
    try:
        target = check_target(task, target.cpu(), outputs[:, -1].shape, outputs.dtype)
    except ValueError as error:
        raise ValueError(
            f"{error}. The weights are for {task}: for another task, build the model with ComputedReweighter(task)"
        ) from error
    return outputs, target, torch.cat((out.available, several), dim=1).cpu()


def _checked(prior: Tensor, task: Task, n_outputs: int) -> Tensor:
    prior = torch.as_tensor(prior).detach().cpu().double()
    if prior.shape != (n_outputs,) or not prior.isfinite().all():
        raise ValueError(
            f"prior must hold a finite number for each of {n_outputs} outputs, however it is {prior.tolist()}"
        )
    if task == "classification":
        check_distribution("prior", prior, "divide counts by their sum")
    if task == "multilabel" and not ((prior >= 0) & (prior <= 1)).all():
        raise ValueError(f"prior must hold how frequent each label is, from 0 to 1, however it is {prior.tolist()}")
    return prior


def _share_of_each(n: int, sample_weight: Tensor | None) -> Tensor:
    """Return weights (N,) that sum to 1."""
    weight = torch.ones(n) if sample_weight is None else torch.as_tensor(sample_weight).cpu()
    weight = weight.double()
    if weight.shape != (n,) or not weight.isfinite().all() or weight.min() < 0 or weight.sum() == 0:
        raise ValueError(
            f"sample_weight must hold a finite number for each of {n} samples, none negative and not all 0, however it "
            f"is of shape {tuple(weight.shape)}"
        )
    return weight / weight.sum()


def _best_scale(task: Task, outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Find the factor at which the loss, convex in it, stops falling: bisection of its logarithm."""
    if not weight.any():
        return outputs.new_ones(())
    low, high = torch.tensor(_RANGE, dtype=torch.float64).log()
    for _ in range(_N_STEPS):
        middle = (low + high) / 2
        decreases = weight @ _slopes(task, outputs, target, middle.exp()) < 0
        low, high = torch.where(decreases, middle, low), torch.where(decreases, high, middle)
    best: Tensor = ((low + high) / 2).exp()
    return best


def _slopes(task: Task, outputs: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Differentiate the losses (n,) of scaled outputs (n, C) by the factor."""
    predicted = probabilities(task, outputs * scale)
    if task == "classification":
        return (outputs * predicted).sum(1) - outputs.gather(1, target.unsqueeze(1)).squeeze(1)
    return (outputs * (predicted - target)).mean(1)
