"""Rows of modalities of any kind: tensors, arrays, data frames, nested tuples, lists and dicts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from i2moe._common.modalities import as_tensor, leaves, map_leaves

__all__ = ["absent_rows", "concatenate", "is_number", "n_rows", "take"]


def n_rows(modality: Any) -> int:
    """Count the rows of a modality.

    Raises:
        TypeError: if it holds something other than arrays.
        ValueError: if it holds nothing, or its arrays have different numbers of rows.
    """
    arrays: list[Any] = leaves(modality)
    for array in arrays:
        if len(getattr(array, "shape", ())) == 0:
            raise TypeError(
                "a modality must be an array with a row for each sample, or a nested tuple, list or dict of arrays, "
                f"however it holds a {type(array).__name__}; texts are numpy.array(texts, dtype=object)"
            )
    sizes = {int(array.shape[0]) for array in arrays}
    if len(sizes) != 1:
        raise ValueError(f"all arrays of a modality must have as many rows, however they have {sorted(sizes)}")
    return sizes.pop()


def take(modality: Any, rows: Tensor) -> Any:
    """Return some rows of a modality, each as often as it is asked for.

    Example:
        >>> take((torch.tensor([5, 7]), torch.tensor([True, False])), torch.tensor([1, 1]))
        (tensor([7, 7]), tensor([False, False]))
    """

    def of(array: Any) -> Any:
        if isinstance(array, Tensor):
            return array[rows.to(array.device)]
        return array.iloc[rows.numpy()] if hasattr(array, "iloc") else array[rows.numpy()]

    return map_leaves(of, modality)


def concatenate(modalities: Sequence[Any]) -> Any:
    """Put the rows of equally nested modalities one below the other.

    Raises:
        ValueError: if their arrays differ in more than the number of rows.
    """

    def join(*arrays: Any) -> Any:
        if len(arrays) == 1:
            return arrays[0]
        if isinstance(arrays[0], Tensor):
            return torch.cat(arrays)
        if hasattr(arrays[0], "iloc"):
            import pandas

            return pandas.concat(arrays)
        import numpy

        return numpy.concatenate(arrays)

    try:
        return map_leaves(join, *modalities)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            "all batches of the background must be nested alike and differ in the number of rows alone, however they "
            f"cannot be joined ({error}); pad them to one length, or give one batch"
        ) from error


def absent_rows(modality: Any) -> int:
    """Count the rows in which a modality has numbers alone and all of them are NaN."""
    absent: Any = True
    for array in leaves(modality):
        values = as_tensor(array) if is_number(array) else None
        if values is None or not values.is_floating_point():
            return 0
        absent = values.isnan().reshape(len(values), -1).all(1).cpu() & absent
    return int(absent.sum())


def is_number(array: Any) -> bool:
    """Say whether an array or all columns of a data frame hold numbers that torch has, and not texts or categories."""
    dtypes = getattr(array, "dtypes", None) if getattr(array, "ndim", 0) == 2 else None  # a data frame's
    kinds = [getattr(dtype, "kind", "O") for dtype in ([getattr(array, "dtype", None)] if dtypes is None else dtypes)]
    return isinstance(array, Tensor) or all(kind in "fiub" for kind in kinds)
