"""The runner: every data set from end to end, resuming, several processes, and mistakes on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from examples.datasets import find as find_data
from examples.datasets._interface import MultimodalData, Split
from examples.fixtures import find as find_fixture
from examples.reproduce import methods, run, training
from examples.reproduce.__main__ import main
from examples.reproduce.checkpoint import writing
from examples.reproduce.fusions import Fusion
from examples.reproduce.learner import Learner, build_learner
from examples.reproduce.methods import METHODS
from examples.reproduce.results import collect, compare, summarize
from examples.reproduce.settings import Settings, preset, smoke
from examples.reproduce.training import epoch_batches, fit, predict, score
from i2moe import InteractionMoE

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(
    hidden_dim=8, n_layers=1, n_heads=2, dropout=0.1, reweighter_dim=8, lr=1e-2, batch_size=16, epochs=4
)


@pytest.fixture(autouse=True)
def _one_accelerator_at_a_time() -> Iterator[None]:
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            find_fixture(name)(folders[name])
        return folders[name]

    return write


def tiny_data() -> MultimodalData:
    """Two modalities; the class is the sign of a sum over both."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 90, 4, generator=generator)
    whole = Split((x[0], x[1]), (x.sum((0, 2)) > 0).long())
    train, validation, test = (whole.select(rows) for rows in torch.arange(90).tensor_split([50, 70]))
    return MultimodalData(
        train, validation, test, ("a", "b"), ("no", "yes"), "classification", ("accuracy", "auroc", "loss")
    )


