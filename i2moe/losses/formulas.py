"""The functions that compare an expert's views: uniqueness, synergy and redundancy, for classes and for numbers.

No label enters, and no gradient is stopped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from i2moe._common.means import expand_to_rows, mean

__all__ = [
    "cosine_redundancy",
    "cosine_synergy",
    "difference_uniqueness",
    "hinge_synergy",
    "squared_redundancy",
    "triplet_uniqueness",
]


def triplet_uniqueness(
    views: Tensor, negative: int | Tensor, *, margin: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    r"""Ask that replacing modality i moves the output further than replacing any other.

    .. math:: L_i = \frac{1}{M-1} \sum_{j \ne i} \max(0, \lVert y_0 - y_j \rVert_2 - \lVert y_0 - y_i \rVert_2 + m)

    Args:
        views: (B, V, C) or (B, V, ..., C), one expert's outputs; view 0 is the anchor.
        negative: the modality i, or weights (V - 1,) over the replaced modalities to average over.
        margin: the margin m, in units of the output.
        weights: (B, V - 1), how much each sample's view j counts, 1 on average; all the same by default.

    Returns:
        The mean over samples and other modalities, a scalar >= 0.

    Raises:
        ValueError: with fewer than two replaced views.

    Example:
        >>> views = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [1.0, 0.0]]])  # replacing modality 0 moves most
        >>> triplet_uniqueness(views, 0), triplet_uniqueness(views, 1)
        (tensor(0.), tensor(3.))
    """
    anchor, others = _anchor_and_others(views)
    # eps is added to each difference: the gradient of the root is finite where views coincide.
    distances = F.pairwise_distance(anchor, others, p=2.0, eps=1e-7)  # (V - 1, R)
    return _against_others(distances, negative, weights, lambda difference: F.relu(difference + margin))


def cosine_synergy(views: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""Ask that the output turns away whichever modality is replaced.

    .. math:: L = \frac{1}{M} \sum_j \cos(y_0, y_j)

    Args:
        views: (B, V, C) or (B, V, ..., C) with C >= 2, one expert's outputs; view 0 is the anchor.
        weights: (B, V - 1), how much each sample's view j counts, 1 on average; all the same by default.

    Returns:
        The mean over samples and views, a scalar in [-1, 1]. A zero vector counts as orthogonal to all others.

    Raises:
        ValueError: if C is 1, where every cosine is +1 or -1 and has no gradient.

    Example:
        >>> cosine_synergy(torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]]))
        tensor(-0.5000)
    """
    return mean(_cosines(views), weights)


