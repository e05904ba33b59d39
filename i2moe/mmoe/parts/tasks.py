"""Tasks: what turns outputs into predictions, and what scores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from i2moe.categorization.checks import Task as Kind
from i2moe.categorization.checks import check_labels, check_probabilities

__all__ = ["Classification", "Regression", "Task"]


class Task(Protocol):
    """What an `MMoE` is trained for."""

    @property
    def kind(self) -> Kind:
        """What predictions are: probabilities of classes, or values."""

    @property
    def n_outputs(self) -> int:
        """Number of outputs C."""

    @property
    def metric(self) -> str:
        """What `score` measures."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a high score is a good one."""

    def activate(self, outputs: Tensor) -> Tensor:
        """Turn a module's outputs (B, C) into predictions (B, C)."""

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the scalar to minimize."""

    def score(self, predictions: Tensor, target: Tensor) -> Tensor:
        """Score each prediction, (B,)."""

    def check_target(self, target: Tensor, n_samples: int) -> Tensor:
        """Refuse targets that do not fit, and return them in the dtype of `loss`."""

    def check_predictions(self, predictions: Tensor, n_samples: int, name: str) -> None:
        """Refuse predictions that do not fit."""


@dataclass(frozen=True)
class Classification:
    """One of `n_outputs` classes: softmax, cross-entropy, accuracy."""

    n_outputs: int
    kind: ClassVar[Kind] = "classification"
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n_outputs < 2:
            raise ValueError(f"a classification must have at least two classes, however it has {self.n_outputs}")

    def activate(self, outputs: Tensor) -> Tensor:
        """Return softmax(outputs)."""
        return outputs.softmax(-1)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits."""
        return F.cross_entropy(outputs, target.long())

    def score(self, predictions: Tensor, target: Tensor) -> Tensor:
        """Return 1 where the likeliest class is right, else 0."""
        return (predictions.argmax(-1) == target).double()

    def check_target(self, target: Tensor, n_samples: int) -> Tensor:
        """Refuse what is not one class per sample."""
        check_labels(target, n_samples, self.n_outputs)
        return target.long()

    def check_predictions(self, predictions: Tensor, n_samples: int, name: str) -> None:
        """Refuse what is not one probability per class and sample."""
        _check_shape(predictions, (n_samples, self.n_outputs), name)
        check_probabilities(predictions, name)


@dataclass(frozen=True)
class Regression:
    """`n_outputs` numbers: no activation, mean squared error."""

    n_outputs: int = 1
    kind: ClassVar[Kind] = "regression"
    metric: ClassVar[str] = "squared error"
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.n_outputs < 1:
            raise ValueError(f"a regression must have at least one output, however it has {self.n_outputs}")

    def activate(self, outputs: Tensor) -> Tensor:
        """Return the outputs."""
        return outputs

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        return self.score(outputs, target).mean()

    def score(self, predictions: Tensor, target: Tensor) -> Tensor:
        """Return the squared error, averaged over outputs."""
        return (predictions - target.reshape(predictions.shape)).square().mean(-1)

    def check_target(self, target: Tensor, n_samples: int) -> Tensor:
        """Refuse what is not C finite numbers per sample."""
        allowed = [(n_samples, self.n_outputs), *([(n_samples,)] if self.n_outputs == 1 else [])]
        if tuple(target.shape) not in allowed or not target.is_floating_point():
            raise ValueError(
                f"target must be floating point of shape {allowed[0]}, however it is {target.dtype} "
                f"{tuple(target.shape)}"
            )
        if not bool(torch.isfinite(target).all()):
            raise ValueError("target must be finite, however some values are not; leave those samples out")
        return target

    def check_predictions(self, predictions: Tensor, n_samples: int, name: str) -> None:
        """Refuse what is not C finite numbers per sample."""
        _check_shape(predictions, (n_samples, self.n_outputs), name)
        if not bool(predictions.isfinite().all()):
            raise ValueError(f"{name} must be finite, however some predictions are not; lower the learning rate")


def _check_shape(predictions: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(predictions.shape) != shape:
        raise ValueError(f"{name} must be (B, C) = {shape}, however its shape is {tuple(predictions.shape)}")
