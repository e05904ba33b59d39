"""MIMIC-IV from raw files: patients written by hand among generated ones, and what must come out for them."""

from __future__ import annotations

import csv
import gzip
import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from examples.datasets import find
from examples.datasets.mimic_raw import extract
from examples.datasets.mimic_raw.blocks import CsvFile
from examples.datasets.mimic_raw.cohort import Steps, select_cohort
from examples.datasets.mimic_raw.extract import count_words, extract_codes, extract_labs, merge_labs
from examples.datasets.mimic_raw.features import code_features, lab_features, note_features, sum_words
from examples.datasets.mimic_raw.prepare import Recipe, prepare
from examples.fixtures.mimic_raw import COLUMNS, append, write

COLUMN_TYPES = {"b": pl.String, "a": pl.Int64}


def nothing(n_bytes: int) -> None:
    """Take no notice of progress."""


def patient(folder: Path, subject: int, visits: list[dict[str, Any]], dod: str | None = None, age: int = 50) -> None:
    """Append a patient whose visits have a diagnosis, a lab value and a note unless they say otherwise."""
    first = str(visits[0]["admittime"])[:4]
    record = {"subject_id": subject, "anchor_age": age, "anchor_year": first, "dod": dod}
    append(folder, "hosp/patients", [record])
    for number, visit in enumerate(visits):
        who: dict[str, object] = {"subject_id": subject, "hadm_id": 10 * subject + number}
        times = {key: visit.get(key) for key in ("admittime", "dischtime", "deathtime")}
        append(folder, "hosp/admissions", [who | times | {"hospital_expire_flag": visit.get("died", 0)}])
        codes = visit.get("codes", [("4019", 9)])
        rows = [who | {"icd_code": code, "icd_version": version} for code, version in codes]
        append(folder, "hosp/diagnoses_icd", rows)
        labs = visit.get("labs", [(50912, "2150-01-01 00:00:00", 1.0, "mg/dL")])
        names = ("itemid", "charttime", "valuenum", "valueuom")
        append(folder, "hosp/labevents", [who | dict(zip(names, lab, strict=True)) for lab in labs])
        append(folder, "note/discharge", [who | {"text": text} for text in visit.get("notes", ["chest pain"])])


def stay(start: str, end: str | None, **others: Any) -> dict[str, Any]:
    return {"admittime": f"{start} 08:00:00", "dischtime": None if end is None else f"{end} 12:00:00"} | others


TWO_STAYS = [stay("2150-01-01", "2150-01-05"), stay("2150-03-01", "2150-03-10")]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    write(folder, n_patients=0)
    patient(folder, 1, TWO_STAYS, age=17)
    patient(folder, 2, [stay("2150-01-01", "2150-01-05")])
    patient(folder, 3, [TWO_STAYS[0], stay("2150-03-01", "2150-03-10", died=1)], dod="2150-03-10")
    patient(folder, 4, TWO_STAYS, dod="2151-03-10")  # 365 days after the last discharge
    patient(folder, 5, TWO_STAYS, dod="2151-03-11")  # 366 days
    patient(folder, 6, TWO_STAYS)
    at_once = "2150-01-05 11:00:00"
    patient(folder, 7, [stay("2150-01-01", "2150-01-05", deathtime=at_once)] * 2, dod="2150-01-05")
    patient(folder, 8, [stay("2150-01-01", "2150-01-05"), stay("2150-03-01", None), stay("2150-04-02", "2150-04-01")])
    # Died on the day of the second discharge, at home; two years after the first one.
    patient(folder, 9, [stay("2150-01-01", "2150-01-05"), stay("2152-01-01", "2152-01-05")], dod="2152-01-05")
    patient(folder, 10, [stay("2150-01-01", "2150-01-05", codes=[])] * 2)
    patient(folder, 11, [stay("2150-01-01", "2150-01-05", labs=[(50912, "2150-01-01 00:00:00", "", "mg/dL")])] * 2)
    patient(folder, 12, [stay("2150-01-01", "2150-01-05", notes=[])] * 2)
    return folder


def cohort(raw: Path) -> tuple[pl.DataFrame, pl.DataFrame, Steps]:
    steps = Steps()
    return *select_cohort(raw / "hosp/patients.csv.gz", raw / "hosp/admissions.csv.gz", steps), steps


