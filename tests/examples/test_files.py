"""The data sets of the paper: tiny files of the official form, read and compared with what was written."""

from __future__ import annotations

import csv
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from examples.datasets import find
from examples.datasets._interface import MultimodalData
from examples.datasets.enrico import augment
from examples.datasets.mmimdb import _rows
from examples.fixtures import find as find_fixture
from examples.fixtures.adni import write as write_adni

FILES = ("adni", "mimic", "mmimdb", "mosi", "enrico")


def parts(data: MultimodalData, modality: int) -> torch.Tensor:
    """One modality of all splits, in order."""
    return torch.cat([split[range(len(split))].modalities[modality] for split in data.splits.values()])


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", FILES)
def test_every_gated_data_set_has_one_form(name: str, written: Callable[[str], Path]) -> None:
    source = find(name)
    data = source.open(written(name))
    assert len(data.modality_names) == len(source.expected.shapes) == len(data.shapes)
    assert len(data.output_names) == source.expected.n_outputs
    for split in data.splits.values():
        batch = split[[0, len(split) - 1]]
        for x, shape, expected in zip(batch.modalities, data.shapes, source.expected.shapes, strict=True):
            assert x.shape == (2, *shape)
            assert x.dtype == torch.float32
            assert x.isfinite().all()
            assert all(size in (None, found) for size, found in zip(expected, shape, strict=True))
        assert batch.available.dtype == torch.bool
        integers = data.task == "classification"
        assert batch.targets.dtype == (torch.int64 if integers else torch.float32)
        assert batch.targets.shape == ((2,) if integers else (2, len(data.output_names)))
        for i, x in enumerate(batch.modalities):
            assert (x[~batch.available[:, i]] == 0).all()


