"""Reports: what they say about models of known behavior, and what they leave untouched."""

from __future__ import annotations

import itertools
import json
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from i2moe import ComputedReweighter, InteractionMoE, StaticReweighter
from i2moe._common.tasks import Task
from i2moe.interpretation import InteractionReport, explain, stability
from i2moe.interpretation.monitoring import InteractionMetric
from i2moe.perturbations import Gaussian

N_SAMPLES, WIDTH = 40, 3


class Fusion(nn.Module):
    """Two modalities, three classes; dropout and batch norm would show a wrong mode."""

    def __init__(self, n_outputs: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, n_outputs))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        output: Tensor = self.net(torch.cat([a, b], dim=-1))
        return output


class Listed(Fusion):
    """Takes its modalities as one list."""

    def forward(self, inputs: list[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(*inputs)


class Net(nn.Module):
    """A model with encoders before its InteractionMoE."""

    def __init__(self, backbone: Callable[[], nn.Module] = Listed) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([nn.Linear(5, WIDTH), nn.Linear(7, WIDTH)])
        self.moe = InteractionMoE(backbone, 2, modality_names=("image", "text"), feature_dims=(WIDTH, WIDTH))

    def forward(self, image: Tensor, text: Tensor) -> Any:
        return self.moe([self.encoders[0](image), self.encoders[1](text)])


class Reads(nn.Module):
    """Outputs the first column of some modalities, summed, as the logits (z, -z)."""

    def __init__(self, *read: int) -> None:
        super().__init__()
        self.read = read

    def forward(self, *modalities: Tensor) -> Tensor:
        z = sum((modalities[j][:, 0] for j in self.read), start=torch.zeros(len(modalities[0])).to(modalities[0]))
        return torch.stack([z, -z], dim=-1)


class Switch(nn.Module):
    """Weighs the expert named in the second column of the first modality, without a parameter."""

    def __init__(self, n_experts: int) -> None:
        super().__init__()
        self.n_experts = n_experts

    def forward(self, modalities: tuple[Tensor, ...]) -> Tensor:
        return nn.functional.one_hot(modalities[0][:, 1].long() % self.n_experts, self.n_experts).float()


def make_model(**kwargs: Any) -> InteractionMoE:
    torch.manual_seed(0)
    return InteractionMoE(Fusion, 2, feature_dims=(WIDTH, WIDTH), **kwargs)


def make_batches(n_batches: int = 4, n_classes: int = 3) -> list[tuple[tuple[Tensor, ...], Tensor]]:
    generator = torch.Generator().manual_seed(1)
    size = N_SAMPLES // n_batches

    def batch() -> tuple[tuple[Tensor, ...], Tensor]:
        modalities = tuple(torch.randn(size, WIDTH, generator=generator) for _ in range(2))
        return modalities, torch.randint(n_classes, (size,), generator=generator)

    return [batch() for _ in range(n_batches)]


def same_tensors(a: InteractionReport, b: InteractionReport) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)]
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


class TestPerSample:
    def test_equals_the_models_own_evaluation(self) -> None:
        model, batches = make_model(), make_batches()

        report = explain(model, batches)

        model.eval()
        with torch.no_grad():
            outs = [model(*modalities) for modalities, _ in batches]
        torch.testing.assert_close(report.weights, torch.cat([out.weights for out in outs]), rtol=0, atol=0)
        torch.testing.assert_close(
            report.expert_predictions, torch.cat([out.expert_predictions for out in outs]), rtol=0, atol=0
        )
        torch.testing.assert_close(report.prediction, torch.cat([out.prediction for out in outs]), rtol=0, atol=0)
        torch.testing.assert_close(report.target, torch.cat([target for _, target in batches]), rtol=0, atol=0)
        assert len(report) == N_SAMPLES
        assert report.expert_names == model.expert_names

    def test_contributions_sum_to_the_prediction(self) -> None:
        report = explain(make_model(), make_batches())
        torch.testing.assert_close(report.contributions.sum(1), report.prediction)
        e, n, c = 2, 17, 1
        assert report.contributions[n, e, c] == report.weights[n, e] * report.expert_predictions[n, e, c]

    def test_entropy_by_hand(self) -> None:
        report = InteractionReport.example()
        expected = [-sum(w * math.log(w) for w in row if w > 0) for row in report.weights.tolist()]
        torch.testing.assert_close(report.entropy, torch.tensor(expected))

    def test_entropy_lies_between_one_expert_and_all(self) -> None:
        weights = torch.eye(4)
        weights[1] = 0.25
        report = replace(InteractionReport.example(), weights=weights)
        torch.testing.assert_close(report.entropy[:2], torch.tensor([0.0, math.log(4)]))

    @pytest.mark.parametrize(
        ("task", "expected"),
        [
            # Experts predict (0, 0), (ln 3, 0) and (ln 3, 0): two of three pairs differ.
            ("classification", 2 / 3 * (0.75 - 0.5)),
            ("multilabel", 2 / 3 * (0.75 - 0.5) / 2),
            ("regression", 2 / 3 * math.log(3) / 2),
        ],
    )
    def test_disagreement_by_hand(self, task: Task, expected: float) -> None:
        predictions = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [math.log(3), 0.0]]])
        report = InteractionReport(
            task=task,
            modality_names=("a", "b"),
            expert_names=("uniqueness/a", "synergy", "redundancy"),
            interactions=(0, "synergy", "redundancy"),
            output_names=("0", "1"),
            weights=torch.full((1, 3), 1 / 3),
            expert_predictions=predictions,
            prediction=predictions.mean(1),
            target=torch.tensor([0]) if task == "classification" else torch.zeros(1, 2),
            comprehensiveness=None,
            sufficiency=None,
            checksums=torch.zeros(1),
        )
        assert report.disagreement.item() == pytest.approx(expected)

    def test_equal_experts_do_not_disagree(self) -> None:
        model = make_model()
        for expert in model.experts:
            expert.load_state_dict(model.experts[0].state_dict())
        assert explain(model, make_batches()).disagreement.max() == 0


