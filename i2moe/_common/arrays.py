"""Arrays: those of numpy and pandas are taken wherever tensors are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Array", "Nested", "as_tensor"]

Array: TypeAlias = Union[Tensor, "ArrayLike"]
"""A tensor, an array of numpy's, a series or data frame of pandas'."""

Nested: TypeAlias = "Array | Sequence[Nested] | Mapping[str, Nested] | None"
"""A modality with arrays in place of tensors."""


def as_tensor(value: Any) -> Any:
    """Turn an array, a series or a data frame into a tensor of its own; return anything else as it is.

    Raises:
        TypeError: if the array holds something that torch has no numbers for.
    """
    if isinstance(value, Tensor) or not hasattr(value, "__array__"):
        return value
    import numpy as np

    copied = np.array(value, order="C")  # pandas hands out memory that must not be written to
    try:
        return torch.from_numpy(copied)
    except TypeError as error:
        raise TypeError(
            f"an array must hold numbers, however its dtype is {copied.dtype}; number classes 0, 1, ..., "
            "and convert other columns with astype(float)"
        ) from error