def learner_of(method: str, settings: Settings = SETTINGS, fusion: Fusion = "lrtf", seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    chosen = methods.find(method)
    return build_learner("tiny", tiny_data(), fusion, chosen, chosen.settings(settings))


@pytest.mark.parametrize("dataset", ["adni", "mimic", "mmimdb", "mosi", "enrico"])
def test_every_gated_data_set_runs_from_end_to_end(
    dataset: str, written: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fusion in ("transformer", "interpretcc"):
        arguments = ["--root", str(written(dataset)), "--smoke", "--seeds", "0", "--cpu", "--fusion", fusion]
        main([dataset, *arguments, "--method", "vanilla", "i2moe", "--output", str(tmp_path / fusion)])
        results = [json.loads(line) for line in (tmp_path / fusion / "results.jsonl").read_text().splitlines()]
        assert [result["method"] for result in results] == ["vanilla", "i2moe"]
        assert all(set(result["test"]) == set(find_data(dataset).open(written(dataset)).metrics) for result in results)
        assert results[1]["n_parameters"] > results[0]["n_parameters"]
        for name in ("losses.png", "weights.png", "model.pt", "history.json"):
            assert (tmp_path / fusion / "i2moe" / "seed-0" / name).stat().st_size > 100
        assert not (tmp_path / fusion / "vanilla" / "seed-0" / "weights.png").exists()
    assert "i2moe" in capsys.readouterr().out


def test_smoke_makes_its_files_and_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        main(["mimic", "--smoke", "--seeds", "0", "--cpu", "--fusion", "lrtf", "--method", "vanilla"])
        (result,) = (tmp_path / "outputs/mimic-lrtf-smoke").glob("vanilla/seed-0/result.json")
        assert result.stat().st_mtime > time.time() - 60
        os.utime(result, (0, 0))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_all_its_parameters(method: str) -> None:
    learner, data = learner_of(method), tiny_data()
    batch = data.train[range(32)]
    answer = learner(batch.modalities, batch.targets, torch.arange(32))
    answer.loss.backward()
    names = {name for name, parameter in learner.named_parameters() if parameter.grad is None}
    assert not names
    torch.testing.assert_close(torch.stack(list(answer.parts.values())).sum(), answer.loss)
    assert ("interaction" in answer.parts) == (METHODS[method].kind == "i2moe" and method != "no-interaction")


def test_ablations_are_what_they_say() -> None:
    def experts(method: str) -> InteractionMoE:
        fusion = learner_of(method, fusion="transformer").fusion
        assert isinstance(fusion, InteractionMoE)
        return fusion

    assert experts("no-interaction").perturbation is None
    assert type(experts("shuffle").perturbation).__name__ == "Shuffle"
    assert experts("synergy-redundancy").expert_names == ("synergy", "redundancy")
    same, different = experts("same-start"), experts("i2moe")
    first, second = (list(same.experts[e].parameters()) for e in (0, 3))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(different.experts[0].head.weight, different.experts[3].head.weight)  # type: ignore[union-attr,arg-type]
    count = {name: sum(p.numel() for p in learner_of(name).parameters()) for name in ("vanilla", "ensemble")}
    assert count["ensemble"] == 4 * count["vanilla"]


def test_members_of_an_ensemble_learn_as_if_alone() -> None:
    """Their losses do not mix: with the same batches, each member is the model that would be trained without others."""
    settings = replace(SETTINGS, dropout=0.0, clip_norm=1e9)
    ensemble, data = learner_of("ensemble", settings), tiny_data()
    alone = learner_of("vanilla", settings)
    members: Any = ensemble.fusion.members
    member = members[2]
    alone.encoders.load_state_dict(member.encoders.state_dict())
    alone.fusion.load_state_dict(member.fusion.state_dict())
    start = {name: value.clone() for name, value in alone.fusion.state_dict().items()}
    for learner in (ensemble, alone):
        fit(learner, data, replace(settings, epochs=1), seed=0, accelerator=Accelerator(cpu=True))
    for name, value in alone.fusion.state_dict().items():
        torch.testing.assert_close(member.fusion.state_dict()[name], value, rtol=0, atol=3e-3)  # of Adam's epsilon
        assert (value - start[name]).abs().max() > 2e-2


class Killed(Exception):  # noqa: N818
    """What stands for the end of the process."""


def killer(step: int) -> Callable[[], None]:
    steps = iter(range(step, -1, -1))

    def after_step() -> None:
        if next(steps) == 0:
            raise Killed

    return after_step


@pytest.mark.parametrize("step", [0, 3, 4, 9])
@pytest.mark.parametrize("method", ["i2moe", "i2moe+supervision"])
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(method: str, step: int, tmp_path: Path) -> None:
    whole, killed, resumed = (learner_of(method) for _ in range(3))
    arguments: dict[str, Any] = {"seed": 0, "accelerator": Accelerator(cpu=True)}
    path = tmp_path / "checkpoint.pt"
    expected = fit(whole, tiny_data(), SETTINGS, **arguments)
    with pytest.raises(Killed):
        fit(killed, tiny_data(), SETTINGS, checkpoint=path, after_step=killer(step), **arguments)
    torch.manual_seed(99)  # another process has another state
    found = fit(resumed, tiny_data(), SETTINGS, checkpoint=path, **arguments)
    assert found == expected
    assert found.epoch == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with writing(path) as file:
            file.write(b"half of the n")
            raise Killed

    with pytest.raises(Killed):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def command(folder: Path, *options: str) -> list[str]:
    run_it = ["-m", "examples.reproduce", "synthetic", "--fusion", "lrtf", "--method", "i2moe", "--cpu"]
    return [
        *run_it,
        "--seeds",
        "0",
        "--split",
        "0",
        "--epochs",
        "5",
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


def test_a_killed_process_is_resumed(tmp_path: Path) -> None:
    """By SIGKILL, at whatever moment after the first checkpoint it comes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command(tmp_path / "killed")], cwd=ROOT, env=environment)
    checkpoint = tmp_path / "killed/i2moe/seed-0/checkpoint.pt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 <= torch.load(checkpoint, weights_only=True)["progress"]["epoch"] < 5

    for folder in ("killed", "whole"):
        main(command(tmp_path / folder)[2:])
    killed, whole = (result_of(tmp_path / folder) for folder in ("killed", "whole"))
    weights = killed.pop("weights"), whole.pop("weights")
    assert killed == whole
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Without dropout and noise, which processes draw apart."""
    options = [
        "--dropout",
        "0",
        "--reweighter-dropout",
        "0",
        "--perturbation",
        "zero",
        "--fraction",
        "1",
        "--epochs",
        "2",
    ]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [sys.executable, *launcher, *command(tmp_path / "two", *options)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    main(command(tmp_path / "one", *options)[2:])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    one, two = (json.loads((tmp_path / n / "i2moe/seed-0/history.json").read_text()) for n in ("one", "two"))
    assert len(one) == 2
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert theirs[name] == pytest.approx(ours[name], abs=1e-5), name
    assert output.count("Everything is in") == 1


def test_the_best_epoch_by_validation_is_kept_and_training_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.9, 0.7, 0.9, 0.2, 1.0])
    states = []

    def scripted(learner: Learner, *_: object) -> dict[str, float]:
        states.append({name: value.clone() for name, value in learner.state_dict().items()})
        return {"accuracy": next(scores)}

    monkeypatch.setattr(training, "score", scripted)
    learner = learner_of("vanilla")
    settings = replace(SETTINGS, epochs=6, patience=3)
    progress = fit(learner, tiny_data(), settings, seed=0, accelerator=Accelerator(cpu=True))
    assert (progress.epoch, progress.best_epoch, progress.best_score) == (5, 2, 0.9)
    assert all(torch.equal(value, states[1][name]) for name, value in learner.state_dict().items())


def test_training_does_not_touch_the_test_split() -> None:
    class Forbidden(Split):
        def __getitem__(self, rows: object) -> Any:
            pytest.fail("the test split was read")

    data = tiny_data()
    test = Forbidden(data.test.modalities, data.test.targets)
    fit(learner_of("vanilla"), replace(data, test=test), SETTINGS, seed=0, accelerator=Accelerator(cpu=True))


def test_seeds_differ_in_everything() -> None:
    histories, starts = [], []
    for seed in (0, 1):
        learner = learner_of("vanilla", seed=training.seed_of(seed))
        starts.append(torch.nn.utils.parameters_to_vector(learner.parameters()).detach().clone())
        histories.append(fit(learner, tiny_data(), SETTINGS, seed=seed, accelerator=Accelerator(cpu=True)).history)
    assert not torch.equal(starts[0], starts[1])
    assert histories[0][0]["loss"] != histories[1][0]["loss"]
    orders = {tuple(torch.cat(epoch_batches(50, 16, training.seed_of(*when))).tolist()) for when in
              [(0, 0), (0, 1), (1, 0), (1, 1)]}  # fmt: skip
    assert len(orders) == 4
    source, watch = find_data("support2"), find_data("watch")
    assert [run._split(source, seed, None) for seed in (0, 7)] == [0, 7]
    assert [run._split(watch, seed, None) for seed in (1, 7)] == [1, 2]
    assert run._split(find_data("mosi"), 7, None) == 0


@pytest.mark.parametrize(("n", "size"), [(50, 16), (7, 16), (33, 16), (64, 32)])
def test_batches_are_a_partition_of_nearly_equal_parts(n: int, size: int) -> None:
    batches = epoch_batches(n, size, seed=1)
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    lengths = [len(batch) for batch in batches]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_evaluation_draws_nothing_and_keeps_the_order() -> None:
    learner, data = learner_of("i2moe"), tiny_data()
    before = torch.get_rng_state()
    first = predict(learner, data.test, Accelerator(cpu=True))
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        torch.testing.assert_close(first[3:4], learner(data.test[[3]].modalities).prediction)
    scores = score(learner, data, "test", ("loss",), Accelerator(cpu=True))
    assert scores["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(first, data.test.targets)), rel=1e-6)


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    ours, baseline = {0: 0.7, 1: 0.9, 2: 0.8}, {2: 0.75, 0: 0.66, 1: 0.85, 5: 0.0}
    from scipy.stats import ttest_rel

    found = compare(ours, baseline)
    assert found is not None
    interval = ttest_rel([0.7, 0.9, 0.8], [0.66, 0.85, 0.75]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert compare({0: 1.0}, {1: 1.0}) is None

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
    with pytest.raises(SystemExit, match=r"holds one with lr 0\.002 \(now 0\.5\)"):
        main([*options, "--lr", "0.5"])


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
        (["sweep", "watch", "--over", "magic"], "error: settings to vary must be some of lr"),
    ],
)
def test_mistakes_end_with_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*arguments, "--output", str(tmp_path)] if len(arguments) > 1 else arguments)


@pytest.mark.parametrize(
    "arguments", [["watch", "--fusion", "glue"], ["watch", "--epochs", "many"], ["watch", "--lrr", "1"]]
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
    best = max(trials_done, key=lambda trial: float(trial["validation"]))
    assert f"--lr {best['lr']:.3g} --dropout {best['dropout']:.3g}" in printed
