"""What the categorization takes, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from i2moe._common.arrays import Array, as_tensor

__all__ = ["Predictions", "Task", "check_labels", "check_probabilities", "read_predictions"]

Task: TypeAlias = Literal["classification", "regression"]

# A softmax in bfloat16 rounds each probability by up to 0.4%, and so their sum.
TOLERANCE = 1e-2


@dataclass(frozen=True)
class Predictions:
    """Checked predictions.

    Args:
        unimodal: (B, M, C).
        multimodal: (B, C).
        reference: (B, C), what both are compared with: the target (one-hot for classes), or `multimodal` without one.
        labels: (B,) int64, where a classification has a target.
        task: "classification" or "regression".
        modality_names: M names.
    """

    unimodal: Tensor
    multimodal: Tensor
    reference: Tensor
    labels: Tensor | None
    task: Task
    modality_names: tuple[str, ...]


def read_predictions(
    unimodal: Array, multimodal: Array, target: Array | None, task: Task, modality_names: Sequence[str] | None
) -> Predictions:
    """Check shapes, probabilities and labels, and find the reference.

    Raises:
        TypeError: if something is not made of numbers.
        ValueError: if shapes disagree, probabilities do not sum to 1 or labels are out of range.
    """
    if task not in get_args(Task):
        raise ValueError(f"task must be one of {get_args(Task)}, however it is {task!r}")
    each, together = _numbers(unimodal, "unimodal"), _numbers(multimodal, "multimodal")
    if each.ndim != 3 or each.shape[1] < 2 or each.shape[0] == 0:
        raise ValueError(
            "unimodal must be (B, M, C): at least one sample, at least two modalities, "
            f"however its shape is {tuple(each.shape)}; torch.stack([of_modality_0, of_modality_1], dim=1)"
        )
    if together.shape != (each.shape[0], each.shape[2]):
        raise ValueError(
            f"multimodal must be (B, C) = {(each.shape[0], each.shape[2])} beside unimodal {tuple(each.shape)}, "
            f"however its shape is {tuple(together.shape)}"
        )
    if task == "classification":
        check_probabilities(each, "unimodal")
        check_probabilities(together, "multimodal")
    elif not bool(each.isfinite().all() and together.isfinite().all()):
        raise ValueError("predictions must be finite, however some are not")
    together = together.to(each)
    names = _names(each.shape[1], modality_names)
    if target is None:
        return Predictions(each, together, together, None, task, names)
    truth = torch.as_tensor(as_tensor(target)).detach().to(each.device)
    if task == "regression":
        return Predictions(each, together, _values(truth, each), None, task, names)
    check_labels(truth, each.shape[0], each.shape[2])
    return Predictions(each, together, F.one_hot(truth.long(), each.shape[2]).to(each), truth.long(), task, names)


def check_probabilities(probabilities: Tensor, name: str) -> None:
    """Check that the last axis holds class probabilities.

    Raises:
        ValueError: if it has fewer than two classes, or some are not finite, negative, or do not sum to 1.
    """
    if probabilities.shape[-1] < 2:
        raise ValueError(
            f"{name} must hold the probabilities of at least two classes, however it holds "
            f"{probabilities.shape[-1]}; a binary p becomes torch.stack([1 - p, p], dim=-1)"
        )
    if not bool(probabilities.isfinite().all()):
        raise ValueError(f"{name} must be finite, however some probabilities are not")
    totals = probabilities.float().sum(-1)
    worst = totals.flatten()[(totals - 1).abs().argmax()]
    if float(probabilities.min()) < -TOLERANCE or abs(float(worst) - 1) > TOLERANCE:
        raise ValueError(
            f"{name} must hold probabilities, >= 0 and summing to 1 over the last axis, however the smallest is "
            f"{float(probabilities.min()):g} and one sum is {float(worst):g}; logits go through torch.softmax first"
        )


def check_labels(target: Tensor, n_samples: int, n_classes: int) -> None:
    """Check that labels are one integer in [0, n_classes) per sample.

    Raises:
        TypeError: if they are no integers.
        ValueError: if they are not one per sample or out of range.
    """
    if target.is_floating_point() or target.is_complex():
        raise TypeError(f"target must hold integer classes, however its dtype is {target.dtype}")
    if target.shape != (n_samples,):
        raise ValueError(f"target must be ({n_samples},), one class per sample, however it is {tuple(target.shape)}")
    if bool((target < 0).any()) or bool((target >= n_classes).any()):
        raise ValueError(
            f"target must lie in [0, {n_classes}), however it lies in [{int(target.min())}, {int(target.max())}]"
        )


def _values(target: Tensor, unimodal: Tensor) -> Tensor:
    n_samples, _, n_outputs = unimodal.shape
    if target.ndim == 1:
        target = target.unsqueeze(-1)
    if target.shape != (n_samples, n_outputs):
        raise ValueError(
            f"a regression's target must be (B, C) = {(n_samples, n_outputs)}, however it is {tuple(target.shape)}"
        )
    if not bool(target.isfinite().all()):
        raise ValueError("target must be finite, however some values are not; leave those samples out")
    return target.to(unimodal)


def _numbers(values: Array, name: str) -> Tensor:
    try:
        found = torch.as_tensor(as_tensor(values)).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a tensor or an array of numbers, however torch cannot read it: {error}"
        ) from error
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def _names(n_modalities: int, names: Sequence[str] | None) -> tuple[str, ...]:
    found = tuple(str(i) for i in range(n_modalities)) if names is None else tuple(names)
    if len(found) != n_modalities or len(set(found)) != n_modalities:
        raise ValueError(f"modality_names must be {n_modalities} different names, however they are {found}")
    return found
