"""Codes, labs and notes of the visits used, reduced block by block to what the features need."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.datasets.mimic_raw.blocks import CsvFile

if TYPE_CHECKING:
    import polars as pl
    from scipy import sparse

__all__ = ["Advance", "count_words", "extract_codes", "extract_labs", "merge_labs", "write_atomically"]

Advance = Callable[[int], object]


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under another name and rename it, so that it is complete whenever it is there.

    Args:
        path: where to.
        write: writes the file to the path it is given.
    """
    partial = path.with_name(f"partial-{path.name}")
    write(partial)
    os.replace(partial, path)


def extract_codes(path: Path, visits: pl.DataFrame, advance: Advance) -> pl.DataFrame:
    """Return the categories of each patient's diagnoses.

    Args:
        path: `diagnoses_icd.csv.gz`.
        visits: the visits used, (subject_id, hadm_id).
        advance: see `CsvFile`.

    Returns:
        (subject_id, code), each pair once; a code is version and first three characters, as "10:I50".
    """
    import polars as pl

    columns = {"subject_id": pl.Int64, "hadm_id": pl.Int64, "icd_code": pl.String, "icd_version": pl.String}
    file = CsvFile(path, columns, advance=advance)
    code = pl.format("{}:{}", pl.col("icd_version").str.strip_chars(), pl.col("icd_code").str.strip_chars().str.head(3))
    parts = [
        file.parse(block)
        .drop_nulls()
        .join(visits, on=("subject_id", "hadm_id"), how="semi")
        .select("subject_id", code.alias("code"))
        .unique()
        for block in file.blocks()
    ]
    return pl.concat(parts).unique().sort("subject_id", "code")


def extract_labs(path: Path, visits: pl.DataFrame, folder: Path, advance: Advance) -> None:
    """Reduce each block of lab values to a line per patient, item and unit, in a file of its own.

    A block whose file is there is not read again.

    Args:
        path: `labevents.csv.gz`.
        visits: the visits used, (subject_id, hadm_id).
        folder: where the files go: part-00000.parquet and so on.
        advance: see `CsvFile`.
    """
    import polars as pl

    columns = {
        "subject_id": pl.Int64,
        "hadm_id": pl.Int64,
        "itemid": pl.Int32,
        "charttime": pl.Datetime,
        "valuenum": pl.Float64,
        "valueuom": pl.String,
    }
    file = CsvFile(path, columns, advance=advance)
    folder.mkdir(exist_ok=True)
    for number, block in enumerate(file.blocks()):
        part = folder / f"part-{number:05d}.parquet"
        if not part.exists():
            write_atomically(part, _reduce_labs(file.parse(block), visits).write_parquet)


def _reduce_labs(values: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    return (
        values.filter(pl.col("valuenum").is_finite() & pl.col("charttime").is_not_null())
        .join(visits, on=("subject_id", "hadm_id"), how="semi")
        .with_columns(pl.col("valueuom").fill_null("").str.strip_chars().str.to_lowercase().alias("unit"))
        .group_by("subject_id", "itemid", "unit")
        .agg(
            pl.len().cast(pl.Int64).alias("n"),
            pl.col("valuenum").sum().alias("total"),
            pl.col("charttime").max().alias("time"),
            # of several values at the same time, the largest: the files have no order among them
            pl.col("valuenum").filter(pl.col("charttime") == pl.col("charttime").max()).max().alias("latest"),
        )
    )


def merge_labs(folder: Path) -> pl.DataFrame:
    """Return a line per patient, item and unit: number of values, mean and latest value.

    Args:
        folder: where `extract_labs` wrote.

    Returns:
        (subject_id, itemid, unit, n, mean, latest), sorted.
    """
    import polars as pl

    newest = pl.col("time") == pl.col("time").max()
    return (
        pl.scan_parquet(folder / "part-*.parquet")
        .group_by("subject_id", "itemid", "unit")
        .agg(
            pl.col("n").sum(),
            (pl.col("total").sum() / pl.col("n").sum()).alias("mean"),
            pl.col("latest").filter(newest).max(),
        )
        .sort("subject_id", "itemid", "unit")
        .collect(engine="streaming")
    )


def count_words(path: Path, visits: pl.DataFrame, n_buckets: int, folder: Path, advance: Advance) -> None:
    """Count the hashed words of each patient's discharge notes, block by block, in a file of its own.

    A block whose file is there is not read again.

    Args:
        path: `discharge.csv.gz`.
        visits: the visits used, (subject_id, hadm_id).
        n_buckets: number of buckets that words are hashed into.
        folder: where the files go: part-00000.npz and so on, sparse (patients, n_buckets + 1); the patients are those
            of `visits`, in order, and the last column counts notes.
        advance: see `CsvFile`.
    """
    import polars as pl
    from scipy import sparse

    columns = {"subject_id": pl.Int64, "hadm_id": pl.Int64, "text": pl.String}
    file = CsvFile(path, columns, advance=advance)
    folder.mkdir(exist_ok=True)
    subjects = visits["subject_id"].unique().sort()
    for number, block in enumerate(file.blocks()):
        part = folder / f"part-{number:05d}.npz"
        if part.exists():
            continue
        notes = file.parse(block).drop_nulls().join(visits, on=("subject_id", "hadm_id"), how="semi")
        rows = subjects.search_sorted(notes["subject_id"]).to_numpy()
        counts = _count(notes["text"].to_list(), rows, len(subjects), n_buckets)

        def save(partial: Path, counts: sparse.csr_matrix = counts) -> None:
            with partial.open("wb") as opened:
                sparse.save_npz(opened, counts)

        write_atomically(part, save)


def _count(texts: list[str], rows: np.ndarray, n_patients: int, n_buckets: int) -> sparse.csr_matrix:
    from scipy import sparse
    from sklearn.feature_extraction.text import HashingVectorizer

    if not texts:
        return sparse.csr_matrix((n_patients, n_buckets + 1), dtype=np.float32)
    words = HashingVectorizer(
        n_features=n_buckets, token_pattern=r"[a-z]{2,}", norm=None, alternate_sign=False, dtype=np.float32
    ).transform(texts)
    words = sparse.hstack([words, np.ones((len(texts), 1), dtype=np.float32)])
    ones = np.ones(len(texts), dtype=np.float32)
    patients = sparse.csr_matrix((ones, (rows, np.arange(len(texts)))), shape=(n_patients, len(texts)))
    return (patients @ words).tocsr()
