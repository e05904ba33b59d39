"""Router: which category a sample is, learned from its raw modalities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2moe._common.checks import check_shape
from i2moe._common.modalities import Modality
from i2moe.mmoe.parts.training import OnEpoch, Training, train

__all__ = ["category_weights", "focal_loss", "train_router"]


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


def train_router(
    router: nn.Module,
    modalities: tuple[Modality, ...],
    category: Tensor,
    n_categories: int,
    training: Training,
    *,
    gamma: float = 2.0,
    balance: float = 1.0,
    generator: torch.Generator | None = None,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Train a router to predict the category from the modalities, by the focal loss.

    Args:
        router: maps the tuple of modalities to weights (B, K), rows sum to 1; a `Reweighter`, say.
        modalities: M modalities of N samples.
        category: (N,) integers in [0, K).
        n_categories: K.
        training: epochs, batch size, optimizer.
        gamma: of `focal_loss`.
        balance: of `category_weights`.
        generator: draws the order of the samples.
        on_epoch: called after every epoch.

    Raises:
        ValueError: if the router's weights are not (B, K).
    """
    weights = category_weights(torch.bincount(category, minlength=n_categories), balance=balance)

    def loss(batch: tuple[Modality, ...], truth: Tensor) -> Tensor:
        routed = router(batch)
        check_shape("the weights of a router", routed, (len(truth), n_categories), "(B, K)")
        log_probabilities = routed.clamp(min=torch.finfo(routed.dtype).tiny).log()
        return focal_loss(log_probabilities, truth, gamma=gamma, category_weights=weights)

    train(router, loss, modalities, category, training, generator=generator, on_epoch=on_epoch)
