"""Heads: linear models with a ridge penalty, fitted in a moment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from i2moe._common.tasks import Task, probabilities

__all__ = ["Head"]

_RIDGES = (1.0, 10.0, 100.0, 1000.0)
_HELD_OUT = 4  # one sample in so many chooses the penalty


class Head:
    r"""Predict from features by a linear model: logistic for classes and labels, least squares for values.

    Features are standardized. The penalty $\lambda \lVert W \rVert^2$ beside the summed loss is the one of 1, 10, 100
    and 1000 that is best on every fourth sample, when fitted to the others.

    Args:
        task: what the targets are of.
        features: (N, F).
        target: (N,) classes, or (N, C) labels or values.
        n_outputs: number of outputs C.
    """

    def __init__(self, task: Task, features: Tensor, target: Tensor, n_outputs: int) -> None:
        self.task = task
        target = target if task == "classification" else target.double()
        self.mean = features.mean(0)
        deviation = features.std(0)
        self.deviation = torch.where(deviation > 1e-9 * self.mean.abs().clamp(min=1), deviation, torch.inf)
        x = self._standardized(features)
        held_out = torch.arange(len(x)) % _HELD_OUT == _HELD_OUT - 1
        losses = [
            self._loss(self._fit(x[~held_out], target[~held_out], n_outputs, ridge), x[held_out], target[held_out])
            for ridge in _RIDGES
        ]
        self.weight = self._fit(x, target, n_outputs, _RIDGES[int(torch.stack(losses).argmin())])

    def __call__(self, features: Tensor) -> Tensor:
        """Predict (B, C): probabilities, or values."""
        return probabilities(self.task, self._standardized(features) @ self.weight)

    def _standardized(self, features: Tensor) -> Tensor:
        """Scale, and add the constant that the intercept belongs to: (N, F + 1)."""
        x = (features - self.mean) / self.deviation
        return torch.cat((x, x.new_ones(len(x), 1)), dim=1)

    def _fit(self, x: Tensor, target: Tensor, n_outputs: int, ridge: float) -> Tensor:
        """Return weights (F + 1, C); the intercept is not penalized."""
        penalty = x.new_full((x.shape[1],), ridge)
        penalty[-1] = 0
        if self.task == "regression":
            penalty[-1] = 1e-9 * len(x)
            solution: Tensor = torch.linalg.solve(x.T @ x + penalty.diag(), x.T @ target)
            return solution
        weight = x.new_zeros(x.shape[1], n_outputs, requires_grad=True)
        n_losses = target.numel()  # whose mean the loss is
        optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self._loss(weight, x, target) + (penalty.unsqueeze(1) * weight.square()).sum() / n_losses
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        return weight.detach()

    def _loss(self, weight: Tensor, x: Tensor, target: Tensor) -> Tensor:
        outputs = x @ weight
        if self.task == "classification":
            return F.cross_entropy(outputs, target)
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(outputs, target)
        return F.mse_loss(outputs, target)