class TestOverTheData:
    def test_constant_weights_have_their_value_as_interval(self) -> None:
        model = make_model_static()
        report = explain(model, make_batches())

        expected = torch.softmax(torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64), 0)
        torch.testing.assert_close(report.overall.mean, expected, rtol=0, atol=1e-6)
        for group in (report.overall, *report.per_class.values()):
            torch.testing.assert_close(group.low, group.mean)
            torch.testing.assert_close(group.high, group.mean)
            assert group.std.max() < 1e-6
        assert report.agreement.isnan().all()
        assert any("same for all samples" in warning for warning in report.warnings())

    def test_mean_and_spread_by_hand(self) -> None:
        report = InteractionReport.example()
        dog, cat = report.per_class["dog"], report.per_class["cat"]
        assert (cat.n_samples, dog.n_samples) == (1, 3)
        torch.testing.assert_close(cat.mean, report.weights[0].double())
        assert dog.mean[0].item() == pytest.approx(0.2)
        assert dog.std[0].item() == pytest.approx(math.sqrt((0.1**2 + 0.1**2 + 0.2**2) / 3))
        assert (report.by_outcome["correct"].n_samples, report.by_outcome["wrong"].n_samples) == (3, 1)
        assert report.by_outcome["wrong"].mean[2].item() == pytest.approx(0.45)

    def test_regression_is_split_by_its_error(self) -> None:
        model = make_model()
        report = explain(model, [(make_batches(1)[0][0], torch.randn(N_SAMPLES, 3))], task="regression")
        groups = report.by_outcome
        assert {name: group.n_samples for name, group in groups.items()} == {"lower error": 20, "higher error": 20}
        assert report.score[report.correct].min() > report.score[~report.correct].max()
        assert report.per_class == {}

    def test_groups_partition_the_samples(self) -> None:
        report = explain(make_model(), make_batches())
        groups = report.by_group(torch.arange(N_SAMPLES) % 3)
        assert sum(group.n_samples for group in groups.values()) == N_SAMPLES
        total = torch.stack([group.mean * group.n_samples for group in groups.values()]).sum(0)
        torch.testing.assert_close(total / N_SAMPLES, report.overall.mean)

    def test_multilabel_samples_count_for_each_label(self) -> None:
        targets = torch.tensor([[1, 0, 1], [1, 0, 0]]).repeat(5, 1)
        modalities = make_batches()[0][0]
        report = explain(make_model(), [(modalities, targets)], task="multilabel", class_names=("a", "b", "c"))
        assert {name: group.n_samples for name, group in report.per_class.items()} == {"a": 10, "b": 0, "c": 5}
        assert report.per_class["b"].mean.isnan().all()