def test_rules_and_labels_by_hand(raw: Path) -> None:
    visits, labels, steps = cohort(raw)
    assert dict(labels.rows()) == {3: 1, 4: 1, 5: 0, 6: 0, 9: 0, 10: 0, 11: 0, 12: 0}
    used = {subject: visits.filter(subject_id=subject)["hadm_id"].sort().to_list() for subject in (3, 4, 9)}
    assert used == {3: [30], 4: [40, 41], 9: [90]}
    assert [row[1:] for row in steps.table().rows()] == [(12, 0, 24), (12, 0, 22), (11, 1, 20), (9, 2, 18), (8, 1, 14)]


def test_patients_must_have_every_modality(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "out")
    with (tmp_path / "out/cohort.csv").open(newline="") as file:
        last = [(int(row["patients"]), int(row["patients_removed"])) for row in csv.DictReader(file)][-3:]
    assert last == [(7, 1), (6, 1), (5, 1)]
    labels = pl.read_csv(tmp_path / "out/labels.csv")
    assert labels.rows() == [(3, 1), (4, 1), (5, 0), (6, 0), (9, 0)]


def test_labs_are_extracted_as_by_hand(raw: Path, tmp_path: Path) -> None:
    write_labs = [
        (50912, "2150-01-02 00:00:00", 1.0, "mg/dL"),
        (50912, "2150-01-03 00:00:00", 4.0, "mg/dL"),
        (50912, "2150-01-03 00:00:00", 7.0, "MG/DL "),  # at the same time: the larger counts
        (50912, "2150-01-04 00:00:00", 300.0, "umol/L"),
        (50912, "2150-01-04 00:00:00", "", "mg/dL"),
        (51222, "2150-01-04 00:00:00", 11.0, ""),
    ]
    in_the_end = [(50912, "2151-01-01 00:00:00", 99.0, "mg/dL")]
    visits_of = [stay("2150-01-01", "2150-01-05", labs=write_labs), stay("2151-01-01", "2151-01-05", labs=in_the_end)]
    patient(raw, 13, [visits_of[0], {**visits_of[1], "died": 1}])
    outside = {"subject_id": 13, "itemid": 50912, "charttime": "2150-02-01 00:00:00", "valuenum": 50.0}
    append(raw, "hosp/labevents", [outside | {"valueuom": "mg/dL"}])

    visits, *_ = cohort(raw)
    extract_labs(raw / "hosp/labevents.csv.gz", visits, tmp_path / "labs", nothing)
    labs = merge_labs(tmp_path / "labs").filter(subject_id=13)
    assert labs.rows() == [
        (13, 50912, "mg/dl", 3, 4.0, 7.0),
        (13, 50912, "umol/l", 1, 300.0, 300.0),
        (13, 51222, "", 1, 11.0, 11.0),
    ]


def test_features_of_labs_are_those_by_hand() -> None:
    rows = [(s, 1, "mg/dl", 2, float(s), 2.0 * s) for s in (1, 2, 3, 4, 6)]
    rows += [(4, 1, "umol/l", 9, 500.0, 500.0), (6, 1, "umol/l", 1, 600.0, 600.0), (1, 2, "", 1, 5.0, 5.0)]
    rows += [(s, 3, "g/dl", 1, 1.0, 1.0) for s in (2, 3)]
    labs = pl.DataFrame(rows, schema=["subject_id", "itemid", "unit", "n", "mean", "latest"], orient="row")
    subjects, train = pl.Series([1, 2, 3, 5, 6]), pl.Series([1, 2, 3])
    features, names = lab_features(labs, subjects, train, most=2)
    assert names == ["1 mg/dl", "3 g/dl"]  # 3 and 2 training patients have them, 1 has item 2
    latest, mean, measured = features.double().reshape(5, 3, 2).unbind(1)
    quartiles = np.quantile([2.0, 4.0, 6.0], (0.25, 0.75))
    spread = (quartiles[1] - quartiles[0]) / 1.349
    np.testing.assert_allclose(latest[:, 0], np.array([-2, 0, 2, 0, 8]) / spread, rtol=1e-6)  # 5 has no value: 0
    np.testing.assert_allclose(mean[:, 0], np.array([-1, 0, 1, 0, 4]) / (spread / 2), rtol=1e-6)
    assert measured.tolist() == [[1, 0], [1, 1], [1, 1], [0, 0], [1, 0]]
    assert (latest[:, 1] == 0).all()

    labs = labs.with_columns(pl.when(subject_id=6).then(1e9).otherwise("latest").alias("latest"))
    assert lab_features(labs, subjects, train, most=1)[0][4, 0] == 10


