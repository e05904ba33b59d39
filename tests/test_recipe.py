"""The training recipe: the best epoch, the average of the parameters, calibration, and batches in memory."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from i2moe import ComputedReweighter, InteractionMoE, InteractionSupervision, Teacher
from i2moe.training import Batches, Progress, fit
from i2moe.training.best_epoch import train_to_best_epoch
from i2moe.training.recipe import moving_average


class Counter(nn.Module):
    """Its state is the number of epochs it was trained for."""

    epochs: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("epochs", torch.zeros(()))


@pytest.mark.parametrize(
    ("scores", "patience", "n_epochs", "best_epoch"),
    [
        ([0.5, 0.9, 0.7], None, 3, 2),
        ([0.5, 0.5, 0.5], None, 3, 1),
        ([0.9, 0.5, 0.5, 1.0], 2, 3, 1),
        ([math.nan, 0.1, math.nan], None, 3, 2),
        ([math.nan, math.nan], None, 2, 0),
    ],
)
def test_training_ends_at_its_best_epoch(
    scores: list[float], patience: int | None, n_epochs: int, best_epoch: int
) -> None:
    model = Counter()

    def run_epoch(epoch: int) -> dict[str, float]:
        model.epochs += 1
        return {"loss": 1.0, "score": scores[epoch]}

    progress = train_to_best_epoch(model, run_epoch, "score", len(scores), patience=patience)
    assert (progress.epoch, progress.best_epoch, int(model.epochs)) == (n_epochs, best_epoch, best_epoch)
    assert [entry["epoch"] for entry in progress.history] == list(range(1, n_epochs + 1))


def test_a_lower_score_may_be_better_and_training_goes_on_from_its_progress() -> None:
    model = Counter()
    seen: list[Progress] = []
    progress = Progress(epoch=1, best_epoch=1, best_score=0.3, best_state={"epochs": torch.tensor(1.0)})

    def lower(value: float, best: float | None) -> bool:
        return best is None or value < best

    def run_epoch(epoch: int) -> dict[str, float]:
        return {"loss": 0.4 + epoch}

    train_to_best_epoch(model, run_epoch, "loss", 3, is_better=lower, progress=progress, after_epoch=seen.append)
    assert (progress.epoch, progress.best_epoch, int(model.epochs)) == (3, 1, 1)
    assert seen == [progress, progress]


def test_batches_are_a_new_partition_each_epoch() -> None:
    batches = Batches((torch.arange(7),), torch.arange(7), batch_size=3, seed=0)
    epochs = [torch.cat([target for _, target in batches]).tolist() for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 2
    assert epochs[0] != epochs[1]
    assert all(torch.equal(modalities[0], target) for modalities, target in batches)


class Bias(nn.Module):
    """Predicts one number."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias


