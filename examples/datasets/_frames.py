"""Pickled data frames of installed packages: read without running what is in them, and encoded column by column."""

from __future__ import annotations

import io
import lzma
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from examples.datasets._files import load_pickle, packaged_file
from examples.datasets._tables import multi_hot, standardize

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["encode", "encode_blocks", "is_available", "read_frame"]

_DATA_FRAME = {
    "builtins.slice",
    "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked",
    "pandas._libs.internals._unpickle_block",
    "pandas.core.arrays.categorical.Categorical",
    "pandas.core.dtypes.dtypes.CategoricalDtype",
    "pandas.core.frame.DataFrame",
    "pandas.core.indexes.base.Index",
    "pandas.core.indexes.base._new_Index",
    "pandas.core.indexes.range.RangeIndex",
    "pandas.core.internals.managers.BlockManager",
}


def read_frame(package: str, requirement: str, file: str, sha256: str) -> pd.DataFrame:
    """Read a pickled data frame, compressed (xz) or not; its content must be known.

    Args:
        package: name to import the package by.
        requirement: how to install it, such as "SurvSet==0.2.11".
        file: path inside the package.
        sha256: hash of the file that the reader was written for.

    Raises:
        FileNotFoundError: if the package is not installed.
        ValueError: if the file is another one.
    """
    path = packaged_file(package, requirement, file, sha256)
    content = path.read_bytes()
    if path.suffix == ".compress":
        content = lzma.decompress(content)
    table: pd.DataFrame = load_pickle(io.BytesIO(content), _DATA_FRAME)
    return table


def encode(table: pd.DataFrame, columns: Sequence[str], train: Tensor) -> Tensor:
    """Return the columns as one modality (N, F): standardized numbers, then a 0 or 1 for each value of each factor.

    All is fitted to the training rows. A number that is missing is 0, and another column says so; a factor that is
    missing has no value.

    Args:
        table: N rows.
        columns: names; those of a numeric type are numbers, all others factors.
        train: the training rows.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"stage": ["II", None, "I"], "age": [1.0, 3.0, 5.0]})
        >>> encode(table, ["stage", "age"], torch.tensor([0, 1])).tolist()
        [[-1.0, 1.0], [1.0, 0.0], [3.0, 0.0]]
    """
    from pandas.api.types import is_numeric_dtype

    numbers = [name for name in columns if is_numeric_dtype(table[name])]
    encoded = [standardize(table[numbers].to_numpy(np.float64), train)]
    for name in columns:
        if name not in numbers:
            known = zip(table[name], table[name].notna(), strict=True)
            encoded.append(multi_hot([[str(value)] if there else [] for value, there in known], train))
    return torch.cat(encoded, dim=1)


def is_available(table: pd.DataFrame, columns: Sequence[str]) -> Tensor:
    """Return (N,) bool: does the row have a value in any of the columns?"""
    return torch.from_numpy(table[list(columns)].notna().any(axis=1).to_numpy(bool, copy=True))


def encode_blocks(
    table: pd.DataFrame, blocks: Mapping[str, Sequence[str]], train: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return each block of columns as a modality (N, F), zeros where a row lacks it; and which rows have it, (N, M)."""
    available = torch.stack([is_available(table, columns) for columns in blocks.values()], dim=1)
    encoded = [encode(table, columns, train) for columns in blocks.values()]
    return [x * there.unsqueeze(1) for x, there in zip(encoded, available.unbind(1), strict=True)], available
