"""The comparison on real data: four models of one kind, scored and compared split by split."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from examples.benchmarks.real_data import METHODS, Method, Model, Settings, difference, fewer_experts, score, train
from examples.datasets._interface import MultimodalData, Split, Task

SETTINGS = Settings(steps=60, batch_size=32, learning_rate=1e-2)


def data(task: Task) -> MultimodalData:
    """Two modalities whose sum decides."""
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Split:
        a, b = torch.randn(2, n, 3, generator=generator)
        total = a[:, :1] + b[:, :1]
        return Split((a, b), total if task == "regression" else (total > 0).long().squeeze(1))

    outputs, metric = (("sum",), "r2") if task == "regression" else (("negative", "positive"), "auroc")
    return MultimodalData(draw(320), draw(100), draw(100), ("a", "b"), outputs, task, (metric,))


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("method", METHODS)
def test_every_model_learns(method: Method, task: Task) -> None:
    problem = data(task)
    model = train(problem, method, 0, SETTINGS)
    assert score(model, problem.test, problem.metrics[0]) > 0.8
    assert model(problem.test[[0, 1, 2]].modalities).shape == (3, len(problem.output_names))


def test_members_of_the_ensemble_are_trained_for_themselves() -> None:
    problem = data("classification")
    torch.manual_seed(0)
    model = Model("ensemble", problem).eval()
    batch = problem.train[[0, 1, 2, 3]]
    with torch.no_grad():
        members = model.fusion(*(encoder(x) for encoder, x in zip(model.encoders, batch.modalities, strict=True)))
        losses = [torch.nn.functional.cross_entropy(members[:, e], batch.targets) for e in range(4)]
        loss = model.loss(batch.modalities, batch.targets, torch.arange(4))
    assert members.shape == (4, 4, 2)
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_one_expert_scores_as_the_prediction_it_makes_alone() -> None:
    problem = data("classification")
    torch.manual_seed(0)
    model = Model("paper", problem)
    found = fewer_experts(model, problem)
    assert list(found) == ["2 of the data", "2 of each sample", "1 of the data", "1 of each sample"]

    fusion, batch = model.fusion, problem.test[torch.arange(100)]
    with torch.no_grad():
        out = fusion(*model.embed(batch.modalities))
    alone = out.expert_predictions[torch.arange(100), out.weights.argmax(1)].softmax(1)[:, 1]
    assert found["1 of each sample"] == pytest.approx(roc_auc_score(batch.targets, alone))


def test_metrics_are_those_of_the_data() -> None:
    """Accuracy and AUROC of a model that gives each class a constant."""
    problem = data("classification")
    model = Model("fusion", problem)
    for parameter in model.fusion.parameters():
        torch.nn.init.zeros_(parameter)
    assert score(model, problem.test, "auroc") == 0.5
    assert score(model, problem.test, "accuracy") == pytest.approx(float((problem.test.targets == 0).float().mean()))


def test_differences_are_paired() -> None:
    """Four pairs: mean 0.5, standard error 1 / sqrt(12), and 3.182 of it for 95% at three degrees of freedom."""
    gain, margin = difference([11.0, 20.0, 31.0, 40.0], [10.0, 20.0, 30.0, 40.0])
    assert gain == pytest.approx(0.5)
    assert margin == pytest.approx(3.182 / math.sqrt(12), abs=1e-3)
    assert math.isnan(difference([1.0], [0.0])[1])
    gain, margin = difference([0.3, 0.7], [0.1, 0.5])
    assert gain == pytest.approx(0.2)
    assert math.isnan(margin)  # two equal differences say nothing about how much they vary
