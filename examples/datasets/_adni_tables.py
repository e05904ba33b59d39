"""ADNI's tables: genomic (AnnData), clinical and biospecimen (CSV), a row a subject."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.datasets._files import reading
from examples.datasets._tables import one_hot, standardize

__all__ = ["fill_in", "load_genomic", "load_table", "place"]

_MOST_CATEGORIES = 20


def place(
    values: NDArray[np.float64], index: Iterable[object], subjects: Sequence[str]
) -> tuple[NDArray[np.float64], Tensor]:
    """Put a table's rows where their subjects are.

    Args:
        values: (n, F).
        index: n different subjects.
        subjects: N subjects to arrange by.

    Returns:
        Values (N, F), NaN for a subject that is not in the table; and who is in it, (N,) bool.

    Raises:
        ValueError: if the table has a subject twice.

    Example:
        >>> place(np.array([[1.0], [2.0]]), ["b", "a"], ["a", "c"])
        (array([[ 2.],
               [nan]]), tensor([ True, False]))
    """
    names = [str(name) for name in index]
    if len(set(names)) < len(names):
        raise ValueError(f"{len(names) - len(set(names))} subjects appear twice")
    rows = {name: row for row, name in enumerate(names)}
    placed = np.full((len(subjects), values.shape[1]), np.nan)
    present = [subject in rows for subject in subjects]
    placed[present] = values[[rows[subject] for subject in subjects if subject in rows]]
    return placed, torch.tensor(present)


def fill_in(values: NDArray[np.float64], present: Tensor, train: Tensor) -> Tensor:
    """Standardize the rows that are there (see `standardize`) and fill in the others with zeros.

    Args:
        values: (N, F).
        present: (N,) bool, which rows are there.
        train: the training rows.

    Returns:
        (N, F + number of columns with gaps in rows that are there).
    """
    positions = present.cumsum(0) - 1
    scaled = standardize(values[present.numpy()], positions[train[present[train]]])
    filled = scaled.new_zeros(len(values), scaled.shape[1])
    filled[present] = scaled
    return filled


def load_genomic(path: Path, subjects: Sequence[str], train: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Load genotypes (N, F) in [-1, 1]: gaps take the column's most frequent value, then the range is scaled.

    Args:
        path: an AnnData file (.h5ad) whose observations are named by subject.
        subjects: N identifiers.
        train: rows of the training subjects.
        where: how to get the file, a sentence for the error.

    Returns:
        Values (N, F) and which subjects are there, (N,) bool.

    Raises:
        ValueError: if the file has another form.
    """
    with reading(path, "an AnnData object whose observations are named by PTID", where):
        values, present = place(*_read_h5ad(path), subjects)
        values = _fill_by_mode(values, train[present[train]])
    seen = values[train[present[train]].numpy()]
    low, high = seen.min(0), seen.max(0)
    scaled = 2 * (values - low) / np.where(high > low, high - low, 1.0) - 1
    return torch.from_numpy(scaled.clip(-1, 1)).float() * present.unsqueeze(1), present


def load_table(
    path: Path, subjects: Sequence[str], train: Tensor, where: str, excluded: tuple[str, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Load a table (N, F): numbers standardized, gaps at the mean and marked, columns of text one-hot.

    Args:
        path: a CSV file with a column PTID.
        subjects: N identifiers.
        train: rows of the training subjects.
        where: how to get the file, a sentence for the error.
        excluded: columns that start so are dropped.

    Returns:
        Values (N, F) and which subjects are there, (N,) bool.

    Raises:
        ValueError: if the file has another form.
    """
    import pandas as pd

    with reading(path, "a column PTID, a row a subject, and measures", where):
        table = pd.read_csv(path, low_memory=False).set_index("PTID")
        table = table[[name for name in table.columns if not name.startswith(excluded)]] if excluded else table
        numbers = table.select_dtypes("number")
        values, present = place(numbers.to_numpy(np.float64), table.index, subjects)
        parts = [fill_in(values, present, train)]
        for name in table.columns.difference(numbers.columns, sort=False):
            if table[name].nunique() <= _MOST_CATEGORIES:  # more are dates, comments and the like
                texts = table[name].astype(str).reindex(subjects, fill_value="")
                parts.append(one_hot(texts.tolist(), train[present[train]]))
        features = torch.cat(parts, dim=1)
        if features.shape[1] == 0:
            raise ValueError("it has no measure")
    return features * present.unsqueeze(1), present


def _fill_by_mode(values: NDArray[np.float64], train: Tensor) -> NDArray[np.float64]:
    """Replace NaN by the most frequent value of the column in the training rows, the smallest of several."""
    filled = values.copy()
    for column in np.flatnonzero(np.isnan(values).any(0)):
        seen = values[train.numpy(), column]
        kinds, counts = np.unique(seen[~np.isnan(seen)], return_counts=True)
        mode = kinds[counts.argmax()] if len(kinds) else 0.0
        filled[np.isnan(values[:, column]), column] = mode
    return filled


def _read_h5ad(path: Path) -> tuple[NDArray[np.float64], list[str]]:
    """Read matrix (n, F) and names of the observations; the matrix is dense, or sparse by rows or columns."""
    import h5py
    from scipy import sparse

    with h5py.File(path, "r") as file:
        observations = file["obs"]
        names = _decode(observations[observations.attrs["_index"]])
        matrix: Any = file["X"]
        if isinstance(matrix, h5py.Dataset):
            return matrix[:].astype(np.float64), names
        kind = {"csr_matrix": sparse.csr_matrix, "csc_matrix": sparse.csc_matrix}[matrix.attrs["encoding-type"]]
        parts = (matrix["data"][:], matrix["indices"][:], matrix["indptr"][:])
        return kind(parts, shape=tuple(matrix.attrs["shape"])).toarray().astype(np.float64), names


def _decode(names: Any) -> list[str]:
    """Return names, which AnnData stores as strings, or as categories and codes."""
    if hasattr(names, "keys"):
        categories = [str(name) for name in names["categories"].asstr()[:]]
        return [categories[code] for code in names["codes"][:]]
    return [str(name) for name in names.asstr()[:]]
