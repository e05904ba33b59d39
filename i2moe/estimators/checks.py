"""Checks of what an estimator is given, with our cures."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from i2moe._common.checks import check_at_least_one, check_rate, is_unknown
from i2moe.estimators.inputs import Modalities, as_numpy, feature_axis

__all__ = [
    "check_arguments",
    "check_device",
    "check_groups",
    "check_present",
    "check_targets",
    "check_weight",
    "warn_of_outliers",
]

_FAR = 3.0  # times the range of most values
_OTHERS = 0.25  # at most, of all values
_DISTINCT = 10  # of most values: codes of categories have fewer


def check_arguments(estimator: Any) -> None:
    """Raise a ValueError if an argument of an estimator is out of range."""
    check_at_least_one(
        hidden_dim=estimator.hidden_dim,
        batch_size=estimator.batch_size,
        max_epochs=estimator.max_epochs,
        patience=estimator.patience,
    )
    n_teachers: Any = estimator.n_teachers
    if not isinstance(n_teachers, Integral) or n_teachers < 0:
        raise ValueError(f"n_teachers must be an integer of at least 0, however it is {n_teachers!r}")
    check_rate(dropout=estimator.dropout, modality_dropout=estimator.modality_dropout)
    fraction: Any = estimator.validation_fraction
    if not isinstance(fraction, Real) or not 0 < float(fraction) < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1, however it is {fraction!r}")
    for name in ("learning_rate", "weight_decay"):
        rate = getattr(estimator, name)
        if not isinstance(rate, Real) or not 0 <= float(rate) < float("inf"):
            raise ValueError(f"{name} must be a finite number of at least 0, however it is {rate!r}")
    if estimator.progress not in ("rich", None):
        raise ValueError(f"progress must be 'rich' or None, however it is {estimator.progress!r}")


def check_targets(y: Any, n_samples: int) -> np.ndarray:
    """Return the targets as an array with a row for each sample."""
    targets = as_numpy(y)
    if targets.ndim == 0 or len(targets) != n_samples:
        raise ValueError(
            f"y must have one target for each of {n_samples} samples, however its shape is {targets.shape}; Xs is a "
            "list or dict with one array for each modality"
        )
    _check_known("y", targets)
    return targets


def _check_known(name: str, values: np.ndarray) -> None:
    kind = values.dtype.kind
    n_unknown = sum(map(is_unknown, values.flat)) if kind == "O" else np.isnan(values).sum() if kind == "f" else 0
    if n_unknown:
        raise ValueError(
            f"{name} must be known for all samples, however {n_unknown} are NaN, NA or None; drop these samples"
        )


def check_present(modalities: Modalities, available: np.ndarray) -> None:
    """Raise a ValueError if no sample has a modality, of those that samples have (N, M)."""
    absent = [name for name, here in zip(modalities.names or (), available.T, strict=True) if not here.any()]
    if absent:
        raise ValueError(
            f"each modality must be there in some samples, however {absent} are NaN in all {len(available)}; leave "
            "these modalities out"
        )


def warn_of_outliers(modalities: Modalities) -> None:
    """Warn of features with values far from all others, which a standardized feature leaves near 0."""
    for name, x in zip(modalities.names or (), modalities.arrays, strict=True):
        columns = np.moveaxis(x, feature_axis(x), 0).reshape(x.shape[feature_axis(x)], -1)
        far = [number for number, column in enumerate(columns) if _has_far_values(column[np.isfinite(column)])]
        if far:
            warnings.warn(
                f"features should have no values far from all others, however {len(far)} of modality {name!r} have "
                f"(columns {str(far[:10])[1:-1]}): divided by their deviation, the others are near 0; put NaN where a "
                "number like -999 stands for a missing value, take the logarithm of skewed values, or clip",
                stacklevel=3,
            )


def _has_far_values(column: np.ndarray) -> bool:
    """Say whether a gap several times as wide as the range of most values separates the others from them."""
    values, counts = np.unique(column, return_counts=True)
    if len(values) <= _DISTINCT:
        return False
    gaps, below = np.diff(values.astype(np.float64)), counts.cumsum()[:-1] / counts.sum()
    above_most = (below >= 1 - _OTHERS) & (gaps > _FAR * (values[:-1] - values[0]))
    below_most = (below <= _OTHERS) & (gaps > _FAR * (values[-1] - values[1:]))
    return bool(above_most[_DISTINCT - 1 :].any() or below_most[: len(gaps) - _DISTINCT + 1].any())


def check_device(device: str | torch.device) -> torch.device:
    """Return a device that is there."""
    try:
        torch.zeros((), device=device)
        return torch.device(device)
    except Exception as error:  # torch raises what the backend does
        raise ValueError(
            f"device must be one that torch can use, 'cpu' or 'cuda' say, however it is {device!r} ({error})"
        ) from error


def check_groups(groups: Any, n_samples: int) -> np.ndarray | None:
    """Return the number of each sample's group, (N,)."""
    if groups is None:
        return None
    labels = as_numpy(groups)
    if labels.shape != (n_samples,):
        raise ValueError(
            f"groups must have a label for each of {n_samples} samples, however their shape is {labels.shape}"
        )
    _check_known("groups", labels)
    return np.unique(labels.astype(str), return_inverse=True)[1]


def check_weight(sample_weight: Any, n_samples: int) -> np.ndarray:
    """Return how much each sample counts, (N,)."""
    if sample_weight is None:
        return np.ones(n_samples)
    weight = as_numpy(sample_weight)
    try:
        weight = weight.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight must be {n_samples} numbers, however it is of {weight.dtype}") from error
    if weight.shape != (n_samples,) or not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
        raise ValueError(
            f"sample_weight must be {n_samples} finite numbers of at least 0, not all 0, however its shape is "
            f"{weight.shape}" + (f" and it lies in [{weight.min():g}, {weight.max():g}]" if weight.size else "")
        )
    return weight
