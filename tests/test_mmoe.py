"""MMoE: aggregations and losses as identities, folds by spies, stages by cutting them off, a life of the model."""

from __future__ import annotations

import ast
import copy
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from graphlib import TopologicalSorter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn

import i2moe
from i2moe import BackboneOutput, MMoE, categorize, explain
from i2moe._common.modalities import leaves
from i2moe.categorization import Calibrated, Categories, Halfway, LikeliestClass
from i2moe.mmoe import (
    AGGREGATIONS,
    Cascade,
    Classification,
    Progress,
    Recipe,
    Regression,
    Training,
    as_predictor,
    category_weights,
    cross_predict,
    focal_loss,
    hard,
    mean_logits,
    oracle,
    train_router,
    weighted,
)
from i2moe.moe.weights.learned import Reweighter
from tests.covering import in_turn

QUICK = Training(n_epochs=2, batch_size=32, learning_rate=1e-2)
RECIPE = Recipe(QUICK, QUICK, QUICK, n_folds=2, min_samples=1)
BY_CLASS = partial(categorize, threshold=LikeliestClass())
STAGES = [
    "unimodal/0",
    "unimodal/1",
    "baseline",
    "categories",
    "expert/uniqueness/0",
    "expert/uniqueness/1",
    "expert/synergy",
    "expert/redundancy",
    "router",
]


class Fusion(nn.Module):
    def __init__(self, width: int = 8, n_outputs: int = 2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, n_outputs))

    def forward(self, *modalities: Tensor) -> Tensor:
        outputs: Tensor = self.net(torch.cat(modalities, dim=-1))
        return outputs


def data(n: int = 200, n_modalities: int = 2, seed: int = 0) -> tuple[tuple[Tensor, ...], Tensor]:
    """Signs in feature 0, and in feature 1 what decides the label: one modality's sign, or the product of all."""
    draw = torch.Generator().manual_seed(seed)
    kind = torch.randint(n_modalities + 2, (n,), generator=draw)
    signs = 2 * torch.randint(2, (n, n_modalities), generator=draw) - 1
    signs = torch.where((kind == n_modalities + 1).unsqueeze(1), signs[:, :1], signs)
    truth = torch.cat([signs, signs.prod(1, keepdim=True), signs[:, :1]], dim=1)
    target = (truth[torch.arange(n), kind] > 0).long()
    cue = F.one_hot(kind, n_modalities + 2)[:, :3].float()
    return tuple(
        torch.cat([sign.unsqueeze(1), cue], 1) + 0.1 * torch.randn(n, 4, generator=draw) for sign in signs.unbind(1)
    ), target


def build(**changes: Any) -> MMoE:
    """By likeliest classes there are samples of every category, however short the training."""
    arguments: dict[str, Any] = {
        "categorizer": BY_CLASS,
        "unimodal": [lambda: nn.Linear(4, 2)] * 2,
        "router": lambda: Reweighter(4, hidden_dim=8),
    }
    arguments |= changes
    return MMoE(Fusion, 2, 2, **arguments)


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def simplex(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


# Aggregations


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_aggregations_return_probabilities(name: str) -> None:
    found = AGGREGATIONS[name](simplex(0, 50, 4, 3), simplex(1, 50, 4))
    torch.testing.assert_close(found.sum(-1), torch.ones(50, dtype=torch.float64))
    assert found.min() >= 0


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_of_equal_experts_every_aggregation_is_the_expert(name: str) -> None:
    one = simplex(2, 50, 1, 3)
    torch.testing.assert_close(AGGREGATIONS[name](one.expand(50, 4, 3), simplex(3, 50, 4)), one[:, 0])


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_aggregations_know_no_order_of_experts_and_classes(name: str) -> None:
    predictions, weights, experts, classes = simplex(4, 50, 4, 3), simplex(5, 50, 4), [2, 0, 3, 1], [1, 2, 0]
    found = AGGREGATIONS[name](predictions[:, experts][..., classes], weights[:, experts])
    torch.testing.assert_close(found, AGGREGATIONS[name](predictions, weights)[:, classes])


def test_mean_logits_is_that_of_the_logits() -> None:
    logits = torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    expected = logits.mean(1).softmax(-1)
    torch.testing.assert_close(mean_logits(logits.softmax(-1), simplex(7, 50, 4)), expected)
    certain = mean_logits(torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]), torch.ones(1, 2))
    assert certain.isfinite().all()


def test_sharp_weights_make_weighting_hard_and_true_ones_the_oracle() -> None:
    predictions, category = simplex(8, 50, 4, 3), torch.arange(50) % 4
    true_weights = F.one_hot(category, 4).double()
    assert torch.equal(weighted(predictions, true_weights), oracle(predictions, category))
    assert torch.equal(hard(predictions, true_weights), oracle(predictions, category))
    assert torch.equal(oracle(predictions, category)[7], predictions[7, 3])


def test_cascade_between_hard_routing_and_the_surest_expert() -> None:
    predictions, weights = simplex(9, 50, 4, 3), simplex(10, 50, 4)
    assert torch.equal(Cascade(0.0)(predictions, weights), hard(predictions, weights))
    surest = oracle(predictions, predictions.amax(-1).argmax(-1))
    assert torch.equal(Cascade(1.0)(predictions, weights), surest)
    for b, row in enumerate(Cascade(0.6)(predictions, weights)):  # the definition, one by one
        order = weights[b].argsort(descending=True).tolist()
        sure = [e for e in order if predictions[b, e].max() >= 0.6]
        assert torch.equal(row, predictions[b, sure[0]] if sure else surest[b])


