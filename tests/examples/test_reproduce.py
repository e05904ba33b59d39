"""The command: every data set from end to end, kills, several processes, results, and mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.datasets import find as find_data
from examples.datasets._interface import Lazy, Split
from examples.fixtures.mimic import write as write_mimic
from examples.reproduce import run, training
from examples.reproduce.__main__ import main
from examples.reproduce.identity import checksum
from examples.reproduce.results import collect, compare, summarize
from examples.reproduce.settings import Settings, preset, smoke
from i2moe.interpretation import InteractionReport
from tests.covering import in_turn
from tests.processes import forget_accelerator, needs_gloo, together

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _another_accelerator() -> None:
    forget_accelerator()


# Every fusion takes the encodings of any data set: test_pieces.py.
@pytest.mark.parametrize(
    ("dataset", "fusion"), in_turn(["adni", "mimic", "mmimdb", "mosi", "enrico"], ["interpretcc", "transformer"])
)
def test_every_gated_data_set_runs_from_end_to_end(
    dataset: str, fusion: str, written: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--root", str(written(dataset)), "--smoke", "--seeds", "0", "--cpu", "--fusion", fusion]
    main([dataset, *arguments, "--method", "vanilla", "i2moe", "--output", str(tmp_path)])
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [result["method"] for result in results] == ["vanilla", "i2moe"]
    assert all(set(result["test"]) == set(find_data(dataset).open(written(dataset)).metrics) for result in results)
    assert results[1]["n_parameters"] > results[0]["n_parameters"]
    for name in ("losses.png", "weights.png", "model.pt", "history.json"):
        assert (tmp_path / "i2moe" / "seed-0" / name).stat().st_size > 100
    assert not (tmp_path / "vanilla" / "seed-0" / "weights.png").exists()
    assert "i2moe" in capsys.readouterr().out


def test_half_precision_runs(tmp_path: Path) -> None:
    options = ["--smoke", "--seeds", "0", "--cpu", "--mixed-precision", "bf16", "--fusion", "switchgate"]
    main(["synthetic", *options, "--method", "i2moe-computed", "--output", str(tmp_path)])
    (result,) = collect(tmp_path)
    assert 0 <= result["test"]["accuracy"] <= 1


def test_smoke_makes_its_files_and_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        main(["mimic", "--smoke", "--seeds", "0", "--cpu", "--fusion", "lrtf", "--method", "vanilla"])
        (result,) = (tmp_path / "outputs/mimic-lrtf-smoke").glob("vanilla/seed-0/result.json")
        assert result.stat().st_mtime > time.time() - 60
        os.utime(result, (0, 0))


def command(folder: Path, *options: str) -> list[str]:
    run_it = ["-m", "examples.reproduce", "synthetic", "--fusion", "lrtf", "--method", "i2moe", "--cpu"]
    return [
        *run_it,
        "--seeds",
        "0",
        "--split",
        "0",
        "--epochs",
        "3",
        "--hidden-dim",
        "8",
        "--output",
        str(folder),
        *options,
    ]


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "i2moe/seed-0/result.json").read_text())
    result["weights"] = torch.load(folder / "i2moe/seed-0/model.pt", weights_only=True)
    return result


@pytest.mark.slow
def test_a_killed_process_is_resumed(tmp_path: Path) -> None:
    """By SIGKILL, at whatever moment after the first checkpoint it comes."""
    process = subprocess.Popen([sys.executable, *command(tmp_path / "killed")], cwd=ROOT)
    folder = tmp_path / "killed/i2moe/seed-0"
    while not (folder / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    try:
        for options in ([], ["--fresh"], ["--lr", "0.5"]):
            with pytest.raises(SystemExit, match=r"seed-0 must be used by one process at a time, however another one"):
                main(command(tmp_path / "killed", *options)[2:])
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 <= torch.load(folder / "checkpoint.pt", weights_only=True)["progress"]["epoch"] < 3
    for options, change in ((["--lr", "0.5"], "lr 0.002"), (["--mixed-precision", "bf16"], "mixed_precision no")):
        forget_accelerator()
        with pytest.raises(SystemExit, match=rf"holds one with {change} \(now "):
            main(command(tmp_path / "killed", *options)[2:])
    forget_accelerator()
    (folder / ".model.pt.1.tmp").write_bytes(b"what a kill while saving leaves")

    for name in ("killed", "whole"):
        main(command(tmp_path / name)[2:])
    assert not list(folder.glob(".*.tmp"))
    killed, whole = (result_of(tmp_path / name) for name in ("killed", "whole"))
    weights = killed.pop("weights"), whole.pop("weights")
    assert killed == whole
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


TOGETHER = [
    *("--dropout", "0", "--reweighter-dropout", "0", "--perturbation", "zero", "--fraction", "1"),
    *("--epochs", "2", "--lr", "1e-4", "--batch-size", "256"),
]


def run_command(rank: int, folder: Path) -> None:
    forget_accelerator()
    with (folder / f"{rank}.txt").open("w") as file, redirect_stdout(file):
        main(command(folder / "two", *TOGETHER)[2:])


@pytest.mark.slow
@needs_gloo
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Without dropout and noise, which processes draw apart, and at a rate by which Adam does not blow rounding up."""
    together(run_command, tmp_path)
    main(command(tmp_path / "one", *TOGETHER)[2:])
    one, two = (json.loads((tmp_path / n / "i2moe/seed-0/history.json").read_text()) for n in ("one", "two"))
    assert len(one) == 2
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert theirs[name] == pytest.approx(ours[name], abs=1e-6), name
    assert "Everything is in" in (tmp_path / "0.txt").read_text()
    assert "Everything is in" not in (tmp_path / "1.txt").read_text()


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    ours, baseline = {0: 0.7, 1: 0.9, 2: 0.8}, {2: 0.75, 0: 0.66, 1: 0.85, 5: 0.0}
    from scipy.stats import ttest_rel

    found = compare(ours, baseline)
    assert found is not None
    interval = ttest_rel([0.7, 0.9, 0.8], [0.66, 0.85, 0.75]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert compare({0: 1.0}, {1: 1.0}) is None
    assert str(compare({0: 0.3, 1: 0.7}, {0: 0.1, 1: 0.5})) == "+0.2000"  # two equal differences have no interval

    for method, seed, value in [("i2moe", 0, 0.7), ("i2moe", 1, 0.9), ("vanilla", 0, 0.6)]:
        path = tmp_path / method / f"seed-{seed}" / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"method": method, "seed": seed, "test": {"auroc": value}, "n_parameters": 10}))
    results = collect(tmp_path)
    assert [(result["method"], result["seed"]) for result in results] == [("vanilla", 0), ("i2moe", 0), ("i2moe", 1)]
    table = summarize(results)
    assert [list(column.cells) for column in table.columns][2:4] == [["0.6000", "0.8000 ± 0.1414"], ["", "+0.1000"]]


