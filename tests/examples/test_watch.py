"""The smartwatch data: what is in a split, and what is refused."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.datasets import watch
from examples.datasets.watch import CLASS_NAMES, MODALITY_NAMES, N_FOLDS, WatchData, Windows, load_watch

FOLDS = range(N_FOLDS)


@pytest.fixture(scope="module")
def folds() -> list[WatchData]:
    return [load_watch(fold) for fold in FOLDS]


def splits(data: WatchData) -> list[Windows]:
    return [data.train, data.validation, data.test]


def subjects(windows: Windows) -> set[int]:
    return set(windows.subjects.tolist())


@pytest.mark.parametrize("fold", FOLDS)
def test_every_fold_holds_all_windows_in_one_form(folds: list[WatchData], fold: int) -> None:
    data = folds[fold]
    assert data.modality_names == MODALITY_NAMES
    assert data.class_names == CLASS_NAMES
    assert sum(len(windows) for windows in splits(data)) == 2369
    for windows in splits(data):
        for x in windows.modalities:
            assert x.shape == (len(windows), 100, 3)
            assert x.dtype == torch.float32
        assert windows.labels.shape == windows.subjects.shape == (len(windows),)
        assert set(windows.labels.tolist()) == set(range(len(CLASS_NAMES)))


@pytest.mark.parametrize("fold", FOLDS)
def test_no_subject_is_in_two_splits(folds: list[WatchData], fold: int) -> None:
    train, validation, test = (subjects(windows) for windows in splits(folds[fold]))
    assert (len(train), len(validation), len(test)) == (6, 2, 2)
    assert train | validation | test == set(range(1, 11))


def test_every_subject_is_tested_once(folds: list[WatchData]) -> None:
    tested = [subject for data in folds for subject in sorted(subjects(data.test))]
    assert sorted(tested) == list(range(1, 11))


@pytest.mark.parametrize("fold", FOLDS)
def test_standardization_knows_the_training_windows_alone(folds: list[WatchData], fold: int) -> None:
    data = folds[fold]
    for x in data.train.modalities:
        torch.testing.assert_close(x.mean((0, 1)), torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.std((0, 1), correction=0), torch.ones(3), rtol=0, atol=1e-5)
    for windows in (data.validation, data.test):
        assert any((x.mean((0, 1)).abs() > 1e-2).any() for x in windows.modalities)


def test_windows_are_cut_from_recordings_in_order(folds: list[WatchData]) -> None:
    """The first windows of a subject, put together and scaled back, are the subject's first recording."""
    recordings = watch.read_recordings()
    data = folds[0]
    first = int(np.flatnonzero(recordings["subject"] == 1)[0])  # subject 1 is tested in fold 0
    signal = torch.from_numpy(recordings["X"][first]).float()
    n_windows = len(signal) // 100

    chosen = data.test.subjects == 1
    joined = torch.cat([x[chosen][:n_windows].flatten(0, 1) for x in data.test.modalities], dim=-1)  # (T, 6)

    of_train = np.concatenate(
        [
            x[: len(x) // 100 * 100]
            for x, s in zip(recordings["X"], recordings["subject"], strict=True)
            if s in range(5, 11)
        ]
    )
    mean, std = (torch.from_numpy(statistic).float() for statistic in (of_train.mean(0), of_train.std(0)))
    torch.testing.assert_close(joined * std + mean, signal[: len(joined)], rtol=0, atol=1e-4)
    assert set(data.test.labels[chosen][:n_windows].tolist()) == {int(recordings["y"][first])}


def test_class_names_stand_in_the_order_of_the_file() -> None:
    codes = watch.read_recordings()["y_labels"]
    assert codes == ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
    spelled_out = {"FEL": "forward elevation", "IR": "internal rotation", "ER": "external rotation"}
    for code, name in zip(codes, CLASS_NAMES, strict=True):
        assert code.lower() in name if code not in spelled_out else name == spelled_out[code]


@pytest.mark.parametrize("fold", [-1, N_FOLDS])
def test_unknown_fold_is_refused(fold: int) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 4, however it is {fold}"):
        load_watch(fold)


def test_changed_file_is_refused_before_it_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleSpec("seglearn", None, is_package=True)
    package.submodule_search_locations = [str(tmp_path)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/watch_dataset.npy").write_bytes(b"another")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: package)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the file was unpickled"))

    with pytest.raises(ValueError, match=r"SHA-256 .* however .* pip install --force-reinstall --no-deps seglearn=="):
        load_watch()


@pytest.mark.parametrize("installed", [False, True], ids=["no package", "package without the file"])
def test_missing_data_names_the_cure(installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleSpec("seglearn", None, is_package=True)
    package.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: package if installed else None)

    with pytest.raises(FileNotFoundError, match=r"run: pip install seglearn==1\.2\.5"):
        load_watch()
