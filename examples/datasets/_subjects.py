"""Splits given as lists of subjects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from examples.datasets._files import reading

__all__ = ["SPLIT_KEYS", "read_splits", "rows_of"]

SPLIT_KEYS = ("training", "validation", "testing")


def read_splits(path: Path, where: str) -> tuple[list[str], list[str], list[str]]:
    """Read `{"training": [...], "validation": [...], "testing": [...]}`, the identifiers as strings.

    Args:
        path: the JSON file.
        where: how to get the file, a sentence for the error.

    Raises:
        ValueError: if the file has another form, or a subject is in two splits.
    """
    with reading(path, f"lists of subjects {SPLIT_KEYS}, without repetition", where):
        content = json.loads(path.read_text())
        train, validation, test = ([str(subject) for subject in content[key]] for key in SPLIT_KEYS)
        repeated = len(train) + len(validation) + len(test) - len({*train, *validation, *test})
        if repeated:
            raise ValueError(f"{repeated} subjects appear twice")
    return train, validation, test


def rows_of(subjects: Sequence[str], known: Sequence[str]) -> Tensor:
    """Return the row in `known` of each subject, (N,).

    Raises:
        ValueError: if a subject is not known.
    """
    rows = {subject: row for row, subject in enumerate(known)}
    strangers = [subject for subject in subjects if subject not in rows]
    if strangers:
        raise ValueError(
            f"every subject of the split must have a label, however {len(strangers)} have none: "
            f"{', '.join(strangers[:5])}{' ...' if len(strangers) > 5 else ''}"
        )
    return torch.tensor([rows[subject] for subject in subjects], dtype=torch.long)