# Router


def test_focal_loss_without_focus_is_the_weighted_cross_entropy() -> None:
    log_probabilities, target = simplex(11, 40, 4).log(), torch.arange(40) % 4
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    expected = F.nll_loss(log_probabilities, target, weight=weights)
    torch.testing.assert_close(focal_loss(log_probabilities, target, gamma=0.0, category_weights=weights), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_equals_its_definition_and_has_gradients(gamma: float) -> None:
    logits, target = torch.randn(6, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2])
    p = logits.softmax(-1)[torch.arange(6), target]
    expected = (-((1 - p) ** gamma) * p.log()).mean()
    torch.testing.assert_close(focal_loss(logits.log_softmax(-1), target, gamma=gamma), expected)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x.log_softmax(-1), target, gamma=gamma), logits)
    sure = torch.tensor([[0.0, -torch.inf]], requires_grad=True)
    focal_loss(sure, torch.tensor([0]), gamma=gamma).backward()
    assert sure.grad is not None
    assert sure.grad.isfinite().all()


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_category_weights_average_to_one(balance: float) -> None:
    counts = torch.tensor([5, 20, 0, 75])
    weights = category_weights(counts, balance=balance)
    torch.testing.assert_close((weights * counts).sum(), torch.tensor(100.0))
    assert weights[2] == 0
    torch.testing.assert_close(weights[0] / weights[1], torch.tensor(4.0) ** balance)


def test_a_router_learns_the_category() -> None:
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    category = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    torch.manual_seed(0)
    router = Reweighter(4, (4,), hidden_dim=32, dropout=0.0)
    train_router(router, (x,), category, 4, Training(n_epochs=30, learning_rate=1e-2))
    assert not router.training
    assert (router((x,)).argmax(-1) == category).double().mean() > 0.95


# Folds


class Spy(nn.Module):
    """Learns the numbers of its samples and never predicts them again."""

    log: ClassVar[list[tuple[set[int], set[int]]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))
        self.seen: set[int] = set()

    def forward(self, number: Tensor) -> Tensor:
        now = {int(i) for i in number[:, 0]}
        if self.training:
            self.seen |= now
        else:
            self.log.append((self.seen, now))
        return self.bias.expand(len(number), 2)


