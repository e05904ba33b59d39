"""Means over samples and views, of which some may not exist, and over experts."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mean", "of_rows", "renormalized", "view_weights", "weighted_sum"]


def view_weights(interaction: int | str, replaced: Tensor | None, available: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights by which a mean over all samples and views becomes one over those that exist.

    Args:
        interaction: a number being a modality's uniqueness, whose terms are pairs of this modality and another.
        replaced: (V - 1, M) bool, the modality replaced in each view; None for all in turn.
        available: (B, M) bool. Samples with a single modality have no terms.
        dtype: of the weights.

    Returns:
        (B, V - 1), exactly 1 where everything exists.
    """
    exists = available & (available.sum(1, keepdim=True) > 1)  # (B, M)
    n_terms, n_existing = exists.numel(), exists.sum()
    if isinstance(interaction, int):
        exists = exists & exists.select(1, interaction).unsqueeze(1)
        n_terms, n_existing = n_terms - len(exists), exists.sum() - exists.select(1, interaction).sum()
    weights = exists * (n_terms / n_existing.clamp(min=1).to(dtype))
    return weights if replaced is None else weights.index_select(1, replaced.int().argmax(1))


def mean(terms: Tensor, weights: Tensor | None) -> Tensor:
    """Average terms (V - 1, R) or (V - 1, R, C) of R rows; weights are (B, V - 1)."""
    if weights is None:
        return terms.mean()
    rows = of_rows(weights, terms.shape[1])
    return (terms * rows.reshape(*rows.shape, *(1,) * (terms.ndim - 2))).mean()


def of_rows(weights: Tensor, n_rows: int) -> Tensor:
    """Turn weights of samples (B, V - 1) into those of their rows, (V - 1, R)."""
    n_samples, n_views = weights.shape
    return weights.mT.unsqueeze(-1).expand(-1, -1, n_rows // n_samples).reshape(n_views, n_rows)


def weighted_sum(predictions: Tensor, weights: Tensor) -> Tensor:
    """Mix the predictions (B, E, ...) of the experts by weights (B, E): (B, ...)."""
    return (weights.reshape(*weights.shape, *(1,) * (predictions.ndim - 2)) * predictions).sum(1)


def renormalized(weights: Tensor, counts: Tensor) -> Tensor:
    """Scale the weights (B, E) of the experts that count, (B, E) bool, to sum to 1 in each row; the others get 0.

    Where all weights that count have rounded to 0, the experts that count share evenly. One must count in each row.
    """
    kept = weights * counts
    total = kept.sum(1, keepdim=True)
    even = counts / counts.sum(1, keepdim=True)
    return torch.where(total > 0, kept / torch.where(total > 0, total, 1), even.to(kept.dtype))