class TestFaithfulness:
    """On models that are built to behave like an interaction."""

    def test_an_expert_that_reads_one_modality(self) -> None:
        model = InteractionMoE(
            iter([Reads(0), Reads(0), Reads(0), Reads(0)]).__next__, 2, reweighter=Switch(4), perturbation="zero"
        )
        report = explain(model, make_batches(n_classes=2), perturbation="zero")

        # Without modality 0 both classes are equally likely; modality 1 changes nothing.
        torch.testing.assert_close(report.comprehensiveness, torch.stack([report.score - 0.5, 0 * report.score], 1))
        torch.testing.assert_close(report.sufficiency, torch.stack([0 * report.score, report.score - 0.5], 1))

    def test_weights_that_tell_the_truth_agree_and_those_that_lie_do_not(self) -> None:
        batches, kinds = interactions_by_construction()
        experts = [Reads(0), Reads(1), Product(), Either()]
        model = InteractionMoE(iter(experts).__next__, 2, reweighter=ByCue(), perturbation=Zeroed())

        honest = explain(model, batches)
        assert honest.correct.all()
        assert torch.equal(honest.weights.argmax(1), kinds)
        for e in range(4):  # evidence of an interaction is highest on exactly its own samples
            assert honest.evidence[kinds == e, e].min() > honest.evidence[kinds != e, e].max() + 0.1
        assert honest.agreement.min() > 0.6

        liar = replace(honest, weights=honest.weights.roll(1, dims=1))
        assert liar.agreement.max() < 0.1
        assert liar.agreement.mean() < -0.4

    def test_three_modalities_by_hand(self) -> None:
        model = InteractionMoE(lambda: Reads(0, 2), 3, reweighter=StaticReweighter(5), perturbation="zero")
        modalities = tuple(torch.full((1, 1), value) for value in (1.0, 5.0, 2.0))
        report = explain(model, [(modalities, torch.tensor([0]))])

        def probability(z: float) -> float:
            return 1 / (1 + math.exp(-2 * z))

        full = probability(3)
        without = [full - probability(z) for z in (2, 3, 1)]
        alone = [full - probability(z) for z in (1, 0, 2)]
        assert report.comprehensiveness is not None
        assert report.sufficiency is not None
        assert report.comprehensiveness[0].tolist() == pytest.approx(without, abs=1e-6)
        assert report.sufficiency[0].tolist() == pytest.approx(alone, abs=1e-6)
        evidence = [without[0] - without[2], without[1] - without[2], without[2] - without[0], min(alone), -without[2]]
        assert report.evidence[0].tolist() == pytest.approx(evidence, abs=1e-6)

    def test_multilabel_falls_in_the_log_likelihood_per_label(self) -> None:
        model = InteractionMoE(lambda: Reads(0), 2, reweighter=StaticReweighter(4), perturbation="zero")
        batch = ((torch.ones(1, 1), torch.ones(1, 1)), torch.tensor([[1, 1]]))
        report = explain(model, [batch], task="multilabel")
        likelihood = (math.log(1 / (1 + math.exp(-1))) + math.log(1 / (1 + math.exp(1)))) / 2
        assert report.score.item() == pytest.approx(likelihood)
        assert report.comprehensiveness is not None
        assert report.comprehensiveness[0, 0].item() == pytest.approx(likelihood - math.log(0.5))

    def test_regression_rises_in_squared_error(self) -> None:
        model = InteractionMoE(lambda: Reads(0), 2, reweighter=StaticReweighter(4), perturbation="zero")
        batch = ((torch.ones(1, 1), torch.ones(1, 1)), torch.tensor([[2.0, 0.0]]))
        report = explain(model, [batch], task="regression")
        assert report.score.item() == pytest.approx(-1)  # predicts (1, -1)
        assert report.comprehensiveness is not None
        assert report.comprehensiveness[0].tolist() == pytest.approx([(4 + 0) / 2 - 1, 0])

    def test_draws_are_averaged(self) -> None:
        values = itertools.cycle([1.0, 1.0, 3.0, 3.0])  # both modalities, then both again

        model = InteractionMoE(lambda: Reads(0), 2, reweighter=StaticReweighter(4), perturbation=None)
        batch = ((torch.zeros(2, 1), torch.zeros(2, 1)), torch.zeros(2, 2))
        report = explain(
            model, [batch], task="regression", n_draws=2, perturbation=lambda x: torch.full_like(x, next(values))
        )
        assert report.comprehensiveness is not None
        assert report.comprehensiveness[:, 0].tolist() == pytest.approx([(1 + 9) / 2] * 2)

    def test_encoders_run_once_and_embeddings_are_replaced(self) -> None:
        class Counting(nn.Linear):
            n_calls = 0

            def forward(self, x: Tensor) -> Tensor:
                self.n_calls += 1
                return super().forward(x)

        model = Net()
        counting = Counting(5, WIDTH)
        model.encoders[0] = counting
        shapes: list[tuple[int, ...]] = []

        def replace_by_zeros(x: Tensor) -> Tensor:
            shapes.append(tuple(x.shape))
            return torch.zeros_like(x)

        explain(model, wrapped_batches(), perturbation=replace_by_zeros)
        assert counting.n_calls == len(wrapped_batches())
        assert set(shapes) == {(10, WIDTH)}

    def test_no_draws_leave_faithfulness_out(self) -> None:
        report = explain(make_model(), make_batches(), n_draws=0)
        assert report.comprehensiveness is None
        assert "replaced" not in report.summary()
        assert report.to_dict()["agreement"] is None
        with pytest.raises(ValueError, match="must have been measured"):
            _ = report.agreement

    @pytest.mark.filterwarnings("ignore:mean needs two samples")
    @pytest.mark.parametrize("perturbation", ["mean", lambda x: x.mean(0, keepdim=True).expand_as(x)])
    def test_batches_of_one_that_are_replaced_by_themselves_are_not_measured(self, perturbation: Any) -> None:
        modalities, target = make_batches(1)[0]
        batches = [
            (tuple(m[:30] for m in modalities), target[:30]),
            (tuple(m[30:31] for m in modalities), target[30:31]),
        ]
        with pytest.warns(UserWarning, match="1 of 31 samples came in batches of one and were replaced by themselves"):
            report = explain(make_model(), batches, perturbation=perturbation)
        assert report.comprehensiveness is not None
        assert report.sufficiency is not None
        assert report.comprehensiveness.isnan().any(1).tolist() == [False] * 30 + [True]
        assert report.sufficiency.isnan().any(1).tolist() == [False] * 30 + [True]
        assert not report.agreement.isnan().any()
        assert "nan" not in report.summary()

    @pytest.mark.filterwarnings("ignore:shuffle needs two samples")
    def test_batches_of_one_alone(self) -> None:
        modalities, target = make_batches(1)[0]
        batches = [(tuple(m[i : i + 1] for m in modalities), target[i : i + 1]) for i in range(30)]
        with pytest.warns(UserWarning, match="30 of 30 samples came in batches of one"):
            report = explain(make_model(), batches, perturbation="shuffle")
        assert report.agreement.isnan().all()
        assert report.to_dict()["comprehensiveness"] == [None, None]
        assert "nan" not in report.summary()
        measured = explain(make_model(), batches, perturbation="zero")
        assert not measured.agreement.isnan().any()

    def test_a_model_without_perturbation_is_explained_by_shuffling(self) -> None:
        model, batches = make_model(perturbation=None), make_batches()
        assert same_tensors(explain(model, batches), explain(model, batches, perturbation="shuffle"))


