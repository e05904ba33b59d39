"""From arrays to tensors: several modalities of the same samples, standardized, with what is missing marked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor

from i2moe._common.names import check_names

__all__ = ["Modalities", "ModalityArrays", "Standardizer", "as_numpy", "feature_axis", "moments"]


class Modalities:
    """Several modalities of the same samples, indexed by rows, all together.

    scikit-learn's splitters index `X` by rows, which a list or dict of arrays does not allow. With this class
    `GridSearchCV`, `cross_val_score` and `train_test_split` work. The estimators take it as they take a list or dict.

    Args:
        modalities: arrays with a row for each of N samples, by name or in order: numpy, pandas or torch. One axis
            (N,) is one feature.
        names: M names for modalities in order; None for none.

    Attributes:
        arrays: the M arrays (N, ...), floating.
        names: the M names, or None.
        columns: for each modality the names of its columns, if it was a data frame that has some, or None.

    Raises:
        TypeError: if they are not several arrays.
        ValueError: if an array is not of numbers, or rows or names do not fit.

    Warns:
        UserWarning: if data frames have the same index in different orders, as rows are taken by position.

    Example:
        >>> Xs = Modalities({"image": np.zeros((10, 8)), "text": np.ones((10, 4))})
        >>> len(Xs), Xs[[0, 3, 5]].shape
        (10, (3, 2))
    """

    def __init__(self, modalities: Mapping[str, Any] | Sequence[Any] | Modalities, names: Sequence[str] | None = None):
        self.names: tuple[str, ...] | None = None if names is None else tuple(names)
        columns = None
        if isinstance(modalities, Modalities):
            self.names = modalities.names if names is None else self.names
            columns, modalities = modalities.columns, modalities.arrays
        elif isinstance(modalities, Mapping):
            if names is not None:
                raise ValueError(f"names must be left out with a dict, which has them, however they are {names}")
            self.names = tuple(modalities)
            modalities = list(modalities.values())
        elif not isinstance(modalities, list | tuple):
            raise TypeError(
                "Xs must be a list or dict of arrays, one for each modality, however it is one "
                f"{type(modalities).__name__}; split its columns: [X[:, :8], X[:, 8:]]"
            )
        labels = range(len(modalities)) if self.names is None else self.names
        if len(labels) != len(modalities):
            raise ValueError(f"names must be those of the {len(modalities)} modalities, however they are {self.names}")
        self.arrays: tuple[np.ndarray, ...] = tuple(map(_as_array, modalities, labels))
        self.columns: tuple[tuple[str, ...] | None, ...] = columns or tuple(map(_columns_of, modalities))
        sizes = {label: len(array) for label, array in zip(labels, self.arrays, strict=True)}
        if len(set(sizes.values())) != 1:
            raise ValueError(
                f"all modalities must have a row for each sample, however their numbers of rows are {sizes}; "
                "a sample that lacks a modality has a row of NaN there"
            )
        _warn_of_order(modalities)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, rows: Any) -> Modalities:
        rows = rows[0] if isinstance(rows, tuple) else rows  # scikit-learn asks for [rows, ...]
        rows = [rows] if isinstance(rows, int | np.integer) else rows
        return self._replaced([array[rows] for array in self.arrays])

    def __repr__(self) -> str:
        shapes = [array.shape for array in self.arrays]
        return f"Modalities({shapes if self.names is None else dict(zip(self.names, shapes, strict=True))})"

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M): samples and modalities."""
        return len(self), len(self.arrays)

    def ordered(self, names: Sequence[str] | None) -> Modalities:
        """Return the modalities in the order of names; those without names get them.

        Raises:
            ValueError: if there are others, or not as many.
        """
        if names is None:
            return Modalities(self, tuple(map(str, range(len(self.arrays)))) if self.names is None else self.names)
        names = check_names("modality_names", names, len(names))
        fits = len(names) == len(self.arrays) if self.names is None else set(names) == set(self.names)
        if not fits:
            found = f"there are {len(self.arrays)}" if self.names is None else f"they are {self.names}"
            raise ValueError(
                f"the modalities must be the {len(names)} {names}, however {found}; give an absent one rows of NaN"
            )
        if self.names is None:
            return Modalities(self, names)
        places = [self.names.index(name) for name in names]
        ordered = Modalities([self.arrays[place] for place in places], names)
        ordered.columns = tuple(self.columns[place] for place in places)
        return ordered

    def keep(self, names: Sequence[str]) -> tuple[Modalities, np.ndarray]:
        """Return the modalities with all but some missing, and the positions of the samples that have one of these."""
        assert self.names is not None
        named = zip(self.names, self.arrays, strict=True)
        kept = self._replaced([a if name in names else np.full_like(a, np.nan) for name, a in named])
        here = [~np.isnan(a).reshape(len(a), -1).all(1) for a in kept.arrays]
        return kept, np.flatnonzero(np.any(here, axis=0))

    def _replaced(self, arrays: Sequence[np.ndarray]) -> Modalities:
        """Return other arrays under the same names, of modalities and columns."""
        replaced = Modalities(arrays, self.names)
        replaced.columns = self.columns
        return replaced

    def available(self) -> np.ndarray:
        """Return which modalities each sample has, (N, M) bool: those whose row is not all NaN.

        Raises:
            ValueError: if a value is infinite, or a sample has no modality.
        """
        assert self.names is not None
        for name, array in zip(self.names, self.arrays, strict=True):
            infinite = np.isinf(array).reshape(len(array), -1).any(1)
            if infinite.any():
                raise ValueError(
                    f"modality {name!r} must be finite, or NaN where a value is missing, however it holds infinity in "
                    f"{_some(infinite)}; replace it"
                )
        here = np.stack([~np.isnan(array).reshape(len(array), -1).all(1) for array in self.arrays], axis=1)
        lacking = np.all(~here, axis=1)
        if lacking.any():
            raise ValueError(
                f"every sample must have a modality, however all are NaN in {_some(lacking)}; drop these samples"
            )
        return here


