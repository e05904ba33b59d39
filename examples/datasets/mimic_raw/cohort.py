"""Which patients and visits are used, and the label."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from examples.datasets.mimic_raw.blocks import CsvFile

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ADULT_YEARS", "HORIZON_DAYS", "Steps", "select_cohort"]

ADULT_YEARS = 18
HORIZON_DAYS = 365


@dataclass
class Steps:
    """How many patients and visits are left after each rule, in order."""

    rows: list[tuple[str, int, int]] = field(default_factory=list)

    def record(self, rule: str, visits: pl.DataFrame, n_patients: int | None = None) -> None:
        """Note what a rule left.

        Args:
            rule: whom it keeps.
            visits: the visits left.
            n_patients: patients left; those with a visit by default.
        """
        left = visits["subject_id"].n_unique() if n_patients is None else n_patients
        self.rows.append((rule, left, len(visits)))

    def table(self) -> pl.DataFrame:
        """Return a table of the rules: patients left, patients removed, visits left."""
        import polars as pl

        frame = pl.DataFrame(self.rows, schema=["rule", "patients", "visits"], orient="row")
        removed = (pl.col("patients").shift(1) - pl.col("patients")).fill_null(0).alias("patients_removed")
        return frame.select("rule", "patients", removed, "visits")


def select_cohort(patients_path: Path, admissions_path: Path, steps: Steps) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Apply the rules that need no more than patients and admissions.

    Args:
        patients_path: `patients.csv.gz`.
        admissions_path: `admissions.csv.gz`.
        steps: takes down what each rule leaves.

    Returns:
        The visits used (subject_id, hadm_id) and the patients (subject_id, one_year_mortality), sorted.
    """
    import polars as pl

    patients, admissions = _read_patients(patients_path), _read_admissions(admissions_path)
    steps.record("all in patients.csv", admissions, len(patients))

    known = pl.col("admittime").is_not_null() & (pl.col("dischtime") >= pl.col("admittime"))
    visits = admissions.filter(known).join(patients, on="subject_id").sort("subject_id", "admittime", "hadm_id")
    steps.record("with a visit of known times", visits)

    age = pl.col("anchor_age") + pl.col("admittime").dt.year() - pl.col("anchor_year")
    visits = visits.filter(age.min().over("subject_id") >= ADULT_YEARS)
    steps.record(f"at least {ADULT_YEARS} at the first visit", visits)

    visits = visits.filter(pl.len().over("subject_id") > 1)
    steps.record("with more than one visit", visits)

    at_death = (
        (pl.col("hospital_expire_flag") == 1)
        | pl.col("deathtime").is_not_null()
        | (pl.col("dod") <= pl.col("dischtime").dt.date())
    )
    visits = visits.filter(~at_death.fill_null(False))
    steps.record("with a visit that was not at the time of death", visits)

    days = (pl.col("dod").first() - pl.col("dischtime").max().dt.date()).dt.total_days()
    labels = visits.group_by("subject_id").agg((days <= HORIZON_DAYS).fill_null(False).alias("one_year_mortality"))
    labels = labels.with_columns(pl.col("one_year_mortality").cast(pl.Int8)).sort("subject_id")
    return visits.select("subject_id", "hadm_id"), labels


def _read_patients(path: Path) -> pl.DataFrame:
    import polars as pl

    columns = {"subject_id": pl.Int64, "anchor_age": pl.Int64, "anchor_year": pl.Int64, "dod": pl.Date}
    return CsvFile(path, columns).read()


def _read_admissions(path: Path) -> pl.DataFrame:
    import polars as pl

    columns: dict[str, type[pl.DataType]] = {
        "subject_id": pl.Int64,
        "hadm_id": pl.Int64,
        "admittime": pl.Datetime,
        "dischtime": pl.Datetime,
        "deathtime": pl.Datetime,
        "hospital_expire_flag": pl.Int64,
    }
    return CsvFile(path, columns).read()
