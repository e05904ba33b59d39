"""ADNI's images: volumes scattered from rows of grey-matter voxels, or FreeSurfer's measures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.datasets._adni_tables import fill_in, place
from examples.datasets._files import reading
from examples.datasets._interface import Column, Lazy

__all__ = ["load_image"]

_GREY = 150  # the segmentation's value for grey matter
_MEASURE = re.compile(r"ST\d+(CV|HS|SA|SV|TA|TS)")  # volume, thickness, area of a region
_NO_SCAN = -1


def load_image(files: Sequence[Path], subjects: Sequence[str], train: Tensor, where: str) -> tuple[Column, Tensor]:
    """Load the newest image of each subject.

    Args:
        files: the CSV file of FreeSurfer's measures, or voxels (.npy), subjects of the scans (.txt) and segmentation.
        subjects: N identifiers.
        train: rows of the training subjects.
        where: how to get the files, a sentence for the error.

    Returns:
        Volumes (N, 91, 109, 91) read when asked for, or measures (N, F); and which subjects have an image, (N,) bool.

    Raises:
        ValueError: if a file does not have the official form.
    """
    if len(files) == 1:
        return _load_measures(files[0], subjects, train, where)
    return _load_volumes(*files, subjects=subjects, train=train, where=where)


def _load_volumes(
    voxels: Path, scans: Path, segmentation: Path, *, subjects: Sequence[str], train: Tensor, where: str
) -> tuple[Lazy, Tensor]:
    grey = _read_grey(segmentation, where)
    with reading(voxels, f"a float array (n_scans, {grey.sum()}), a column a grey-matter voxel", where):
        rows = np.load(voxels, mmap_mode="r", allow_pickle=False)
        if rows.ndim != 2 or rows.shape[1] != grey.sum():
            raise ValueError(f"the array has shape {rows.shape}")
    with reading(scans, f"{len(rows)} lines <PTID, three parts>_..._<date>", where):
        lines = scans.read_text().split()
        if len(lines) != len(rows):
            raise ValueError(f"it has {len(lines)} lines")
        newest = _newest_scans(lines)

    sources = torch.tensor([newest.get(subject, _NO_SCAN) for subject in subjects])
    mean, deviation = _moments(rows, [source for source in sources[train].tolist() if source != _NO_SCAN])

    def read(source: int) -> Tensor:
        # NOTE[DIFF]: the voxels are standardized before they are scattered, so that what is not grey matter is 0.
        volume = np.zeros(grey.shape, dtype=np.float32)
        if source != _NO_SCAN:
            volume[grey] = (np.nan_to_num(rows[source].astype(np.float32)) - mean) / deviation
        return torch.from_numpy(volume)

    return Lazy(read, grey.shape, sources), sources != _NO_SCAN


def _read_grey(path: Path, where: str) -> NDArray[np.bool_]:
    import nibabel

    with reading(path, f"a segmentation volume in which {_GREY} is grey matter", where):
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):
            raise ValueError("it is not a NIfTI image")
        grey: NDArray[np.bool_] = np.asarray(image.dataobj) == _GREY
        if grey.ndim != 3 or not grey.any():
            raise ValueError(f"its shape is {grey.shape}, with {grey.sum()} voxels of grey matter")
    return grey


def _newest_scans(lines: Sequence[str]) -> Mapping[str, int]:
    """Return the row of each subject's newest scan; a line is <3-part PTID>_..._<date>, year first."""
    newest: dict[str, tuple[str, int]] = {}
    for row, line in enumerate(lines):
        parts = line.split("_")
        if len(parts) < 4:
            raise ValueError(f"line {row + 1} is {line!r}")
        subject, date = "_".join(parts[:3]), parts[-1]
        newest[subject] = max(newest.get(subject, ("", -1)), (date, row))
    return {subject: row for subject, (_, row) in newest.items()}


def _moments(rows: NDArray[np.floating], chosen: Sequence[int]) -> tuple[float, float]:
    """Return mean and deviation over all voxels of the chosen rows, one row in memory at a time."""
    total, squares, count = 0.0, 0.0, 0
    for row in chosen:
        values = np.nan_to_num(rows[row].astype(np.float64))
        total, squares, count = total + values.sum(), squares + (values**2).sum(), count + values.size
    mean = total / max(count, 1)
    deviation = np.sqrt(max(squares / max(count, 1) - mean**2, 0.0))
    return mean, float(deviation) or 1.0


def _load_measures(path: Path, subjects: Sequence[str], train: Tensor, where: str) -> tuple[Tensor, Tensor]:
    import pandas as pd

    with reading(path, "columns PTID, EXAMDATE and measures such as ST101SV", where):
        table = pd.read_csv(path, low_memory=False)
        newest = table.sort_values("EXAMDATE", kind="stable").drop_duplicates("PTID", keep="last").set_index("PTID")
        measures = newest[[name for name in newest.columns if _MEASURE.fullmatch(name)]]
        if measures.shape[1] == 0:
            raise ValueError("it has no measure")
        values, present = place(
            measures.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64), measures.index, subjects
        )
    return fill_in(values, present, train), present
