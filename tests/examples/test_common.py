"""What several examples share: a training that ends at its best epoch, statistics over seeds, modules."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import ttest_rel
from torch import nn

from examples.common.best_epoch import Progress, train_to_best_epoch
from examples.common.modules import Ensemble, Fusion
from examples.common.statistics import mean_and_deviation, paired_difference
from i2moe import BackboneOutput


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
