"""SUPPORT2: does a critically ill patient die within 180 days, from five views of the third day in hospital?

9,105 patients of five American hospitals, 1989-1994, with the gaps that medical records have. Columns that look ahead
or were derived from the outcome are never read: functional disability at two months, resuscitation orders, physicians'
and models' survival estimates, the day of study entry.

Not for clinical use.

Source: Knaus et al., The SUPPORT prognostic model, Annals of Internal Medicine 122 (1995). The data comes with the
package `SurvSet` (GPL-3), of which only this file is read and nothing is imported.
"""

from __future__ import annotations

import numpy as np
import torch

from examples.datasets._frames import encode, is_available, read_frame
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._tables import random_split

__all__ = ["SOURCE", "load_support2"]

_BLOCKS = {
    "demographics": ("num_age", "num_edu", "fac_sex", "fac_race", "fac_income"),
    "diagnosis": ("fac_dzgroup", "fac_dzclass", "num_num_co", "fac_diabetes", "fac_dementia", "fac_ca"),
    "vitals": ("num_meanbp", "num_hrt", "num_resp", "num_temp", "num_pafi", "num_scoma"),
    "labs": (
        *("num_wblc", "num_alb", "num_bili", "num_crea", "num_sod"),
        *("num_ph", "num_glucose", "num_bun", "num_urine"),
    ),
    "function": ("num_adlp", "num_adls"),
}
_REQUIREMENT = "SurvSet==0.2.11"
_SHA256 = "07d0545efecdc168ecefc7f43bcf1b1f58d9dd9b28f38213ac176d2b7f3ab3bb"
_WHERE = f"pip install {_REQUIREMENT} pandas"
_HORIZON_DAYS = 180


def load_support2(split: int = 0) -> MultimodalData:
    """Load the patients, 70 / 15 / 15 at random: demographics, diagnosis, vitals, labs, function.

    Numbers are standardized, factors one-hot, by the training patients. A column with gaps gets another one that says
    where they are. A modality is missing where none of its columns is there.

    Args:
        split: seed of the split.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if its file is not the one this loader was written for.
    """
    table = read_frame("SurvSet", _REQUIREMENT, "resources/pickles/support2.pickle", _SHA256)
    died = torch.from_numpy(((table["event"] == 1) & (table["time"] <= _HORIZON_DAYS)).to_numpy(np.int64, copy=True))

    rows = random_split(len(table), split)
    modalities = [encode(table, columns, rows[0]) for columns in _BLOCKS.values()]
    available = torch.stack([is_available(table, columns) for columns in _BLOCKS.values()], dim=1)
    patients = Split(modalities, died, available)
    train, validation, test = (patients.select(part) for part in rows)
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=tuple(_BLOCKS),
        output_names=("survives", f"dies within {_HORIZON_DAYS} days"),
        task="classification",
        metrics=("auroc", "accuracy", "macro_f1"),
    )


SOURCE = Source(
    load=lambda root, split: load_support2(split),
    where=_WHERE,
    expected=Expected(9_105, (6_374, 1_366, 1_365), ((16,), (20,), (12,), (18,), (4,)), 2),
    n_splits=None,
)
