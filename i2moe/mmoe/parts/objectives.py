"""Objectives: a task with its number of outputs, and the loss and the score that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor

from i2moe._common.checks import check_probabilities, check_shape
from i2moe._common.tasks import Task, check_target, is_correct, probabilities, score_name

__all__ = ["Classification", "Objective", "Regression"]


class Objective(Protocol):
    """What an `MMoE` is trained for."""

    @property
    def task(self) -> Task:
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
    task: ClassVar[Task] = "classification"
    metric: ClassVar[str] = score_name["classification"]
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n_outputs < 2:
            raise ValueError(f"a classification must have at least two classes, however it has {self.n_outputs}")

    def activate(self, outputs: Tensor) -> Tensor:
        """Return softmax(outputs)."""
        return probabilities(self.task, outputs)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits."""
        return F.cross_entropy(outputs, target.long())

    def score(self, predictions: Tensor, target: Tensor) -> Tensor:
        """Return 1 where the likeliest class is right, else 0."""
        return is_correct(self.task, predictions, target).double()

    def check_target(self, target: Tensor, n_samples: int) -> Tensor:
        """Refuse what is not one class per sample."""
        return check_target(self.task, target, (n_samples, self.n_outputs))

    def check_predictions(self, predictions: Tensor, n_samples: int, name: str) -> None:
        """Refuse what is not one probability per class and sample."""
        check_shape(name, predictions, (n_samples, self.n_outputs), "(B, C)")
        check_probabilities(name, predictions)


@dataclass(frozen=True)
class Regression:
    """`n_outputs` numbers: no activation, mean squared error."""

    n_outputs: int = 1
    task: ClassVar[Task] = "regression"
    metric: ClassVar[str] = "squared error"
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.n_outputs < 1:
            raise ValueError(f"a regression must have at least one output, however it has {self.n_outputs}")

    def activate(self, outputs: Tensor) -> Tensor:
        """Return the outputs."""
        return probabilities(self.task, outputs)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        return self.score(outputs, target).mean()

    def score(self, predictions: Tensor, target: Tensor) -> Tensor:
        """Return the squared error, averaged over outputs."""
        return (predictions - target.reshape(predictions.shape)).square().mean(-1)

    def check_target(self, target: Tensor, n_samples: int) -> Tensor:
        """Refuse what is not C finite numbers per sample."""
        return check_target(self.task, target, (n_samples, self.n_outputs)).reshape(target.shape)

    def check_predictions(self, predictions: Tensor, n_samples: int, name: str) -> None:
        """Refuse what is not C finite numbers per sample."""
        check_shape(name, predictions, (n_samples, self.n_outputs), "(B, C)")
        if not bool(predictions.isfinite().all()):
            raise ValueError(f"{name} must be finite, however some predictions are not; lower the learning rate")
