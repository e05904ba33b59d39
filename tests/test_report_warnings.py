"""What a report warns of: failed training and wrong weights, and not data of one interaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from i2moe.interpretation import InteractionReport
from i2moe.interpretation.report.measures.faithfulness import behavior_bounds, prior_outputs

INTERACTIONS = ("uniqueness/image", "uniqueness/text", "synergy", "redundancy")
SUFFICIENCY = {"uniqueness/image": (0, 1), "uniqueness/text": (1, 0), "synergy": (1, 1), "redundancy": (0, 0)}
"""Of what a sample's modalities keep alone, the share that is lost."""


def unmeasured(weights: Tensor, prediction: Tensor | None = None, *, apart: bool = True) -> InteractionReport:
    """A report without faithfulness, of experts that predict different things or all the same."""
    n = len(weights)
    if prediction is None:
        prediction = torch.eye(2).repeat(n // 2, 1)
    return replace(
        InteractionReport.example(),
        weights=weights,
        expert_predictions=torch.eye(2).repeat(2, 1).expand(n, 4, 2) if apart else torch.zeros(n, 4, 2),
        prediction=prediction,
        target=torch.zeros(n, dtype=torch.long),
        comprehensiveness=None,
        sufficiency=None,
        checksums=torch.zeros(n),
    )


def measured(kinds: Tensor, weights: Tensor, *, noise: float = 0.05, accuracy: float = 1.0) -> InteractionReport:
    """A report of a model that behaves, on each sample, like the interaction of this number."""
    n = len(kinds)
    target = torch.arange(n) % 2
    right = torch.rand(n) < accuracy
    logits = 5.0 * (torch.nn.functional.one_hot(torch.where(right, target, 1 - target), 2) - 0.5)
    report = replace(
        InteractionReport.example(),
        weights=weights,
        expert_predictions=logits.unsqueeze(1).expand(n, 4, 2),
        prediction=logits,
        target=target,
        comprehensiveness=None,
        sufficiency=None,
        checksums=torch.zeros(n),
    )
    lost = torch.tensor([SUFFICIENCY[name] for name in INTERACTIONS])[kinds] * report.gain.unsqueeze(1)
    lost = lost + noise * torch.randn(n, 2)
    return replace(report, sufficiency=lost, comprehensiveness=lost.flip(1))


def on(kinds: Tensor, weight: float = 0.97) -> Tensor:
    """Weights that name the interaction of each sample, with a little noise."""
    rest = (1 - weight) / 3
    weights = torch.full((len(kinds), 4), rest).scatter(1, kinds.unsqueeze(1), weight)
    return (weights.log() + 0.1 * torch.randn(len(kinds), 4)).softmax(1)


def but(words: str, report: InteractionReport) -> tuple[str, ...]:
    """Return the warnings but those that hold the words."""
    return tuple(warning for warning in report.warnings() if words not in warning)


class TestUsage:
    def test_equal_weights_share_the_samples(self) -> None:
        summary = unmeasured(torch.full((6, 4), 0.25)).summary()
        assert summary.count("25.0%") == 4

    def test_near_identical_experts_are_warned_of(self) -> None:
        weights = torch.eye(4).repeat_interleave(2, dim=0)
        (warning,) = unmeasured(weights, apart=False).warnings()
        assert "the experts are near identical (mean disagreement 0.0000)" in warning

    def test_outputs_of_other_levels_do_not_make_experts_alike(self) -> None:
        far = torch.tensor([0.0, 1000.0])
        experts = torch.randn(100, 4, 2) + far
        report = unmeasured(torch.full((100, 4), 0.25))
        values = {"expert_predictions": experts, "prediction": experts.mean(1), "target": far.expand(100, 2)}
        changed = replace(report, task="regression", **values)  # type: ignore[arg-type]
        assert not any("near identical" in warning for warning in changed.warnings())

    def test_healthy_weights_are_not_warned_of(self) -> None:
        weights = torch.eye(4).repeat_interleave(2, dim=0)  # each expert for both classes
        assert unmeasured(weights).warnings() == ()

    def test_an_unused_expert_is_warned_of(self) -> None:
        weights = torch.tensor([[1.0, 0, 0, 0], [0, 0.99, 0.01, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
        (warning,) = but("follow the predicted class", unmeasured(weights))
        assert warning.startswith("expert 'synergy' is unused")

    def test_a_rare_expert_is_not_unused(self) -> None:
        weights = torch.eye(4)[[0] * 50 + [1] * 49 + [3] * 50 + [2]]
        assert not any("unused" in warning for warning in unmeasured(weights).warnings())

    def test_collapsed_weights_are_one_warning(self) -> None:
        weights = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.9, 0.05, 0.03, 0.02]])
        (warning,) = but("follow the predicted class", unmeasured(weights))
        assert "collapsed onto 'uniqueness/image'" in warning

    def test_constant_weights_are_warned_of(self) -> None:
        weights = torch.full((6, 4), 0.25)
        (warning,) = unmeasured(weights).warnings()
        assert "same for all samples" in warning

    def test_weights_that_follow_the_class_are_warned_of(self) -> None:
        weights = torch.tensor([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]).repeat(3, 1)
        (warning,) = unmeasured(weights).warnings()
        assert "follow the predicted class, which explains 100%" in warning

    def test_random_weights_do_not_follow_many_classes(self) -> None:
        n, n_classes = 30, 20
        for _ in range(20):
            predicted = torch.nn.functional.one_hot(torch.randint(n_classes, (n,)), n_classes).float()
            report = replace(
                unmeasured(torch.rand(n, 4).softmax(1)),
                output_names=tuple(map(str, range(n_classes))),
                expert_predictions=predicted.unsqueeze(1).repeat(1, 4, 1),
                prediction=predicted,
            )
            assert not any("follow the predicted class" in warning for warning in report.warnings())


class TestOneInteraction:
    @pytest.mark.parametrize("kind", range(4))
    @pytest.mark.parametrize("accuracy", [1.0, 0.8])
    def test_weights_that_name_it_are_no_failed_training(self, kind: int, accuracy: float) -> None:
        kinds = torch.full((300,), kind)
        assert measured(kinds, on(kinds), accuracy=accuracy).warnings() == ()
        certain = torch.eye(4)[kinds]  # nothing varies
        assert measured(kinds, certain, accuracy=accuracy).warnings() == ()

    @pytest.mark.parametrize("kind", range(4))
    def test_weights_that_name_another_contradict_the_behavior(self, kind: int) -> None:
        kinds = torch.full((300,), kind)
        warnings = measured(kinds, on((kinds + 1) % 4)).warnings()
        assert any("contradict the model's behavior" in warning for warning in warnings)
        assert any("collapsed" in warning for warning in warnings)

    def test_an_interaction_that_is_not_there_needs_no_expert(self) -> None:
        kinds = torch.tensor([3, 3, 1]).repeat(100)  # redundancy, and what the text alone says
        assert but("near identical", measured(kinds, on(kinds, 0.999))) == ()

    def test_an_interaction_that_is_there_needs_one(self) -> None:
        kinds = torch.tensor([2, 2, 1]).repeat(100)
        weights = on(torch.where(kinds == 2, 0, kinds), 0.999)
        warnings = measured(kinds, weights).warnings()
        assert any(warning.startswith("expert 'synergy' is unused") for warning in warnings)

    def test_targets_that_are_all_the_same_are_warned_of(self) -> None:
        kinds = torch.full((300,), 3)
        report = measured(kinds, on(kinds))
        warnings = replace(report, target=torch.ones_like(report.target)).warnings()
        assert any("targets of all samples are the same" in warning for warning in warnings)

    def test_predictions_at_chance_are_warned_of(self) -> None:
        kinds = torch.full((300,), 3)
        warnings = measured(kinds, on(kinds), accuracy=0.5).warnings()
        assert any("no better than without any modality" in warning for warning in warnings)
        assert any("collapsed" in warning for warning in warnings)


class TestLowAgreement:
    KINDS = torch.arange(4).repeat(75)

    def test_weights_that_follow_the_behavior(self) -> None:
        report = measured(self.KINDS, on(self.KINDS))
        assert report.agreement.min() > 0.4
        assert but("near identical", report) == ()

    @pytest.mark.parametrize("order", ["rolled", "shuffled"])
    def test_weights_that_do_not_follow_the_evidence_are_warned_of(self, order: str) -> None:
        weights = on(self.KINDS)
        weights = weights.roll(1, dims=1) if order == "rolled" else weights[torch.randperm(300)]
        report = measured(self.KINDS, weights)
        (warning,) = but("near identical", report)
        assert "do not interpret them for single samples" in warning
        assert "'synergy' " in warning

    def test_weights_near_zero_are_not_judged(self) -> None:
        kinds = torch.tensor([3, 3, 1]).repeat(100)
        weights = on(kinds, 0.97)
        weights[:, 0] = 0.02 * torch.rand(300)  # a rank of noise
        report = measured(kinds, weights / weights.sum(1, keepdim=True))
        assert report.agreement[0] < 0.2
        assert but("near identical", report) == ()

    def test_few_samples_are_not_judged(self) -> None:
        kinds = torch.arange(4).repeat(4)
        report = measured(kinds, on(kinds).roll(1, dims=0))
        assert but("near identical", report) == ()
        assert report.behavior[0].isnan().all()


class TestBehavior:
    @pytest.mark.parametrize("kind", range(4))
    def test_one_interaction_is_bounded_closely(self, kind: int) -> None:
        kinds = torch.full((400,), kind)
        low, high = measured(kinds, on(kinds)).behavior
        expected = torch.eye(4, dtype=torch.float64)[kind]
        torch.testing.assert_close(low.double(), expected, rtol=0, atol=0.05)
        torch.testing.assert_close(high.double(), expected, rtol=0, atol=0.05)

    @pytest.mark.parametrize("n_modalities", [2, 3, 4])
    def test_the_bounds_hold_the_shares_of_any_mixture(self, n_modalities: int) -> None:
        interactions: Any = (*range(n_modalities), "synergy", "redundancy")
        for _ in range(50):
            gain = torch.rand(500, dtype=torch.float64)
            kept = torch.rand(500, n_modalities, dtype=torch.float64) ** (4 * torch.rand(n_modalities))
            first, second = kept.topk(2).values.unbind(1)
            unique = torch.zeros_like(kept).scatter(1, kept.argmax(1, keepdim=True), (first - second).unsqueeze(1))
            parts = torch.cat([unique, (1 - first).unsqueeze(1), second.unsqueeze(1)], dim=1) * gain.unsqueeze(1)
            shares = parts.sum(0) / gain.sum()
            low, high = behavior_bounds(gain, gain.unsqueeze(1) * (1 - kept), interactions)
            assert (low <= shares).all()
            assert (shares <= high).all()

    def test_a_modality_that_is_not_there_keeps_nothing(self) -> None:
        gain = torch.ones(100)
        sufficiency = torch.tensor([[0.0, torch.nan]]).expand(100, 2)
        low, high = behavior_bounds(gain, sufficiency, (0, 1, "synergy", "redundancy"))
        assert low.tolist() == high.tolist() == [1, 0, 0, 0]

    @pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
    def test_the_prior_has_no_gain(self, task: Any) -> None:
        target = torch.randint(2, (50,)) if task == "classification" else torch.randint(2, (50, 3)).float()
        n_outputs = 2 if task == "classification" else 3
        prior = prior_outputs(task, target, n_outputs).expand(50, n_outputs)
        report = replace(
            InteractionReport.example(),
            task=task,
            output_names=tuple(map(str, range(n_outputs))),
            weights=torch.full((50, 4), 0.25),
            expert_predictions=prior.unsqueeze(1).expand(50, 4, n_outputs),
            prediction=prior,
            target=target,
            comprehensiveness=torch.zeros(50, 2),
            sufficiency=torch.zeros(50, 2),
            checksums=torch.zeros(50),
        )
        assert report.gain.abs().max() < 1e-5
        assert report.quality.better_than_chance is False
        assert report.behavior[0].isnan().all()


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize(("share", "n_without", "warned"), [(0.9, 100, True), (0.52, 100, False), (0.9, 10, False)])
def test_predictions_that_are_off_where_a_modality_is_missing(
    task: Any, share: float, n_without: int, warned: bool
) -> None:
    """The model says one half of all samples; without text, the target is 1 for a share of them."""
    n = 300
    without = torch.arange(n) < n_without
    is_one = torch.where(without, torch.arange(n) < share * n_without, torch.arange(n) % 2 == 1)
    n_outputs = 2 if task == "classification" else 1
    half = torch.full((n, n_outputs), 0.5 if task == "regression" else 0.0)
    report = replace(
        InteractionReport.example(),
        task=task,
        output_names=tuple("ab"[:n_outputs]),
        weights=torch.full((n, 4), 0.25),
        expert_predictions=half.unsqueeze(1).expand(n, 4, n_outputs),
        prediction=half,
        target=is_one.long() if task == "classification" else is_one.float().unsqueeze(1),
        available=torch.stack([torch.ones(n, dtype=torch.bool), ~without], dim=1),
        comprehensiveness=None,
        sufficiency=None,
        checksums=torch.zeros(n),
    )
    found = [warning for warning in report.warnings() if "are off" in warning]
    assert len(found) == warned
    if task == "regression":  # a value that is the same everywhere changes nothing
        with_constant = {
            name: torch.cat((value, torch.full_like(value, 5)), dim=-1)
            for name in ("expert_predictions", "prediction", "target")
            for value in [getattr(report, name)]
        }
        both = replace(report, output_names=("a", "rooms"), **with_constant)  # type: ignore[arg-type]
        assert [warning for warning in both.warnings() if "are off" in warning] == found
        assert both.quality.score == pytest.approx(report.quality.score)
    for warning in found:
        assert "the 100 samples without text" in warning
        assert "predicted at 0.50 on average, and is at 0.10 (" in warning or "is at 0.90 (" in warning