@pytest.mark.parametrize("grouped", [False, True])
def test_nobody_predicts_what_it_was_trained_on(grouped: bool) -> None:
    Spy.log.clear()
    number, target = torch.arange(50.0).unsqueeze(1), torch.arange(50) % 2
    groups = torch.arange(50) // 5 if grouped else None
    build_spy = partial(as_predictor, objective=Classification(2), name="spy")
    final, predictions = cross_predict(
        lambda: build_spy(Spy()), (number,), target, QUICK, n_folds=5, groups=groups, generator=torch.Generator()
    )
    assert predictions.shape == (50, 2)
    assert len(Spy.log) == 5
    for seen, asked in Spy.log:
        assert not seen & asked
        assert seen | asked == set(range(50))
        assert not grouped or not {i // 5 for i in seen} & {i // 5 for i in asked}
    assert final.module.seen == set(range(50))  # type: ignore[union-attr]


def test_one_fold_predicts_the_training_samples() -> None:
    Spy.log.clear()
    cross_predict(
        lambda: as_predictor(Spy(), Classification(2), "spy"),
        (torch.arange(9.0).unsqueeze(1),),
        torch.arange(9) % 2,
        QUICK,
        n_folds=1,
    )
    assert Spy.log == [(set(range(9)), set(range(9)))]


# Fitting


def run(model: MMoE, **arguments: Any) -> dict[str, Tensor]:
    modalities, target = data()
    model.fit(modalities, target, RECIPE, **arguments)
    return {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.usefixtures("quiet")
def test_a_seed_of_numpy_makes_checkpoints_that_can_be_read(tmp_path: Path) -> None:
    first, again = (run(build(), checkpoint_dir=tmp_path, seed=np.int64(3)) for _ in range(2))
    assert same(first, again)


@pytest.mark.usefixtures("quiet")
def test_a_seed_decides_everything_and_the_global_state_is_left_alone() -> None:
    torch.manual_seed(1)
    first = run(build(), seed=3)
    torch.manual_seed(2)
    model = build()
    before = torch.get_rng_state()
    assert same(first, run(model, seed=3))
    assert torch.equal(before, torch.get_rng_state())
    assert same(first, run(model, seed=3))  # fitting again starts anew
    assert not same(first, run(model, seed=4))


@pytest.mark.usefixtures("quiet")
def test_fitting_on_the_cpu_draws_nothing_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    run(build())
    assert not seeded


@pytest.mark.usefixtures("quiet")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fit_on_a_gpu_is_taken_up_again(tmp_path: Path) -> None:
    modalities, target = data()
    on_gpu, target = tuple(x.cuda() for x in modalities), target.cuda()
    first = build().cuda().fit(on_gpu, target, RECIPE, checkpoint_dir=tmp_path)
    for path in tmp_path.glob("router.pt"):
        path.unlink()
    again = build().cuda().fit(on_gpu, target, RECIPE, checkpoint_dir=tmp_path)
    assert first.categories is not None
    assert first.categories.category.device.type == "cuda"
    assert same(first.state_dict(), again.state_dict())


class PowerCutError(Exception):
    """Ends a run."""


def stop_at(stage: str, event: str) -> Callable[[Progress], None]:
    def hear(progress: Progress) -> None:
        if progress.stage == stage and progress.event == event:
            raise PowerCutError

    return hear


@cache
def uninterrupted() -> dict[str, Tensor]:
    return run(build())


# The end of a stage is on disk when the next one starts: to be cut off at either is the same but for that stage.
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("stage", "event"), in_turn(STAGES, ["start", "done"]))
def test_a_fit_cut_off_at_any_stage_is_taken_up_again(stage: str, event: str, tmp_path: Path) -> None:
    with pytest.raises(PowerCutError):
        run(build(), checkpoint_dir=tmp_path, progress=stop_at(stage, event))
    n_saved = STAGES.index(stage) + (event == "done")
    assert len(list(tmp_path.iterdir())) == n_saved
    told: list[Progress] = []
    torch.manual_seed(99)
    assert same(uninterrupted(), run(build(), checkpoint_dir=tmp_path, progress=told.append))
    ends = [(progress.stage, progress.event) for progress in told if progress.event in ("done", "restored")]
    assert ends == [(name, "restored" if i < n_saved else "done") for i, name in enumerate(STAGES)]


@pytest.mark.usefixtures("quiet")
def test_progress_counts_stages_and_epochs() -> None:
    told: list[Progress] = []
    run(build(), progress=told.append)
    assert list(dict.fromkeys(progress.stage for progress in told)) == STAGES
    assert all(progress.n_stages == len(STAGES) for progress in told)
    assert [p.n_done for p in told if p.event == "done"] == list(range(1, len(STAGES) + 1))
    epochs = [(p.epoch, p.n_epochs) for p in told if p.stage == "baseline" and p.event == "epoch"]
    assert epochs == [(1, 2), (2, 2)]
    assert all(p.loss is not None and p.loss > 0 for p in told if p.event == "epoch")


class Failing(nn.Module):
    def forward(self, *modalities: Tensor) -> Tensor:
        raise ConnectionError("no answer")


@pytest.mark.usefixtures("quiet")
def test_a_failing_expert_loses_no_stage(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="no answer") as caught:
        run(build(experts=lambda name: Failing() if name == "synergy" else Fusion()), checkpoint_dir=tmp_path)
    assert "expert/synergy" in caught.value.__notes__[0]
    assert "not run again" in caught.value.__notes__[0]
    told: list[Progress] = []
    run(build(experts=lambda name: Fusion()), checkpoint_dir=tmp_path, progress=told.append)
    assert [p.stage for p in told if p.event == "done"] == STAGES[STAGES.index("expert/synergy") :]


@pytest.mark.usefixtures("quiet")
def test_half_a_checkpoint_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(content: object, file: Any) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        run(build(), checkpoint_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quiet")
def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    run(build(), checkpoint_dir=tmp_path)
    modalities, target = data()
    with pytest.raises(ValueError, match="differs in \\['seed'\\]"):
        run(build(), checkpoint_dir=tmp_path, seed=1)
    with pytest.raises(ValueError, match="differs in \\['recipe'\\]"):
        build().fit(modalities, target, Recipe(), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="differs in \\['target'\\]"):
        build().fit(modalities, 1 - target, RECIPE, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="differs in \\['modalities'\\]"):
        build().fit((modalities[0] + 1, modalities[1]), target, RECIPE, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="must fit what its factory builds"):
        build(unimodal=[lambda: nn.Linear(4, 2, bias=False)] * 2).fit(
            modalities, target, RECIPE, checkpoint_dir=tmp_path
        )
    (tmp_path / "baseline.pt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="delete it"):
        run(build(), checkpoint_dir=tmp_path)


@pytest.mark.usefixtures("quiet")
def test_a_stage_made_after_other_results_is_refused(tmp_path: Path) -> None:
    run(build(), checkpoint_dir=tmp_path)
    (tmp_path / "categories.pt").unlink()
    run(build(), checkpoint_dir=tmp_path)  # the same categories again
    (tmp_path / "categories.pt").unlink()
    with pytest.raises(ValueError, match="differs in \\['earlier stages'\\]"):
        run(build(categorizer=partial(categorize, threshold=Halfway())), checkpoint_dir=tmp_path)


def test_rare_categories_fall_back_to_the_baseline() -> None:
    modalities, target = data()
    category = torch.full_like(target, 3)
    category[:7] = 2  # five samples or more, but
    category[100:120] = 0
    target[100:120] = 1  # one class only
    categories = Categories(
        category, torch.zeros(200, 4), build().expert_names, category > 9, torch.zeros(200, dtype=torch.bool), None
    )
    model = build(unimodal=None)
    with pytest.warns(UserWarning, match=r"\['uniqueness/0', 'uniqueness/1', 'synergy'\] have not"):
        model.fit(modalities, target, Recipe(QUICK, QUICK, QUICK, min_samples=10), categories=categories)
    assert model.fallback.tolist() == [True, True, True, False]
    out = model(*modalities)
    baseline = model.baseline(modalities)
    assert all(torch.equal(out.expert_predictions[:, k], baseline) for k in range(3))
    assert not torch.equal(out.expert_predictions[:, 3], baseline)
    report = model.report(modalities, target, categories=categories)
    assert [row.has_expert for row in report.rows] == [False, False, False, True]
    assert "synergy (baseline)" in str(report)
    assert report["synergy"].oracle == report["synergy"].baseline


@pytest.mark.usefixtures("quiet")
def test_ambiguous_samples_train_no_expert() -> None:
    """Where all samples are, nothing is trained that would need one."""
    modalities, target = data()
    told: list[Progress] = []
    model = build(categorizer=partial(BY_CLASS, margin=0.999999))
    with pytest.raises(ValueError, match="all 200 are"):
        model.fit(modalities, target, RECIPE, progress=told.append)
    assert {progress.stage for progress in told} == {"unimodal/0", "unimodal/1", "baseline", "categories"}
    told.clear()
    given = replace(CATEGORIES, ambiguous=torch.ones(60, dtype=torch.bool))
    with pytest.raises(ValueError, match="all 60 are"):
        build(unimodal=None).fit(X, Y, RECIPE, categories=given, progress=told.append)
    assert not told


@pytest.mark.usefixtures("quiet")
def test_experts_start_from_the_baseline_or_from_scratch() -> None:
    modalities, target = data()
    still = Recipe(QUICK, Training(n_epochs=0), QUICK, n_folds=1, min_samples=1)
    model = build().fit(modalities, target, still)
    out = model(*modalities)
    assert torch.equal(out.expert_predictions[:, 0], model.baseline(modalities))
    scratch = build(experts=lambda name: Fusion()).fit(modalities, target, still)
    assert not torch.equal(scratch(*modalities).expert_predictions[:, 0], scratch.baseline(modalities))


@pytest.mark.usefixtures("quiet")
def test_a_fitted_model_is_called_trained_saved_and_copied() -> None:
    modalities, target = data(400)
    model = build(modality_names=("a", "b"))
    model.fit({"b": modalities[1], "a": modalities[0]}, target, Recipe(QUICK, QUICK, QUICK, n_folds=2, min_samples=1))
    assert model.expert_names == ("uniqueness/a", "uniqueness/b", "synergy", "redundancy")
    assert model.categories is not None
    assert len(model.categories) == 400

    out = model(modalities[0], modalities[1])
    assert out.prediction.shape == (400, 2)
    torch.testing.assert_close(out.prediction, weighted(out.expert_predictions, out.weights))
    torch.testing.assert_close(model(a=modalities[0], b=modalities[1]).prediction, out.prediction)
    assert "uniqueness/a" in repr(model)

    model.train()
    model(*modalities).prediction[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.experts.parameters())
    assert isinstance(model.router, nn.Module)
    assert all(parameter.grad is not None for parameter in model.router.parameters())

    other = build(modality_names=("a", "b"))
    other(*(modality[:2] for modality in modalities))  # finds the router's width
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(*modalities).prediction, model.eval()(*modalities).prediction)
    assert torch.equal(copy.deepcopy(model)(*modalities).prediction, model(*modalities).prediction)


@pytest.mark.usefixtures("quiet")
def test_report_equals_counting_by_hand() -> None:
    modalities, target = data(300)
    model = build().fit(modalities, target, RECIPE)
    test_modalities, test_target = data(150, seed=1)
    sizes: set[int] = set()
    for part in (model.baseline, *model.unimodal):
        part.register_forward_hook(lambda _, args, out: sizes.add(len(out)))
    router: Any = model.router
    router.eval()
    report = model.report(test_modalities, test_target, batch_size=40)
    assert sizes == {40, 30}
    assert not router.training  # as it was
    with torch.no_grad():
        out, baseline = model(*test_modalities), model.baseline(test_modalities)
    categories = model.categorize(model.predict_unimodal(test_modalities), baseline, test_target)
    for k, row in enumerate(report.rows):
        mine = [b for b in range(150) if int(categories.category[b]) == k]
        right = [[int(out.expert_predictions[b, e].argmax()) == int(test_target[b]) for e in range(4)] for b in mine]
        assert row.n_samples == len(mine)
        if mine:
            n = len(mine)
            assert row.oracle == pytest.approx(sum(r[k] for r in right) / n)
            assert row.best == pytest.approx(sum(any(r) for r in right) / n)
            assert row.router == pytest.approx(sum(int(out.weights[b].argmax()) == k for b in mine) / n)
            assert row.baseline == pytest.approx(
                sum(int(baseline[b].argmax()) == int(test_target[b]) for b in mine) / n
            )
    overall = report.overall
    assert overall.n_samples == sum(row.n_samples for row in report.rows) == int(report.confusion.sum())
    assert overall.best >= max(report.aggregations["hard"], overall.oracle, report.aggregations["cascade"])
    assert overall.mixture == pytest.approx(report.aggregations["router"])
    assert overall.router == pytest.approx(float(report.confusion.diagonal().sum()) / 150)
    assert str(report).count("\n") == 2 + 4
    with pytest.raises(KeyError):
        report["nonsense"]


@pytest.mark.usefixtures("quiet")
def test_a_category_without_samples_has_no_scores() -> None:
    modalities, target = data(100)
    model = build().fit(modalities, target, RECIPE)
    redundancy, sure = torch.full((100,), 3), torch.zeros(100, dtype=torch.bool)
    categories = Categories(redundancy, torch.zeros(100, 4), model.expert_names, sure, sure, None)
    report = model.report(modalities, target, categories=categories)
    assert report["synergy"].n_samples == 0
    assert "| synergy | 0 | - | - | - | - | - |" in str(report)


def test_categories_of_known_interactions_are_found() -> None:
    """Each kind of sample shows what kind it is: the categories, and the router, find it."""
    modalities, target = data(1000)
    kind = data_kinds(1000)
    training = Training(n_epochs=25, learning_rate=1e-2)
    unimodal = [lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))] * 2
    model = build(unimodal=unimodal, categorizer=None).fit(
        modalities, target, Recipe(training, QUICK, training, n_folds=2)
    )
    assert model.categories is not None
    assert (model.categories.category == kind).double().mean() >= 0.95
    report = model.report(*data(500, seed=1))
    assert report.overall.router >= 0.95
    assert report.overall.oracle >= 0.95