def test_codes_are_extracted_as_by_hand(raw: Path) -> None:
    codes = [("I5022", 10), ("I5030", 10), ("4280", 9), ("V4581 ", 9)]
    patient(raw, 13, [stay("2150-01-01", "2150-01-05", codes=codes), {**TWO_STAYS[1], "codes": [("4289", 9)]}])
    visits, *_ = cohort(raw)
    found = extract_codes(raw / "hosp/diagnoses_icd.csv.gz", visits, nothing)
    assert found.filter(subject_id=13)["code"].to_list() == ["10:I50", "9:428", "9:V45"]
    assert found.filter(subject_id=6)["code"].to_list() == ["9:401"]
    assert 2 not in found["subject_id"]

    table = pl.DataFrame({"subject_id": [1, 1, 2, 2, 3, 4, 4], "code": ["a", "b", "b", "c", "c", "d", "b"]})
    hot, names = code_features(table, pl.Series([1, 2, 4]), pl.Series([1, 2]), most=2)
    assert names == ["a", "b"]  # b is in two training patients, a and c in one
    assert hot.tolist() == [[1, 1], [0, 1], [0, 1]]


def test_notes_are_tf_idf_over_the_visits_used(raw: Path, tmp_path: Path) -> None:
    notes = ['Chest pain,\n"severe" pain.\n', "No FEVER today"]
    last = {**TWO_STAYS[1], "died": 1, "notes": ["expired"]}
    patient(raw, 13, [stay("2150-01-01", "2150-01-05", notes=notes), last])
    visits, labels, _ = cohort(raw)
    count_words(raw / "note/discharge.csv.gz", visits, 64, tmp_path / "notes", nothing)
    counts = sum_words(tmp_path / "notes", np.arange(len(labels)))
    row = labels["subject_id"].to_list().index(13)
    hashing: dict[str, Any] = {"n_features": 64, "norm": None, "alternate_sign": False, "token_pattern": "[a-z]{2,}"}
    expected = HashingVectorizer(**hashing).transform(["chest pain severe pain no fever today"]).toarray()[0]
    np.testing.assert_array_equal(counts[row, :-1], expected)
    assert counts[row, -1] == 2
    assert counts[labels["subject_id"].to_list().index(12)].sum() == 0


def test_tf_idf_is_that_of_scikit_learn() -> None:
    counts = np.random.default_rng(0).poisson(0.7, size=(30, 12)).astype(np.float32)
    counts[3] = 0
    train = np.arange(20)
    expected = TfidfTransformer(sublinear_tf=True).fit(counts[train]).transform(counts).toarray()
    np.testing.assert_allclose(note_features(counts.copy(), train), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("block_bytes", [1, 7, 30, 1000])
@pytest.mark.parametrize("compressed", [True, False])
def test_blocks_hold_whole_records(tmp_path: Path, block_bytes: int, compressed: bool) -> None:
    text = 'a,x,b\n1,"one\ntwo",p\n2,,"q ""r""\n, s"\n3,"",\n4,y,"last"'
    path = tmp_path / ("t.csv.gz" if compressed else "t.csv")
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    n_bytes: list[int] = []
    file = CsvFile(path, COLUMN_TYPES, block_bytes=block_bytes, advance=n_bytes.append)
    expected = [(row["b"] or None, int(row["a"])) for row in csv.DictReader(StringIO(text))]
    assert file.read().rows() == expected
    assert sum(n_bytes) == path.stat().st_size
    if block_bytes == 1:
        assert len(list(file.blocks())) == 4


def test_a_file_without_records_is_empty(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n")
    assert CsvFile(tmp_path / "t.csv", COLUMN_TYPES).read().shape == (0, 2)
    write(tmp_path, n_patients=0)
    with pytest.raises(ValueError, match="at least 3 patients must be left to split, however there are 0"):
        prepare(tmp_path, tmp_path / "out")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,c\n1,2\n"))
    with pytest.raises(ValueError, match=r"must have the columns \['b'\], however it has \['a', 'c'\]"):
        CsvFile(path, COLUMN_TYPES)
    path.write_bytes(gzip.compress(b"a,b\nfour,2\n"))
    with pytest.raises(ValueError, match=r"t\.csv\.gz must be a table"):
        CsvFile(path, COLUMN_TYPES).read()
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000)[:-9])
    with pytest.raises(ValueError, match=r"must be complete.*download it again"):
        CsvFile(path, COLUMN_TYPES).read()