def test_the_presets_are_the_papers() -> None:
    mosi = preset("mosi", "transformer")
    assert (mosi.interaction_weight, mosi.n_layers, mosi.epochs, mosi.dropout, mosi.lr) == (0.005, 1, 30, 0.5, 1e-4)
    enrico = preset("enrico", "interpretcc")
    assert (enrico.tau, enrico.threshold, enrico.temperature, enrico.batch_size) == (0.5, 0.4, 4, 64)
    assert preset("adni", "moepp").n_experts == 8
    assert preset("adni", "switchgate").n_experts == 16
    assert preset("unknown", "lf") == Settings()
    assert smoke(mosi).epochs == 2


def test_done_runs_are_kept_and_other_settings_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["synthetic", "--fusion", "lrtf", "--cpu", "--method", "vanilla", "--seeds", "0", "--epochs", "1"]
    options += ["--output", str(tmp_path)]
    main(options)
    written = (tmp_path / "vanilla/seed-0/result.json").stat().st_mtime_ns
    main(options)
    assert (tmp_path / "vanilla/seed-0/result.json").stat().st_mtime_ns == written
    assert "vanilla, seed 0: done before" in capsys.readouterr().out
    changes = {
        "lr 0.002 (now 0.5)": ["--lr", "0.5"],
        "mixed_precision no (now bf16)": ["--mixed-precision", "bf16"],
        "split 0 (now 1)": ["--split", "1"],
        "smoke False (now True)": ["--smoke"],
    }
    for change, option in changes.items():
        forget_accelerator()
        with pytest.raises(SystemExit, match=re.escape(change)):
            main([*options, *option])
    with pytest.raises(SystemExit, match=r"fusion lrtf \(now lf\)"):
        main([*options, "--method", "i2moe", "--fusion", "lf"])
    assert (tmp_path / "vanilla/seed-0/result.json").stat().st_mtime_ns == written