ModalityArrays: TypeAlias = Modalities | Mapping[str, Any] | Sequence[Any]
"""Arrays (N, D) or (N, T, D), one for each modality."""


@dataclass(frozen=True)
class Standardizer:
    """Turns modalities into tensors: each feature less its mean, over its deviation; NaN becomes 0, the mean.

    A feature is a column of (N, D) or (N, T, D), all its time steps together, or a channel of (N, C, H, W).

    Args:
        names: M names.
        columns: for each modality the names of its columns, or None.
        axes: number of axes of each modality.
        means: for each modality the means, with as many axes.
        deviations: the same of the deviations; 1 where a feature is constant.
    """

    names: tuple[str, ...]
    columns: tuple[tuple[str, ...] | None, ...]
    axes: tuple[int, ...]
    means: tuple[np.ndarray, ...]
    deviations: tuple[np.ndarray, ...]

    @classmethod
    def fit(cls, modalities: Modalities) -> Self:
        """Measure means and deviations of what is there."""
        assert modalities.names is not None
        means, deviations = zip(*map(moments, modalities.arrays), strict=True)
        for name, deviation in zip(modalities.names, deviations, strict=True):
            if not np.isfinite(deviation).all():
                raise ValueError(
                    f"modality {name!r} must have values whose deviation is finite, however "
                    f"{(~np.isfinite(deviation)).sum()} of its features are too large; divide them"
                )
        axes = tuple(array.ndim for array in modalities.arrays)
        return cls(modalities.names, modalities.columns, axes, means, deviations)

    def __call__(self, modalities: Modalities) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return M tensors (N, ...) in float32, and which modalities are there, (N, M) bool.

        Raises:
            ValueError: if names, columns, numbers of features or axes are not those of the data fitted to, a value is
                infinite or a sample has no modality.
        """
        modalities = modalities.ordered(self.names)
        for name, array, n_axes, mean in zip(self.names, modalities.arrays, self.axes, self.means, strict=True):
            n_features = mean.size
            if array.ndim != n_axes or array.shape[feature_axis(array)] != n_features:
                raise ValueError(
                    f"modality {name!r} must have {n_axes} axes and {n_features} features as in fit, however its shape "
                    f"is {array.shape}; give the same columns"
                )
        for name, columns, fitted in zip(self.names, modalities.columns, self.columns, strict=True):
            if columns is not None and fitted is not None and columns != fitted:
                now, then = next(pair for pair in zip(columns, fitted, strict=True) if pair[0] != pair[1])
                raise ValueError(
                    f"modality {name!r} must have the columns of fit, in the same order, however it has {now!r} where "
                    f"fit had {then!r}; order them: X[fitted_columns]"
                )
        available = torch.from_numpy(modalities.available())
        arrays = zip(self.names, modalities.arrays, self.means, self.deviations, strict=True)
        return tuple(_scaled(name, array - mean, deviation) for name, array, mean, deviation in arrays), available


def _as_array(modality: Any, name: object) -> np.ndarray:
    """Turn what the caller has into a floating array (N, ...)."""
    if modality is None:
        raise ValueError(f"modality {name!r} must be an array, however it is None; give rows of NaN where it is absent")
    try:
        if hasattr(modality, "iloc"):  # pandas, whose own missing value numpy cannot read
            modality = modality.to_numpy(dtype=np.float64, na_value=np.nan)
        array = as_numpy(modality)
        if array.dtype.kind in "cMm":
            raise TypeError(f"its dtype is {array.dtype}")
        array = array if array.dtype == np.float32 else array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"modality {name!r} must be an array of numbers (N, D) or (N, T, D), however it cannot be read as one "
            f"({error}); encode categories as numbers (sklearn.preprocessing.OneHotEncoder), make sparse matrices "
            "dense (toarray), fill sequences up to one length with NaN"
        ) from error
    if array.ndim == 0 or not array.size:
        raise ValueError(f"modality {name!r} must have samples and features, however its shape is {array.shape}")
    return array.reshape(-1, 1) if array.ndim == 1 else array


def _columns_of(modality: Any) -> tuple[str, ...] | None:
    """Return the names of a data frame's columns; None where they are numbers, or there are none."""
    columns = tuple(getattr(modality, "columns", ()))
    return columns if columns and all(isinstance(column, str) for column in columns) else None