def noisy(signs: Tensor, seed: int) -> Tensor:
    """Show signs (N,) in feature 0 of eight noisy ones."""
    features = 0.5 * torch.randn(len(signs), 8, generator=torch.Generator().manual_seed(seed))
    features[:, 0] += signs
    return features


@pytest.mark.parametrize("kind", ["copies", "xor"])
def test_by_default_copies_of_a_label_are_no_synergy_and_xor_is(kind: str) -> None:
    """Copies are right for .66 and .63 of 600 samples; halfway to certainty calls most of them synergy."""
    draw = torch.Generator().manual_seed(0)
    a, b = 2.0 * torch.randint(2, (2, 600), generator=draw) - 1
    target, shown = (a * b > 0).long(), (a, b)
    if kind == "copies":
        wrong = torch.rand(2, 600, generator=draw) > torch.tensor([[0.66], [0.63]])
        target, shown = (a > 0).long(), (torch.where(wrong[0], -a, a), torch.where(wrong[1], -a, a))
    modalities = noisy(shown[0], 1), noisy(shown[1], 2)
    found: list[Categories] = []

    def keep(unimodal: Tensor, multimodal: Tensor, target: Tensor) -> Categories:
        found.append(categorize(unimodal, multimodal, target, threshold=Halfway()))
        return categorize(unimodal, multimodal, target)

    training = Training(n_epochs=8, learning_rate=1e-2)
    recipe = Recipe(training, QUICK, QUICK, n_folds=3, min_samples=0)
    model = MMoE(lambda: Fusion(16), 2, 2, unimodal=[lambda: nn.Linear(8, 2)] * 2, categorizer=keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # categories without samples
        model.fit(modalities, target, recipe)
        default = MMoE(lambda: Fusion(16), 2, 2, unimodal=[lambda: nn.Linear(8, 2)] * 2).fit(modalities, target, recipe)
    assert default.categories is not None
    assert model.categories is not None
    assert torch.equal(default.categories.category, model.categories.category)
    n_synergy, by_halfway = int(default.categories.count()[2]), int(found[0].count()[2])
    if kind == "copies":
        assert n_synergy <= 12
        assert by_halfway >= 300
    else:
        assert n_synergy >= 582


def data_kinds(n: int) -> Tensor:
    return torch.randint(4, (n,), generator=torch.Generator().manual_seed(0))


# Kinds of experts, modalities and tasks


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("n_modalities", [3, 4])
def test_three_and_four_modalities_are_fitted(n_modalities: int) -> None:
    modalities, target = data(200, n_modalities)
    model = MMoE(
        lambda: Fusion(4 * n_modalities), n_modalities, 2, unimodal=[lambda: nn.Linear(4, 2)] * n_modalities
    ).fit(modalities, target, RECIPE)
    assert model(*modalities).weights.shape == (200, n_modalities + 2)
    assert model.report(modalities, target).overall.n_samples == 200


@pytest.mark.usefixtures("quiet")
def test_estimators_everywhere_and_taken_up_again(tmp_path: Path) -> None:
    modalities, target = data()

    def estimators() -> MMoE:
        return build(
            unimodal=[LogisticRegression] * 2,
            experts=lambda name: LogisticRegression(),
        )

    first = estimators().fit(modalities, target, RECIPE, checkpoint_dir=tmp_path)
    out = first(*modalities)
    expected = LogisticRegression().fit(
        torch.cat(modalities, 1)[first.categories.category == 3].numpy(),  # type: ignore[union-attr]
        target[first.categories.category == 3].numpy(),  # type: ignore[union-attr]
    )
    torch.testing.assert_close(
        out.expert_predictions[:, 3],
        torch.from_numpy(expected.predict_proba(torch.cat(modalities, 1).numpy())).float(),
    )
    again = estimators().fit(modalities, target, RECIPE, checkpoint_dir=tmp_path)
    assert torch.equal(again(*modalities).prediction, out.prediction)


class Drawing:
    """An expert of the user's that draws from the global states, and has no `random_state`."""

    def __call__(self, modalities: tuple[Any, ...]) -> Tensor:
        return torch.tensor(self.shares).expand(len(modalities[0]), 2)

    def fit(self, modalities: tuple[Any, ...], target: Tensor) -> None:
        share = (np.random.rand() + random.random()) / 2
        self.shares = [share, 1 - share]


@pytest.mark.usefixtures("quiet")
def test_a_seed_decides_what_estimators_draw_and_the_global_states_are_left_alone() -> None:
    modalities, target = data()

    def forests(seed: int) -> MMoE:
        forest = partial(RandomForestClassifier, 3, max_depth=2)
        model = MMoE(forest, 2, 2, unimodal=[forest] * 2, categorizer=BY_CLASS, experts=lambda name: Drawing())
        return model.fit(modalities, target, RECIPE, seed=seed)

    np.random.seed(1)
    random.seed(1)
    first = forests(0)
    np.random.seed(2)
    random.seed(2)
    second, other = forests(0), forests(1)
    after = np.random.rand(), random.random()
    np.random.seed(2)
    random.seed(2)
    assert after == (np.random.rand(), random.random())
    for model, same_seed in ((second, True), (other, False)):
        a, b = first.predict(modalities), model.predict(modalities)
        assert torch.equal(a.expert_predictions, b.expert_predictions) == same_seed
        assert torch.equal(first.predict_unimodal(modalities), model.predict_unimodal(modalities)) == same_seed


def test_an_estimator_that_never_saw_a_class_gives_it_no_probability() -> None:
    x = torch.randn(40, 4)
    predictor = as_predictor(LogisticRegression(), Classification(3), "it")
    predictor.fit((x,), 2 * (x[:, 0] > 0).long(), QUICK)
    found = predictor((x,))
    assert found.shape == (40, 3)
    assert (found[:, 1] == 0).all()


class Counting:
    """An expert of the user's: learns how frequent the classes are."""

    def __init__(self) -> None:
        self.shares = torch.full((2,), 0.5)

    def fit(self, modalities: tuple[Any, ...], target: Tensor) -> None:
        self.shares = torch.bincount(target, minlength=2) / len(target)

    def __call__(self, modalities: tuple[Any, ...]) -> Tensor:
        return self.shares.expand(len(modalities[0]), 2)


@pytest.mark.usefixtures("quiet")
def test_experts_of_the_users_own(tmp_path: Path) -> None:
    modalities, target = data()
    model = build(experts=lambda name: Counting()).fit(modalities, target, RECIPE, checkpoint_dir=tmp_path)
    assert model.categories is not None
    expected = target[model.categories.category == 3].double().mean()
    assert float(model(*modalities).expert_predictions[0, 3, 1]) == pytest.approx(float(expected))
    again = build(experts=lambda name: Counting()).fit(modalities, target, RECIPE, checkpoint_dir=tmp_path)
    assert torch.equal(again(*modalities).prediction, model(*modalities).prediction)


@pytest.mark.usefixtures("quiet")
def test_nested_modalities_auxiliary_losses_and_routers_of_the_users_own() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 2)

        def forward(self, a: dict[str, Tensor], b: Tensor) -> BackboneOutput:
            joined = torch.cat([a["values"] * a["mask"].unsqueeze(1), b], 1)
            return BackboneOutput(self.head(joined), aux_loss=self.head.weight.square().sum())

    class OfMasked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.LazyLinear(2)

        def forward(self, a: dict[str, Tensor]) -> Tensor:
            outputs: Tensor = self.head(a["values"])
            return outputs

    (a, b), target = data()
    nested = {"values": a, "mask": torch.ones(200, dtype=torch.bool)}
    model = MMoE(
        Masked,
        2,
        2,
        unimodal=[OfMasked, lambda: nn.LazyLinear(2)],
        router=lambda: lambda modalities: torch.full((len(leaves(modalities)[0]), 4), 0.25),
        aggregation="hard",
    ).fit((nested, b), target, RECIPE)
    out = model(nested, b)
    assert torch.equal(out.prediction, out.expert_predictions[:, 0])


