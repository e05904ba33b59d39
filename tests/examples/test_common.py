"""What several examples share: a training that ends at its best epoch, statistics over seeds, modules."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import ttest_rel
from torch import nn

from examples.common.best_epoch import Progress, train_to_best_epoch
from examples.common.modules import Ensemble, Fusion
from examples.common.recipe import Batches, fit, moving_average
from examples.common.statistics import mean_and_deviation, paired_difference
from i2moe import BackboneOutput, ComputedReweighter, InteractionMoE, InteractionSupervision


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


def test_an_interval_is_that_of_the_paired_t_test() -> None:
    ours, theirs = [0.7, 0.9, 0.8], [0.66, 0.85, 0.75]
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    found = paired_difference(ours, theirs)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert str(paired_difference([0.7], [0.66])) == "+0.0400"
    with pytest.raises(ValueError, match="shorter"):
        paired_difference(ours, theirs[:2])


def test_one_score_has_no_deviation() -> None:
    assert mean_and_deviation([0.25], ".2f") == "0.25"
    assert mean_and_deviation([0.25, 0.75], ".2f") == "0.50 ± 0.35"


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    modalities = torch.randn(5, 3), torch.randn(5, 4)
    ensemble = Ensemble(lambda: Fusion(7, 2, (8, 6), dropout=0.1), 3).eval()
    mean, each, own_loss = ensemble(*modalities)
    torch.testing.assert_close(mean, torch.stack([member(*modalities) for member in ensemble.members]).mean(0))
    assert each.shape == (5, 3, 2)
    assert own_loss == 0

    class WithLoss(nn.Module):
        def forward(self, x: torch.Tensor) -> BackboneOutput:
            return BackboneOutput(x, aux_loss=x.sum())

    x = torch.randn(5, 2)
    torch.testing.assert_close(Ensemble(WithLoss, 2)(x)[2], x.sum())


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
    progress = fit(model, train, validation, loss_of, n_epochs=20, lr=0.1)
    assert 1 < progress.best_epoch < 20
    for n, step in enumerate(steps[1:]):
        averages.append(float(moving_average(torch.tensor(averages[-1]), torch.tensor(step), n)) if n else step)
    closest = min(averages, key=lambda average: abs(average - 0.5))
    assert float(model.bias.detach()) == pytest.approx(closest, abs=1e-4)


def test_the_recipe_calibrates_computed_weights() -> None:
    model = InteractionMoE(lambda: nn.Bilinear(3, 2, 2), 2, reweighter=ComputedReweighter())
    batches = Batches((torch.randn(32, 3), torch.randn(32, 2)), torch.arange(32) % 2, batch_size=16, seed=0)
    fit(model, batches, list(batches), InteractionSupervision(nn.functional.cross_entropy), n_epochs=1)
    (reweighter,) = (module for module in model.modules() if isinstance(module, ComputedReweighter))
    assert reweighter.scale.shape == (3,)