class TestWhatUsersHandIn:
    def test_a_model_around_the_moe(self) -> None:
        model = Net()
        report = explain(model, wrapped_batches())
        assert report.modality_names == ("image", "text")
        model.eval()
        with torch.no_grad():
            expected = torch.cat([model(*modalities).prediction for modalities, _ in wrapped_batches()])
        torch.testing.assert_close(report.prediction, expected)

    def test_what_the_outer_model_returns_does_not_matter(self) -> None:
        class Classifier(Net):
            def forward(self, image: Tensor, text: Tensor) -> Tensor:
                return super().forward(image, text).prediction.log_softmax(-1)  # type: ignore[no-any-return]

        torch.manual_seed(0)
        classifier = Classifier()
        net = Net()
        net.load_state_dict(classifier.state_dict())
        assert same_tensors(explain(classifier, wrapped_batches()), explain(net, wrapped_batches()))

    @pytest.mark.parametrize("form", [tuple, list, lambda m: {"0": m[0], "1": m[1]}])
    @pytest.mark.parametrize("batch_form", [tuple, list])
    def test_every_form_of_batch_is_explained(self, form: Callable[..., Any], batch_form: Callable[..., Any]) -> None:
        class Named(Fusion):
            pass

        batches = make_batches()
        torch.manual_seed(0)
        model = InteractionMoE(Named, 2, modality_names=("a", "b"), feature_dims=(WIDTH, WIDTH))
        expected = explain(model, batches)
        renamed = [(form(modalities), target) for modalities, target in batches]
        if isinstance(renamed[0][0], dict):
            renamed = [({"b": m["1"], "a": m["0"]}, target) for m, target in renamed]
        assert same_tensors(explain(model, [batch_form(batch) for batch in renamed]), expected)

    def test_backbones_that_take_a_list_or_anything(self) -> None:
        class Anything(Fusion):
            def forward(self, *modalities: Tensor) -> Tensor:
                return super().forward(*modalities)

        class Optional(Fusion):
            def forward(self, inputs: list[Tensor], scale: float = 1.0) -> Tensor:  # type: ignore[override]
                return super().forward(*inputs) * scale

        reports = []
        for backbone in (Fusion, Listed, Anything, Optional):
            torch.manual_seed(0)
            model = InteractionMoE(backbone, 2, feature_dims=(WIDTH, WIDTH))
            reports.append(explain(model, make_batches()))
        assert all(same_tensors(report, reports[0]) for report in reports)

    def test_call_decides_how_a_batch_is_handed_over(self) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.moe = make_model()

            def forward(self, text: Tensor, scale: float, image: Tensor) -> Any:
                return self.moe(image * scale, text)

        report = explain(Odd(), make_batches(), call=lambda model, m: model(m[1], 1.0, m[0]))
        assert same_tensors(report, explain(make_model(), make_batches()))

    def test_a_data_loader_of_nested_samples(self) -> None:
        modalities = [torch.cat([m[i] for m, _ in make_batches()]) for i in range(2)]
        targets = torch.cat([target for _, target in make_batches()])

        class Nested(Dataset[Any]):
            def __len__(self) -> int:
                return N_SAMPLES

            def __getitem__(self, i: int) -> Any:
                return (modalities[0][i], modalities[1][i]), targets[i].item()

        loader = DataLoader(Nested(), batch_size=10)
        # The loader draws a seed, so replacements would differ.
        reports = [explain(make_model(), data, n_draws=0) for data in (loader, make_batches())]
        assert same_tensors(*reports)

    def test_raw_inputs_may_be_anything_the_model_takes(self) -> None:
        class Readers(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gru = nn.GRU(2, WIDTH, batch_first=True)
                self.moe = make_model()

            def forward(self, packed: PackedSequence, words: list[str]) -> Any:
                lengths = torch.tensor([[float(len(word))] * WIDTH for word in words])
                return self.moe(self.gru(packed)[1][0], lengths)

        packed = pack_sequence([torch.randn(length, 2) for length in (2, 5, 3)], enforce_sorted=False)
        report = explain(Readers(), [((packed, ["one", "three", "seven"]), [0, 1, 2])])
        assert len(report) == 3

    def test_wrappers_are_unwrapped(self) -> None:
        expected = explain(make_model(), make_batches())
        assert same_tensors(explain(DataParallel(make_model()), make_batches()), expected)

    @pytest.mark.slow
    def test_a_compiled_model_is_explained_eagerly(self) -> None:
        batches = wrapped_batches()
        torch.manual_seed(0)
        expected = explain(Net(), batches)
        torch.manual_seed(0)
        inside = Net().eval()
        inside.compile(backend="eager")
        with torch.no_grad():
            inside(*batches[0][0])  # compiled before it is observed
        assert same_tensors(explain(inside, batches), expected)
        assert same_tensors(explain(torch.compile(inside, backend="eager"), batches), expected)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("task", "target", "n_outputs"),
        [
            ("regression", torch.randn(10), 1),
            ("regression", torch.randn(10, 2), 2),
            ("regression", torch.arange(10), 1),
            ("multilabel", torch.randint(2, (10, 1)), 1),
            ("multilabel", torch.randint(2, (10, 3)).bool(), 3),
            ("classification", torch.randint(3, (10,), dtype=torch.int32), 3),
        ],
    )
    def test_every_task_is_explained(self, task: Task, target: Tensor, n_outputs: int) -> None:
        model = InteractionMoE(lambda: Fusion(n_outputs), 2, feature_dims=(WIDTH, WIDTH), perturbation="zero")
        report = explain(model, [(make_batches()[0][0], target)], task=task)
        assert report.prediction.shape == (10, n_outputs)
        assert report.agreement.shape == (4,)
        assert f"10 samples, {task}" in report.summary()
        json.dumps(report.to_dict(), allow_nan=False)

    def test_the_task_is_that_of_computed_weights(self) -> None:
        model = InteractionMoE(lambda: Fusion(3), 2, reweighter=ComputedReweighter("regression"))
        data = [(make_batches()[0][0], torch.arange(30).reshape(10, 3))]
        assert explain(model, data).task == InteractionMetric(model).task == "regression"
        assert InteractionMetric(make_model()).task == "classification"

    def test_half_precision_is_kept_in_float32(self) -> None:
        batches = [(tuple(m.bfloat16() for m in modalities), y) for modalities, y in make_batches()]
        report = explain(make_model().bfloat16(), batches)
        assert report.weights.dtype == report.prediction.dtype == torch.float32

    def test_a_model_of_one_expert_is_explained(self) -> None:
        report = explain(make_model(experts=("synergy",)), make_batches())
        assert report.expert_names == ("synergy",)
        assert report.disagreement.max() == 0
        assert report.warnings() == ()


class WholeBatches(Dataset[Any]):
    """Is asked for many samples at once."""

    def __init__(self, modalities: Any, targets: Tensor) -> None:
        self.modalities, self.targets = modalities, targets

    def __getitem__(self, rows: Any) -> Any:
        return tuple(x[rows] for x in self.modalities), self.targets[rows]


