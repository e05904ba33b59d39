"""What a task makes of predictions and targets: what fits, what counts as right, how good it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Task",
    "certain",
    "check_target",
    "check_task",
    "decide",
    "difference_bounds",
    "distances",
    "drop_name",
    "is_correct",
    "probabilities",
    "score",
    "score_bounds",
    "score_name",
]

Task: TypeAlias = Literal["classification", "multilabel", "regression"]

drop_name: dict[Task, str] = {
    "classification": "drop of the probability of the true class",
    "multilabel": "drop of the log-likelihood per label (nats)",
    "regression": "rise of the squared error",
}
"""What a drop of the score is."""

score_name: dict[Task, str] = {
    "classification": "accuracy",
    "multilabel": "share of labels right",
    "regression": "R²",
}
"""What says how good predictions are, the higher the better, 1 at best."""


def score_bounds(task: Task) -> tuple[float, float]:
    """The lowest and the highest score there can be."""
    return (-math.inf if task == "regression" else 0.0), 1.0


def difference_bounds(task: Task) -> tuple[float, float]:
    """The lowest and the highest difference between two scores."""
    low, high = score_bounds(task)
    return low - high, high - low


def check_task(task: str, known: Sequence[str] = get_args(Task)) -> None:
    """Raise a ValueError if the task is not among those known."""
    if task not in known:
        raise ValueError(f"task must be one of {tuple(known)}, however it is {task!r}")


def check_target(task: Task, target: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Return a batch's target in one form: (B,) int64 for classification, else (B, C) floating.

    Args:
        task: the task.
        target: what the data gave.
        shape: (B, C), the prediction's.
        dtype: of what is returned for labels and values; None for the target's own where it is floating.

    Raises:
        ValueError: if the target does not fit the task and the prediction.
    """
    n_samples, n_outputs = shape
    if target.ndim == 0 or target.shape[0] != n_samples:
        raise ValueError(
            f"the target must have one row for each of the {n_samples} predictions, "
            f"however its shape is {tuple(target.shape)}"
        )
    if task == "classification":
        return _class_indices(target, n_outputs)
    if target.reshape(n_samples, -1).shape != (n_samples, n_outputs):
        raise ValueError(
            f"the target of {task} must have the prediction's shape {(n_samples, n_outputs)}, "
            f"however its shape is {tuple(target.shape)}"
        )
    own = target.dtype if target.is_floating_point() else torch.get_default_dtype()
    target = target.reshape(n_samples, n_outputs).to(own if dtype is None else dtype)
    if not target.isfinite().all():
        raise ValueError("the target must be finite, however it holds NaN or infinity; drop or fill these samples")
    if task == "multilabel" and not ((target == 0) | (target == 1)).all():
        raise ValueError(
            f"the target of multilabel must be 0 or 1 for each label, however it lies in "
            f"[{target.min():g}, {target.max():g}]"
        )
    return target


def decide(task: Task, prediction: Tensor) -> Tensor:
    """Turn raw outputs (..., C) into classes (...), labels (..., C) of 0 and 1, or the values themselves."""
    if task == "classification":
        return prediction.argmax(-1)
    return (prediction > 0).long() if task == "multilabel" else prediction


def probabilities(task: Task, outputs: Tensor, dim: int = -1) -> Tensor:
    """Turn raw outputs, C on axis `dim`, into probabilities, or in regression the values themselves."""
    if task == "classification":
        return outputs.softmax(dim)
    return outputs.sigmoid() if task == "multilabel" else outputs


def certain(task: Task, target: Tensor, n_outputs: int) -> Tensor:
    """Turn targets into the probabilities or values (N, C) of one who knows them, in float64."""
    return (F.one_hot(target, n_outputs) if task == "classification" else target).double()


def score(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    """How good each prediction is, (B,) in float64, the higher the better.

    The probability of the true class, the mean log-likelihood per label, or the negative mean squared error.
    """
    prediction, target = prediction.double(), target.to(prediction.device)
    if task == "classification":
        return prediction.softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    if task == "multilabel":
        return -F.binary_cross_entropy_with_logits(prediction, target.double(), reduction="none").mean(-1)
    return -(prediction - target.double()).square().mean(-1)


def is_correct(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    """Whether the class is the true one, all labels are, or the squared error is at most the median: (N,) bool."""
    if task == "classification":
        return decide(task, prediction) == target
    if task == "multilabel":
        return (decide(task, prediction) == target).all(-1)
    scores = score(task, prediction, target)
    return scores >= scores.quantile(0.5)


def distances(task: Task, a: Tensor, b: Tensor) -> Tensor:
    """How far predictions (N, C) lie apart: (N,).

    Total variation of the class probabilities, mean difference of the label probabilities (both in [0, 1]), or mean
    difference of the values (in the target's unit).
    """
    apart = (probabilities(task, a) - probabilities(task, b)).abs()
    return apart.sum(-1) / 2 if task == "classification" else apart.mean(-1)


def _class_indices(target: Tensor, n_classes: int) -> Tensor:
    if n_classes == 1:
        raise ValueError(
            "classification must have at least two outputs, however there is one; "
            "a single logit is task='multilabel' with targets (B, 1)"
        )
    if target.ndim != 1 or target.is_floating_point() or target.is_complex():
        raise ValueError(
            "the target of classification must be class indices (B,) of an integer type, however it is "
            f"{tuple(target.shape)} of {target.dtype}; use "
            + ("target.long()" if target.ndim == 1 else "target.squeeze(1) or target.argmax(1)")
            + ", or pass task='multilabel' or task='regression'"
        )
    target = target.long()
    if target.min() < 0 or target.max() >= n_classes:
        raise ValueError(
            f"class indices must lie in [0, {n_classes}), the model's outputs, however they lie in "
            f"[{target.min()}, {target.max()}]; count classes from 0, drop samples without one"
        )
    return target
