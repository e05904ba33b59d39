"""Retraining: copies of an estimator that never see some of the modalities."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from i2moe.estimators.checks import check_groups, check_targets, check_weight
from i2moe.estimators.inputs import Modalities, ModalityArrays

__all__ = ["retraining"]


def retraining(
    estimator: Any, Xs: ModalityArrays, others: ModalityArrays, y: Any, sample_weight: Any = None, groups: Any = None
) -> Callable[[tuple[str, ...]], Tensor]:
    """Return what trains a copy on some modalities, and predicts samples; NaN for those that have none of them.

    Args:
        estimator: a fitted `InteractionEstimator`.
        Xs: the samples to predict.
        others: the samples to train on.
        y: their targets.
        sample_weight: how much each counts.
        groups: what each belongs to.
    """
    train, test = (Modalities(given).ordered(estimator.modality_names_) for given in (others, Xs))
    n = len(train)
    targets, weight, labels = check_targets(y, n), check_weight(sample_weight, n), check_groups(groups, n)

    def refit(kept: tuple[str, ...]) -> Tensor:
        known, rows = train.keep(kept)
        wanted, asked = test.keep(kept)
        rows = rows[weight[rows] > 0]
        found = torch.full((len(test), estimator._n_outputs), torch.nan, dtype=torch.float64)
        if not len(rows) or not len(asked):
            return found
        try:
            of_rows = None if labels is None else labels[rows]
            copy = clone(estimator)._fit(known[rows], targets[rows], weight[rows], of_rows)
        except ValueError as error:
            if len(rows) == np.count_nonzero(weight):
                raise
            warnings.warn(
                f"copies are trained on samples that have some of {kept}, however the {len(rows)} that do are not "
                f"enough ({error}); what such a copy loses is left out",
                stacklevel=2,
            )
            return found
        found[torch.from_numpy(asked)] = estimator._raw_predictions(copy, wanted[asked]).double()
        return found

    return refit