class TestLeavesNoTrace:
    def test_modes_of_all_submodules(self) -> None:
        model = Net()
        model.train()
        model.moe.experts[1].eval()
        frozen = model.moe.experts[0].get_submodule("net.1").eval()
        before = [module.training for module in model.modules()]

        explain(model, wrapped_batches())

        assert [module.training for module in model.modules()] == before
        assert not frozen.training

    def test_buffers_even_those_changed_in_evaluation(self) -> None:
        class Counts(Fusion):
            n_calls: Tensor

            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("n_calls", torch.zeros(()))

            def forward(self, a: Tensor, b: Tensor) -> Tensor:
                self.n_calls += 1
                return super().forward(a, b)

        model = InteractionMoE(Counts, 2, feature_dims=(WIDTH, WIDTH)).train()
        buffers = dict(model.named_buffers())
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        explain(model, make_batches())
        for name, buffer in model.named_buffers():
            assert buffer is buffers[name]
            assert torch.equal(buffer, before[name])

    def test_explaining_leaves_all_random_states_alone(self) -> None:
        own, loaders, samplers = (torch.Generator().manual_seed(i) for i in range(3))
        model = make_model(perturbation=Gaussian(generator=own))
        modalities, targets = make_batches(1)[0]
        dataset = [((modalities[0][i], modalities[1][i]), targets[i]) for i in range(N_SAMPLES)]
        loader: DataLoader[Any] = DataLoader(dataset, batch_size=10, shuffle=True, generator=loaders)  # type: ignore[arg-type]
        loader.sampler.generator = samplers  # type: ignore[attr-defined]
        before = [generator.get_state() for generator in (own, loaders, samplers)]
        before.append(torch.get_rng_state())

        with pytest.warns(UserWarning, match="give shuffle=False"):
            explain(model, loader)

        after = [generator.get_state() for generator in (own, loaders, samplers)]
        after.append(torch.get_rng_state())
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    def test_the_generators_of_a_batch_sampler(self) -> None:
        class Batches(BatchSampler):
            """Draws which batches to leave out."""

            def __init__(self, sampler: RandomSampler, draws: torch.Generator) -> None:
                super().__init__(sampler, batch_size=10, drop_last=False)
                self.draws = draws

            def __iter__(self) -> Iterator[list[int]]:
                return (batch for batch in super().__iter__() if torch.rand((), generator=self.draws) < 0.9)

        own, inner = (torch.Generator().manual_seed(i) for i in range(2))
        modalities, targets = make_batches(1)[0]
        dataset: Any = [((modalities[0][i], modalities[1][i]), targets[i]) for i in range(N_SAMPLES)]
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_sampler=Batches(RandomSampler(dataset, generator=inner), own)
        )
        before = [generator.get_state() for generator in (own, inner)]
        with pytest.warns(UserWarning, match="give shuffle=False"):
            explain(make_model(), loader, n_draws=0)
        assert all(torch.equal(a, b.get_state()) for a, b in zip(before, (own, inner), strict=True))

    @pytest.mark.parametrize(
        ("sampler", "warned"),
        [
            (SequentialSampler(range(N_SAMPLES)), False),
            (DistributedSampler(range(N_SAMPLES), 1, 0, shuffle=False), False),  # type: ignore[arg-type]
            (DistributedSampler(range(N_SAMPLES), 1, 0), True),  # type: ignore[arg-type]
            (SubsetRandomSampler(range(N_SAMPLES)), True),
            (WeightedRandomSampler([1.0] * N_SAMPLES, N_SAMPLES), True),
            (BatchSampler(RandomSampler(range(N_SAMPLES)), 10, False), True),
        ],
        ids=lambda value: type(value).__name__,
    )
    @pytest.mark.parametrize("batched", [False, True])
    def test_a_sampler_that_shuffles_is_warned_of(self, sampler: Any, warned: bool, batched: bool) -> None:
        modalities, targets = make_batches(1)[0]
        dataset: Any = [((modalities[0][i], modalities[1][i]), targets[i]) for i in range(N_SAMPLES)]
        options: Any = {"batch_sampler": BatchSampler(sampler, 10, False)} if batched else {"sampler": sampler}
        if isinstance(sampler, BatchSampler):
            dataset, options = WholeBatches(modalities, targets), {"sampler": sampler, "batch_size": None}
        with pytest.warns(UserWarning, match="give shuffle=False") if warned else nullcontext():
            explain(make_model(), DataLoader(dataset, **options), n_draws=0)

    def test_everything_also_after_an_error(self) -> None:
        model = make_model().train()
        state = torch.get_rng_state()
        buffers = [buffer.clone() for buffer in model.buffers()]
        with pytest.raises(ValueError, match="batch 1"):
            explain(model, [make_batches()[0], make_batches()[0][0]])
        assert all(module.training for module in model.modules())
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
        assert torch.is_grad_enabled()
        assert not model._forward_hooks

    def test_no_graph_and_no_batch_is_kept(self) -> None:
        model = make_model()
        seen: list[weakref.ref[Tensor]] = []

        def batches() -> Iterator[Any]:
            for modalities, target in make_batches():
                fresh = tuple(m.clone() for m in modalities)
                seen.extend(weakref.ref(m) for m in fresh)
                yield fresh, target

        report = explain(model, batches())
        values = [getattr(report, field.name) for field in fields(report)]
        assert not any(isinstance(value, Tensor) and value.requires_grad for value in values)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert len(seen) == 8
        assert all(reference() is None for reference in seen)

    def test_training_goes_on_with_what_a_module_cached(self) -> None:
        class Caches(Fusion):
            cache: Tensor | None = None

            def forward(self, a: Tensor, b: Tensor) -> Tensor:
                if self.cache is None:
                    self.cache = torch.ones(3) * 2
                return super().forward(a, b) * self.cache

        model = InteractionMoE(Caches, 2, feature_dims=(WIDTH, WIDTH))
        explain(model, make_batches())
        model(*make_batches()[0][0]).prediction.sum().backward()

    def test_equal_seeds_give_equal_reports(self) -> None:
        model = make_model()
        torch.manual_seed(1)
        first = explain(model, make_batches(), seed=5)
        torch.manual_seed(2)
        second = explain(model, make_batches(), seed=5)
        assert same_tensors(first, second)
        other = explain(model, make_batches(), seed=6)
        assert other.to_dict()["comprehensiveness"] != first.to_dict()["comprehensiveness"]


