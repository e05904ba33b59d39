"""Features of the patients, fitted to those for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import polars as pl

__all__ = ["code_features", "lab_features", "note_features", "positions", "sum_words"]

_LARGEST = 10.0
_NORMAL_IQR = 1.349  # interquartile range of the standard normal distribution


def positions(known: pl.Series, values: pl.Series) -> NDArray[np.int64]:
    """Return where each value stands in a sorted series that has all of them."""
    found: NDArray[np.int64] = known.search_sorted(values).to_numpy().astype(np.int64)
    return found


def code_features(codes: pl.DataFrame, subjects: pl.Series, train: pl.Series, most: int) -> tuple[Tensor, list[str]]:
    """Return 0 or 1 for each of the categories that most training patients have.

    Args:
        codes: (subject_id, code), each pair once.
        subjects: N patients, sorted.
        train: the training patients.
        most: number of categories; of equally frequent ones, the alphabetically first.

    Returns:
        (N, F) and the names of the columns.
    """
    import polars as pl

    counts = codes.filter(pl.col("subject_id").is_in(train.implode())).group_by("code").len()
    kept = counts.sort("len", "code", descending=[True, False]).head(most)["code"].sort()
    found = codes.filter(pl.col("code").is_in(kept.implode()) & pl.col("subject_id").is_in(subjects.implode()))
    hot = np.zeros((len(subjects), len(kept)), dtype=np.float32)
    hot[positions(subjects, found["subject_id"]), positions(kept, found["code"])] = 1.0
    return torch.from_numpy(hot), kept.to_list()


def lab_features(labs: pl.DataFrame, subjects: pl.Series, train: pl.Series, most: int) -> tuple[Tensor, list[str]]:
    """Return latest value, mean and presence of the items that most training patients have.

    Args:
        labs: (subject_id, itemid, unit, n, mean, latest), a line per patient, item and unit.
        subjects: N patients, sorted.
        train: the training patients.
        most: number of items K; of equally frequent ones, the smallest number first.

    Returns:
        (N, 3 K), all latest values, all means, all presences; and the K items as "itemid unit".
    """
    import polars as pl

    of_train = labs.filter(pl.col("subject_id").is_in(train.implode()))
    units = of_train.group_by("itemid", "unit").agg(pl.col("n").sum(), pl.len().alias("patients"))
    units = units.sort("n", "unit", descending=[True, False]).unique("itemid", keep="first", maintain_order=True)
    kept = units.sort("patients", "itemid", descending=[True, False]).head(most).sort("itemid")

    found = labs.join(kept.select("itemid", "unit"), on=("itemid", "unit"), how="semi")
    found = found.filter(pl.col("subject_id").is_in(subjects.implode()))
    rows, columns = positions(subjects, found["subject_id"]), positions(kept["itemid"], found["itemid"])
    in_train = subjects.is_in(train.implode()).to_numpy()
    values = []
    for name in ("latest", "mean"):
        table = np.full((len(subjects), len(kept)), np.nan, dtype=np.float32)
        table[rows, columns] = found[name].to_numpy()
        values.append(_scale(table, in_train))
    measured = np.zeros((len(subjects), len(kept)), dtype=np.float32)
    measured[rows, columns] = 1.0
    return torch.cat([*values, torch.from_numpy(measured)], dim=1), [
        f"{item} {unit}" for item, unit in kept["itemid", "unit"].rows()
    ]


def _scale(table: NDArray[np.float32], in_train: NDArray[np.bool_]) -> Tensor:
    """Center by the median and scale by the interquartile range, or the deviation where that is 0."""
    low, middle, high = np.nanquantile(table[in_train], (0.25, 0.5, 0.75), axis=0)
    deviation = np.nanstd(table[in_train], axis=0, dtype=np.float64)
    spread = np.where(high > low, (high - low) / _NORMAL_IQR, deviation)
    scaled = ((table - middle) / np.where(spread > 0, spread, 1.0)).clip(-_LARGEST, _LARGEST)
    return torch.from_numpy(np.nan_to_num(scaled, nan=0.0)).float()


def sum_words(folder: Path, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Add up what `count_words` wrote.

    Args:
        folder: where it wrote.
        rows: n patients to return.

    Returns:
        (n, n_buckets + 1), the last column counting notes.
    """
    from scipy import sparse

    total: NDArray[np.float32] | None = None
    for part in sorted(folder.glob("part-*.npz")):
        counts = sparse.load_npz(part)[rows].tocoo()
        if total is None:
            total = np.zeros(counts.shape, dtype=np.float32)
        total[counts.row, counts.col] += counts.data  # each pair once in a part
    assert total is not None, "a file has at least one block"
    return total


def note_features(counts: NDArray[np.float32], train: Sequence[int] | NDArray[np.int64]) -> Tensor:
    r"""Return TF-IDF vectors of length 1: :math:`(1 + \ln c) (\ln((1 + n) / (1 + n_c)) + 1)`, scaled.

    Args:
        counts: (N, F), overwritten to save memory.
        train: rows of the n training patients, of whom n_c have a word.

    Returns:
        (N, F), zeros where a patient has no word.
    """
    idf = np.log((1 + len(train)) / (1 + (counts[train] > 0).sum(0))) + 1
    present = counts > 0
    np.log(counts, out=counts, where=present)
    counts += present
    counts *= idf.astype(np.float32)
    counts /= np.linalg.norm(counts, axis=1, keepdims=True).clip(1e-12)
    return torch.from_numpy(counts)