def results(out: Path) -> dict[str, Any]:
    tensors = {name: torch.load(out / f"{name}_x.pt", weights_only=True) for name in ("lab", "note", "code")}
    texts = ("labels.csv", "cohort.csv", "PTID_splits_mimic.json", "feature_names.json")
    return tensors | {name: (out / name).read_text() for name in texts}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    for name, value in first.items():
        if isinstance(value, str):
            assert value == second[name]
        else:
            torch.testing.assert_close(value, second[name])  # sums of floats depend on the order


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = CsvFile.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "block_bytes", 6_000)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "raw", n_patients=40)
    prepare(tmp_path / "raw", tmp_path / "at-once")

    small_blocks(monkeypatch)
    write_all = extract.write_atomically
    n_runs = 0
    while not (tmp_path / "out/labels.csv").exists():
        n_written = 0

        def write_some(path: Path, write: Any) -> None:
            nonlocal n_written
            n_written += 1
            if n_written > 5:
                (path.parent / f"partial-{path.name}").write_bytes(b"half")
                raise KeyboardInterrupt
            write_all(path, write)

        monkeypatch.setattr(extract, "write_atomically", write_some)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("part-*")}
        try:
            prepare(tmp_path / "raw", tmp_path / "out")
        except KeyboardInterrupt:
            n_runs += 1
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert n_runs > 3
    assert_same(results(tmp_path / "at-once"), results(tmp_path / "out"))


def test_other_choices_need_another_folder(tmp_path: Path) -> None:
    write(tmp_path / "raw", n_patients=20)
    prepare(tmp_path / "raw", tmp_path / "out")
    with pytest.raises(ValueError, match=r"'n_labs': \(200, 5\).*name another folder"):
        prepare(tmp_path / "raw", tmp_path / "out", Recipe(n_labs=5))


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    raw, turned = tmp_path / "raw", tmp_path / "turned"
    write(raw, n_patients=30)
    for name in COLUMNS:
        text = gzip.decompress((raw / f"{name}.csv.gz").read_bytes()).decode()
        rows = [row[::-1] for row in csv.reader(StringIO(text))]
        (turned / name).parent.mkdir(parents=True, exist_ok=True)
        with (turned / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    prepare(raw, tmp_path / "first")
    prepare(turned, tmp_path / "second")
    assert_same(results(tmp_path / "first"), results(tmp_path / "second"))


def test_every_missing_raw_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        prepare(tmp_path, tmp_path / "out")
    assert all(f"{tmp_path}/{name}.csv.gz" in str(caught.value) for name in COLUMNS)


def test_what_is_prepared_is_a_data_set(tmp_path: Path) -> None:
    write(tmp_path / "raw", n_patients=60)
    prepare(tmp_path / "raw", tmp_path / "out", Recipe(n_note_buckets=128))
    data = find("mimic").open(tmp_path / "out")
    assert data.shapes == ((9,), (128,), (6,))
    assert all(split.available.all() for split in data.splits.values())
    sizes = [len(split) for split in data.splits.values()]
    assert sizes[:2] == [round(0.7 * sum(sizes)), round(0.15 * sum(sizes))]
    names = json.loads((tmp_path / "out/feature_names.json").read_text())
    assert names["lab"] == ["50912 mg/dl (Creatinine)", "50983 meq/l (Sodium)", "51222 g/dl (Hemoglobin)"]
    assert names["code"] == ["10:E11", "10:I50", "10:N17", "9:250", "9:428", "9:V45"]
    labs = data.train[range(len(data.train))].modalities[0][:, :6]
    assert labs.median(0).values.abs().max() < 0.2  # centered on the training patients