class TestTables:
    def test_a_report_becomes_json(self) -> None:
        report = explain(make_model_static(), make_batches())
        values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert values["agreement"] == [None] * 4
        assert values["n_samples"] == N_SAMPLES
        assert values["overall"]["mean"] == report.overall.mean.tolist()

    def test_summary_shows_every_part(self) -> None:
        text = InteractionReport.example().summary()
        for part in ("accuracy 0.750", "uniqueness/image", "correct", "wrong", "cat", "replaced", "entropy"):
            assert part in text

    def test_summary_marks_groups_of_few_samples(self) -> None:
        target = torch.tensor([0] * 21 + [1] * 19)
        report = explain(make_model(), [(make_batches(1)[0][0], target)], class_names=("cat", "dog", "cow"))
        rows = [row.split() for row in report.summary().splitlines()]
        assert {row[0]: row[1] for row in rows if row[:1] in (["cat"], ["dog"], ["cow"])} == {
            "cat": "21",
            "dog": "19*",
            "cow": "0",
        }
        footnote = "* fewer than 20 samples: their mean weights are rough"
        assert footnote in report.summary()
        example = InteractionReport.example()
        tensors = {f.name: getattr(example, f.name) for f in fields(example)}
        often: dict[str, Any] = {name: torch.cat([x] * 20) for name, x in tensors.items() if isinstance(x, Tensor)}
        assert footnote not in replace(example, **often).summary()

    def test_summary_names_the_largest_of_many_classes(self) -> None:
        model = InteractionMoE(lambda: Fusion(50), 2, feature_dims=(WIDTH, WIDTH))
        text = explain(model, [(make_batches(1)[0][0], torch.arange(40))]).summary()
        assert "... and 20 smaller classes" in text

    @pytest.mark.parametrize(("task", "n_outputs"), [("classification", 3), ("multilabel", 2), ("regression", 1)])
    def test_a_table_becomes_a_data_frame(self, task: Task, n_outputs: int) -> None:
        pytest.importorskip("pandas")
        model = InteractionMoE(lambda: Fusion(n_outputs), 2, feature_dims=(WIDTH, WIDTH))
        n = N_SAMPLES // 4
        target = {
            "classification": torch.arange(n) % 3,
            "multilabel": torch.arange(2 * n).reshape(n, 2) % 2,
            "regression": torch.randn(n),
        }[task]
        report = explain(model, [(make_batches()[0][0], target)], task=task)
        table = report.to_pandas()
        assert len(table) == n
        assert table["weight/synergy"].tolist() == report.weights[:, 2].tolist()
        assert table["comprehensiveness/1"].tolist() == report.comprehensiveness[:, 1].tolist()  # type: ignore[index]
        name = "target/1" if task == "multilabel" else "target"
        expected: list[Any] = report.target.reshape(n, -1)[:, -1].tolist()
        assert table[name].tolist() == ([str(c) for c in expected] if task == "classification" else expected)

    def test_to_pandas_without_pandas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pandas", None)
        with pytest.raises(ImportError, match="pip install pandas"):
            InteractionReport.example().to_pandas()


class TestStability:
    def test_equal_reports_agree_fully(self) -> None:
        report = explain(make_model(), make_batches())
        result = stability([report, report, report])
        assert result.pairs == ((0, 1), (0, 2), (1, 2))
        torch.testing.assert_close(result.correlations, torch.ones(3, 4, dtype=torch.float64))
        assert result.same_largest.tolist() == [1, 1, 1]
        assert result.spread.max() == 0

    def test_by_hand(self) -> None:
        first = InteractionReport.example()
        second = replace(first, weights=first.weights[:, [1, 0, 2, 3]])  # the two uniqueness experts swapped
        result = stability([first, second])

        a, b = first.weights[:, 0].double(), first.weights[:, 1].double()
        expected = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
        assert result.correlations[0, 0].item() == pytest.approx(expected, abs=1e-5)
        assert result.correlations[0, 2:].tolist() == pytest.approx([1, 1])
        assert result.same_largest.tolist() == [0.75]  # sample 0 alone had its largest weight on a swapped expert
        torch.testing.assert_close(
            result.global_weights[1], torch.tensor([0.15, 0.35, 0.35, 0.15]).double(), rtol=0, atol=1e-6
        )
        assert result.spread[0].item() == pytest.approx(0.2 / math.sqrt(2))

    @pytest.mark.parametrize(
        ("moved", "verdict"), [(0.0, "stable"), (0.09, "stable"), (0.15, "partly stable"), (0.25, "unstable")]
    )
    def test_the_verdict_is_about_the_weight_that_goes_to_other_experts(self, moved: float, verdict: str) -> None:
        first = replace(InteractionReport.example(), weights=torch.tensor([[0.4, 0.3, 0.2, 0.1]] * 4))
        other = replace(first, weights=first.weights + moved * torch.tensor([-1.0, 0, 0, 1]))
        result = stability([first, first, other])  # the farthest pair decides
        assert result.distances.tolist() == pytest.approx([0, moved, moved], abs=1e-6)
        assert result.verdict() == verdict
        assert result.to_dict()["verdict"] == verdict
        assert f"\n{verdict}: weights differ by" in result.summary()
        assert result.verdict(stable_below=0.3, unstable_above=0.5) == "stable"

    def test_one_interaction_is_stable_where_correlations_are_noise(self) -> None:
        first, other = (
            replace(InteractionReport.example(), weights=(torch.tensor([0.0, 0, 0, 4]) + noise).softmax(1))
            for noise in 0.1 * torch.randn(2, 4, 4)
        )
        result = stability([first, other])
        assert result.correlations.mean() < 0.7
        assert result.verdict() == "stable"

    def test_constant_weights_have_no_correlation(self) -> None:
        report = explain(make_model_static(), make_batches())
        result = stability([report, report])
        assert result.verdict() == "stable"
        assert result.correlations.isnan().all()
        assert "-" in result.summary()
        json.dumps(result.to_dict(), allow_nan=False)

    def test_weights_that_disagree_are_not_reliable(self) -> None:
        first = InteractionReport.example()
        result = stability([first, replace(first, weights=first.weights[:, [1, 0, 2, 3]])])
        assert result.correlations[0, 0] < 0
        assert result.reliability.tolist() == pytest.approx([0, 0, 1, 1])
        assert result.weights.sum(1).tolist() == pytest.approx([1] * 4)

    def test_different_seeds_on_the_same_loader(self) -> None:
        reports = []
        for seed in range(2):
            torch.manual_seed(seed)
            reports.append(explain(Net(), wrapped_batches()))
        assert stability(reports).same_largest.shape == (1,)

    def test_stability_needs_two_reports(self) -> None:
        with pytest.raises(ValueError, match="at least two reports, however it has 1"):
            stability([InteractionReport.example()])
        with pytest.raises(TypeError, match="report 0 must be a report, however it is a int"):
            stability([3, InteractionReport.example()])  # type: ignore[list-item]

    def test_reports_of_different_experts_have_no_stability(self) -> None:
        a = explain(make_model(), make_batches())
        b = explain(make_model(experts=("synergy", "redundancy")), make_batches())
        with pytest.raises(ValueError, match="same experts"):
            stability([a, b])

    def test_reports_of_different_data_have_no_stability(self) -> None:
        model, batches = make_model(), make_batches()
        report = explain(model, batches)
        with pytest.raises(ValueError, match="report 0 has 40 and report 1 30"):
            stability([report, explain(model, batches[:3])])
        with pytest.raises(ValueError, match="40 of 40 samples of report 1"):
            stability([report, explain(model, batches[::-1])])
        noisy = [((a + 0.1, b), y) for (a, b), y in batches]
        with pytest.raises(ValueError, match="same samples in the same order"):
            stability([report, explain(model, noisy)])
        relabeled = [(m, (y + 1) % 3) for m, y in batches]
        with pytest.raises(ValueError, match="same samples in the same order"):
            stability([report, explain(model, relabeled)])


