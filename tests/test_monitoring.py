"""The health of the weights in training."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2moe import InteractionMoE, InteractionOutput, Reweighter, StaticReweighter, explain
from i2moe.interpretation import stability
from i2moe.interpretation.monitoring import InteractionMetric, TemperatureSchedule, WeightMonitor
from tests.test_moe import Synchronizations

NAMES = ("uniqueness/a", "uniqueness/b", "synergy", "redundancy")


def output(weights: Tensor) -> InteractionOutput:
    nothing = torch.zeros(())
    return InteractionOutput(nothing, weights, nothing, nothing, None, {}, None)


def weights_of(n_samples: int) -> Tensor:
    return torch.randn(n_samples, 4, dtype=torch.float64).softmax(1)


def test_numbers_over_steps_are_those_of_all_samples() -> None:
    steps = [weights_of(n) for n in (5, 1, 12)]
    monitor = WeightMonitor(NAMES)
    for step in steps:
        monitor(output(step))
    found, weights = monitor.finish(), torch.cat(steps)
    assert found.n_samples == 18
    assert list(found.mean.values()) == pytest.approx(weights.mean(0).tolist(), abs=1e-6)
    shares = [(weights.argmax(1) == e).double().mean().item() for e in range(4)]
    assert list(found.largest.values()) == pytest.approx(shares)
    assert found.entropy == pytest.approx(-(weights * weights.log()).sum(1).mean().item(), abs=1e-6)
    assert found.spread == pytest.approx(weights.std(0, correction=0).max().item(), abs=1e-6)
    assert found.findings == ()
    assert set(found.to_dict()) == {f"{kind}/{n}" for kind in ("weight", "largest") for n in NAMES} | {
        "entropy",
        "spread",
    }


def test_a_monitor_starts_anew_after_each_epoch() -> None:
    monitor = WeightMonitor(NAMES)
    monitor(output(weights_of(5)))
    monitor.finish()
    weights = weights_of(7)
    monitor(output(weights))
    found = monitor.finish()
    assert found.n_samples == 7
    assert found.mean["synergy"] == pytest.approx(weights[:, 2].mean().item(), abs=1e-6)
    monitor(output(weights * torch.nan))
    with pytest.raises(ValueError, match="weights must be finite"):
        monitor.finish()
    with pytest.raises(RuntimeError, match="must have seen weights"):
        monitor.finish()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.5, 0.5, 0, 0], [0.4, 0.3, 0.3, 0]], "expert 'redundancy' is unused: its mean weight is 0.000"),
        ([[0.95, 0.02, 0.02, 0.01], [0.9, 0.05, 0.03, 0.02]], "collapsed onto 'uniqueness/a'"),
        ([[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]], "the same for all samples"),
    ],
)
def test_weights_that_collapse_are_warned_of(rows: Any, words: str) -> None:
    monitor = WeightMonitor(NAMES, unused_below=0.1 if "unused" in words else 0)
    monitor(output(torch.tensor(rows)))
    with pytest.warns(UserWarning, match=words):
        assert words.split(":")[0] in " ".join(monitor.finish().findings)


def test_a_rare_expert_is_not_unused() -> None:
    weights = torch.full((200, 4), 0.0)
    weights[:, 0] = 1
    weights[0] = torch.tensor([0, 0, 0, 1.0])
    monitor = WeightMonitor(NAMES, collapsed_above=1)
    monitor(output(weights))
    with pytest.warns(UserWarning, match="unused"):
        found = monitor.finish().findings
    assert not any("redundancy" in finding for finding in found)


def test_patience_waits_for_several_times_in_a_row_and_warns_once() -> None:
    monitor = WeightMonitor(NAMES, patience=2)
    even, good = torch.full((4, 4), 0.25), weights_of(50)
    warned = []
    for weights in (even, good, even, even, even):
        monitor(output(weights))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor.finish()
        warned.append(len(caught))
    assert warned == [0, 0, 0, 1, 0]


def test_watching_waits_for_no_device_and_keeps_no_graph() -> None:
    monitor, weights = WeightMonitor(NAMES), weights_of(6).requires_grad_()
    with Synchronizations() as count:
        monitor(output(weights))
    assert count.found == []
    assert not any(tensor.requires_grad for tensor in monitor._sums)


def test_a_monitor_can_be_a_forward_hook() -> None:
    class Fusion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            output: Tensor = self.head(x * y)
            return output

    model = InteractionMoE(Fusion, 2, feature_dims=(4, 4))
    monitor = WeightMonitor(model.expert_names, constant_below=0)
    model.register_forward_hook(lambda module, args, out: monitor(out))
    model(torch.randn(6, 4), torch.randn(6, 4))
    assert monitor.finish().n_samples == 6


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="patience must be at least 1"):
        WeightMonitor(NAMES, patience=0)
    with pytest.raises(ValueError, match="must be of the 4 experts"):
        WeightMonitor(NAMES)(output(torch.ones(2, 3)))
    with pytest.raises(ValueError, match="start must be positive"):
        TemperatureSchedule(StaticReweighter(4), start=0, end=1, n_steps=3)
    with pytest.raises(ValueError, match="n_steps must be at least 1"):
        TemperatureSchedule(StaticReweighter(4), start=2, end=1, n_steps=0)
    model: Any = InteractionMoE(lambda: nn.Bilinear(3, 3, 2), 2)
    with pytest.raises(
        TypeError, match=r"must have a temperature, however it is a InteractionMoE; pass model\.reweighter"
    ):
        TemperatureSchedule(model, start=2, end=1, n_steps=3)
    monitor = WeightMonitor(NAMES)
    monitor(output(torch.full((2, 4), torch.nan)))
    with pytest.raises(ValueError, match="weights must be finite, however some of the last ones were NaN"):
        monitor.finish()


@pytest.mark.parametrize("make", [lambda: Reweighter(4, (3, 3)), lambda: StaticReweighter(4)])
def test_a_falling_temperature_sharpens_the_weights_and_goes_on_after_a_restart(make: Any) -> None:
    reweighter = make()
    for parameter in reweighter.parameters():
        nn.init.normal_(parameter)
    reweighter.eval()
    modalities = (torch.randn(8, 3), torch.randn(8, 3))
    schedule = TemperatureSchedule(reweighter, start=8.0, end=0.5, n_steps=4)
    temperatures, entropies = [], []
    for _ in range(6):
        weights = reweighter(modalities)
        temperatures.append(reweighter.temperature)
        entropies.append(-torch.xlogy(weights, weights).sum(1).mean().item())
        schedule.step()
    assert temperatures == pytest.approx([8, 4, 2, 1, 0.5, 0.5])
    assert entropies[:5] == sorted(entropies[:5], reverse=True)
    assert entropies[0] < math.log(4)

    other = make()
    again = TemperatureSchedule(other, start=8.0, end=0.5, n_steps=4)
    again.load_state_dict({"n_taken": 2})
    assert other.temperature == pytest.approx(2)
    assert again.state_dict() == {"n_taken": 2}


class TestMetric:
    @staticmethod
    def batches() -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
        generator = torch.Generator().manual_seed(0)
        return [
            (
                (torch.randn(n, 4, generator=generator), torch.randn(n, 3, generator=generator)),
                torch.randint(2, (n,), generator=generator),
            )
            for n in (30, 10)
        ]

    @pytest.mark.parametrize("reweighter", ["computed", StaticReweighter(4)])
    def test_it_says_what_explain_says(self, reweighter: Any) -> None:
        model = InteractionMoE(lambda: nn.Bilinear(4, 3, 2), 2, reweighter=reweighter).eval()
        metric = InteractionMetric(model)
        for modalities, target in self.batches():
            metric.update(model(*modalities), target)
        expected = explain(model, self.batches(), n_draws=0, drop_modalities=False)
        found = metric.report()
        for name in ("weights", "prediction", "expert_predictions", "target"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
        computed = metric.compute()
        assert computed["score"] == expected.quality.score
        assert computed["weight/synergy"] == pytest.approx(expected.overall.mean[2].item())
        assert computed["std/synergy"] == pytest.approx(expected.overall.std[2].item())
        if reweighter == "computed":
            assert found.marginals is not None
            assert expected.marginals is not None
            assert torch.equal(found.marginals, expected.marginals)
            assert computed["faithfulness/synergy"] == pytest.approx(expected.faithfulness[2].item())
            assert computed["score/0"] == expected.quality_alone["0"].score
        else:
            assert not any(name.startswith(("score/", "faithfulness/")) for name in computed)

    def test_reset_forgets_and_absent_modalities_are_kept_apart(self) -> None:
        model = InteractionMoE(lambda: nn.Bilinear(4, 3, 2), 2, reweighter="computed").eval()
        metric, ((modalities, target), _) = InteractionMetric(model), self.batches()
        metric.update(model(*modalities), target)
        metric.reset()
        with pytest.raises(RuntimeError, match="must have seen a batch"):
            metric.compute()
        available = torch.arange(30).unsqueeze(1) % 3 != torch.arange(2)
        metric.update(model(*modalities, available=available), target)
        report = metric.report()
        assert report.available is not None
        assert torch.equal(report.available, available)
        assert report.marginals is not None
        assert torch.equal(report.marginals.isnan().any(2), ~available)

    def test_mistakes_are_found_in_update(self) -> None:
        model = InteractionMoE(lambda: nn.Bilinear(4, 3, 2), 2, reweighter="computed").eval()
        metric, ((modalities, target), _) = InteractionMetric(model), self.batches()
        with pytest.raises(ValueError, match=r"class indices must lie in \[0, 2\)"):
            metric.update(model(*modalities), target + 2)
        with pytest.raises(ValueError, match="must be finite"):
            metric.update(model(modalities[0] * torch.nan, modalities[1]), target)
        with pytest.raises(ValueError, match="task must be one of"):
            InteractionMetric(model, task="ranking")  # type: ignore[arg-type]

    def test_reports_of_a_metric_are_not_taken_for_the_same_samples(self) -> None:
        model = InteractionMoE(lambda: nn.Bilinear(4, 3, 2), 2, reweighter="computed").eval()
        metric, ((modalities, target), _) = InteractionMetric(model), self.batches()
        metric.update(model(*modalities), target)
        with pytest.raises(ValueError, match="must know their inputs to be compared"):
            stability([metric.report(), metric.report()])
