"""Aggregations: one prediction from those of all experts and the router's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from i2moe._common.checks import check_callable, check_fraction, look_up
from i2moe._common.means import weighted_sum

__all__ = [
    "AGGREGATIONS",
    "Aggregation",
    "AggregationLike",
    "Cascade",
    "as_aggregation",
    "hard",
    "maximum",
    "mean_logits",
    "mean_probabilities",
    "oracle",
    "weighted",
]

Aggregation: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Called with predictions (B, E, C) and weights (B, E), returns (B, C)."""


def weighted(predictions: Tensor, weights: Tensor) -> Tensor:
    r"""Weigh the experts by the router: $\sum_e w_e p_e$, the default.

    Args:
        predictions: (B, E, C), probabilities or regression outputs.
        weights: (B, E), rows sum to 1.

    Returns:
        (B, C).

    Example:
        >>> weighted(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0.25, 0.75]]))
        tensor([[0.2500, 0.7500]])
    """
    return weighted_sum(predictions, weights)


def hard(predictions: Tensor, weights: Tensor) -> Tensor:
    """Take the expert with the largest weight.

    Example:
        >>> hard(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0.25, 0.75]]))
        tensor([[0., 1.]])
    """
    return oracle(predictions, weights.argmax(-1))


def mean_logits(predictions: Tensor, weights: Tensor) -> Tensor:
    r"""Average the experts' logits: $\mathrm{softmax}(\frac1E \sum_e \ln p_e)$; weights have no say.

    Logits are known from probabilities up to a constant per expert, which softmax ignores.

    Example:
        >>> mean_logits(torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]), torch.ones(1, 2))
        tensor([[0.7500, 0.2500]])
    """
    return predictions.clamp(min=torch.finfo(predictions.dtype).tiny).log().mean(1).softmax(-1)


def mean_probabilities(predictions: Tensor, weights: Tensor) -> Tensor:
    r"""Average the experts: $\frac1E \sum_e p_e$; weights have no say.

    Example:
        >>> mean_probabilities(torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]), torch.ones(1, 2))
        tensor([[0.5000, 0.5000]])
    """
    return predictions.mean(1)


def maximum(predictions: Tensor, weights: Tensor) -> Tensor:
    r"""Give each class its highest probability among the experts, normalized; weights have no say.

    Example:
        >>> maximum(torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]), torch.ones(1, 2))
        tensor([[0.5000, 0.5000]])
    """
    highest = predictions.amax(1)
    return highest / highest.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Cascade:
    """Ask the experts from the largest weight to the smallest, and take the first that is sure enough.

    Where none is, the surest is taken.

    Args:
        confidence: how high the probability of an expert's likeliest class must be.

    Raises:
        ValueError: if the confidence is not in [0, 1].

    Example:
        >>> predictions = torch.tensor([[[0.6, 0.4], [0.1, 0.9]]])
        >>> Cascade(0.8)(predictions, torch.tensor([[0.7, 0.3]]))
        tensor([[0.1000, 0.9000]])
        >>> Cascade(0.5)(predictions, torch.tensor([[0.7, 0.3]]))
        tensor([[0.6000, 0.4000]])
    """

    confidence: float = 0.8

    def __post_init__(self) -> None:
        check_fraction(confidence=self.confidence)

    def __call__(self, predictions: Tensor, weights: Tensor) -> Tensor:
        """Return (B, C) of predictions (B, E, C) and weights (B, E)."""
        surest = predictions.amax(-1)  # (B, E)
        sure = surest >= self.confidence
        first = weights.masked_fill(~sure, -1.0).argmax(-1)
        return oracle(predictions, torch.where(sure.any(-1), first, surest.argmax(-1)))


def oracle(predictions: Tensor, category: Tensor) -> Tensor:
    """Take the expert of each sample's true category: what a perfect router would do, for evaluation.

    Args:
        predictions: (B, E, C).
        category: (B,) integers in [0, E).

    Returns:
        (B, C).

    Example:
        >>> oracle(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([1]))
        tensor([[0., 1.]])
    """
    index = category.reshape(-1, 1, 1).expand(-1, 1, predictions.shape[-1])
    return predictions.gather(1, index).squeeze(1)


AGGREGATIONS: dict[str, Aggregation] = {
    "router": weighted,
    "hard": hard,
    "mean_logits": mean_logits,
    "mean_probabilities": mean_probabilities,
    "max": maximum,
    "cascade": Cascade(),
}
"""The aggregations with a name."""

AggregationLike: TypeAlias = str | Aggregation
"""A name in `AGGREGATIONS`, or any `Aggregation`."""


def as_aggregation(aggregation: AggregationLike) -> Aggregation:
    """Turn a name into its aggregation; anything callable is one already.

    Raises:
        TypeError: if it is neither a name nor an object to call (a class, say).
        ValueError: if the name is unknown.
    """
    if isinstance(aggregation, str):
        return look_up("aggregation", aggregation, AGGREGATIONS)
    check_callable("aggregation must be a name or called with predictions and weights", aggregation)
    return aggregation