class TestErrors:
    def test_empty_data_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one batch"):
            explain(make_model(), [])

    def test_a_generator_runs_only_once(self) -> None:
        batches = iter(make_batches())
        explain(make_model(), batches)
        with pytest.raises(ValueError, match="only once"):
            explain(make_model(), batches)

    def test_flat_batches_are_refused(self) -> None:
        loader = DataLoader(TensorDataset(torch.randn(4, 3), torch.randn(4, 3), torch.zeros(4)), batch_size=2)
        with pytest.raises(ValueError, match=r"in batch 0 of data: .* list of 3; regroup the batches"):
            explain(make_model(), loader)

    def test_dict_batches_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"with the keys \('x', 'y'\)"):
            explain(make_model(), [{"x": torch.zeros(2, 3), "y": torch.zeros(2)}])

    def test_a_single_batch_instead_of_batches(self) -> None:
        with pytest.raises(TypeError, match=r"however it is one batch; give a list: \[\(\(a, b\), y\)\]"):
            explain(make_model(), make_batches()[0])

    def test_data_that_are_none(self) -> None:
        with pytest.raises(TypeError, match="however it is a NoneType; give a list"):
            explain(make_model(), None)  # type: ignore[arg-type]

    def test_arrays_and_data_frames_in_place_of_tensors(self) -> None:
        model, (((a, b), target), *_) = make_model(), make_batches()
        expected = explain(model, [((a, b), target)])
        index = range(100, 100 + len(target))
        for taken in (
            ((a.double().numpy(), b.numpy()), target.numpy()),
            ((pd.DataFrame(a.numpy(), index=index), pd.DataFrame(b.numpy())), pd.Series(target.numpy(), index=index)),
        ):
            report = explain(model, [taken])
            assert torch.equal(report.weights, expected.weights)
            assert torch.equal(report.checksums, expected.checksums)

    @pytest.mark.parametrize("names", ["abc", {0: "a", 1: "b", 2: "c"}, {"a", "b", "c"}])
    def test_class_names_without_an_order_or_in_one_string(self, names: Any) -> None:
        with pytest.raises(ValueError, match="class_names must be a list of names"):
            explain(make_model(), make_batches(), class_names=names)

    def test_a_target_that_is_none(self) -> None:
        with pytest.raises(ValueError, match="with a tensor as target, however the target is a NoneType"):
            explain(make_model(), [(make_batches()[0][0], None)])

    @pytest.mark.parametrize(
        ("task", "target", "match"),
        [
            ("classification", torch.randn(10), r"class indices .* of torch.float32; use target.long\(\)"),
            ("classification", torch.zeros(10, 1, dtype=torch.long), r"\(10, 1\) of torch.int64; use target.squeeze"),
            ("classification", torch.full((10,), 3), r"lie in \[0, 3\)"),
            ("classification", torch.full((10,), -100), "count classes from 0, drop samples without one"),
            ("classification", torch.zeros(9, dtype=torch.long), "one row for each of the 10"),
            ("multilabel", torch.zeros(10, 2), r"shape \(10, 3\)"),
            ("multilabel", torch.full((10, 3), 2), r"0 or 1 for each label, however it lies in \[2, 2\]"),
            ("regression", torch.full((10, 3), float("nan")), "target must be finite"),
            ("regression", torch.zeros(10), r"shape \(10, 3\)"),
        ],
    )
    def test_targets_that_do_not_fit(self, task: Task, target: Tensor, match: str) -> None:
        batches: list[Any] = make_batches()
        good = {"classification": torch.zeros(10, dtype=torch.long)}.get(task, torch.zeros(10, 3))
        with pytest.raises(ValueError, match=f"in batch 1 of data: .*{match}"):
            explain(make_model(), [(batches[0][0], good), (batches[1][0], target)], task=task)

    def test_one_logit_is_no_classification(self) -> None:
        model = InteractionMoE(lambda: Fusion(1), 2, feature_dims=(WIDTH, WIDTH))
        with pytest.raises(ValueError, match="task='multilabel'"):
            explain(model, make_batches())

    def test_weights_that_are_not_finite_are_named(self) -> None:
        batches = make_batches()
        batches[2][0][1][[3, 7]] = float("nan")
        with pytest.raises(ValueError, match=r"in batch 2 of data: weights .* 2 of 10 samples \(rows 3, 7\)"):
            explain(make_model(), batches)

    def test_predictions_that_are_not_finite_are_named(self) -> None:
        model = make_model_static()
        batches = make_batches()
        batches[1][0][0][0] = float("inf")
        with pytest.raises(ValueError, match="in batch 1 of data: expert_predictions must be finite"):
            explain(model, batches)

    def test_weights_that_are_no_distribution(self) -> None:
        class Sigmoid(Switch):
            def forward(self, modalities: tuple[Tensor, ...]) -> Tensor:
                return torch.full((len(modalities[0]), 4), 0.7)

        with pytest.raises(ValueError, match=r"sum to 2\.8"):
            explain(InteractionMoE(Fusion, 2, reweighter=Sigmoid(4)), make_batches())

    def test_the_wrong_number_of_modalities(self) -> None:
        batches: list[Any] = [((*modalities, modalities[0]), target) for modalities, target in make_batches()]
        with pytest.raises(ValueError, match=r"2 modalities .* however it gives 3") as caught:
            explain(make_model(), batches)
        assert "in batch 0 of data" in caught.value.__notes__[-1]

    def test_no_moe_several_and_none_built(self) -> None:
        with pytest.raises(TypeError, match=r"must be a torch.nn.Module, however it is a function"):
            explain(lambda a, b: a, make_batches())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="Linear holds 0"):
            explain(nn.Linear(2, 2), make_batches())
        with pytest.raises(ValueError, match=r"holds 2 \('0', '1'\)"):
            explain(nn.Sequential(make_model(), make_model()), make_batches())
        with pytest.raises(ValueError, match="wait for a first batch"):
            explain(InteractionMoE(Fusion, 2), make_batches())

    def test_a_moe_that_is_called_past_its_hooks(self) -> None:
        class Past(Net):
            def forward(self, image: Tensor, text: Tensor) -> Any:
                return self.moe.forward([self.encoders[0](image), self.encoders[1](text)])

        with pytest.raises(ValueError, match="once per batch, however it did 0 times"):
            explain(Past(), wrapped_batches())

    def test_predictions_per_token_are_refused(self) -> None:
        class Tokens(Fusion):
            def forward(self, a: Tensor, b: Tensor) -> Tensor:
                return super().forward(a, b).unsqueeze(1).expand(-1, 4, -1)

        with pytest.raises(ValueError, match=r"sample's shape is \(4, 3\)"):
            explain(InteractionMoE(Tokens, 2, feature_dims=(WIDTH, WIDTH)), make_batches())

    @pytest.mark.parametrize(
        ("argument", "value", "match"),
        [
            ("task", "ranking", "task must be one of"),
            ("n_draws", -1, "n_draws must be an integer of at least 0"),
            ("confidence", 1.0, r"confidence must lie in \(0, 1\)"),
            ("class_names", ("a", "b"), "class_names must be 3 different, not empty"),
            ("class_names", ("a", "a", "b"), "class_names must be 3 different, not empty"),
            ("perturbation", "noise", "perturbation must be one of"),
        ],
    )
    def test_a_wrong_argument_is_refused(self, argument: str, value: Any, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            explain(make_model(), make_batches(), **{argument: value})

    def test_groups_of_another_length(self) -> None:
        with pytest.raises(ValueError, match="a label for each of 4 samples, however it has 3"):
            InteractionReport.example().by_group([1, 2, 3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnAGPU:
    def test_batches_are_moved_and_nothing_stays(self) -> None:
        model, batches = make_model().cuda(), make_batches()
        explain(model, batches)  # what libraries allocate once
        before = torch.cuda.memory_allocated(), torch.cuda.get_rng_state(), torch.get_rng_state()
        report = explain(model, batches)
        assert torch.cuda.memory_allocated() == before[0]
        assert torch.equal(torch.cuda.get_rng_state(), before[1])
        assert torch.equal(torch.get_rng_state(), before[2])
        assert report.weights.device.type == "cpu"
        torch.testing.assert_close(report.weights, explain(make_model(), batches).weights, rtol=1e-3, atol=1e-4)


def make_model_static() -> InteractionMoE:
    reweighter = StaticReweighter(4)
    with torch.no_grad():
        reweighter.logits.copy_(torch.tensor([2.0, 1.0, 0.0, -1.0]))
    torch.manual_seed(0)
    return InteractionMoE(Fusion, 2, reweighter=reweighter)


def double_batches() -> list[Any]:
    return [(tuple(m.double() for m in modalities), target) for modalities, target in make_batches()]


def wrapped_batches() -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        ((torch.randn(10, 5, generator=generator), torch.randn(10, 7, generator=generator)), torch.arange(10) % 3)
        for _ in range(4)
    ]


class Product(nn.Module):
    """Synergy: neither modality's sign tells the class, their product does."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        z = 2 * a[:, 0] * b[:, 0]
        return torch.stack([z, -z], dim=-1)


class Either(nn.Module):
    """Redundancy: each modality's sign tells the class."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        z = 2 * (a[:, 0] + b[:, 0]).clamp(-1, 1)
        return torch.stack([z, -z], dim=-1)


class ByCue(nn.Module):
    """Weighs the expert that the second column names in every modality."""

    n_experts = 4

    def forward(self, modalities: tuple[Tensor, ...]) -> Tensor:
        return nn.functional.one_hot(modalities[0][:, 1].long(), 4).float() * 0.94 + 0.015


class Zeroed(Gaussian):
    """Replaces the sign by nothing, and keeps the cue."""

    def replace(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 1]], dim=-1)


def interactions_by_construction() -> tuple[list[Any], Tensor]:
    """Samples of each kind: modalities (sign, kind), and the class that the kind's rule gives."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(80) % 4
    signs = torch.randint(2, (80, 2), generator=generator) * 2.0 - 1
    signs[kinds == 3, 1] = signs[kinds == 3, 0]
    decisive = torch.stack([signs[:, 0], signs[:, 1], signs.prod(1), signs[:, 0]], dim=1)[torch.arange(80), kinds]
    modalities = tuple(torch.stack([signs[:, j], kinds.float()], dim=-1) for j in range(2))
    return [(modalities, (decisive < 0).long())], kinds
