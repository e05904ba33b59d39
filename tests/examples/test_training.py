"""The training loop: what a method trains, resuming, seeds, and what is chosen by the validation split."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from accelerate import Accelerator
from torch.nn.utils import parameters_to_vector

from examples.datasets import find as find_data
from examples.datasets._interface import MultimodalData, Split
from examples.reproduce import methods, run, training
from examples.reproduce.checkpoint import writing
from examples.reproduce.figures import draw, draw_history, report_of
from examples.reproduce.fusions import FusionName
from examples.reproduce.learner import Learner, build_learner
from examples.reproduce.methods import METHODS
from examples.reproduce.settings import Settings
from examples.reproduce.training import epoch_batches, fit, predict, score
from i2moe import ComputedReweighter, InteractionMoE
from i2moe.interpretation import InteractionReport
from i2moe.moe.experts import ExpertBank
from i2moe.moe.teacher import SoftTargets
from tests.covering import in_turn

SETTINGS = Settings(
    hidden_dim=8, n_layers=1, n_heads=2, dropout=0.1, reweighter_dim=8, lr=1e-2, batch_size=16, epochs=4
)


def tiny_data() -> MultimodalData:
    """Two modalities; the class is the sign of a sum over both."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 90, 4, generator=generator)
    whole = Split((x[0], x[1]), (x.sum((0, 2)) > 0).long())
    train, validation, test = (whole.select(rows) for rows in torch.arange(90).tensor_split([50, 70]))
    return MultimodalData(
        train, validation, test, ("a", "b"), ("no", "yes"), "classification", ("accuracy", "auroc", "loss")
    )


