"""The benchmark of weights on real data: each method learns, and each measure is what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from examples.benchmarks._behavior import coalition_benefit, observe_behavior, shares_of
from examples.benchmarks.real_data import (
    METHODS,
    Measured,
    Settings,
    _collect,
    mean_shares_apart,
    measure,
    predict,
    train,
)
from examples.datasets._interface import MultimodalData, Split, Task

SETTINGS = Settings(steps=60, batch_size=32, splits=1)


def data(task: Task) -> MultimodalData:
    """Two modalities whose sum decides."""
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Split:
        a, b = torch.randn(2, n, 3, generator=generator)
        total = a[:, :1] + b[:, :1]
        available = torch.ones(n, 2, dtype=torch.bool)
        available[::10, 1] = False
        b = b * available[:, 1:]
        return Split((a, b), total if task == "regression" else (total > 0).long().squeeze(1), available)

    outputs, metric = (("sum",), "r2") if task == "regression" else (("negative", "positive"), "auroc")
    return MultimodalData(draw(320), draw(100), draw(100), ("a", "b"), outputs, task, (metric,))


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_and_is_measured(name: str, task: Task) -> None:
    problem = data(task)
    found = measure(train(problem, METHODS[name], 0, SETTINGS), problem.test, problem.metrics[0], task)
    assert found.values["score"] > 0.7
    assert found.values["missing"] < found.values["score"]
    assert (found.weights is None) == (name not in ("paper", "computed"))
    assert ("faithful" in found.values) == (found.weights is not None)
    assert ("benefit, posterior" in found.values) == (task == "classification")


def test_shares_by_networks_apart() -> None:
    """Where one modality holds the target, it is unique to it."""
    problem = data("regression")
    train, validation, test = (
        Split(split.modalities, split.modalities[0][torch.arange(len(split))][:, :1])
        for split in problem.splits.values()
    )
    shares = mean_shares_apart(replace(problem, train=train, validation=validation, test=test), 0, SETTINGS)
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    assert shares[0] > 0.6


def sum_of_present(modalities: list[Tensor], available: Tensor) -> Tensor:
    """Outputs that say which modalities were there."""
    return (torch.cat(modalities, dim=1) * available).sum(1, keepdim=True)


def test_behavior_is_asked_for_each_subset() -> None:
    split = Split(
        (torch.ones(2, 1), torch.full((2, 1), 10.0)), torch.zeros(2), torch.tensor([[True, True], [True, False]])
    )
    seen = observe_behavior(lambda modalities, available: sum_of_present(list(modalities), available), split)
    assert seen.full.flatten().tolist() == [11, 1]
    assert seen.alone.squeeze(-1).tolist() == [[1, 10], [1, 1]]
    assert [outputs.flatten().tolist() for outputs in seen.without] == [[10, 1], [1, 1]]
    assert seen.has_more.tolist() == [[True, True], [False, True]]
    assert torch.equal(seen.subsets, seen.alone)


def test_what_is_absent_says_nothing() -> None:
    alone, full = torch.tensor([[[0.0], [3.0]], [[0.0], [3.0]], [[0.0], [-3.0]]]), torch.tensor([[3.0], [3.0], [-3.0]])
    available = torch.tensor([[True, True], [True, False], [True, True]])
    shares = shares_of(alone, full, available, "regression")
    assert shares[0].argmax() == 1
    assert shares[1].argmax() == 2


def test_weights_that_know_where_a_modality_harms() -> None:
    """Where modality 1 misleads, modality 0 alone does better; its weight says so."""
    logits = torch.tensor([2.0, -2.0])
    split = Split((torch.randn(4, 1), torch.randn(4, 1)), torch.zeros(4, dtype=torch.long))
    misleads = torch.tensor([True, False, True, False])

    def answer(modalities: object, available: Tensor) -> Tensor:
        first = available[:, 0] & ~(available[:, 1] & misleads)
        return torch.where(first.unsqueeze(1), logits, -logits)

    weights = torch.stack([misleads.float(), torch.zeros(4), 1 - misleads.float(), torch.zeros(4)], dim=1)
    found = coalition_benefit(observe_behavior(answer, split), split, weights)
    assert found["weights"] == 1.0
    assert "weights" not in coalition_benefit(observe_behavior(answer, split), split, None)


def test_members_of_the_ensemble_are_trained_for_themselves() -> None:
    problem = data("classification")
    model = METHODS["ensemble"].build(problem).eval()
    batch = problem.train[[0, 1, 2, 3]]
    out = model(*batch.modalities, batch.available)
    each = [torch.nn.functional.cross_entropy(out[1][:, e], batch.targets) for e in range(4)]
    loss = METHODS["ensemble"].loss_of(torch.nn.functional.cross_entropy)(out, batch.targets)
    torch.testing.assert_close(loss, torch.stack(each).mean())
    torch.testing.assert_close(predict(model, batch.modalities, batch.available), out[1].mean(1))


def test_starts_are_compared_and_values_kept_apart() -> None:
    weights = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    runs = [Measured({"score": value}, each) for value, each in ((0.5, weights), (0.7, weights.flip(0)))]
    found = {("d", 0, seed, method): run for method in METHODS for seed, run in enumerate(runs)}
    apart = {("d", 0, seed, None): weights.mean(0) + torch.tensor([0.1, -0.1, 0.0, 0.0]) for seed in (0, 1)}
    results = _collect("d", {**found, **apart}, SETTINGS)["computed"]
    assert results["score"] == [0.5, 0.7]
    assert results["apart"] == pytest.approx([0.1, 0.1], abs=1e-6)
    assert -1 <= results["stable"][0] < 1
