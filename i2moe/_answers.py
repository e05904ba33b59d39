"""How answers and predictions of a task compare while training: losses, and the checks that wait for no device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from i2moe._tasks import Task, check_task

__all__ = ["Answers", "make_answers"]


class Answers(Protocol):
    """How targets and predictions of a task compare."""

    def answer(self, target: Tensor) -> Tensor:
        """Return the target (B, C) as the prediction of somebody who knows: one-hot, 0 and 1, or numbers."""

    def predict(self, outputs: Tensor) -> Tensor:
        """Turn a model's outputs (..., C) into predictions to compare with the answer."""

    def loss(self, outputs: Tensor, answer: Tensor, weight: Tensor) -> Tensor:
        """Sum the losses of outputs (..., C), each with its weight (...); answers and weights broadcast."""

    def check_target(self, target: Tensor, n_samples: int) -> None:
        """Check dtype and shape."""

    def check_values(self, target: Tensor) -> None:
        """Check the values of a target; waits for the device."""

    def check_predictions(self, predictions: Tensor, name: str) -> None:
        """Check that predictions (B, C) are what `predict` returns; waits for the device."""


class Classification:
    """One of C classes per sample."""

    def __init__(self, n_outputs: int) -> None:
        if n_outputs < 2:
            raise ValueError(f"n_outputs must be at least 2 for classification, however it is {n_outputs}")
        self.n_outputs = n_outputs

    def answer(self, target: Tensor) -> Tensor:
        return (target.unsqueeze(-1) == torch.arange(self.n_outputs, device=target.device)).float()

    def predict(self, outputs: Tensor) -> Tensor:
        return _classes_first(outputs).softmax(0).movedim(0, -1)

    def loss(self, outputs: Tensor, answer: Tensor, weight: Tensor) -> Tensor:
        return (_classes_first(outputs).log_softmax(0) * (answer * -weight.unsqueeze(-1)).movedim(-1, 0)).sum()

    def check_target(self, target: Tensor, n_samples: int) -> None:
        if target.is_floating_point() or target.dtype == torch.bool or target.shape != (n_samples,):
            raise ValueError(
                f"targets of a classification must be integers (B,) = ({n_samples},), however they are "
                f"{target.dtype} {tuple(target.shape)}; several labels at once are task='multilabel', positions of "
                "a sequence rows of their own"
            )

    def check_values(self, target: Tensor) -> None:
        lowest, highest = int(target.min()), int(target.max())
        if lowest < 0 or highest >= self.n_outputs:
            raise ValueError(
                f"classes must lie in [0, {self.n_outputs}) (n_outputs={self.n_outputs}), however they go from "
                f"{lowest} to {highest}"
            )

    def check_predictions(self, predictions: Tensor, name: str) -> None:
        _check_probabilities(predictions, name)
        sums = predictions.sum(-1)
        if not torch.allclose(sums, torch.ones_like(sums), atol=1e-2):
            raise ValueError(
                f"{name} must be probabilities that sum to 1 over the classes, however they sum to between "
                f"{float(sums.min()):.3g} and {float(sums.max()):.3g}; apply softmax to logits"
            )


class Multilabel:
    """Each of C labels present or not."""

    def __init__(self, n_outputs: int) -> None:
        self.n_outputs = n_outputs

    def answer(self, target: Tensor) -> Tensor:
        return target.float()

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def loss(self, outputs: Tensor, answer: Tensor, weight: Tensor) -> Tensor:
        weight = weight.unsqueeze(-1) / self.n_outputs
        return F.binary_cross_entropy_with_logits(outputs, answer.expand_as(outputs), weight, reduction="sum")

    def check_target(self, target: Tensor, n_samples: int) -> None:
        if target.shape != (n_samples, self.n_outputs):
            raise ValueError(
                f"targets of a multilabel task must be (B, C) = {(n_samples, self.n_outputs)}, however they are "
                f"{tuple(target.shape)}"
            )

    def check_values(self, target: Tensor) -> None:
        if bool(((target != 0) & (target != 1)).any()):
            raise ValueError("targets of a multilabel task must be 0 or 1, however there are other values")

    def check_predictions(self, predictions: Tensor, name: str) -> None:
        _check_probabilities(predictions, name)


class Regression:
    """C numbers per sample."""

    def __init__(self, n_outputs: int) -> None:
        self.n_outputs = n_outputs

    def answer(self, target: Tensor) -> Tensor:
        return target.float().reshape(len(target), self.n_outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs

    def loss(self, outputs: Tensor, answer: Tensor, weight: Tensor) -> Tensor:
        return ((outputs - answer).square() * (weight.unsqueeze(-1) / self.n_outputs)).sum()

    def check_target(self, target: Tensor, n_samples: int) -> None:
        flat = target.shape == (n_samples,) and self.n_outputs == 1
        if not target.is_floating_point() or not (flat or target.shape == (n_samples, self.n_outputs)):
            raise ValueError(
                f"targets of a regression must be floating-point (B, C) = {(n_samples, self.n_outputs)}, however they "
                f"are {target.dtype} {tuple(target.shape)}"
            )

    def check_values(self, target: Tensor) -> None:
        _check_finite(target, "targets")

    def check_predictions(self, predictions: Tensor, name: str) -> None:
        _check_finite(predictions, name)


def make_answers(task: Task, n_outputs: int) -> Answers:
    """Find the answers of a task.

    Raises:
        ValueError: if there is none of this name, or the number of outputs does not fit it.
    """
    if n_outputs < 1:
        raise ValueError(f"n_outputs must be at least 1, however it is {n_outputs}")
    check_task(task)
    kinds: dict[Task, Callable[[int], Answers]] = {
        "classification": Classification,
        "multilabel": Multilabel,
        "regression": Regression,
    }
    return kinds[task](n_outputs)


def _classes_first(outputs: Tensor) -> Tensor:
    """Move the classes to the first axis: over few neighboring numbers a softmax is several times slower."""
    return outputs.movedim(-1, 0).contiguous()


def _check_probabilities(predictions: Tensor, name: str) -> None:
    if not bool(((predictions >= -1e-6) & (predictions <= 1 + 1e-6)).all()):
        raise ValueError(
            f"{name} must be probabilities in [0, 1], however they go from {float(predictions.min()):.3g} to "
            f"{float(predictions.max()):.3g}; apply softmax or sigmoid to logits"
        )


def _check_finite(values: Tensor, name: str) -> None:
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} must be finite, however {int((~values.isfinite()).sum())} are NaN or infinite")