@pytest.mark.usefixtures("quiet")
def test_precomputed_predictions_need_no_classifiers() -> None:
    modalities, target = data()
    unimodal = simplex(0, 200, 2, 2).float()
    model = build(unimodal=None, categorizer=None).fit(
        modalities, target, RECIPE, unimodal_predictions=unimodal, multimodal_predictions=simplex(1, 200, 2).float()
    )
    assert model.categories is not None
    expected = categorize(unimodal, simplex(1, 200, 2).float(), target, threshold=Calibrated())
    assert torch.equal(model.categories.category, expected.category)
    torch.testing.assert_close(model.categories.degrees, expected.degrees)
    assert model.report(modalities, target, unimodal_predictions=unimodal).overall.n_samples == 200
    with pytest.raises(ValueError, match="unimodal_predictions or categories"):
        model.report(modalities, target)


@pytest.mark.usefixtures("quiet")
def test_finer_categories_have_experts_of_their_own() -> None:
    modalities, target = data()
    names = categorize(torch.full((1, 2, 2), 0.5), torch.full((1, 2), 0.5)).by_agreement().names

    def finer(unimodal: Tensor, multimodal: Tensor, target: Tensor) -> Categories:
        return BY_CLASS(unimodal, multimodal, target).by_agreement()

    model = build(categorizer=finer, category_names=names, router=None).fit(modalities, target, RECIPE)
    assert model(*modalities).weights.shape == (200, 8)


