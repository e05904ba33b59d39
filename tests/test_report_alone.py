"""What a report says of each modality alone, of dropped ones, of single samples and of two models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2moe import BackboneOutput, ComputedReweighter, InteractionMoE, InteractionSupervision, Reweighter, interactions
from i2moe._common.tasks import Task
from i2moe.interpretation import InteractionReport, explain, stability
from i2moe.interpretation.existing import Fitted
from i2moe.interpretation.monitoring import InteractionMetric
from i2moe.interpretation.report.measures.quality import calibration_error, quality
from i2moe.moe.weights import interaction_shares

NAMES = ("image", "text", "sound")
COMPUTED: dict[str, Any] = {"reweighter": "computed", "members": 3}


class Fusion(nn.Module):
    """M modalities of width 3."""

    def __init__(self, n_modalities: int, n_outputs: int = 2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3 * n_modalities, 8), nn.Tanh(), nn.Linear(8, n_outputs))

    def forward(self, *modalities: Tensor) -> Tensor:
        output: Tensor = self.net(torch.cat(modalities, dim=-1))
        return output


def make(n_modalities: int = 2, n_outputs: int = 2, *, task: Task = "classification", **options: Any) -> InteractionMoE:
    torch.manual_seed(0)
    options = COMPUTED | {"reweighter": ComputedReweighter(task)} | options
    names = NAMES[:n_modalities]
    return InteractionMoE(lambda: Fusion(n_modalities, n_outputs), n_modalities, modality_names=names, **options)


def batches(n_modalities: int = 2, n: int = 60, task: Task = "classification", n_outputs: int = 2) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    xs = [torch.randn(n, 3, generator=generator) for _ in range(n_modalities)]
    y = sum(x[:, :n_outputs] for x in xs)
    assert isinstance(y, Tensor)
    target = {"classification": y.argmax(1), "multilabel": (y > 0).long(), "regression": y}[task]
    half = n // 2
    return [(tuple(x[rows] for x in xs), target[rows]) for rows in (slice(half), slice(half, n))]


def absent(data: list[Any], mask: Tensor) -> list[Any]:
    """Batches in which modalities are missing."""
    n = len(data[0][1])
    return [
        (dict(zip(NAMES, xs, strict=False)) | {"available": mask[i * n : (i + 1) * n]}, y)
        for i, (xs, y) in enumerate(data)
    ]


class Named(nn.Module):
    """A fusion called by names."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = Fusion(2)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        output: Tensor = self.fusion(image, text)
        return output


def make_named(**options: Any) -> InteractionMoE:
    torch.manual_seed(0)
    options = COMPUTED | options
    return InteractionMoE(Named, 2, modality_names=("image", "text"), **options)


def without(model: InteractionMoE, data: list[Any], *dropped: int) -> Tensor:
    """What the model predicts without some modalities."""
    kept = torch.tensor([i not in dropped for i in range(model.n_modalities)])
    with torch.no_grad():
        rows = [model.eval()(*xs, available=kept.expand(len(y), -1)).prediction for xs, y in data]
    return torch.cat(rows)


