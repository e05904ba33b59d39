"""MM-IMDb: which of 23 genres does a film have, from its plot and its poster?

25,959 films: the plot as the mean of its words' vectors (300), the poster as VGG features (4096), and 23 genres of
which a film has any number. The split is by position in the file.

Source: Arevalo et al., Gated Multimodal Units for Information Fusion, arXiv 1702.01992; file of MultiBench (Liang et
al., NeurIPS 2021).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from examples.datasets._files import reading, require_files
from examples.datasets._interface import Expected, MultimodalData, Source, Split

__all__ = ["SOURCE", "load_mmimdb"]

_SPLITS = (15_552, 2_608, 7_799)
_WIDTHS = {"features": 300, "vgg_features": 4096, "genres": 23}
_FILE = "multimodal_imdb.hdf5"
_WHERE = (
    "Get multimodal_imdb.hdf5 as described by MultiBench (github.com/pliang279/MultiBench, mmimdb), "
    "or from the authors of MM-IMDb."
)


def load_mmimdb(root: Path) -> MultimodalData:
    """Load the films: language (300,), image (4096,) and genres (23,).

    The complete file is cut into 15,552 / 2,608 / 7,799 films; a shorter one in the same proportions.

    Args:
        root: folder with `multimodal_imdb.hdf5`.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it does not have the official form.
    """
    import h5py

    (path,) = require_files(root, [_FILE], _WHERE)
    form = "data sets " + ", ".join(f"{name} (n, {width})" for name, width in _WIDTHS.items())
    with reading(path, form, _WHERE), h5py.File(path, "r") as file:
        language, image, genres = (_read(file[name], len(file["genres"]), width) for name, width in _WIDTHS.items())
        if not ((genres == 0) | (genres == 1)).all():
            raise ValueError("genres has values other than 0 and 1")
    train, validation, test = (Split((language[rows], image[rows]), genres[rows]) for rows in _rows(len(genres)))
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=("language", "image"),
        output_names=tuple(f"genre {i}" for i in range(_WIDTHS["genres"])),  # the file does not name them
        task="multilabel",
        metrics=("macro_f1", "micro_f1", "auroc"),
    )


def _read(dataset: object, n_films: int, width: int) -> Tensor:
    """Read a matrix as float32; h5py converts while it reads, so that no second copy is made."""
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.shape != (n_films, width):
        raise ValueError(f"{getattr(dataset, 'name', dataset)} has shape {getattr(dataset, 'shape', None)}")
    return torch.from_numpy(dataset.astype("float32")[:])


def _rows(n_films: int) -> list[slice]:
    """Cut positions 0 to n in the proportions of the official split."""
    total = sum(_SPLITS)
    ends = [0, *(round(n_films * sum(_SPLITS[: i + 1]) / total) for i in range(3))]
    return [slice(start, end) for start, end in pairwise(ends)]


SOURCE = Source(
    load=lambda root, split: load_mmimdb(root),
    where=_WHERE,
    expected=Expected(sum(_SPLITS), _SPLITS, ((300,), (4096,)), 23),
    root=Path("data/mmimdb"),
)