@pytest.mark.usefixtures("quiet")
def test_a_regression_is_fitted_and_reported() -> None:
    (a, b), _ = data(300)
    target = a[:, :1] + 0.1 * b[:, :1]
    model = MMoE(
        lambda: Fusion(n_outputs=1),
        2,
        Regression(),
        unimodal=[lambda: nn.Linear(4, 1), Ridge],
    ).fit((a, b), target, RECIPE)
    out = model(a, b)
    assert out.prediction.shape == (300, 1)
    report = model.report((a, b), target)
    assert report.metric == "squared error"
    assert report.overall.best <= report.overall.oracle
    assert report.overall.baseline == pytest.approx(float((model.baseline((a, b)) - target).square().mean()), rel=1e-5)
    assert set(report.aggregations) == {"router", "hard", "mean_probabilities"}


@dataclass(frozen=True)
class Similarity(Regression):
    """A regression whose score is the better the higher."""

    metric = "similarity"
    higher_is_better = True

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return -self.score(outputs, target).mean()

    def score(self, predictions: Tensor, target: Tensor) -> Tensor:
        return -super().score(predictions, target)


@pytest.mark.usefixtures("quiet")
def test_a_regression_may_have_a_score_that_is_better_the_higher() -> None:
    (a, b), _ = data(300)
    target = a[:, :1] + 0.1 * b[:, :1]
    model = MMoE(lambda: Fusion(n_outputs=1), 2, Similarity(), unimodal=[lambda: nn.Linear(4, 1)] * 2)
    report = model.fit((a, b), target, RECIPE).report((a, b), target)
    assert report.metric == "similarity"
    assert report.overall.best >= report.overall.oracle
    assert torch.equal(model.to_interaction_moe()(a, b).expert_predictions, model(a, b).expert_predictions)