@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_named_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        find(name).open(tmp_path)
    named = [line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")]
    files = {"adni": 8, "mimic": 5, "mmimdb": 1, "mosi": 1, "enrico": 3}
    assert len(named) == files[name]
    assert all(str(tmp_path) in path for path in named)
    assert find(name).where in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mosi", "mosi_data.pkl"),
        ("mmimdb", "multimodal_imdb.hdf5"),
        ("mimic", "labels.csv"),
        ("mimic", "note_x.pt"),
        ("mimic", "PTID_splits_mimic.json"),
        ("enrico", "design_topics.csv"),
        ("adni", "label.csv"),
        ("adni", "image/ADNI_G.npy"),
        ("adni", "image/ADNI_subj.txt"),
        ("adni", "image/BLSA_SPGR+MPRAGE_averagetemplate_muse_seg_DS222.nii.gz"),
        ("adni", "genomic/genomic_merged.h5ad"),
        ("adni", "clinical/clinical_merged_mean.csv"),
    ],
)
def test_malformed_files_are_named(name: str, file: str, written: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(written(name), folder)
    (folder / file).write_bytes(b"something, else\n1, 2\n")
    with pytest.raises(ValueError, match="must hold") as caught:
        find(name).open(folder)
    assert str(folder / file) in str(caught.value)
    assert find(name).where in str(caught.value)


def test_mosi_drops_clips_without_text_and_fills_gaps(written: Callable[[str], Path]) -> None:
    data = find("mosi").open(written("mosi"))
    assert [len(split) for split in data.splits.values()] == [24, 11, 11]
    content = pickle.loads((written("mosi") / "mosi_data.pkl").read_bytes())["valid"]
    kept = [0, 2, 3, *range(5, 13)]
    batch = data.validation[range(11)]
    np.testing.assert_array_equal(batch.modalities[0], content["text"][kept])
    np.testing.assert_array_equal(batch.targets, content["labels"][kept, 0])
    audio = content["audio"][kept]
    assert batch.modalities[2][0, 3, 1] == 0
    assert batch.modalities[2][1, 0, 0] == 0
    np.testing.assert_array_equal(batch.modalities[2][np.isfinite(audio)], audio[np.isfinite(audio)])


def test_mosi_of_another_shape_is_refused(tmp_path: Path) -> None:
    find_fixture("mosi")(tmp_path)
    content = pickle.loads((tmp_path / "mosi_data.pkl").read_bytes())
    content["test"]["vision"] = content["test"]["vision"][:, :, :19]
    (tmp_path / "mosi_data.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"shape \(13, 50, 19\) was found in place of \(13, 50, 20\)"):
        find("mosi").open(tmp_path)


def test_mmimdb_is_cut_at_the_official_positions(written: Callable[[str], Path]) -> None:
    assert _rows(25_959) == [slice(0, 15_552), slice(15_552, 18_160), slice(18_160, 25_959)]
    data = find("mmimdb").open(written("mmimdb"))
    with h5py.File(written("mmimdb") / "multimodal_imdb.hdf5") as file:
        np.testing.assert_array_equal(parts(data, 0), file["features"][:].astype(np.float32))
        np.testing.assert_array_equal(parts(data, 1), file["vgg_features"][:])
        targets = torch.cat([split.targets for split in data.splits.values()])
        np.testing.assert_array_equal(targets, file["genres"][:])


def test_mimic_arranges_rows_by_the_split(written: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    shutil.copytree(written("mimic"), folder)
    subjects = [row["subject_id"] for row in rows_in(folder / "labels.csv")]
    parts_of = {"training": subjects[40::-1], "validation": subjects[41:50], "testing": subjects[50:]}
    (folder / "PTID_splits_mimic.json").write_text(json.dumps(parts_of))
    data, notes = find("mimic").open(folder), torch.load(folder / "note_x.pt", weights_only=True)
    assert torch.equal(data.train[range(41)].modalities[1], notes[:41].flip(0))
    assert data.train.targets.tolist() == [int(i % 4 == 0) for i in range(40, -1, -1)]
    assert data.train.available[-2].tolist() == [True, False, True]
    assert data.train.available.sum() == 3 * 41 - 1
    assert (data.train[[41 - 4]].modalities[0][0, ::2] == 0).all()


@pytest.mark.parametrize("name", ["mimic", "adni"])
def test_subjects_in_two_splits_are_refused(name: str, written: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(written(name), folder)
    (path,) = folder.glob("PTID*.json")
    splits = json.loads(path.read_text())
    path.write_text(json.dumps(splits | {"testing": [*splits["testing"], splits["training"][0]]}))
    with pytest.raises(ValueError, match="1 subjects appear twice"):
        find(name).open(folder)
    path.write_text(json.dumps(splits | {"testing": [*splits["testing"], "nobody"]}))
    with pytest.raises(ValueError, match="every subject of the split must have a label, however 1 have none: nobody"):
        find(name).open(folder)


def test_enrico_leaves_out_corrupt_screens_and_shuffles_with_the_fixed_seed(written: Callable[[str], Path]) -> None:
    folder = written("enrico")
    data = find("enrico").open(folder)
    rows = [row for row in rows_in(folder / "design_topics.csv") if row["screen_id"] not in ("50105", "50109")]
    random.Random(42).shuffle(rows)
    classes = sorted({row["topic"] for row in rows})
    assert data.output_names == tuple(classes)
    targets = torch.cat([split.targets for split in data.splits.values()])
    assert targets.tolist() == [classes.index(row["topic"]) for row in rows]
    assert [len(split) for split in data.splits.values()] == [39, 9, 12]


def test_enrico_names_every_missing_image(written: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "enrico"
    shutil.copytree(written("enrico"), folder)
    for name in ("screenshots/100.jpg", "wireframes/107.png"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"100\.jpg\n.*107\.png\n"):
        find("enrico").open(folder)
    for name in ("screenshots", "wireframes"):
        shutil.rmtree(folder / name)
    with pytest.raises(FileNotFoundError, match=r"enrico/screenshots\n.*enrico/wireframes\n"):
        find("enrico").open(folder)


def test_augmentation_changes_both_images_of_a_screen_alike(generator: torch.Generator) -> None:
    x = torch.rand(64, 3, 16, 8)
    first, second = augment((x, x.clone()), generator)
    assert torch.equal(first, second)
    kept, flipped = (first == x).flatten(1).all(1), (first == x.flip(-1)).flatten(1).all(1)
    assert 8 <= kept.sum() <= 24  # a quarter each, of 64
    assert 8 <= flipped.sum() <= 24
    assert torch.allclose(first.mean((2, 3)), x.mean((2, 3)), atol=0.1)
    assert find("watch").open().augment is None


def test_adni_takes_the_newest_scan_to_the_grey_voxels(written: Callable[[str], Path]) -> None:
    folder = written("adni")
    data = find("adni").open(folder)
    splits = json.loads((folder / "PTID_splits.json").read_text())
    scans = (folder / "image/ADNI_subj.txt").read_text().split()
    voxels = np.load(folder / "image/ADNI_G.npy").astype(np.float64)
    segmentation = nibabel.load(folder / "image/BLSA_SPGR+MPRAGE_averagetemplate_muse_seg_DS222.nii.gz")
    assert isinstance(segmentation, nibabel.Nifti1Image)
    grey = segmentation.get_fdata() == 150

    newest = {}
    for subject in (subject for part in splits.values() for subject in part):
        dates = {line.rsplit("_", 1)[1]: row for row, line in enumerate(scans) if line.startswith(subject + "_")}
        newest[subject] = dates[max(dates)] if dates else None
    rows = [row for subject in splits["training"] if (row := newest[subject]) is not None]
    mean, deviation = voxels[rows].mean(), voxels[rows].std()
    assert newest[splits["training"][1]] == 0  # the newest comes first for this one

    for name, split in zip(splits, data.splits.values(), strict=True):
        for i, subject in enumerate(splits[name]):
            row = newest[subject]
            assert bool(split.available[i, 0]) == (row is not None)
            volume = split[[i]].modalities[0][0].numpy()
            expected = np.zeros(grey.shape)
            if row is not None:
                expected[grey] = (voxels[row] - mean) / deviation
            np.testing.assert_allclose(volume, expected, atol=1e-4)


def test_adni_tables_are_scaled_by_the_training_subjects(written: Callable[[str], Path]) -> None:
    folder = written("adni")
    data = find("adni").open(folder)
    subjects = json.loads((folder / "PTID_splits.json").read_text())
    order = [subject for part in subjects.values() for subject in part]
    genomic = parts(data, 1)
    present = torch.cat([split.available[:, 1] for split in data.splits.values()])
    assert genomic.min() == -1
    assert genomic.max() == 1
    with h5py.File(folder / "genomic/genomic_merged.h5ad") as file:
        genes, names = file["X"][:], list(file["obs/PTID"].asstr()[:])
    assert [subject for subject, there in zip(order, present, strict=True) if there] == names
    seen = genes[: int(present[: len(subjects["training"])].sum())]
    for column in range(genes.shape[1]):
        counts = [(seen[:, column] == value).sum() for value in range(3)]
        filled = np.where(np.isnan(genes[:, column]), np.argmax(counts), genes[:, column])
        np.testing.assert_allclose(genomic[present, column], filled - 1)

    table = pd.read_csv(folder / "clinical/clinical_merged_mean.csv", index_col="PTID")
    clinical, there = parts(data, 2), torch.cat([split.available[:, 2] for split in data.splits.values()])
    train = [subject for subject in subjects["training"] if subject in table.index]
    measure = table["MEASURE0"]
    expected = (measure[[s for s in order if s in table.index]] - measure[train].mean()) / measure[train].std(ddof=0)
    np.testing.assert_allclose(clinical[there, 0], expected, atol=1e-5)
    assert clinical.shape[1] == 12 + 2  # measures and gender, without what leaks
    assert data.shapes[3] == (12 + 1 + 2,)


def test_adni_in_the_newer_form(tmp_path: Path) -> None:
    write_adni(tmp_path, tabular=True)
    data = find("adni").open(tmp_path)
    assert data.shapes[0] == (9 + 1,)  # measures, and where the one with a gap is missing
    table = pd.read_csv(tmp_path / "image/UCSFFSX7_08Jun2025.csv")
    newest = table[table["EXAMDATE"] == "2009-03-01"].set_index("PTID")["ST101SV"]
    train = json.loads((tmp_path / "PTID_splits.json").read_text())["training"]
    seen = newest[[subject for subject in train if subject in newest.index]]
    first = data.train[range(len(train))]
    expected = (seen - seen.mean()) / seen.std(ddof=0)
    np.testing.assert_allclose(first.modalities[0][first.available[:, 0], 0], expected, atol=1e-5)
    assert data.shapes[2] == (12 + 4 + 2,)  # every third subject has a gap, in columns 0, 3, 6, 9


def test_adni_reads_sparse_matrices_and_categorical_names(written: Callable[[str], Path], tmp_path: Path) -> None:
    from scipy import sparse

    folder = tmp_path / "adni"
    shutil.copytree(written("adni"), folder)
    expected = parts(find("adni").open(folder), 1)
    with h5py.File(folder / "genomic/genomic_merged.h5ad", "r+") as file:
        matrix, names = sparse.csr_matrix(file["X"][:]), list(file["obs/PTID"].asstr()[:])
        del file["X"], file["obs/PTID"]
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "shape": matrix.shape})
        group.update({"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr})
        categories = sorted(names)
        index = file["obs"].create_group("PTID")
        index.create_dataset("categories", data=categories, dtype=h5py.string_dtype())
        index["codes"] = [categories.index(name) for name in names]
    assert torch.equal(parts(find("adni").open(folder), 1), expected)
