"""Recipe: how each part of an `MMoE` is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from i2moe.mmoe.parts.training import Training

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How an `MMoE` is fitted.

    Args:
        training: of the unimodal classifiers, the baseline, and experts that start from scratch.
        fine_tuning: of experts that start from the baseline.
        routing: of the router.
        n_folds: categories come from predictions on held-out folds, each by classifiers trained on the others: on
            the samples it was trained on a classifier is right too often, and all looks redundant. 1 predicts the
            training samples themselves, as published.
        min_samples: a category with fewer, or with samples of one class only, gets no expert but the baseline.
        gamma: of the router's focal loss.
        balance: of the router's `category_weights`: 0 as frequent as they are, 1 all categories the same.

    Raises:
        ValueError: if a number is out of range.
    """

    training: Training = field(default_factory=Training)
    fine_tuning: Training = field(default_factory=lambda: Training(n_epochs=10, learning_rate=3e-4))
    routing: Training = field(default_factory=Training)
    n_folds: int = 5
    min_samples: int = 20
    gamma: float = 2.0
    balance: float = 1.0

    def __post_init__(self) -> None:
        if self.n_folds < 1 or self.min_samples < 0 or not self.gamma >= 0 or not self.balance >= 0:
            raise ValueError(
                f"a Recipe must have n_folds >= 1, min_samples >= 0, gamma >= 0 and balance >= 0, however it is {self}"
            )
