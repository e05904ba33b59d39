"""The preparation as a whole: stages that write what they find and are not run again once it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from examples.datasets._files import require_files
from examples.datasets.mimic_raw.blocks import BLOCK_BYTES
from examples.datasets.mimic_raw.cohort import Steps, select_cohort
from examples.datasets.mimic_raw.extract import (
    Advance,
    count_words,
    extract_codes,
    extract_labs,
    merge_labs,
    write_atomically,
)
from examples.datasets.mimic_raw.features import code_features, lab_features, note_features, positions, sum_words

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Recipe", "prepare"]

_FILES = (
    "hosp/patients.csv.gz|hosp/patients.csv",
    "hosp/admissions.csv.gz|hosp/admissions.csv",
    "hosp/diagnoses_icd.csv.gz|hosp/diagnoses_icd.csv",
    "hosp/labevents.csv.gz|hosp/labevents.csv",
    "hosp/d_labitems.csv.gz|hosp/d_labitems.csv",
    "note/discharge.csv.gz|note/discharge.csv",
)
_WHERE = (
    "hosp/ is part of MIMIC-IV 3.1 (physionet.org/content/mimiciv), note/ of MIMIC-IV-Note 2.2 "
    "(physionet.org/content/mimic-iv-note); put or link both folders into one."
)


@dataclass(frozen=True)
class Recipe:
    """What can be chosen about the features.

    Args:
        n_codes: number of categories of diagnoses.
        n_labs: number of lab items; each gives three features.
        n_note_buckets: number of buckets that words are hashed into.
        seed: of the split.
    """

    n_codes: int = 1_000
    n_labs: int = 200
    n_note_buckets: int = 1_024
    seed: int = 0


def prepare(raw: Path, out: Path, recipe: Recipe | None = None) -> None:
    """Make the prepared files from the raw ones, see `examples.datasets.mimic_raw`.

    Run it again after an interruption: it goes on with the block of the file at which it stopped.

    Args:
        raw: folder with `hosp/` and `note/`.
        out: folder for the prepared files, and in `out/stages` what is needed to go on.
        recipe: what can be chosen.

    Raises:
        FileNotFoundError: if raw files are missing; the message names all of them.
        ValueError: if a raw file does not have the official form, or `out` was begun from other files or choices.
    """
    recipe = recipe or Recipe()
    patients, admissions, diagnoses, labevents, items, discharge = require_files(raw, _FILES, _WHERE)
    stages = out / "stages"
    stages.mkdir(parents=True, exist_ok=True)
    _check_same(stages / "recipe.json", asdict(recipe), [patients, admissions, diagnoses, labevents, discharge])

    steps = Steps()
    visits, labels = select_cohort(patients, admissions, steps)
    with _progress() as track:
        _once(stages / "codes.parquet", lambda path: _extract_codes(diagnoses, visits, track).write_parquet(path))
        _once(
            stages / "labs.parquet",
            lambda path: _extract_labs(labevents, visits, stages / "labs", track).write_parquet(path),
        )
        _once(
            stages / "notes.done",
            lambda path: _count_words(discharge, visits, recipe.n_note_buckets, stages / "notes", path, track),
        )
    _write(out, visits, labels, steps, recipe, items)


Track = Callable[[Path], Advance]


@contextmanager
def _progress() -> Iterator[Track]:
    """Show a bar for each file, in bytes as they lie on the disk."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:

        def track(path: Path) -> Advance:
            task = progress.add_task(path.name, total=path.stat().st_size)
            return lambda n_bytes: progress.advance(task, n_bytes)

        yield track


def _once(path: Path, write: Callable[[Path], object]) -> None:
    if not path.exists():
        write_atomically(path, write)


def _extract_codes(path: Path, visits: pl.DataFrame, track: Track) -> pl.DataFrame:
    return extract_codes(path, visits, track(path))


def _extract_labs(path: Path, visits: pl.DataFrame, folder: Path, track: Track) -> pl.DataFrame:
    extract_labs(path, visits, folder, track(path))
    return merge_labs(folder)


def _count_words(path: Path, visits: pl.DataFrame, n_buckets: int, folder: Path, done: Path, track: Track) -> None:
    count_words(path, visits, n_buckets, folder, track(path))
    done.touch()


