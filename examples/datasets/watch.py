"""Smartwatch data: which of seven shoulder exercises does a wrist perform?

Ten people did seven physiotherapy exercises with each arm, 20 repetitions a time, wearing a smartwatch: 140 recordings
of acceleration and angular velocity at 50 Hz. The recordings are cut into windows of two seconds. People differ more
than windows do, so the data is split by person: a random split of windows would put everybody on both sides.

Source: Burns et al., Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a
smartwatch, Physiological Measurement 39 (2018), arXiv 1802.01489. The data comes with `seglearn` (BSD license).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.datasets._files import packaged_file
from examples.datasets._interface import Expected, MultimodalData, Source, Split

__all__ = ["CLASS_NAMES", "MODALITY_NAMES", "N_FOLDS", "SOURCE", "WatchData", "Windows", "load_watch"]

MODALITY_NAMES = ("accelerometer", "gyroscope")

CLASS_NAMES = (
    "pendulum",
    "abduction",
    "forward elevation",
    "internal rotation",
    "external rotation",
    "trapezius row",
    "bent-over row",
)
"""The exercises 0 to 6; the file calls them PEN, ABD, FEL, IR, ER, TRAP and ROW."""

N_FOLDS = 5
"""Ways to split the ten subjects; each subject is in one test split."""

_PACKAGE = "seglearn==1.2.5"
_FILE = "data/watch_dataset.npy"
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_N_STEPS = 100


@dataclass(frozen=True)
class Windows:
    """Windows of N_STEPS = 100 steps at 50 Hz.

    Args:
        accelerometer: (N, 100, 3), standardized acceleration.
        gyroscope: (N, 100, 3), standardized angular velocity.
        labels: (N,), the exercise, an index into `CLASS_NAMES`.
        subjects: (N,), the person, 1 to 10.
    """

    accelerometer: Tensor
    gyroscope: Tensor
    labels: Tensor
    subjects: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def modalities(self) -> tuple[Tensor, Tensor]:
        """The modalities in the order of `MODALITY_NAMES`."""
        return self.accelerometer, self.gyroscope


@dataclass(frozen=True)
class WatchData:
    """The windows of six people to train on, of two to choose by and of two to test on.

    Args:
        train: 6 subjects.
        validation: 2 other subjects.
        test: 2 other subjects.
    """

    train: Windows
    validation: Windows
    test: Windows
    modality_names: tuple[str, ...] = MODALITY_NAMES
    class_names: tuple[str, ...] = CLASS_NAMES


def load_watch(fold: int = 0) -> WatchData:
    """Load the windows, split by subject and standardized by the mean and deviation of the training windows.

    Over the folds 0 to 4 every subject is tested once.

    Args:
        fold: which two subjects to test on.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if there is no such fold, or the file is not the one this loader was written for.

    Example:
        >>> data = load_watch()
        >>> data.train.accelerometer.shape, len(data.validation), len(data.test)
        (torch.Size([1505, 100, 3]), 307, 557)
    """
    if fold not in range(N_FOLDS):
        raise ValueError(f"fold must lie between 0 and {N_FOLDS - 1}, however it is {fold}")
    signals, labels, subjects = _cut(read_recordings())
    train, validation, test = _split_subjects(fold)

    of_train = signals[np.isin(subjects, train)]
    signals = (signals - of_train.mean((0, 1))) / of_train.std((0, 1))

    def select(chosen: list[int]) -> Windows:
        rows = np.isin(subjects, chosen)
        accelerometer, gyroscope = torch.from_numpy(signals[rows]).float().split(3, dim=-1)
        return Windows(accelerometer, gyroscope, torch.from_numpy(labels[rows]), torch.from_numpy(subjects[rows]))

    return WatchData(select(train), select(validation), select(test))


def read_recordings() -> dict[str, Any]:
    """Read the file, after a look at its hash: unpickling an unknown file would run the code in it.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if its file is not the one this loader was written for.
    """
    path = packaged_file("seglearn", _PACKAGE, _FILE, _SHA256)
    recordings: dict[str, Any] = np.load(path, allow_pickle=True).item()
    return recordings


def _cut(recordings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut recordings into windows (N, 100, 6) without overlap, with labels (N,) and subjects (N,)."""
    windows = [x[: len(x) // _N_STEPS * _N_STEPS].reshape(-1, _N_STEPS, 6) for x in recordings["X"]]
    n_windows = [len(window) for window in windows]
    labels, subjects = (np.repeat(recordings[key].astype(np.int64), n_windows) for key in ("y", "subject"))
    return np.concatenate(windows), labels, subjects


def _split_subjects(fold: int) -> tuple[list[int], list[int], list[int]]:
    """Turn the circle of subjects 1 to 10 by two a fold: 6 to train, 2 to validate, 2 to test."""
    circle = [(2 * fold + i) % 10 + 1 for i in range(10)]
    return circle[4:], circle[2:4], circle[:2]


def _in_common_form(data: WatchData) -> MultimodalData:
    train, validation, test = (
        Split(windows.modalities, windows.labels) for windows in (data.train, data.validation, data.test)
    )
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=data.modality_names,
        output_names=data.class_names,
        task="classification",
        metrics=("accuracy", "macro_f1", "auroc"),
    )


SOURCE = Source(
    load=lambda root, split: _in_common_form(load_watch(split)),
    where=f"pip install {_PACKAGE}",
    expected=Expected(2_369, None, ((_N_STEPS, 3), (_N_STEPS, 3)), len(CLASS_NAMES)),
    n_splits=N_FOLDS,
)