# Arrays, and dtypes


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16, torch.bool])
def test_classes_of_any_integer_type(dtype: torch.dtype) -> None:
    modalities, target = data()
    expected = build().fit(modalities, target, RECIPE)
    found = build().fit(modalities, target.to(dtype), RECIPE)
    assert torch.equal(found(*modalities).prediction, expected(*modalities).prediction)
    assert str(found.report(modalities, target.to(dtype))) == str(expected.report(modalities, target))


@pytest.mark.usefixtures("quiet")
def test_arrays_and_data_frames_instead_of_tensors() -> None:
    modalities, target = data()
    expected = build().fit(modalities, target, RECIPE, groups=torch.arange(200) // 2)
    frames = pd.DataFrame(modalities[0].double().numpy()), {"values": modalities[1].double().numpy()}
    labels, groups = pd.Series(target.numpy()), np.arange(200) // 2

    class OfValues(Fusion):
        def forward(self, *modalities: Any) -> Tensor:
            return super().forward(*leaves(modalities))

    model = MMoE(
        OfValues,
        2,
        2,
        unimodal=[lambda: nn.Linear(4, 2), lambda: OfLast()],
        router=lambda: Reweighter(4, hidden_dim=8),
        categorizer=BY_CLASS,
    ).fit(frames, labels, RECIPE, groups=groups)
    out = model(*frames)
    assert torch.equal(out.prediction, expected(*modalities).prediction)
    assert torch.equal(model.predict(frames, batch_size=33).weights, out.weights)
    assert str(model.report(frames, labels)) == str(expected.report(modalities, target))

    unimodal, multimodal = simplex(0, 200, 2, 2), simplex(1, 200, 2)
    known = build(unimodal=None).fit(
        (*frames[:1], frames[1]["values"]),
        labels,
        RECIPE,
        unimodal_predictions=unimodal.numpy(),
        multimodal_predictions=pd.DataFrame(multimodal.numpy()),
    )
    assert known.categories is not None
    assert torch.equal(known.categories.category, BY_CLASS(unimodal, multimodal, target).category)


class OfLast(nn.Linear):
    """A classifier of a modality that is a dict of one tensor."""

    def __init__(self) -> None:
        super().__init__(4, 2)

    def forward(self, modality: Any) -> Tensor:
        return super().forward(modality["values"])


@pytest.mark.usefixtures("quiet")
def test_no_numbers_before_fit() -> None:
    modalities, target = data()
    model = build()
    for use in (lambda: model.report(modalities, target), lambda: model.predict(modalities)):
        with pytest.raises(ValueError, match="must be fitted first"):
            use()
    with pytest.raises(PowerCutError):
        run(model, progress=stop_at("router", "start"))
    with pytest.raises(ValueError, match="must be fitted first"):
        model.report(modalities, target)
    fitted = build().fit(modalities, target, RECIPE)
    model(*modalities)  # finds the router's width
    model.load_state_dict(fitted.state_dict())
    assert str(model.report(modalities, target)) == str(fitted.report(modalities, target))


def test_modules_import_each_other_one_way() -> None:
    """There is no circle, not even for type checkers, in `i2moe.mmoe` and what it is built from."""
    root = Path(i2moe.__file__).parent
    arrows: dict[str, set[str]] = {}
    for path in [*root.glob("mmoe/**/*.py"), *root.glob("categorization/*.py")]:
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.walk(ast.parse(path.read_text()))
        arrows[name] = {node.module or "" for node in tree if isinstance(node, ast.ImportFrom)}
    ordered = list(TopologicalSorter({name: found & set(arrows) for name, found in arrows.items()}).static_order())
    assert ordered.index("i2moe.mmoe.fitting") < ordered.index("i2moe.mmoe.model")


# Refusals

X, Y = data(60)
CATEGORIES = Categories(Y, torch.zeros(60, 4), build().expert_names, Y > 1, Y > 1, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: MMoE(Fusion, 1, 2), "n_modalities must be at least 2"),
        (lambda: MMoE(Fusion, 2, 1), "at least two classes"),
        (lambda: MMoE(Fusion, 2, Regression(0)), "at least one output"),
        (lambda: build(unimodal=[Fusion]), "one function per modality"),
        (lambda: build(aggregation="median"), "aggregation must be one of"),
        (lambda: build(modality_names=("a", "a")), "different, not empty"),
        (lambda: build(category_names=("a",)), "different, not empty"),
        (lambda: Training(learning_rate=0), "Training must have"),
        (lambda: Recipe(n_folds=0), "Recipe must have"),
        (lambda: Cascade(2), "confidence must lie"),
        (lambda: focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=-1), "gamma must be"),
        (lambda: category_weights(torch.zeros(3)), "at least one category"),
        (lambda: build().fit(X, Y + 1, RECIPE), "lie in \\[0, 2\\)"),
        (lambda: build().fit(X, Y[:9], RECIPE), "one row for each of the 60"),
        (lambda: build().fit(X, Y.double(), RECIPE), "class indices .* of torch.float64"),
        (lambda: build().fit(X[:1], Y, RECIPE), "2 modalities"),
        (lambda: build().fit((X[0], X[1][:9]), Y, RECIPE), "same batch size"),
        (lambda: build(unimodal=None).fit(X, Y, RECIPE), "however none are given"),
        (lambda: build().fit(X, Y, RECIPE, categories=CATEGORIES), "one source"),
        (lambda: build(unimodal=None).fit(X, Y, RECIPE, categories=CATEGORIES[:9]), "one category per sample"),
        (lambda: build(unimodal=None).fit(X, Y, RECIPE, unimodal_predictions=torch.zeros(60, 2, 2)), "sum to 1"),
        (lambda: build(unimodal=None).fit(X, Y, RECIPE, unimodal_predictions=torch.zeros(60, 2, 3)), "must be \\(B, C"),
        (
            lambda: build(unimodal=None).fit(X, Y, RECIPE, unimodal_predictions=torch.zeros(60, 3, 2)),
            "with M = 2",
        ),
        (lambda: build().fit(X, Y, RECIPE, multimodal_predictions=torch.ones(60, 2)), "sum to 1"),
        (lambda: build().fit(X, Y, RECIPE, groups=torch.zeros(9)), "groups must be"),
        (lambda: build().fit(X, Y, RECIPE, groups=torch.zeros(60)), "as many groups as folds"),
        (lambda: build(unimodal=[lambda: nn.Linear(4, 3)] * 2).fit(X, Y, RECIPE), "unimodal/0 must be \\(B, C\\)"),
        (lambda: build(unimodal=[lambda: lambda m: -m[0][:, :2]] * 2).fit(X, Y, RECIPE), "must be at least 0"),
        (lambda: build(router=lambda: Reweighter(3)).fit(X, Y, RECIPE), "\\(B, K\\) = "),
        (lambda: build(category_names=("a", "b", "c", "d")).fit(X, Y, RECIPE), "called"),
        (lambda: build().fit((X[0] / 0, X[1]), Y, RECIPE), "loss must stay finite"),
        (lambda: MMoE(Fusion, 2, Regression(2)).fit(X, Y, RECIPE), "shape \\(60, 2\\)"),
        (lambda: MMoE(Fusion, 2, Regression()).fit(X, Y / 0, RECIPE), "finite"),
        (lambda: Regression(2).check_predictions(torch.full((3, 2), torch.nan), 3, "of the router"), "must be finite"),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_bad_values_are_refused(change: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: MMoE(Fusion(), 2, 2), "baseline must be a function"),
        (lambda: MMoE(Fusion, 2, "classification"), "objective must be the number of classes"),  # type: ignore[arg-type]
        (lambda: build(unimodal=[nn.Linear(4, 2)] * 2), "unimodal\\[0\\] must be a function"),
        (lambda: build(experts=Fusion()), "experts must be a function"),
        (lambda: MMoE(lambda: 3, 2, 2), "what baseline builds must be a torch.nn.Module"),
        (lambda: build(aggregation=Cascade), "aggregation must be a name"),
        (lambda: build().fit(X, Y, 3), "recipe must be a Recipe"),  # type: ignore[arg-type]
        (lambda: build().fit(X, Y.tolist(), RECIPE), "target must be a tensor or an array"),
        (lambda: build(unimodal=[lambda: lambda m: 0.5] * 2).fit(X, Y, RECIPE), "must return a tensor"),
    ],
)
def test_bad_types_are_refused(change: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        change()


def test_modules_that_return_logits_are_as_those_that_return_a_tensor() -> None:
    class Named(Fusion):
        def forward(self, *modalities: Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(*modalities))

    x, found = (torch.randn(5, 8),), []
    for kind in (Fusion, Named):
        torch.manual_seed(0)
        found.append(as_predictor(kind().eval(), Classification(2), "it")(x))
    assert torch.equal(*found)


# Both systems together


@pytest.mark.usefixtures("quiet")
def test_an_interaction_moe_of_the_same_experts_can_be_explained_and_trained() -> None:
    modalities, target = data()
    model = build(modality_names=("a", "b")).fit(modalities, target, RECIPE)
    joined = model.to_interaction_moe()
    out, expected = joined(*modalities), model(*modalities)
    assert joined.expert_names == model.expert_names
    torch.testing.assert_close(out.weights, expected.weights)
    torch.testing.assert_close(out.expert_predictions.softmax(-1), expected.expert_predictions)
    pooled = (expected.weights.unsqueeze(-1) * expected.expert_predictions.log()).sum(1).softmax(-1)
    torch.testing.assert_close(out.prediction.softmax(-1), pooled)

    report = explain(joined, [(modalities, target)], n_draws=1)
    torch.testing.assert_close(report.weights, expected.weights.detach())

    before = model(*modalities).prediction
    optimizer = torch.optim.SGD(joined.parameters(), 0.1)
    trained = joined.train()(*modalities)
    (F.cross_entropy(trained.prediction, target) + trained.interaction_loss).backward()
    optimizer.step()
    assert torch.equal(model(*modalities).prediction, before)  # copies
    assert not torch.equal(joined.eval()(*modalities).prediction, out.prediction)


@pytest.mark.usefixtures("quiet")
def test_only_the_four_categories_become_an_interaction_moe() -> None:
    with pytest.raises(ValueError, match="the categories must be"):
        build(category_names=("a", "b", "c", "d")).to_interaction_moe()
    with pytest.raises(TypeError, match="router must be"):
        build(router=lambda: lambda modalities: torch.ones(1, 4)).to_interaction_moe()