def test_a_run_belongs_to_its_data_wherever_that_is(
    written: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(written("mimic"), tmp_path / "moved")
    write_mimic(tmp_path / "other", seed=1)
    options = ["mimic", "--fusion", "lrtf", "--cpu", "--method", "vanilla", "--seeds", "0", "--epochs", "1"]
    options += ["--output", str(tmp_path / "output"), "--root"]
    main([*options, str(written("mimic"))])
    main([*options, str(tmp_path / "moved")])
    assert "vanilla, seed 0: done before" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"holds one with data_checksum \w+ \(now \w+\)"):
        main([*options, str(tmp_path / "other")])


def test_a_checksum_covers_everything_that_the_splits_hold() -> None:
    data = find_data("synthetic").open()
    changed = data.validation.targets.clone()
    changed[7] += 1
    available = data.train.available.clone()
    available[3, 1] = False
    others = [
        find_data("synthetic").open(split=1),
        replace(data, metrics=data.metrics[::-1]),
        replace(data, validation=Split(data.validation.modalities, changed)),
        replace(data, train=Split(data.train.modalities, data.train.targets, available)),
    ]
    assert len({checksum(each) for each in (data, *others)}) == 5
    rows = torch.arange(len(data.test))
    first, second = (torch.as_tensor(column) for column in data.test[rows].modalities)
    lazy = (Lazy(lambda i: first[i], first.shape[1:], rows), second)
    assert checksum(replace(data, test=Split(lazy, data.test.targets))) == checksum(data)


def test_a_damaged_file_ends_in_one_message_with_its_cure(tmp_path: Path) -> None:
    options = ["synthetic", "--cpu", "--fusion", "lrtf", "--method", "vanilla", "--seeds", "0", "--epochs", "1"]
    options += ["--output", str(tmp_path)]
    main(options)
    folder = tmp_path / "vanilla/seed-0"
    whole = (folder / "settings.json").read_bytes()

    def run_with(name: str, content: bytes) -> None:
        (folder / "settings.json").write_bytes(whole)
        (folder / name).write_bytes(content)
        message = rf"^error: {re.escape(str(folder / name))} must hold .*, however: .*\nDelete"
        with pytest.raises(SystemExit, match=message):
            main(options)

    strange_score = b'{"method": "vanilla", "seed": 0, "n_parameters": 1, "test": {"auroc": "high"}}'
    for content in (b"[]", b"{", b"\xff", b'{"method": "magic"}', strange_score):
        run_with("result.json", content)
    (folder / "result.json").unlink()
    for content in (b"PK", b"", b"[]"):
        run_with("checkpoint.pt", content)
    for content in (b'{"lr"', b"[]", b""):
        run_with("settings.json", content)
    main([*options, "--fresh"])
    (result,) = collect(tmp_path)
    assert result["method"] == "vanilla"


