"""Basic motions: does somebody stand, walk, run or play badminton, by a smartwatch?

80 recordings of ten seconds at 10 Hz: four students did each of the four activities five times. It is small: for
demonstrations. The test recordings are those of the archive. The same students are in all splits, as in every
published result: the files do not say who is who.

Source: BasicMotions of the UEA archive, Bagnall et al., arXiv 1811.00075. The data comes with the package `aeon` (BSD),
of which nothing is imported. That package asks for an older pandas: install it with `--no-deps`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from examples.datasets._files import packaged_file
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._tables import stratified_split

__all__ = ["SOURCE", "load_basic_motions"]

_REQUIREMENT = "aeon==1.6.0"
_SHA256 = {
    "TRAIN": "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
    "TEST": "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
}
_CLASSES = ("Standing", "Running", "Walking", "Badminton")


def load_basic_motions(split: int = 0) -> MultimodalData:
    """Load the recordings: 28 to train and 12 to validate, at random, each activity for itself, and 40 to test.

    A modality is (100, 3), standardized by the training recordings.

    Args:
        split: seed of the split of training and validation.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if a file is not the one this loader was written for.
    """
    signals, labels = _read(_find("TRAIN"))
    test_signals, test_labels = _read(_find("TEST"))
    train, validation, _ = stratified_split(labels, split, (0.7, 0.3))
    mean, deviation = signals[train].mean((0, 1)), signals[train].std((0, 1))

    def make(signals: Tensor, labels: Tensor) -> Split:
        return Split(((signals - mean) / deviation).split(3, dim=-1), labels)

    return MultimodalData(
        make(signals[train], labels[train]),
        make(signals[validation], labels[validation]),
        make(test_signals, test_labels),
        modality_names=("accelerometer", "gyroscope"),
        output_names=tuple(name.lower() for name in _CLASSES),
        task="classification",
        metrics=("accuracy", "macro_f1", "auroc"),
    )


def _find(part: str) -> Path:
    file = f"datasets/data/BasicMotions/BasicMotions_{part}.ts"
    return packaged_file("aeon", _REQUIREMENT, file, _SHA256[part], alone=True)


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """Read recordings (N, 100, 6) and labels (N,): below "@data", six series and the label a line, divided by ":"."""
    recordings = path.read_text().partition("@data\n")[2].split("\n")
    *series, labels = zip(*(line.split(":") for line in recordings if line), strict=True)
    channels = [torch.tensor([[float(x) for x in one.split(",")] for one in channel]) for channel in series]
    return torch.stack(channels, dim=-1), torch.tensor([_CLASSES.index(label) for label in labels])


SOURCE = Source(
    load=lambda root, split: load_basic_motions(split),
    where=f"pip install --no-deps {_REQUIREMENT}",
    expected=Expected(80, (28, 12, 40), ((100, 3), (100, 3)), 4),
    n_splits=None,
)