def test_the_recipe_ends_at_the_average_that_loses_least() -> None:
    """Trained towards 10 and tested at 0.5, a bias passes by on its way."""
    model, averages = Bias(), [0.0]
    steps: list[float] = []

    def loss_of(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if model.training and out.requires_grad:
            steps.append(float(model.bias.detach()))
        return (out - target).square().mean()

    train, validation = (([((torch.zeros(4),), torch.full((4,), value))]) for value in (10.0, 0.5))
    progress = fit(model, train, validation, loss_of, n_epochs=20, optimizer=partial(torch.optim.AdamW, lr=0.1))
    assert 1 < progress.best_epoch < 20
    for n, step in enumerate(steps[1:]):
        averages.append(float(moving_average(torch.tensor(averages[-1]), torch.tensor(step), n)) if n else step)
    closest = min(averages, key=lambda average: abs(average - 0.5))
    assert float(model.bias.detach()) == pytest.approx(closest, abs=1e-4)


def test_the_recipe_calibrates_computed_weights() -> None:
    model = InteractionMoE(lambda: nn.Bilinear(3, 2, 2), 2, reweighter=ComputedReweighter())
    batches = Batches((torch.randn(32, 3), torch.randn(32, 2)), torch.arange(32) % 2, batch_size=16, seed=0)
    fit(model, batches, list(batches), InteractionSupervision(cross_entropy), n_epochs=1)
    (reweighter,) = (module for module in model.modules() if isinstance(module, ComputedReweighter))
    assert reweighter.scale.shape == (3,)


def make(**options: Any) -> InteractionMoE:
    return InteractionMoE(lambda: nn.Bilinear(3, 2, 2), 2, reweighter=ComputedReweighter(), **options)


def samples(n: int = 32) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    return (torch.randn(n, 3), torch.randn(n, 2)), torch.arange(n) % 2


def test_a_model_learns_from_teachers_of_its_kind() -> None:
    modalities, label = samples()
    supervise = InteractionSupervision(cross_entropy)
    teacher, student = make(), make()
    fit(teacher, Batches(modalities, label, 8), [(modalities, label)], supervise, n_epochs=2)
    soft = Teacher([teacher])(*modalities).mixed_with(label)
    batches = Batches(modalities, soft, 8)
    fit(student, batches, [(modalities, label)], supervise, n_epochs=2)
    assert not student.training
    assert isinstance(student.reweighter, ComputedReweighter)
    assert student.reweighter.scale.shape == (3,)
    assert len(batches) == len(list(batches)) == 4


def test_batches_of_named_modalities_are_called_by_name() -> None:
    (a, b), label = samples()
    model = make(modality_names=("input1", "input2"))
    batches = Batches({"input1": a, "input2": b}, label, 16)
    assert fit(model, batches, list(batches), InteractionSupervision(cross_entropy), n_epochs=1).epoch == 1


def test_an_optimizer_a_least_gain_and_a_call_of_ones_own() -> None:
    model, calls = Bias(), []

    def call(model: nn.Module, x: torch.Tensor) -> object:
        calls.append(model.training)
        return model(x)

    data = [(torch.zeros(4), torch.ones(4))]
    progress = fit(
        model,
        data,
        data,
        mse_loss,
        n_epochs=50,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        min_delta=0.1,
        patience=2,
        call=call,
    )
    losses = [epoch["held-out loss"] for epoch in progress.history]
    assert progress.epoch == len(losses) < 50
    assert losses[progress.best_epoch - 1] == progress.best_score
    assert min(losses) > progress.best_score - 0.1
    assert set(calls) == {True, False}


WRONG: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "one batch": ((torch.zeros(4), torch.zeros(4)), {}, TypeError, "train must be batches"),
    "an iterator": (iter([(torch.zeros(4), torch.zeros(4))]), {}, TypeError, "again in each epoch"),
    "no batch": ([], {}, ValueError, "train must yield at least one batch"),
    "no pair": ([(torch.zeros(4), torch.zeros(4), torch.zeros(4))], {}, ValueError, "regroup the batches"),
    "no epoch": ([(torch.zeros(4), torch.zeros(4))], {"n_epochs": 0}, ValueError, "n_epochs must be at least 1"),
    "diverged": ([(torch.zeros(4), torch.full((4,), math.nan))], {}, ValueError, "held-out loss must be finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_trained_on_is_refused(case: str) -> None:
    train, options, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        fit(Bias(), train, [(torch.zeros(4), torch.zeros(4))], mse_loss, **{"n_epochs": 1, **options})


def test_a_task_that_the_weights_are_not_for_is_refused_before_training() -> None:
    modalities, _ = samples()
    data = [(modalities, torch.randn(32, 2))]

    def loss_of(out: Any, target: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nothing is trained")

    with pytest.raises(ValueError, match="batch 0"):
        fit(make(), data, data, loss_of, n_epochs=1)


@pytest.mark.parametrize(
    ("target", "batch_size", "message"), [(torch.zeros(4), 2, "of the same samples"), (torch.zeros(5), 0, "batch_size")]
)
def test_batches_that_do_not_fit_are_refused(target: torch.Tensor, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches((torch.zeros(5, 2),), target, batch_size)
