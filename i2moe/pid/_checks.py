"""What the decomposition takes, and the errors that say what it does not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "NEEDS_EXTRA",
    "Values",
    "as_tensor",
    "check_finite",
    "check_lengths",
    "checked_counts",
    "checked_features",
    "checked_joint",
    "checked_labels",
    "checked_target",
]

NEEDS_EXTRA = '{} must be installed for the decomposition, however it is not; `pip install "i2moe[pid]"`.'

Values: TypeAlias = Union[Tensor, "ArrayLike"]
"""A tensor, an array, a series or data frame of pandas', nested lists."""


def as_tensor(values: Values, name: str) -> Tensor:
    """Read numbers into a tensor on the CPU, without gradient."""
    try:
        table: Any = values
        found = torch.as_tensor(table.to_numpy(copy=True) if hasattr(table, "iloc") else table).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`{name}` must be a tensor or an array of numbers, however torch cannot read this "
            f"{type(values).__name__} ({error}); convert it with `torch.tensor` first."
        ) from error
    if found.is_complex():
        raise TypeError(f"`{name}` must be real, however its dtype is {found.dtype}; take its real part.")
    return found


def checked_joint(joint: Values) -> Tensor:
    """A distribution (n_1, n_2, n_classes) in float64 that sums to 1."""
    p = as_tensor(joint, "joint").double()
    if p.ndim != 3 or p.numel() == 0:
        raise ValueError(
            f"`joint` must have shape (n_1, n_2, n_classes), however: {tuple(p.shape)}; for more "
            "than two modalities use `against_rest(joint, modality)`, for samples "
            "`joint_distribution(labels_1, labels_2, target)`."
        )
    check_finite(p, "joint")
    if (smallest := float(p.min())) < 0:
        raise ValueError(
            f"probabilities in `joint` must be at least 0, however the smallest is {smallest:g}; "
            "set what rounding left below 0 to 0."
        )
    if not math.isclose(mass := float(p.sum()), 1.0, abs_tol=1e-5):
        raise ValueError(f"`joint` must sum to 1, however it sums to {mass:g}; divide counts by their sum.")
    if int((p.sum((0, 1)) > 0).sum()) < 2:
        raise ValueError(
            f"`joint` must give probability to at least two classes, however of {p.shape[2]} only one has "
            "any and there is nothing to tell; the last axis is the target."
        )
    return p / mass


def checked_features(features: Values, name: str) -> Tensor:
    """Finite features (n, D) in float32 or float64."""
    found = as_tensor(features, name)
    found = found.to(torch.promote_types(found.dtype, torch.float32 if found.is_floating_point() else torch.float64))
    if found.ndim == 0 or found.numel() == 0:
        raise ValueError(
            f"`{name}` must have shape (n,) or (n, ...) with n > 0, however: {tuple(found.shape)}; "
            "pass one row a sample."
        )
    check_finite(found, name)
    return found.reshape(len(found), -1)


def checked_target(target: Values, n_bins: int | None) -> Tensor:
    """Classes (n,), cut from a continuous target where `n_bins` is given."""
    found = as_tensor(target, "target")
    if n_bins is not None:
        found = _equal_bins(found, n_bins)
    elif found.is_floating_point():
        raise TypeError(
            f"`target` must hold classes as integers, however its dtype is {found.dtype}; pass `n_bins` to "
            "cut a continuous target into bins, or `target.long()` if the numbers are classes."
        )
    labels = checked_labels(found, "target")
    if (n_found := len(torch.unique(labels))) < 2:
        raise ValueError(
            f"`target` must hold at least two classes, however it holds {n_found} and there is nothing to "
            "tell; take samples of all classes."
        )
    return labels


def _equal_bins(target: Tensor, n_bins: int) -> Tensor:
    """Cut (n,) numbers at their quantiles."""
    if n_bins < 2:
        raise ValueError(f"`n_bins` must be at least 2, however: {n_bins}; 4 cuts a target at its quartiles.")
    values = target.double()
    check_finite(values, "target")
    edges = torch.quantile(values, torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)[1:-1])
    return torch.bucketize(values, edges, right=True)


def checked_labels(labels: Values, name: str) -> Tensor:
    """Integers (n,) from 0."""
    found = as_tensor(labels, name)
    if found.is_floating_point():
        raise TypeError(f"`{name}` must hold integers, however its dtype is {found.dtype}; use `.long()`.")
    if found.ndim != 1 or len(found) == 0:
        raise ValueError(
            f"`{name}` must have shape (n,) with n > 0, however: {tuple(found.shape)}; one integer a sample."
        )
    if (smallest := int(found.min())) < 0:
        raise ValueError(
            f"`{name}` must count from 0, however the smallest is {smallest}; drop or renumber such samples."
        )
    return found.long()


def checked_counts(n_clusters: int | Sequence[int], n_samples: int) -> tuple[int, ...]:
    """Numbers of clusters that this many samples allow."""
    counts = tuple(n_clusters) if isinstance(n_clusters, Iterable) else (n_clusters,)
    if not counts or not all(2 <= count <= n_samples for count in counts):
        raise ValueError(
            f"`n_clusters` must be numbers in 2..n, however: {counts} for {n_samples} samples; "
            "(4, 8, 16) is the default."
        )
    return counts


def check_lengths(named: Mapping[str, Tensor]) -> None:
    """Raise unless all have the same length."""
    lengths = {name: len(values) for name, values in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"all arguments must have one row a sample, however their lengths are {lengths}; drop what has no partner."
        )


def check_finite(values: Tensor, name: str) -> None:
    """Raise where a value is NaN or infinite."""
    if not bool(values.isfinite().all()):
        n_bad = int((~values.isfinite()).sum())
        raise ValueError(
            f"`{name}` must be finite, however {n_bad} of its {values.numel()} entries are NaN or infinite; "
            "drop or impute them."
        )