def _warn_of_order(modalities: Sequence[Any]) -> None:
    """Warn of data frames whose rows are the same samples in different orders."""
    first, *others = [x.index for x in modalities if hasattr(x, "iloc")] or [None]
    if any(not index.equals(first) and index.is_unique and first.isin(index).all() for index in others):
        warnings.warn(
            "data frames must have their rows in one order, as samples are taken by position, however some have the "
            "same index in another order; X.loc[other.index] or X.reset_index(drop=True)",
            stacklevel=3,
        )


def as_numpy(value: Any) -> np.ndarray:
    """Return an array of what the caller has; a tensor may have a gradient, and be elsewhere."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
    return np.asarray(value)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each feature, in float64, with the axes kept; a constant one's deviation is 1."""
    others = tuple(axis for axis in range(x.ndim) if axis != feature_axis(x))
    known = ~np.isnan(x)
    count = np.maximum(known.sum(others, keepdims=True), 1)
    mean = np.where(known, x, 0).sum(others, keepdims=True, dtype=np.float64) / count
    with np.errstate(over="ignore"):
        deviation = np.sqrt((np.where(known, x - mean, 0) ** 2).sum(others, keepdims=True) / count)
    rounding = 10 * np.finfo(x.dtype).eps * np.abs(mean)
    return mean, np.where(deviation > rounding, deviation, 1.0)


def _scaled(name: str, centered: np.ndarray, deviation: np.ndarray) -> Tensor:
    """Divide by the deviation, in float32; NaN becomes 0."""
    with np.errstate(over="ignore"):
        scaled = np.nan_to_num((centered / deviation).astype(np.float32), posinf=np.inf, neginf=np.inf)
    infinite = np.isinf(scaled).reshape(len(scaled), -1).any(1)
    if infinite.any():
        raise ValueError(
            f"modality {name!r} must have values in the range of those in fit, however they are too large in "
            f"{_some(infinite)}; look at these rows"
        )
    return torch.from_numpy(scaled)


def feature_axis(x: np.ndarray) -> int:
    """Return the axis of the features: the last of vectors and sequences, the channels of images."""
    return x.ndim - 1 if x.ndim <= 3 else 1


def _some(rows: np.ndarray) -> str:
    """Name the first of some rows, (N,) bool."""
    numbers = np.flatnonzero(rows).tolist()
    return f"{len(numbers)} rows ({str(numbers[:10])[1:-1]}{', ...' if len(numbers) > 10 else ''})"
