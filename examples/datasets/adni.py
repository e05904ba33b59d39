"""ADNI: cognitively normal, mild impairment or Alzheimer's disease, from image, genes, clinic and biospecimens?

The files are those that the preparation of Flex-MoE leaves (2,380 subjects in the paper, split by subject):

* `label.csv` (PTID, DIAGNOSIS 1 to 3) and `PTID_splits.json`.
* image: either `image/ADNI_G.npy`, a row of grey-matter voxels a scan, with `image/ADNI_subj.txt` and the segmentation
  `image/BLSA_*.nii.gz`, which make a volume (91, 109, 91); or FreeSurfer measures, `image/UCSFFSX7_*.csv`.
* `genomic/genomic_merged.h5ad`, `clinical/clinical_merged_mean.csv`, `biospecimen/biospecimen_merged_mean.csv`, or the
  latter two without `_mean`, in which values are missing.

A subject without a modality is marked so, and holds zeros there.

Not for clinical use.

Source: adni.loni.usc.edu; Yun et al., Flex-MoE, NeurIPS 2024.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from examples.datasets._adni_image import load_image
from examples.datasets._adni_tables import load_genomic, load_table
from examples.datasets._files import reading, require_files
from examples.datasets._interface import Column, Expected, MultimodalData, Source, Split
from examples.datasets._subjects import read_splits, rows_of

__all__ = ["SOURCE", "load_adni"]

_TEMPLATE = "image/BLSA_SPGR+MPRAGE_averagetemplate_muse_seg_DS222.nii.gz"
_FILES = (
    "label.csv",
    "PTID_splits.json",
    "genomic/genomic_merged.h5ad",
    "clinical/clinical_merged_mean.csv|clinical/clinical_merged.csv",
    "biospecimen/biospecimen_merged_mean.csv|biospecimen/biospecimen_merged.csv",
)
_LEAKS = ("PTCOGBEG", "PTADDX", "PTADBEG")  # when the disease began: known only to those who have it
_WHERE = "ADNI comes from adni.loni.usc.edu (by application); prepare it as github.com/UNITES-Lab/Flex-MoE describes."


def load_adni(root: Path) -> MultimodalData:
    """Load the subjects: image (91, 109, 91) or (F_1,), genomic (F_2,), clinical (F_3,), biospecimen (F_4,).

    What is learned from the data (means, modes, ranges) is learned from the training subjects.
    NOTE[DIFF]: the published code learns it from all subjects.

    Args:
        root: folder with the files above.

    Raises:
        FileNotFoundError: if files are missing; the message names every one of them.
        ValueError: if a file does not have the official form.
    """
    tabular = sorted((root / "image").glob("UCSFFSX7_*.csv"))
    image_files = [f"image/{tabular[-1].name}"] if tabular else ["image/ADNI_G.npy", "image/ADNI_subj.txt", _TEMPLATE]
    label_path, splits_path, genomic, clinical, biospecimen, *image = require_files(
        root, [*_FILES, *image_files], _WHERE
    )
    subjects, labels = _read_labels(label_path)
    with reading(splits_path, "subjects of label.csv", _WHERE):
        splits = [rows_of(part, subjects) for part in read_splits(splits_path, _WHERE)]

    train = splits[0]
    modalities: dict[str, tuple[Column, Tensor]] = {
        "image": load_image(image, subjects, train, _WHERE),
        "genomic": load_genomic(genomic, subjects, train, _WHERE),
        "clinical": load_table(clinical, subjects, train, _WHERE, excluded=_LEAKS),
        "biospecimen": load_table(biospecimen, subjects, train, _WHERE),
    }
    available = torch.stack([present for _, present in modalities.values()], dim=1)
    everybody = Split([column for column, _ in modalities.values()], labels, available)
    training, validation, test = (everybody.select(rows) for rows in splits)
    return MultimodalData(
        training,
        validation,
        test,
        modality_names=tuple(modalities),
        output_names=("cognitively normal", "mild cognitive impairment", "Alzheimer's disease"),
        task="classification",
        metrics=("accuracy", "auroc", "macro_f1"),
    )


def _read_labels(path: Path) -> tuple[list[str], Tensor]:
    with (
        reading(path, "columns PTID and DIAGNOSIS (1, 2 or 3), a row a subject", _WHERE),
        path.open(newline="") as file,
    ):
        rows = list(csv.DictReader(file))
        subjects = [row["PTID"] for row in rows]
        labels = torch.tensor([int(float(row["DIAGNOSIS"])) - 1 for row in rows])
        if len(set(subjects)) < len(subjects) or labels.lt(0).any() or labels.gt(2).any():
            raise ValueError("a subject appears twice, or a diagnosis is not 1, 2 or 3")
    return subjects, labels


SOURCE = Source(
    load=lambda root, split: load_adni(root),
    where=_WHERE,
    expected=Expected(2_380, None, ((91, 109, 91), (None,), (None,), (None,)), 3),
    root=Path("data/adni"),
)
