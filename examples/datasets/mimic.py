"""MIMIC-IV: does a patient die within a year of leaving hospital, from labs, notes and diagnosis codes?

    python -m examples.datasets.mimic prepare RAW OUT

makes the files from what PhysioNet distributes (see `examples.datasets.mimic_raw` for who is kept and how each feature
is made); files of the same form from elsewhere can be read as well. Subjects are split by the file
`PTID_splits_mimic.json`.

Not for clinical use.

Source: Johnson et al., MIMIC-IV, a freely accessible electronic health record dataset, Scientific Data 10 (2023).
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from examples.datasets._files import load_tensor, reading, require_files
from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets._subjects import read_splits, rows_of

__all__ = ["SOURCE", "load_mimic"]

_MODALITIES = ("lab", "note", "code")
_FILES = ("labels.csv", "PTID_splits_mimic.json", "lab_x.pt", "note_x.pt", "code_x.pt")
_WHERE = (
    "MIMIC-IV 3.1 and MIMIC-IV-Note 2.2 come from physionet.org (credentialed access); then run: "
    "python -m examples.datasets.mimic prepare RAW OUT"
)


def load_mimic(root: Path) -> MultimodalData:
    """Load the subjects: labs (F_1,), notes (F_2,), codes (F_3,) and whether they die within a year.

    A row of zeros means that nothing was recorded, so that modality counts as missing.

    Args:
        root: folder with the prepared files.

    Raises:
        FileNotFoundError: if files are missing.
        ValueError: if a file has not the prepared form.
    """
    labels_path, splits_path, *tensor_paths = require_files(root, _FILES, _WHERE)
    subjects, labels = _read_labels(labels_path)
    features = [load_tensor(path, len(subjects), _WHERE) for path in tensor_paths]
    everybody = Split(features, labels, torch.stack([x.ne(0).any(1) for x in features], dim=1))
    with reading(splits_path, "subjects of labels.csv", _WHERE):
        train, validation, test = (
            everybody.select(rows_of(part, subjects)) for part in read_splits(splits_path, _WHERE)
        )
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=_MODALITIES,
        output_names=("survives the year", "dies within a year"),
        task="classification",
        metrics=("accuracy", "auroc", "macro_f1"),
    )


def _read_labels(path: Path) -> tuple[list[str], Tensor]:
    with reading(path, "columns subject_id and one_year_mortality (0 or 1)", _WHERE), path.open(newline="") as file:
        rows = list(csv.DictReader(file))
        subjects = [row["subject_id"] for row in rows]
        labels = torch.tensor([int(float(row["one_year_mortality"])) for row in rows])
        if len(set(subjects)) < len(subjects) or not labels.lt(2).logical_and(labels.ge(0)).all():
            raise ValueError("a subject appears twice, or a label is neither 0 nor 1")
    return subjects, labels


SOURCE = Source(
    load=lambda root, split: load_mimic(root),
    where=_WHERE,
    expected=Expected(9_003, None, ((None,), (None,), (None,)), 2),
    root=Path("data/mimic"),
)


if __name__ == "__main__":
    import sys

    import tyro

    from examples.datasets.mimic_raw.prepare import Recipe, prepare

    _DEFAULT = Recipe()

    def _prepare(raw: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], recipe: Recipe = _DEFAULT) -> None:
        """Make the prepared files from MIMIC-IV and MIMIC-IV-Note as PhysioNet distributes them.

        Args:
            raw: folder with `hosp/` and `note/`.
            out: folder for the prepared files.
            recipe: what can be chosen about the features.
        """
        try:
            prepare(raw, out, recipe)
        except (FileNotFoundError, ValueError) as error:
            sys.exit(f"error: {error}")

    tyro.extras.subcommand_cli_from_dict({"prepare": tyro.conf.configure(tyro.conf.OmitArgPrefixes)(_prepare)})