class TestFields:
    @pytest.mark.parametrize("n_modalities", [2, 3])
    @pytest.mark.parametrize("options", [{}, {"members": None, "reweighter": None, "fill": "zero"}])
    def test_equal_the_models_own_predictions(self, n_modalities: int, options: dict[str, Any]) -> None:
        if "fill" in options:
            options = options | {"feature_dims": (3,) * n_modalities}
        model, data = make(n_modalities, **options), batches(n_modalities)
        report = explain(model, data, n_draws=0)
        assert report.marginals is not None
        assert report.predictions_without is not None
        for i in range(n_modalities):
            others = [j for j in range(n_modalities) if j != i]
            torch.testing.assert_close(report.marginals[:, i], without(model, data, *others))
            torch.testing.assert_close(report.predictions_without[:, i], without(model, data, i))
        if n_modalities == 3:
            torch.testing.assert_close(report.predictions_without[:, 4], without(model, data, 0, 2))
        assert report.available is None
        assert report.computed == ("fill" not in options)
        assert (report.weight_spread is not None) == report.computed

    def test_spread_is_that_of_the_members_own_weights(self) -> None:
        model, data = make(), batches()
        report = explain(model, data, n_draws=0)
        with torch.no_grad():
            out = model.eval()(*data[0][0])
        assert out.member_predictions is not None
        assert out.member_marginals is not None
        prior = torch.full((2,), 0.5)
        joint = out.member_predictions.mean(1).softmax(-1)  # (B, k, C)
        alone = out.member_marginals.softmax(-1)
        each = [interaction_shares(alone[:, :, k], joint[:, k], prior)[0] for k in range(3)]
        assert report.weight_spread is not None
        torch.testing.assert_close(report.weight_spread[:30], torch.stack(each).std(0))

    def test_without_a_fill_nothing_is_said_of_modalities_alone(self) -> None:
        report = explain(make(reweighter=None, members=None, feature_dims=(3, 3)), batches(), n_draws=0)
        assert report.marginals is report.weight_spread is report.predictions_without is None
        assert report.quality_alone == {}
        for use in (report.cost_of_dropping, lambda: report.faithfulness):
            with pytest.raises(ValueError, match=r"a model (that has|with) a fill"):
                use()
        assert "alone" not in report.summary()

    def test_without_dropping_modalities_only_computed_weights_have_marginals(self) -> None:
        computed = explain(make(), batches(), n_draws=0, drop_modalities=False)
        assert computed.predictions_without is None
        assert computed.marginals is not None
        filled = make(reweighter=None, members=None, fill="zero", feature_dims=(3, 3))
        assert explain(filled, batches(), n_draws=0, drop_modalities=False).marginals is None

    def test_predictions_from_absent_modalities_are_nan(self) -> None:
        mask = torch.ones(60, 2, dtype=torch.bool)
        mask[:10, 1] = False
        report = explain(make_named(), absent(batches(), mask), n_draws=0)
        assert report.marginals is not None
        assert report.predictions_without is not None
        assert report.marginals.isnan().any(2).equal(~mask)
        assert report.predictions_without[:10, 0].isnan().all()  # nothing is left
        torch.testing.assert_close(report.predictions_without[:10, 1], report.prediction[:10])  # nothing is lost
        assert report.cost_of_dropping()["image"].n_samples == 50
        assert report.quality_alone["text"].n_samples == 50
        assert report.behavior_shares.isnan().any(1).equal(~mask.all(1))
        assert "It lacks text." in report.sample(3)
        json.dumps(report.to_dict(), allow_nan=False)

    @pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
    def test_a_report_with_marginals_is_saved_and_loaded(self, tmp_path: Path, task: Task) -> None:
        model = make(3, task=task, members=2)
        report = explain(model, batches(3, task=task), task=task, n_draws=1)
        report.save(tmp_path / "report.pt")
        loaded = InteractionReport.load(tmp_path / "report.pt")
        assert loaded.to_dict() == report.to_dict()
        assert loaded.summary() == report.summary()
        assert loaded.sample(5) == report.sample(5)
        assert loaded.computed
        json.dumps(report.to_dict(), allow_nan=False)


