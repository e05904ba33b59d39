"""What the categorization takes, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from i2moe._common.checks import check_probabilities
from i2moe._common.modalities import Array, as_tensor
from i2moe._common.names import check_modality_names
from i2moe._common.tasks import Task, check_target, check_task

__all__ = ["TASKS", "Predictions", "read_predictions"]

TASKS = ("classification", "regression")


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
    check_task(task, TASKS)
    together = _numbers(multimodal, "multimodal")
    if isinstance(unimodal, tuple | list) and all(hasattr(of_one, "__array__") for of_one in unimodal):
        each = _stacked([_numbers(of_one, "unimodal") for of_one in unimodal])
    else:
        each = _numbers(unimodal, "unimodal")
    if each.ndim != 3 or each.shape[1] < 2 or each.shape[0] == 0:
        raise ValueError(
            "unimodal must be (B, M, C): at least one sample, at least two modalities, "
            f"however its shape is {tuple(each.shape)}; or a list of M arrays (B, C)"
        )
    if together.shape != (each.shape[0], each.shape[2]):
        raise ValueError(
            f"multimodal must be (B, C) = {(each.shape[0], each.shape[2])} beside unimodal {tuple(each.shape)}, "
            f"however its shape is {tuple(together.shape)}"
        )
    if task == "classification":
        check_probabilities("unimodal", each)
        check_probabilities("multimodal", together)
    elif not bool(each.isfinite().all() and together.isfinite().all()):
        raise ValueError("predictions must be finite, however some are not")
    together = together.to(each)
    names = check_modality_names(each.shape[1], modality_names)
    if target is None:
        return Predictions(each, together, together, None, task, names)
    truth = torch.as_tensor(as_tensor(target)).detach().to(each.device)
    truth = check_target(task, truth, together.shape, each.dtype)
    if task == "regression":
        return Predictions(each, together, truth, None, task, names)
    return Predictions(each, together, F.one_hot(truth, each.shape[2]).to(each), truth, task, names)


def _stacked(each: list[Tensor]) -> Tensor:
    """Put predictions (B, C) of M modalities together, (B, M, C)."""
    shapes = [tuple(of_one.shape) for of_one in each]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"unimodal must be arrays (B, C) of one shape in a list, however their shapes are {shapes}")
    return torch.stack(each, dim=1)


def _numbers(values: Array, name: str) -> Tensor:
    try:
        found = torch.as_tensor(as_tensor(values)).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a tensor or an array of numbers, however torch cannot read it: {error}"
        ) from error
    return found if found.dtype in (torch.float32, torch.float64) else found.float()