def learner_of(method: str, settings: Settings = SETTINGS, fusion: FusionName = "lrtf", seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    chosen = methods.find(method)
    return build_learner("tiny", tiny_data(), fusion, chosen, chosen.settings(settings))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_all_its_parameters(method: str) -> None:
    learner, data = learner_of(method), tiny_data()
    batch = data.train[range(32)]
    answer = learner(batch.modalities, batch.targets)
    answer.loss.backward()
    names = {name for name, parameter in learner.named_parameters() if parameter.grad is None}
    assert not names
    torch.testing.assert_close(torch.stack(list(answer.parts.values())).sum(), answer.loss)
    learned = METHODS[method].kind == "i2moe" and method != "i2moe-computed"
    assert ("interaction" in answer.parts) == (learned and method != "no-interaction")


def test_ablations_are_what_they_say() -> None:
    def experts(method: str) -> InteractionMoE:
        fusion = learner_of(method, fusion="transformer").fusion
        assert isinstance(fusion, InteractionMoE)
        return fusion

    def bank(method: str) -> ExpertBank:
        found = experts(method).experts
        assert isinstance(found, ExpertBank)
        return found

    assert experts("no-interaction").perturbation is None
    assert type(experts("shuffle").perturbation).__name__ == "Shuffle"
    assert experts("synergy-redundancy").expert_names == ("synergy", "redundancy")
    same, different = bank("same-start"), bank("i2moe")
    first, second = (list(same[e].parameters()) for e in (0, 3))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(different[0].head.weight, different[3].head.weight)  # type: ignore[union-attr,arg-type]
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


def data_with_gaps(stand_in: float = 0.0) -> MultimodalData:
    """Half of the samples lack modality "b", where their features are all `stand_in`."""

    def take_away(split: Split) -> Split:
        available = torch.ones(len(split), 2, dtype=torch.bool)
        available[::2, 1] = False
        a, b = (torch.as_tensor(column) for column in split.modalities)
        return Split((a, b.where(available[:, 1:], stand_in)), split.targets, available)

    data = tiny_data()
    train, validation, test = (take_away(split) for split in data.splits.values())
    return replace(data, train=train, validation=validation, test=test)


def learner_with_gaps(method: str, **changes: Any) -> Learner:
    torch.manual_seed(0)
    chosen = methods.find(method)
    return build_learner("tiny", data_with_gaps(), "lrtf", chosen, replace(chosen.settings(SETTINGS), **changes))


# The model fills and weighs on its own: tests/test_missing.py and tests/test_computed.py have the pairs.
@pytest.mark.parametrize(
    ("method", "fill"),
    in_turn(["i2moe", "i2moe+encoders", "i2moe-computed"], get_args(get_type_hints(Settings)["fill"])),
)
def test_nothing_of_a_missing_modality_reaches_the_experts(method: str, fill: str) -> None:
    states = []
    for stand_in in (0.0, 7.0):
        learner, data = learner_with_gaps(method, fill=fill, epochs=2), data_with_gaps(stand_in)
        fit(learner, data, learner.settings, seed=0, accelerator=Accelerator(cpu=True))
        states.append(learner.state_dict() | {"test": predict(learner, data.test, Accelerator(cpu=True))})
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


def test_a_missing_modality_has_no_weight_in_the_report() -> None:
    data, learner = data_with_gaps(), learner_with_gaps("i2moe")
    report = report_of(learner, data)
    assert report.available is not None
    assert torch.equal(report.available, data.test.available)
    assert (report.weights[:, 1] > 0).tolist() == data.test.available[:, 1].tolist()


@pytest.mark.parametrize("method", ["vanilla", "ensemble", "i2moe", "i2moe-computed"])
def test_every_parameter_is_trained_where_modalities_are_missing(method: str) -> None:
    learner, batch = learner_with_gaps(method), data_with_gaps().train[range(32)]
    learner(batch.modalities, batch.targets, batch.available).loss.backward()
    assert not {name for name, parameter in learner.named_parameters() if parameter.grad is None}


def test_the_report_is_saved_and_the_score_has_an_axis_of_its_own(tmp_path: Path) -> None:
    data, learner = tiny_data(), learner_of("i2moe")
    history = [{"epoch": epoch, "loss": 2.0, "task": 1.5, "validation accuracy": 0.5} for epoch in (1, 2)]
    draw(learner, data, history, tmp_path)
    saved, report = InteractionReport.load(tmp_path / "report.pt"), report_of(learner, data)
    assert torch.equal(saved.weights, report.weights)
    assert saved.summary() == report.summary()

    losses, score_axes = draw_history(history, "validation accuracy").axes
    lines: list[list[Any]] = [[line.get_label() for line in ax.get_lines()] for ax in (losses, score_axes)]
    assert lines == [["loss", "task"], ["validation accuracy"]]
    assert (losses.get_ylabel(), score_axes.get_ylabel()) == ("loss", "validation accuracy")


def test_computed_weights_are_of_averaged_parameters_and_calibrated() -> None:
    learner, data = learner_of("i2moe-computed"), tiny_data()
    steps: list[torch.Tensor] = []
    settings = replace(learner.settings, epochs=2)
    fit(
        learner,
        data,
        settings,
        seed=0,
        accelerator=Accelerator(cpu=True),
        after_step=lambda: steps.append(parameters_to_vector(learner.parameters()).detach().clone()),
    )
    averages = [steps[0]]
    for n, step in enumerate(steps[1:], start=1):
        averages.append(averages[-1].lerp(step, 9 / (n + 9)))
    found = parameters_to_vector(learner.parameters())
    assert any(torch.allclose(found, averages[n], atol=1e-5) for n in (len(steps) // 2 - 1, len(steps) - 1))
    (reweighter,) = (module for module in learner.modules() if isinstance(module, ComputedReweighter))
    assert reweighter.scale.shape == (3,)


def test_computed_weights_are_calibrated_by_the_weights_of_the_classes() -> None:
    learner, data = learner_of("i2moe-computed"), tiny_data()
    weights = tuple(float(i + 1) for i in range(len(data.output_names)))
    settings = replace(learner.settings, epochs=1, class_weights=weights)
    fit(learner, data, settings, seed=0, accelerator=Accelerator(cpu=True))
    (reweighter,) = (module for module in learner.modules() if isinstance(module, ComputedReweighter))
    counts = data.validation.targets.bincount(minlength=len(weights)) * torch.tensor(weights)
    torch.testing.assert_close(reweighter.prior, counts / counts.sum())


def test_soft_targets_are_learned_in_place_of_targets() -> None:
    """Those that are sure of the labels give the same model as the labels, others another one."""
    data, settings = tiny_data(), METHODS["i2moe-computed"].settings(replace(SETTINGS, epochs=1))
    sure = torch.eye(2)[data.train.targets]

    def trained_on(soft: SoftTargets | None) -> torch.Tensor:
        learner = learner_of("i2moe-computed", settings)
        fit(learner, data, settings, seed=0, accelerator=Accelerator(cpu=True), soft=soft)
        return parameters_to_vector(learner.parameters()).detach()

    def alike(target: torch.Tensor) -> SoftTargets:
        return SoftTargets(target, target.unsqueeze(1).repeat(1, 2, 1))

    torch.testing.assert_close(trained_on(alike(sure)), trained_on(None))
    assert not torch.allclose(trained_on(alike(1 - sure)), trained_on(None), atol=1e-2)


class Killed(Exception):  # noqa: N818
    """What stands for the end of the process."""


def killer(step: int) -> Callable[[], None]:
    steps = iter(range(step, -1, -1))

    def after_step() -> None:
        if next(steps) == 0:
            raise Killed

    return after_step


@pytest.mark.parametrize(
    ("method", "step"), [("i2moe", 0), ("i2moe-computed", 3), ("i2moe", 4), ("i2moe", 9), ("i2moe-computed", 9)]
)
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


@pytest.fixture(scope="module")
def checkpoint_of_a_killed_run(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    arguments: dict[str, Any] = {"seed": 0, "accelerator": Accelerator(cpu=True), "identity": {"lr": 0.01}}
    with pytest.raises(Killed):
        fit(learner_of("i2moe"), tiny_data(), SETTINGS, checkpoint=path, after_step=killer(9), **arguments)
    return path.read_bytes()


def go_on_from(path: Path, method: str = "i2moe", **identity: float) -> None:
    arguments: dict[str, Any] = {"seed": 0, "accelerator": Accelerator(cpu=True), "identity": identity}
    fit(learner_of(method), tiny_data(), SETTINGS, checkpoint=path, **arguments)


def test_a_checkpoint_of_another_run_is_refused(checkpoint_of_a_killed_run: bytes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(checkpoint_of_a_killed_run)
    with pytest.raises(ValueError, match=r"checkpoint\.pt must hold a run with these .* with lr 0\.01 \(now 0\.02\)"):
        go_on_from(path, lr=0.02)
    assert path.read_bytes() == checkpoint_of_a_killed_run
    go_on_from(path, lr=0.01)


@pytest.mark.parametrize("damage", ["cut", "flipped", "list", "empty", "another model"])
def test_a_damaged_checkpoint_is_refused(damage: str, checkpoint_of_a_killed_run: bytes, tmp_path: Path) -> None:
    path, content = tmp_path / "checkpoint.pt", bytearray(checkpoint_of_a_killed_run)
    if damage == "flipped":
        saved = torch.load(io.BytesIO(content), weights_only=True)["model"]
        content[content.index(max(saved.values(), key=torch.numel).numpy().tobytes())] ^= 1
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    if damage in ("list", "empty"):
        torch.save([1] if damage == "list" else {"identity": {"lr": 0.01}}, path)
    with pytest.raises(ValueError, match=r"(?s)checkpoint\.pt must hold a whole checkpoint, however: .*\nDelete it"):
        go_on_from(path, "vanilla" if damage == "another model" else "i2moe", lr=0.01)


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
    assert [run.split_of(source, seed) for seed in (0, 7)] == [0, 7]
    assert [run.split_of(watch, seed) for seed in (1, 7)] == [1, 2]
    assert run.split_of(find_data("mosi"), 7) == 0


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