OWN_DATA = """
import torch
from examples.datasets import MultimodalData, Source, Split

def load(root, split):
    generator = torch.Generator().manual_seed(split)
    vector, signal = torch.randn(60, 6, generator=generator), torch.randn(60, 20, 3, generator=generator)
    available = torch.ones(60, 2, dtype=torch.bool)
    available[::3, 1] = False
    whole = Split((vector, signal * available[:, 1, None, None]), (vector.sum(1) > 0).long(), available)
    parts = [whole.select(rows) for rows in torch.arange(60).tensor_split(3)]
    return MultimodalData(*parts, ("vector", "signal"), ("no", "yes"), "classification", ("accuracy",))

SOURCE = Source(load, n_splits=None)
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module outside the checkout."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/my_own_data.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    return "my_own_data"


def test_data_of_ones_own_runs_without_a_change_of_the_checkout(
    own_module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", f"{own_module}:SOURCE"]
    main(["--method", "i2moe", *data, "--fusion", "lrtf", "--seeds", "0", "--epochs", "1", "--cpu"])
    folder = tmp_path / "outputs/my_own_data-SOURCE-lrtf/i2moe/seed-0"
    assert json.loads((folder / "result.json").read_text())["dataset"] == "my_own_data:SOURCE"
    by_availability = InteractionReport.load(folder / "report.pt").by_availability
    assert {name: group.n_samples for name, group in by_availability.items()} == {"vector+signal": 14, "vector": 6}

    main(["check", *data])
    assert "signal 35.0%" in " ".join(capsys.readouterr().out.split())
    main(["sweep", *data, "--smoke", "--cpu", "--seeds", "0", "--trials", "1", "--over", "dropout"])
    assert (tmp_path / "outputs/sweep-my_own_data-SOURCE-transformer-i2moe/trials.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:SOURCE", "there is no module 'no_such_module'"),
        ("no_such.module:SOURCE", "'no_such.module' cannot be found"),
        (":SOURCE", "'' cannot be found"),
        ("my_own_data:load", "'load' in 'my_own_data' is <function"),
        ("my_own_data:DATA", "'DATA' in 'my_own_data' is None"),
    ],
)
def test_data_that_cannot_be_found_ends_with_one_message(own_module: str, name: str, message: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: '{name}' must name a module .*, however {message}"):
        main(["--data", name, "--cpu"])


def test_the_help_shows_presets(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "sweep DATASET" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["mosi", "--fusion", "moepp", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "factor lambda of the interaction loss. (default: 0.001)" in text
    assert "--fusion {transformer,switchgate,interpretcc,moepp,ef,lf,lrtf}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet"], "error: a data set must be one of adni"),
        (["watch", "--method", "magic"], "error: a method must be one of vanilla"),
        (["watch", "--split", "9", "--cpu"], "error: split must lie between 0 and 4, however it is 9"),
        (["mosi", "--root", "nowhere", "--cpu"], "error: these files must exist"),
        (["watch", "--cpu", "--seeds"], r"error: --seeds must name at least one, each once, however it is \(\)"),
        (["watch", "--cpu", "--method", "vanilla", "vanilla"], "error: --method must name at least one, each once"),
        (["watch", "--cpu", "--workers", "-1"], "error: --workers must be at least 0, however it is -1"),
        (["sweep", "watch", "--over", "magic"], "error: settings to vary must be some of lr"),
    ],
)
def test_mistakes_end_with_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*arguments, "--output", str(tmp_path)] if len(arguments) > 1 else arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch", "--fusion", "glue"],
        ["watch", "--epochs", "many"],
        ["watch", "--lrr", "1"],
        ["watch", "--batch-size", "0"],
        ["watch", "--lr", "-1"],
    ],
)
def test_bad_options_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_a_sweep_goes_on_and_prints_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["sweep", "synthetic", "--fusion", "lrtf", "--smoke", "--cpu", "--seeds", "0", "--over", "lr", "dropout"]
    for trials in ("1", "3"):
        main([*options, "--output", str(tmp_path), "--trials", trials])
    trials_done = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert len(trials_done) == 3
    assert trials_done[0]["lr"] == preset("synthetic", "lrtf").lr
    printed = capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"holds one with hidden_dim 16 \(now 8\); choose another --output"):
        main([*options, "--output", str(tmp_path), "--trials", "4", "--hidden-dim", "8"])
    best = max(trials_done, key=lambda trial: float(trial["validation"]))
    assert f"--lr {best['lr']:.3g} --dropout {best['dropout']:.3g}" in printed


def test_teachers_that_are_done_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["synthetic", "--seeds", "0", "--cpu", "--fusion", "lrtf", "--method", "i2moe-computed"]
    options += ["--epochs", "1", "--hidden-dim", "8", "--teachers", "2", "--output"]
    trained: list[str] = []
    fit = training.fit

    def killed_before(name: str) -> Callable[..., Any]:
        def fit_others(*arguments: Any, checkpoint: Path, **options: Any) -> Any:
            if checkpoint.name == name:
                raise InterruptedError
            trained.append(checkpoint.name)
            return fit(*arguments, checkpoint=checkpoint, **options)

        return fit_others

    main([*options, str(tmp_path / "whole")])
    monkeypatch.setattr(run, "fit", killed_before("teacher-1-0-checkpoint.pt"))
    with pytest.raises(InterruptedError):
        main([*options, str(tmp_path / "killed")])
    monkeypatch.setattr(run, "fit", killed_before("none"))
    main([*options, str(tmp_path / "killed")])

    teachers = [f"teacher-{number}-{kind}-checkpoint.pt" for number in range(2) for kind in (0, 1, "all")]
    assert trained == [*teachers, "checkpoint.pt"]
    whole, killed = (tmp_path / name / "i2moe-computed/seed-0" for name in ("whole", "killed"))
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
    expected = torch.load(whole / "model.pt", weights_only=True)
    found = torch.load(killed / "model.pt", weights_only=True)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
