"""The one form of all data sets, and how columns become inputs."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from examples.datasets import NAMES, find
from examples.datasets._files import load_pickle, load_tensor, packaged_file, require_files
from examples.datasets._interface import Lazy, Split
from examples.datasets._tables import multi_hot, random_split, standardize


def split_of(n: int) -> Split:
    lazy = Lazy(lambda i: torch.full((2,), float(i)), (2,), torch.arange(n))
    available = torch.tensor([[True, i % 3 > 0] for i in range(n)])
    return Split((lazy, 10.0 * torch.arange(n)), torch.arange(n), available)


def test_batches_keep_rows_together() -> None:
    batch = split_of(10)[[7, 2, 2]]
    assert batch.modalities[0].tolist() == [[7, 7], [2, 2], [2, 2]]
    assert batch.modalities[1].tolist() == [70, 20, 20]
    assert batch.targets.tolist() == [7, 2, 2]
    assert batch.available.tolist() == [[True, True]] * 3


def test_selections_of_selections_are_rows_of_the_whole() -> None:
    whole = split_of(10)
    part = whole.select(torch.tensor([9, 4, 0, 3])).select(torch.tensor([True, False, True, True]))
    batch, expected = part[[2, 0]], whole[[3, 9]]
    for found, wanted in zip((*batch.modalities, *batch[1:]), (*expected.modalities, *expected[1:]), strict=True):
        assert torch.equal(found, wanted)


def test_complete_keeps_the_samples_with_every_modality() -> None:
    complete = split_of(10).complete()
    assert complete.targets.tolist() == [1, 2, 4, 5, 7, 8]
    assert complete.available.all()


def test_a_loader_takes_batches_as_they_are() -> None:
    whole = split_of(5)
    loader = DataLoader(whole, sampler=BatchSampler(SequentialSampler(whole), 2, drop_last=False), batch_size=None)
    assert [batch.targets.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="must have a row for each of the 3 targets"):
        Split((torch.zeros(3, 2), torch.zeros(4, 2)), torch.zeros(3))


def test_random_splits_are_partitions_that_differ() -> None:
    splits = [random_split(200, seed) for seed in range(3)]
    for parts in splits:
        assert sorted(torch.cat(parts).tolist()) == list(range(200))
        assert [len(part) for part in parts] == [140, 30, 30]
    assert len({tuple(parts[2].tolist()) for parts in splits}) == 3
    assert torch.equal(splits[1][0], random_split(200, 1)[0])


def test_standardization_knows_the_training_rows_alone() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5, 3, size=(50, 4))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[:, 3] = 7.0
    train = torch.arange(30)
    scaled = standardize(values, train).numpy()
    for column in range(3):
        seen = values[:30, column]
        wanted = (values[:, column] - np.nanmean(seen)) / np.nanstd(seen)
        np.testing.assert_allclose(scaled[:, column], np.nan_to_num(wanted), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(scaled[:, 4 + column], np.isnan(values[:, column]))
    assert (scaled[:, 3] == 0).all()
    assert scaled.shape == (50, 7)

    values[30:] *= 100
    np.testing.assert_array_equal(standardize(values, train)[:30], scaled[:30])


def test_frequent_members_are_counted_in_the_training_rows_once_each() -> None:
    sets = [["a", "b"], ["b", "c"], ["c", "a", "a", "a"], ["b"], ["d"], ["d"], ["d"], ["d"]]
    assert multi_hot(sets, torch.arange(4), most=1).tolist() == [[1], [1], [0], [1], [0], [0], [0], [0]]
    hot = multi_hot(sets, torch.arange(4))
    assert hot.tolist()[:5] == [[1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


@pytest.mark.parametrize("content", [Malice(), {"x": [Malice()]}, np.array([Malice()], dtype=object), open], ids=type)
def test_pickles_that_run_code_are_refused(content: object) -> None:
    with pytest.raises(pickle.UnpicklingError, match="only arrays are allowed"):
        load_pickle(io.BytesIO(pickle.dumps(content)))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays_are_read(protocol: int) -> None:
    arrays: dict[str, Any] = {
        "x": np.arange(6.0).reshape(2, 3),
        "id": np.array([["clip", 1.5]], dtype=object),
        "n": np.float32(2),
    }
    loaded = load_pickle(io.BytesIO(pickle.dumps(arrays, protocol)))
    assert all(np.array_equal(loaded[key], arrays[key]) for key in arrays)


def test_tensor_files_that_run_code_are_refused(tmp_path: Path) -> None:
    torch.save(Malice(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt must hold a float tensor"):
        load_tensor(tmp_path / "x.pt", 3, "Ask.")


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    with pytest.raises(FileNotFoundError) as caught:
        require_files(tmp_path, ["a", "b|c", "d|e"], "Ask the owners.")
    message = str(caught.value)
    assert f"{tmp_path}/a\n" in message
    assert f"{tmp_path}/d or {tmp_path}/e\n" in message
    assert f"{tmp_path}/b" not in message
    assert message.endswith("Ask the owners.")


def test_packaged_files_are_known_by_their_hash() -> None:
    with pytest.raises(ValueError, match="must have the SHA-256 0000, however it is"):
        packaged_file("SurvSet", "SurvSet==0.2.11", "resources/pickles/support2.pickle", "0000")
    with pytest.raises(FileNotFoundError, match="pip install nothing==1"):
        packaged_file("no_such_package", "nothing==1", "data", "0000")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of adni, mimic"):
        find("imagenet")


@pytest.mark.parametrize("name", [name for name in NAMES if find(name).root is not None])
def test_splits_that_are_not_there_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split must lie between 0 and 0, however it is 1"):
        find(name).open(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        find(name).open(tmp_path)