def cosine_redundancy(views: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""Ask that the output keeps its direction whichever modality is replaced.

    .. math:: L = \frac{1}{M} \sum_j (1 - \cos(y_0, y_j))

    Args:
        views: (B, V, C) or (B, V, ..., C) with C >= 2, one expert's outputs; view 0 is the anchor.
        weights: (B, V - 1), how much each sample's view j counts, 1 on average; all the same by default.

    Returns:
        The mean over samples and views, a scalar in [0, 2].

    Raises:
        ValueError: if C is 1, where every cosine is +1 or -1 and has no gradient.

    Example:
        >>> cosine_redundancy(torch.tensor([[[1.0, 0.0], [5.0, 0.0], [0.0, 1.0]]]))
        tensor(0.5000)
    """
    return mean(1 - _cosines(views), weights)


def hinge_synergy(views: Tensor, *, margin: float = 1.0, weights: Tensor | None = None) -> Tensor:
    r"""Push the output at least a margin away whichever modality is replaced.

    .. math:: L = \frac{1}{M} \sum_j \max(0, m - \lVert y_0 - y_j \rVert_2)

    Bounded below by 0: once the views are a margin apart nothing pushes any more, so predictions keep their scale.
    The gradient is finite also where views coincide.

    Args:
        views: (B, V, C) or (B, V, ..., C), one expert's outputs; view 0 is the anchor.
        margin: the margin m, in units of the output.
        weights: (B, V - 1), how much each sample's view j counts, 1 on average; all the same by default.

    Returns:
        The mean over samples and views, a scalar in [0, m].

    Example:
        >>> hinge_synergy(torch.tensor([[[0.0], [0.25], [2.0]]]))
        tensor(0.3750)
    """
    distances = F.pairwise_distance(*_anchor_and_others(views), p=2.0, eps=1e-7)
    return mean(F.relu(margin - distances), weights)


def squared_redundancy(views: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""Ask that the output stays whichever modality is replaced.

    .. math:: L = \frac{1}{M} \sum_j \mathrm{MSE}(y_0, y_j)

    Args:
        views: (B, V, C) or (B, V, ..., C), one expert's outputs; view 0 is the anchor.
        weights: (B, V - 1), how much each sample's view j counts, 1 on average; all the same by default.

    Returns:
        The mean over samples, views and outputs, a scalar >= 0.

    Example:
        >>> squared_redundancy(torch.tensor([[[0.0], [1.0], [2.0]]]))
        tensor(2.5000)
    """
    anchor, others = _anchor_and_others(views)
    return mean((anchor - others).square(), weights)


def difference_uniqueness(views: Tensor, negative: int | Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""Compute the uniqueness loss of the released code for regression.

    .. math:: L_i = \frac{1}{M-1} \sum_{j \ne i} [\mathrm{MSE}(y_0, y_j) - \mathrm{MSE}(y_0, y_i)]

    It has no lower bound: kept to reproduce published numbers. Prefer `triplet_uniqueness`.

    Args:
        views: (B, V, C) or (B, V, ..., C), one expert's outputs; view 0 is the anchor.
        negative: the modality i, or weights (V - 1,) over the replaced modalities to average over.
        weights: (B, V - 1), how much each sample's view j counts, 1 on average; all the same by default.

    Returns:
        The mean over samples and other modalities, a scalar.

    Raises:
        ValueError: with fewer than two replaced views.

    Example:
        >>> difference_uniqueness(torch.tensor([[[0.0], [1.0], [2.0]]]), 1)
        tensor(-3.)
    """
    anchor, others = _anchor_and_others(views)
    return _against_others((anchor - others).square().mean(-1), negative, weights, lambda difference: difference)


def _anchor_and_others(views: Tensor) -> tuple[Tensor, Tensor]:
    """Split (B, V, ..., C) into rows (1, R, C) of the anchor and (V - 1, R, C) of the others, at least in float32."""
    anchor, others = _rows(views).tensor_split([1])
    return anchor, others


def _rows(views: Tensor) -> Tensor:
    rows = views.movedim(1, 0).flatten(1, -2)
    # 1 - cos of close bfloat16 vectors rounds to exactly 0
    return rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows


def _cosines(views: Tensor) -> Tensor:
    """Compare the anchor with the others: (V - 1, R)."""
    rows = _rows(views)
    if rows.shape[-1] == 1:
        raise ValueError(
            "cosine losses must have at least two outputs, however there is one, where every cosine is +1 or -1; "
            "use InteractionLosses('regression'), or two logits"
        )
    # NOTE[DIFF] a vector too short to have a direction counts as 0, and so does its gradient, where the released code
    # has 1e8: a zero-initialized head would blow up.
    squared = rows.square().sum(-1, keepdim=True)
    anchor, others = (rows / squared.masked_fill(squared < 1e-16, torch.inf).sqrt()).tensor_split([1])
    return (anchor * others).sum(-1)


def _against_others(
    distances: Tensor, negative: int | Tensor, weights: Tensor | None, contrast: Callable[[Tensor], Tensor]
) -> Tensor:
    """Average contrast(d_j - d_i) over rows and j != i, for distances (V - 1, R) and i = negative."""
    n_views = distances.shape[0]
    if n_views < 2:
        raise ValueError(
            f"uniqueness must contrast at least two replaced modalities, however there is {n_views}; "
            "raise per_step, or leave the uniqueness experts out"
        )
    contrasts = contrast(distances.unsqueeze(0) - distances.unsqueeze(1))  # (negative, positive, R)
    if weights is not None:
        contrasts = contrasts * expand_to_rows(weights, distances.shape[1])
    contrasts = contrasts.mean(-1)
    # The diagonal compares a view with itself.
    per_negative = (contrasts.sum(1) - contrasts.diagonal()) / (n_views - 1)
    if isinstance(negative, Tensor) and negative.ndim:
        return (per_negative * negative).sum()
    return per_negative.select(0, int(negative))
