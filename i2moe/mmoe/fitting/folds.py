"""Folds: predictions on samples that a predictor was not trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from i2moe._common.checks import check_at_least_one
from i2moe._common.modalities import Modality
from i2moe.mmoe.parts.predictors import Predictor, predict
from i2moe.mmoe.parts.training import OnEpoch, Training, select

__all__ = ["cross_predict"]


def cross_predict(
    build: Callable[[], Predictor],
    modalities: tuple[Modality, ...],
    target: Tensor,
    training: Training,
    *,
    n_folds: int,
    groups: Tensor | None = None,
    generator: torch.Generator | None = None,
    on_epoch: OnEpoch | None = None,
    name: str = "the predictor",
) -> tuple[Predictor, Tensor]:
    """Train a predictor on all samples, and predict each sample by one that was not trained on it.

    Args:
        build: builds a new predictor.
        modalities: M modalities of N samples.
        target: (N, ...).
        training: how each is trained.
        n_folds: into how many parts the samples are split; 1 predicts them by the predictor trained on them all.
        groups: (N,) integers; samples of one group stay in one fold.
        generator: draws folds and the order of training. Initial weights and estimators without a `random_state` draw
            from the global states of torch and numpy, which `MMoE.fit` seeds.
        on_epoch: called after every epoch of the predictor trained on all samples.
        name: for errors.

    Returns:
        The predictor, and predictions (N, C).

    Raises:
        TypeError: if the number of folds is no integer.
        ValueError: if there are fewer samples or groups than folds.
    """
    check_at_least_one(n_folds=n_folds)
    folds = _folds(len(target), n_folds, groups, generator)
    held_out = None
    for k in range(n_folds if n_folds > 1 else 0):
        rest, fold = (folds != k).nonzero()[:, 0], (folds == k).nonzero()[:, 0]
        predictor = build()
        predictor.fit(select(modalities, rest), target[rest.to(target.device)], training, generator=generator)
        predictions = predict(predictor, select(modalities, fold), name)
        held_out = predictions.new_zeros(len(target), predictions.shape[1]) if held_out is None else held_out
        held_out[fold.to(predictions.device)] = predictions
    predictor = build()
    predictor.fit(modalities, target, training, generator=generator, on_epoch=on_epoch)
    return predictor, predict(predictor, modalities, name) if held_out is None else held_out


def _folds(n_samples: int, n_folds: int, groups: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Draw the fold of each sample, (N,)."""
    group = torch.arange(n_samples) if groups is None else torch.unique(groups.cpu(), return_inverse=True)[1]
    n_groups = int(group.max()) + 1
    if n_groups < n_folds:
        raise ValueError(
            f"there must be at least as many {'samples' if groups is None else 'groups'} as folds, "
            f"however there are {n_groups} for {n_folds} folds; lower n_folds"
        )
    return (torch.randperm(n_groups, generator=generator) % n_folds)[group]