def made_up(n: int = 400, **changes: Any) -> InteractionReport:
    """Image tells the class of the first half, both do of the second; text is at chance in the first."""
    target = torch.arange(n) % 2
    sure = 4 * (nn.functional.one_hot(target, 2).float() - 0.5)
    nothing = torch.zeros(n, 2)
    second = (torch.arange(n) >= n // 2).unsqueeze(1)
    marginals = torch.stack([sure, torch.where(second, sure, nothing)], dim=1)
    weights = torch.where(second, torch.tensor([0.1, 0.1, 0.1, 0.7]), torch.tensor([0.7, 0.1, 0.1, 0.1]))
    report = replace(
        InteractionReport.example(),
        weights=weights,
        expert_predictions=sure.unsqueeze(1).expand(n, 4, 2),
        prediction=sure,
        target=target,
        comprehensiveness=None,
        sufficiency=None,
        checksums=torch.arange(n).double(),
        marginals=marginals,
        predictions_without=marginals.flip(1),
        prior=torch.full((2,), 0.5),
    )
    return replace(report, **changes)


@pytest.mark.parametrize("n_reports", [2, 4])
def test_means_of_models_agree_as_the_reliability_says(n_reports: int) -> None:
    """The weights of a model are the same as those of all others, and noise of its own."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, 4, generator=generator)

    def noisy() -> InteractionReport:
        return made_up(4000, weights=truth + torch.randn(4000, 4, generator=generator))

    one, other = (stability([noisy() for _ in range(n_reports)]) for _ in range(2))
    assert one.correlations.mean().item() == pytest.approx(0.5, abs=0.03)
    for e in range(4):
        found = torch.corrcoef(torch.stack([one.weights[:, e], other.weights[:, e]]))[0, 1].item()
        assert found == pytest.approx(float(one.reliability[e]), abs=0.03)


class TestFaithfulness:
    def test_of_weights_that_follow_the_predictions_and_of_those_that_do_not(self) -> None:
        report = made_up()
        expected = torch.zeros(400, 4)
        expected[:200, 0] = expected[200:, 3] = 1
        torch.testing.assert_close(report.behavior_shares.float(), expected)
        assert report.faithfulness[[0, 3]].min() > 0.9  # rounding breaks ties
        liar = replace(report, weights=report.weights.flip(1))
        assert liar.faithfulness[[0, 3]].max() < -0.9
        assert any("faithfulness: 'uniqueness/image' -" in warning for warning in liar.warnings())
        assert not any("faithfulness" in warning for warning in report.warnings())

    def test_nearly_constant_weights_that_lie_near_the_behavior_are_not_warned_of(self) -> None:
        torch.manual_seed(0)
        target = torch.arange(400) % 2
        sure = 6 * (nn.functional.one_hot(target, 2).float() - 0.5)
        together = made_up(marginals=0.02 * torch.randn(400, 2, 2), prediction=sure)  # pure synergy
        noise = 0.045 * torch.rand(400, 1)
        weights = torch.cat([noise / 3, noise / 3, 1 - noise, noise / 3], dim=1)
        near = replace(together, weights=weights)
        assert near.overall.std[2] > 0.01  # not constant
        assert abs(near.faithfulness[2]) < 0.3
        assert not any("do not follow" in warning for warning in near.warnings())
        far = replace(near, weights=weights[:, [2, 0, 1, 3]] * 0.8 + 0.05)
        assert any("do not follow" in warning for warning in far.warnings())

    def test_faithfulness_does_not_depend_on_targets(self) -> None:
        report = made_up()
        other = replace(report, target=1 - report.target)
        assert other.faithfulness.nan_to_num().equal(report.faithfulness.nan_to_num())

    def test_computed_weights_are_faithful(self) -> None:
        model, data = make(), batches(n=200)
        supervise = InteractionSupervision(nn.functional.cross_entropy)
        optimizer = torch.optim.Adam(model.train().parameters(), lr=0.02)
        for _ in range(40):
            for xs, y in data:
                optimizer.zero_grad()
                supervise(model(*xs), y).backward()
                optimizer.step()
        assert explain(model, data, n_draws=0).faithfulness.min() > 0.5


@pytest.mark.parametrize(
    "thing",
    [
        made_up().compare(made_up()),
        stability([made_up()] * 3),
        Fitted(8),
        BackboneOutput(torch.zeros(400, 3), latent=torch.zeros(400, 9)),
        InteractionMetric(make_named()),
    ],
)
def test_reprs_are_short(thing: object) -> None:
    assert repr(thing).startswith(f"{type(thing).__name__}(")
    assert len(repr(thing)) < 100


class TestWorseTogether:
    def test_one_modality_that_knows_what_all_together_do_not(self) -> None:
        report = made_up()
        wrong = report.prediction.clone()
        wrong[:60] *= -1
        (warning,) = [w for w in replace(report, prediction=wrong).warnings() if "worse than" in w]
        assert "from image alone (accuracy 0.850 against 1.000 on the same samples)" in warning
        assert not any("worse than" in w for w in report.warnings())

    def test_a_difference_by_chance_is_not_warned_of(self) -> None:
        torch.manual_seed(0)
        warned = 0
        for _ in range(100):
            logits = torch.randn(200, 3, 2)
            report = made_up(200, marginals=logits[:, :2], prediction=logits[:, 2])
            warned += any("worse than" in w for w in report.warnings())
        assert warned < 10

    @pytest.mark.parametrize(("n_wrong", "warned"), [(8, False), (30, True)])
    def test_only_what_matters(self, n_wrong: int, warned: bool) -> None:
        target = torch.arange(1000) % 2
        right = torch.nn.functional.one_hot(target, 2).float() * 4
        prediction = torch.where(torch.arange(1000).unsqueeze(1) < n_wrong, -right, right)
        report = made_up(1000, target=target, marginals=torch.stack([right, prediction], 1), prediction=prediction)
        assert any("worse than" in w for w in report.warnings()) == warned

    def test_samples_without_the_modality_are_not_compared(self) -> None:
        report = made_up()
        assert report.marginals is not None
        wrong = -report.prediction
        marginals = report.marginals.clone()
        marginals[10:, 0] = torch.nan
        warnings = replace(report, prediction=wrong, marginals=marginals).warnings()
        assert [w.split(" alone")[0] for w in warnings if "worse than" in w] == [
            "the predictions from all modalities are worse than those from text"
        ]


class TestQuality:
    def test_by_hand(self) -> None:
        report = made_up()
        assert report.quality.score == 1
        assert report.quality_alone["text"].score == 0.75  # ties are decided for the first class
        assert report.quality_alone["image"].nll == pytest.approx(math.log(1 + math.exp(-4)))
        assert report.quality_alone["image"].calibration_error == pytest.approx(1 - 1 / (1 + math.exp(-4)))
        assert report.quality_alone["text"].better_than_chance

    def test_quality_of_regression_is_r2_and_of_labels_their_accuracy(self) -> None:
        torch.manual_seed(0)
        y = torch.randn(50, 2)
        report = made_up(
            50,
            task="regression",
            target=y,
            prediction=y + torch.tensor([1.0, 0.0]),
            predictions_without=None,
            marginals=None,
        )
        expected = 1 - 1 / y.double().var(0, correction=0)[0] / 2
        assert report.quality.score == pytest.approx(expected.item())
        assert report.quality.nll is report.quality.calibration_error is None

    def test_calibration_error_is_torchmetrics(self) -> None:
        metrics: Any = pytest.importorskip("torchmetrics.functional.classification")
        torch.manual_seed(0)
        logits, y = 3 * torch.randn(500, 4), torch.randint(4, (500,))
        sure, predicted = logits.softmax(1).max(1)
        expected = metrics.multiclass_calibration_error(logits.softmax(1), y, num_classes=4, n_bins=15, norm="l1")
        assert calibration_error(sure, predicted == y)[0] == pytest.approx(expected.item(), abs=1e-6)

    @pytest.mark.parametrize("n", [30, 1000])
    def test_right_probabilities_have_the_error_of_chance(self, n: int) -> None:
        torch.manual_seed(0)
        errors, by_chance = [], []
        for _ in range(100):
            p = torch.rand(n) / 2 + 0.5
            error, chance = calibration_error(p, torch.rand(n) < p)
            errors.append(error)
            by_chance.append(chance)
        assert sum(errors) == pytest.approx(sum(by_chance), rel=0.15)

    def test_warns_of_computed_weights_on_predictions_that_are_too_sure(self) -> None:
        report = made_up()
        wrong = report.target.clone()
        wrong[::3] = 1 - wrong[::3]
        too_sure = replace(report, target=wrong)
        (warning,) = [w for w in too_sure.warnings() if "as sure as they are right" in w]
        assert "'image' 0.3" in warning
        assert not any("as sure as they are right" in w for w in report.warnings())
        assert not any("as sure as they are right" in w for w in replace(too_sure, prior=None).warnings())

    def test_predictions_of_other_class_frequencies_are_not_called_too_sure(self) -> None:
        """A tenth of the samples are of class 1. The predictions are right where half are, and the prior says so."""
        torch.manual_seed(0)
        target = (torch.arange(4000) % 10 == 0).long()
        shown = torch.rand(4000) < torch.where(target == 1, 0.9, 0.4)
        posterior = torch.where(shown, 0.9 / 1.3, 0.1 / 0.7)  # of classes of equal size
        sure = torch.stack([1 - posterior, posterior], dim=1).log()
        known = {"prediction": sure, "marginals": torch.stack([sure, torch.zeros(4000, 2)], dim=1)}
        report = made_up(4000, target=target, predictions_without=None, **known)
        assert report.quality_alone["image"].calibration_error > 0.1  # type: ignore[operator]
        assert not any("as sure as they are right" in w for w in report.warnings())
        as_they_are = replace(report, prior=torch.tensor([0.9, 0.1]))
        assert any("as sure as they are right" in w for w in as_they_are.warnings())

    def test_a_modality_of_noise_without_weight_is_not_called_too_sure(self) -> None:
        report, guess = made_up(), torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        assert report.marginals is not None
        marginals = torch.stack([report.marginals[:, 0], 9 * guess], dim=1)
        for weight, n_warnings in ((0.01, 0), (0.2, 1)):
            weights = torch.tensor([0.9 - weight, weight, 0.05, 0.05]).expand(400, 4)
            found = [w for w in replace(report, marginals=marginals, weights=weights).warnings() if "as sure as" in w]
            assert len(found) == n_warnings
            assert all("'text' 0." in warning for warning in found)

    def test_warns_where_no_modality_alone_carries_a_weight(self) -> None:
        report = made_up()
        assert not any("than chance" in warning for warning in report.warnings())
        assert report.marginals is not None
        lost = replace(report, marginals=torch.zeros_like(report.marginals))
        warnings = [warning for warning in lost.warnings() if "than chance" in warning]
        assert ["'uniqueness/image'" in warnings[0], "'redundancy'" in warnings[1]] == [True, True]


def test_computed_weights_need_no_experts_that_differ() -> None:
    report = made_up()  # experts predict the same, synergy and text are never the largest
    report = replace(report, weights=report.weights * torch.tensor([1, 0, 0, 1]) / 0.8)
    assert report.warnings() == ()
    learned = " ".join(replace(report, prior=None).warnings())
    assert "'synergy' is unused" in learned
    assert "near identical" in learned


class TestNearThePrior:
    def test_predictions_near_it_are_found(self) -> None:
        report = made_up()
        near = torch.tensor([0, 5, 398])
        prediction = report.prediction.clone()  # logits
        prediction[near] = 0.01 * torch.randn(3, 2)
        found = replace(report, prediction=prediction)
        assert found.near_prior.nonzero().flatten().tolist() == near.tolist()
        assert "near what is predicted from nothing" in found.sample(5)
        assert "near what is predicted from nothing" not in found.sample(6)
        assert "predictions near the prior 0.8%" in found.summary()

    @pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
    def test_samples_count_by_their_squared_distance_in_the_shares_of_variance(self, task: Task) -> None:
        prediction, prior = torch.tensor([[0.0, 0.0], [2.0, -2.0], [-1.0, 1.0]]), torch.tensor([0.4, 0.6])
        weights = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 0.5, 0, 0.5]])
        report = replace(
            made_up(3),
            task=task,
            prediction=prediction,
            target=torch.tensor([0, 1, 0]) if task == "classification" else torch.zeros(3, 2),
            weights=weights,
            prior=prior,
        )
        values = {"classification": prediction.softmax(1), "multilabel": prediction.sigmoid(), "regression": prediction}
        far = (values[task] - prior).square().sum(1)
        expected = torch.stack([far[0], far[2] / 2, far[1], far[2] / 2]) / far.sum()
        torch.testing.assert_close(report.variance_shares.float(), expected)
        assert report.to_dict()["variance_shares"] == report.variance_shares.tolist()

    def test_a_rare_class_is_warned_of(self) -> None:
        """4% are of class 1, and the model is sure of each: most predictions are near the prior."""
        target = (torch.arange(400) % 25 == 0).long()
        sure = 8 * (nn.functional.one_hot(target, 2).float() - 0.5)
        weights = torch.where(target.unsqueeze(1) == 1, torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 0, 0, 1.0]))
        report = made_up(
            target=target,
            prediction=sure,
            weights=weights,
            marginals=None,
            predictions_without=None,
            prior=torch.tensor([0.96, 0.04]),
        )
        (warning,) = report.warnings()
        assert warning.startswith("96% of the predictions are near the prior")
        assert report.overall.mean.argmax() == 3
        assert report.variance_shares.argmax() == 0
        assert replace(report, prior=torch.tensor([0.5, 0.5])).warnings() == ()  # by the weights of the classes

    def test_a_report_keeps_its_prior(self) -> None:
        model = make(2)
        report = explain(model, batches(2), n_draws=0)
        before = report.prior.clone()  # type: ignore[union-attr]
        reweighter: Any = model.reweighter
        reweighter.prior.add_(1)
        assert report.prior.equal(before)  # type: ignore[union-attr]

    def test_the_prior_of_a_new_model_is_uniform_and_one_sample_has_shares(self) -> None:
        model = InteractionMoE(lambda: nn.Bilinear(3, 2, 4), 2, reweighter="computed")
        report = explain(model, [((torch.randn(1, 3), torch.randn(1, 2)), torch.tensor([1]))], n_draws=0)
        assert report.prior.tolist() == [0.25] * 4  # type: ignore[union-attr]
        torch.testing.assert_close(report.variance_shares.float(), report.weights[0])

    def test_where_no_prediction_moves_all_are_near(self) -> None:
        report = made_up(prediction=torch.zeros(400, 2))
        assert report.near_prior.all()
        assert report.variance_shares.isnan().all()
        json.dumps(report.to_dict(), allow_nan=False)
        assert "nan" not in report._repr_html_().lower().replace("financ", "")

    def test_wild_predictions_of_a_regression_are_warned_of(self) -> None:
        values = torch.randn(400, 1)
        report = made_up(
            task="regression",
            output_names=("value",),
            prior=torch.zeros(1),
            target=values,
            prediction=values + 5,
            expert_predictions=torch.zeros(400, 4, 1),
            marginals=None,
            predictions_without=None,
        )
        assert report.quality.better_than_chance
        assert any("farther from the targets than their mean" in warning for warning in report.warnings())

    @pytest.mark.parametrize("n_rare", [1, 3, 40])
    def test_perfect_predictions_are_no_chance_however_rare_a_class(self, n_rare: int) -> None:
        target = (torch.arange(400) < n_rare).long()
        sure = 8 * (nn.functional.one_hot(target, 2).float() - 0.5)
        assert quality("classification", sure, target, 0.95).better_than_chance

    def test_one_logit_is_said_as_its_probability(self) -> None:
        report = made_up(
            2,
            task="multilabel",
            output_names=("ill",),
            prior=torch.tensor([0.5]),
            target=torch.tensor([[0.0], [1.0]]),
            prediction=torch.tensor([[-3.0], [-3.0]]),
            expert_predictions=torch.zeros(2, 4, 1),
            marginals=None,
            predictions_without=None,
        )
        assert "the model predicts 'ill' at 0.05, which is right" in report.sample(0)
        assert "the model predicts 'ill' at 0.05, the truth is 1" in report.sample(1)

    def test_targets_of_one_class_say_nothing_about_chance(self) -> None:
        report = made_up(target=torch.zeros(400, dtype=torch.long))
        assert report.quality.better_than_chance is None
        assert not any("without any modality" in warning for warning in report.warnings())

    def test_chance_is_seldom_called_knowledge(self) -> None:
        torch.manual_seed(0)
        found = [
            quality("classification", torch.randn(100, 3), torch.randint(3, (100,)), 0.95).better_than_chance
            for _ in range(400)
        ]
        assert sum(map(bool, found)) < 0.05 * 400

    @pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
    def test_chance_does_not_depend_on_how_frequent_a_class_is_taken_to_be(self, task: Task) -> None:
        """Outputs that know something, and are far from the targets' mean; the same outputs in another order."""
        torch.manual_seed(0)
        target = (torch.arange(400) % 25 == 0).float()
        known = torch.stack([-target, target], dim=1) + 0.3 * torch.randn(400, 2) + torch.tensor([0.0, 3.0])
        labels = target.long() if task == "classification" else torch.stack([1 - target, target], dim=1)
        report = made_up(task=task, target=labels, prediction=known)
        assert report.quality.better_than_chance
        assert not replace(report, prediction=known.roll(10, 0)).quality.better_than_chance
        assert not replace(report, prediction=known.mean(0).expand(400, 2)).quality.better_than_chance


def test_a_clustered_report_has_wider_intervals_everywhere(tmp_path: Path) -> None:
    report = made_up(marginals=None, prediction=made_up().prediction * torch.randn(400, 1).sign())
    person = [f"p{i // 40}" for i in range(400)]
    found = report.clustered(person)
    assert report.by_group(person)["p0"].n_samples == 40
    assert (found.overall.high - found.overall.low > report.overall.high - report.overall.low)[[0, 3]].all()
    assert found.overall.mean.equal(report.overall.mean)
    assert found.quality.score == report.quality.score
    assert found.quality.high != report.quality.high
    assert found.cost_of_dropping()["text"].high != report.cost_of_dropping()["text"].high
    assert "400 samples of 10 groups" in found.summary()
    found.save(tmp_path / "r.pt")
    assert InteractionReport.load(tmp_path / "r.pt").summary() == found.summary()
    assert found.to_dict()["n_clusters"] == 10


class TestDropping:
    def test_by_hand(self) -> None:
        costs = made_up().cost_of_dropping()
        unseen = 1 - 0.025 ** (1 / 400)  # of none in 400
        assert (costs["text"].cost, costs["text"].low, costs["text"].high) == pytest.approx((0, -unseen, unseen))
        assert costs["image"].score == 0.75
        assert costs["image"].cost == 0.25
        n, p = 400, 0.25
        margin = 1.966 * math.sqrt(p * (1 - p) / (n - 1))
        assert costs["image"].high - costs["image"].cost == pytest.approx(margin, rel=1e-3)

    def test_of_three_modalities_pairs_are_dropped_too(self) -> None:
        report = explain(make(3), batches(3), n_draws=0)
        assert list(report.cost_of_dropping()) == [*NAMES, "image+text", "image+sound", "text+sound"]
        assert list(report.to_dict()["cost_of_dropping"]) == list(report.cost_of_dropping())


class TestSample:
    def test_says_what_would_have_been(self) -> None:
        text = made_up().sample(0)
        assert text == (
            "Sample 0: the model predicts 'cat' at 0.98, which is right. 70% of the weight is on what image alone says "
            "(uniqueness/image), 10% on what text alone says (uniqueness/text), 10% on what only several modalities "
            "together say (synergy). Without image it would still be 'cat' at 0.50. Without text it would still be "
            "'cat' at 0.98."
        )
        assert "Without image it would have been 'cat' at 0.50" in made_up().sample(1)

    @pytest.mark.parametrize("task", ["multilabel", "regression"])
    def test_a_sample_of_any_task_is_described(self, task: Task) -> None:
        report = explain(make(3, task=task), batches(3, task=task), task=task, n_draws=0)
        for index in range(len(report)):
            assert report.sample(index).count("Without") == 3
        assert "Members of the model differ by up to" in report.sample(-1)

    def test_a_sample_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(IndexError, match="one of 4 samples, however it is 4"):
            InteractionReport.example().sample(4)


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_intervals_of_a_score_stay_in_its_range(task: Task) -> None:
    report = explain(make(3, task=task), batches(3, n=6, task=task), task=task, n_draws=0)
    other = replace(report, prediction=-report.prediction)
    for each in (report.quality, other.quality, *report.quality_alone.values()):
        assert 0 <= each.low <= each.score <= each.high <= 1
    ends = [(cost.low, cost.high) for cost in report.cost_of_dropping().values()]
    ends += [(found.low, found.high) for found in (report.compare(other), other.compare(report))]
    assert all(-1 <= low <= high <= 1 for low, high in ends)
    right = torch.tensor([[1.0, 0.0]] * 19 + [[0.0, 1.0]])
    found = quality("classification", right, torch.zeros(20).long(), 0.95)
    assert (found.low < 0.9, found.high) == (True, 1)


class TestCompare:
    def test_reports_of_two_seeds_are_compared(self) -> None:
        data = batches()
        first = explain(make(), data, n_draws=0)
        torch.manual_seed(5)
        second = explain(
            InteractionMoE(lambda: Fusion(2), 2, modality_names=NAMES[:2], reweighter="computed"), data, n_draws=0
        )
        found = first.compare(second)
        assert found.gain == pytest.approx(second.quality.score - first.quality.score)
        assert found.agreement.max() < 1
        assert first.compare(first).agreement.min() == pytest.approx(1)
        json.dumps(found.to_dict(), allow_nan=False)

    def test_double_precision_is_the_same_data(self) -> None:
        a, b = (1000 * torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0)).double() + 1 / 3).unbind()
        y = torch.arange(200) % 2
        model = make()
        single = explain(model, [((a.float(), b.float()), y)], n_draws=0)
        data = [((a, b), y)]
        double = interactions(lambda a, b: model(a.float(), b.float()), data, data, modality_names=NAMES[:2])
        assert single.compare(double).gain == 0

    @pytest.mark.parametrize(
        "change",
        [
            lambda report: replace(report, checksums=report.checksums + 1),
            lambda report: replace(report, output_names=("a", "b")),
        ],
    )
    def test_what_differs_is_refused(self, change: Callable[[InteractionReport], InteractionReport]) -> None:
        report = made_up()
        with pytest.raises(ValueError, match="reports must be of"):
            report.compare(change(report))


def test_a_learned_reweighter_is_tested_the_same_way() -> None:
    model = make(reweighter=Reweighter(4, (3, 3)), members=None, fill="zero", feature_dims=(3, 3))
    report = explain(model, batches(), n_draws=0)
    assert report.faithfulness.shape == (4,)
    assert "faithfulness" in report.summary()