def _check_same(path: Path, recipe: dict[str, int], files: list[Path]) -> None:
    """Refuse to go on with stages that were made from other files or choices."""
    wanted = recipe | {"block_bytes": BLOCK_BYTES} | {file.name: file.stat().st_size for file in files}
    if not path.exists():
        write_atomically(path, lambda new: new.write_text(json.dumps(wanted, indent=1)))
    found = json.loads(path.read_text())
    if found != wanted:
        differing = {key: (found.get(key), wanted.get(key)) for key in wanted if found.get(key) != wanted.get(key)}
        raise ValueError(
            f"{path.parent} must come from the same raw files and choices, however these differ: {differing}; "
            "name another folder, or remove this one"
        )


def _write(out: Path, visits: pl.DataFrame, labels: pl.DataFrame, steps: Steps, recipe: Recipe, items: Path) -> None:
    """Keep the patients who have everything, split them and write features, labels, split and tables."""
    import polars as pl

    codes, labs = (pl.read_parquet(out / "stages" / f"{name}.parquet") for name in ("codes", "labs"))
    candidates = labels["subject_id"]
    everybody = np.arange(len(candidates))
    n_notes = sum_words(out / "stages/notes", everybody)[:, -1]
    for what, having in (
        ("a diagnosis", codes["subject_id"].unique()),
        ("a numeric lab value", labs["subject_id"].unique()),
        ("a discharge note", candidates.filter(pl.Series(n_notes > 0))),
    ):
        labels = labels.filter(pl.col("subject_id").is_in(having.implode()))
        steps.record(f"with {what}", visits.filter(pl.col("subject_id").is_in(labels["subject_id"].implode())))
    if len(labels) < 3:
        raise ValueError(f"at least 3 patients must be left to split, however there are {len(labels)}: {steps.rows}")

    subjects = labels["subject_id"]
    parts = _split(subjects, recipe.seed)
    train = parts["training"].sort()
    rows = positions(candidates, subjects)
    counts = sum_words(out / "stages/notes", rows)[:, :-1]
    code_x, code_names = code_features(codes, subjects, train, recipe.n_codes)
    lab_x, lab_names = lab_features(labs, subjects, train, recipe.n_labs)
    note_x = note_features(counts, positions(subjects, train))

    for name, features in (("code", code_x), ("lab", lab_x), ("note", note_x)):
        write_atomically(out / f"{name}_x.pt", partial(torch.save, features))
    names = {"code": code_names, "lab": _with_labels(lab_names, items)}
    write_atomically(out / "feature_names.json", lambda path: path.write_text(json.dumps(names, indent=1)))
    lists = {name: part.to_list() for name, part in parts.items()}
    write_atomically(out / "PTID_splits_mimic.json", lambda path: path.write_text(json.dumps(lists)))
    write_atomically(out / "cohort.csv", steps.table().write_csv)
    write_atomically(out / "labels.csv", labels.write_csv)
    _show(steps, labels)


def _split(subjects: pl.Series, seed: int) -> dict[str, pl.Series]:
    order = np.random.default_rng(seed).permutation(len(subjects))
    n_train, n_validation = round(0.7 * len(subjects)), round(0.15 * len(subjects))
    ends = {"training": (0, n_train), "validation": (n_train, n_train + n_validation)}
    ends["testing"] = (n_train + n_validation, len(subjects))
    return {name: subjects[order[start:end].tolist()] for name, (start, end) in ends.items()}


def _with_labels(names: list[str], items: Path) -> list[str]:
    """Put the laboratory's name of each item after its number and unit."""
    import polars as pl

    from examples.datasets.mimic_raw.blocks import CsvFile

    labels = dict(CsvFile(items, {"itemid": pl.String, "label": pl.String}).read().rows())
    return [f"{name} ({labels.get(name.split(' ')[0]) or 'no name'})" for name in names]


def _show(steps: Steps, labels: pl.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("rule", "patients", "removed", "visits", title="cohort")
    for rule, *numbers in steps.table().rows():
        table.add_row(rule, *(f"{number:,}" for number in numbers))
    Console().print(table)
    share = labels["one_year_mortality"].sum() / len(labels)
    Console().print(f"one-year mortality {share:.1%}")
