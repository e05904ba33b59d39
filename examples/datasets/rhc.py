"""RHC: does a critically ill patient die within 30 days, from five views of the first day in intensive care?

5,727 patients of five American hospitals, 1989-1994, first collected to judge right heart catheterization. Columns that
look ahead or sum up the others are never read: resuscitation orders, a model's survival estimate, the APACHE score, the
treatment. The patients belong to the study that `support2` is from as well: the two data sets are not independent.

Not for clinical use.

Source: Connors et al., The effectiveness of right heart catheterization in the initial care of critically ill patients,
JAMA 276 (1996). The data comes with the package `SurvSet` (GPL-3), of which only this file is read and nothing is
imported.
"""

from __future__ import annotations

import numpy as np
import torch

from examples.datasets._frames import encode, read_frame
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._tables import random_split

__all__ = ["SOURCE", "load_rhc"]

_BLOCKS = {
    "demographics": ("num_age", "num_edu", "fac_sex", "fac_race", "fac_income", "fac_ninsclas"),
    "history": (
        *("fac_amihx", "fac_cardiohx", "fac_chfhx", "fac_chrpulhx", "fac_dementhx", "fac_gibledhx", "fac_immunhx"),
        *("fac_liverhx", "fac_malighx", "fac_psychhx", "fac_renalhx", "fac_transhx", "num_adld3p"),
    ),
    "diagnosis": (
        *("fac_cat1", "fac_cat2", "fac_ca", "fac_card", "fac_gastr", "fac_hema", "fac_meta", "fac_neuro"),
        *("fac_ortho", "fac_renal", "fac_resp", "fac_seps", "fac_trauma"),
    ),
    "vitals": ("num_meanbp1", "num_hrt1", "num_resp1", "num_temp1", "num_scoma1", "num_wtkilo1", "num_urin1"),
    "labs": (
        *("num_wblc1", "num_pafi1", "num_alb1", "num_hema1", "num_bili1"),
        *("num_crea1", "num_sod1", "num_pot1", "num_paco21", "num_ph1"),
    ),
}
_REQUIREMENT = "SurvSet==0.2.11"
_SHA256 = "8250a5f1d8d5aa3d6f1a4c2cd18c41facc70506d0c77c655fa4423582ac780e4"
_HORIZON_DAYS = 30


def load_rhc(split: int = 0) -> MultimodalData:
    """Load the patients, 70 / 15 / 15 at random: demographics, history, diagnosis, vitals, labs.

    The eight patients who were followed for less than 30 days are left out. Numbers are standardized, factors one-hot,
    by the training patients. A column with gaps gets another one that says where they are.

    Args:
        split: seed of the split.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if its file is not the one this loader was written for.
    """
    table = read_frame("SurvSet", _REQUIREMENT, "resources/pickles/rhc.pickle", _SHA256)
    table = table[(table["event"] == 1) | (table["time"] >= _HORIZON_DAYS)]
    table = table.assign(num_wtkilo1=table["num_wtkilo1"].where(table["num_wtkilo1"] > 0))  # 0 kg: not weighed
    died = torch.from_numpy(((table["event"] == 1) & (table["time"] <= _HORIZON_DAYS)).to_numpy(np.int64, copy=True))

    rows = random_split(len(table), split)
    patients = Split([encode(table, columns, rows[0]) for columns in _BLOCKS.values()], died)
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
    load=lambda root, split: load_rhc(split),
    where=f"pip install {_REQUIREMENT} pandas",
    expected=Expected(5_727, (4_009, 859, 859), ((17,), (26,), (None,), (9,), (10,)), 2),
    n_splits=None,
)
