"""Router: which category a sample is, learned from its raw modalities."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["category_weights", "focal_loss"]


def focal_loss(
    log_probabilities: Tensor, target: Tensor, *, gamma: float = 2.0, category_weights: Tensor | None = None
) -> Tensor:
    r"""Return the focal loss, a cross-entropy in which what is already known counts less.

    $$L = \frac{\sum_b w_{t_b} \, (1 - p_{b t_b})^\gamma \, (-\ln p_{b t_b})}{\sum_b w_{t_b}}$$

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.

    Args:
        log_probabilities: (B, K), natural logarithms.
        target: (B,) integers in [0, K).
        gamma: >= 0; 0 is the cross-entropy.
        category_weights: (K,), how much each category counts; all 1 if not given.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: if gamma is negative.

    Example:
        >>> log_probabilities = torch.tensor([[0.5, 0.5]]).log()
        >>> focal_loss(log_probabilities, torch.tensor([0]), gamma=0.0)
        tensor(0.6931)
        >>> focal_loss(log_probabilities, torch.tensor([0]), gamma=2.0)
        tensor(0.1733)
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0, however it is {gamma}")
    log_p = log_probabilities.gather(1, target.unsqueeze(1)).squeeze(1)
    # At p = 1 the derivative of (1 - p)^gamma is infinite for gamma < 1.
    missing = -torch.expm1(log_p).clamp(max=-torch.finfo(log_p.dtype).eps)
    each = -(missing**gamma) * log_p if gamma else -log_p
    weights = torch.ones_like(each) if category_weights is None else category_weights.to(each)[target]
    return (weights * each).sum() / weights.sum()


def category_weights(counts: Tensor, *, balance: float = 1.0) -> Tensor:
    r"""Weigh categories against their frequency: $w_k \propto n_k^{-\beta}$, 0 for an empty category.

    Args:
        counts: (K,), samples of each category.
        balance: $\beta$: 0 weighs all samples the same, 1 all categories the same.

    Returns:
        (K,), such that the weights of all samples average to 1.

    Raises:
        ValueError: if there is no sample.

    Example:
        >>> category_weights(torch.tensor([30, 10, 0]))
        tensor([0.6667, 2.0000, 0.0000])
    """
    total = counts.sum()
    if int(total) == 0:
        raise ValueError("at least one category must have a sample, however all counts are 0")
    weights = torch.where(counts > 0, counts.clamp(min=1).float() ** -balance, 0.0)
    return weights * total / (weights * counts).sum()
