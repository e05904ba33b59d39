"""What several examples share: statistics over seeds, modules."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import ttest_rel
from torch import nn

from examples.common.modules import Ensemble, Fusion
from examples.common.statistics import mean_and_deviation, paired_difference
from i2moe import BackboneOutput


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
