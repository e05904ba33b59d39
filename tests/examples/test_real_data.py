"""The benchmark of weights on real data: each method learns, and each measure is what it says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor

from examples.benchmarks.real_data import running
from examples.benchmarks.real_data.behavior import agreement, coalition_benefit, observe_behavior, shares_of
from examples.benchmarks.real_data.contenders import BY_NAME, CONTENDERS, train
from examples.benchmarks.real_data.measuring import measure, shares_apart
from examples.benchmarks.real_data.robustness import MASKED, NOISE, Augmented, robustness
from examples.benchmarks.real_data.running import run_all
from examples.benchmarks.real_data.scores import likelihood_scores
from examples.benchmarks.real_data.settings import Settings
from examples.benchmarks.real_data.table import differences, print_tables
from examples.datasets._interface import MultimodalData, Split, Task

SETTINGS = Settings(steps=60, batch_size=32, splits=1, teachers=2)


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


@pytest.mark.filterwarnings("ignore:loss_of should train")  # of one ablation
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", BY_NAME)
def test_every_method_learns_and_is_measured(name: str, task: Task) -> None:
    problem = data(task)
    found = measure(train(problem, BY_NAME[name], 0, SETTINGS), problem, 1)
    assert found.values["score"] > (0.5 if name == "late fusion" else 0.7)  # half of the sum is all it can learn
    assert found.values["missing"] < found.values["score"]
    assert (found.weights is None) == (name != "paper" and not name.startswith(("computed", "no teachers")))
    assert ("faithful" in found.values) == (found.weights is not None)
    assert ("benefit, posterior" in found.values) == (task == "classification")


def test_shares_by_networks_apart() -> None:
    """Where one modality holds the target, it is unique to it."""
    problem = data("regression")
    train, validation, test = (
        Split(split.modalities, split.modalities[0][torch.arange(len(split))][:, :1])
        for split in problem.splits.values()
    )
    for shares in shares_apart(replace(problem, train=train, validation=validation, test=test), 0, SETTINGS):
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


def test_means_of_two_models_agree_more() -> None:
    """Each model's weights are the same ones and noise as large: two agree by 1/2, means of two by 2/3."""
    generator = torch.Generator().manual_seed(0)
    truth, *noise = torch.randn(5, 20_000, 3, generator=generator)
    found = agreement([truth + each for each in noise])
    assert found["Pearson"] == pytest.approx(1 / 2, abs=0.02)
    assert found["Pearson, two models"] == pytest.approx(found["Pearson, expected"], abs=0.01)
    assert found["Pearson, expected"] == pytest.approx(2 / 3, abs=0.02)
    assert 0.4 < found["stable"] < found["stable, two models"] < 2 / 3
    assert agreement([truth + each for each in noise[:2]]).keys() == {"stable", "stable, by weight", "starts differ"}


def test_members_of_the_ensemble_are_trained_for_themselves() -> None:
    problem = data("classification")
    model = CONTENDERS["ensemble"].build(problem).eval()
    batch = problem.train[[0, 1, 2, 3]]
    out = model(*batch.modalities, batch.available)
    each = [torch.nn.functional.cross_entropy(out[1][:, e], batch.targets) for e in range(4)]
    loss = CONTENDERS["ensemble"].loss_of(torch.nn.functional.cross_entropy)(out, batch.targets)
    torch.testing.assert_close(loss, torch.stack(each).mean())
    torch.testing.assert_close(model.predict(*batch.modalities, batch.available), out[1].mean(1))


def test_finished_runs_are_kept_and_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, int, str]] = []

    def measured(job: tuple[str, int, str, Settings]) -> dict[str, Any]:
        name, split, method, settings = job
        calls.append((name, split, method))
        keys = ["steps", "patience", "batch_size", "teachers", "augment", "noise_draws", "starts"]
        trained = [getattr(settings, key) for key in keys]
        values = {"score": 0.5 + 0.1 * split + 0.01 * split * (method == "computed")}
        return {
            "data": name,
            "split": split,
            "method": method,
            **dict(zip(keys, trained, strict=True)),
            "values": values,
        }

    monkeypatch.setattr(running, "_run", measured)
    monkeypatch.setattr(running, "ProcessPoolExecutor", lambda *args, **options: ThreadPoolExecutor(1))
    settings = Settings(data=("d",), methods=("fusion", "computed"), splits=2, runs=tmp_path / "runs.jsonl")
    first = run_all(settings)
    assert len(calls) == 4
    assert run_all(settings) == first
    assert len(calls) == 4
    run_all(replace(settings, steps=7))
    assert len(calls) == 8
    print_tables(first)
    assert "+0.005" in capsys.readouterr().out


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"methods must be names out of .* however they hold 'magic'"):
        run_all(Settings(methods=("magic",), runs=tmp_path / "runs.jsonl"))


def test_a_difference_is_marked_where_its_interval_holds_no_zero() -> None:
    def runs(*values: float) -> dict[int, dict[str, float]]:
        return {split: {"nll": value} for split, value in enumerate(values)}

    methods = {"computed": runs(0.50, 0.51, 0.52), "fusion": runs(0.60, 0.62, 0.61), "paper": runs(0.5, 0.6, 0.4)}
    assert differences(methods, "fusion", "nll").endswith("*")
    assert differences(methods, "paper", "nll").endswith("]")
    assert differences(methods, "late fusion", "nll") == "-"


def test_noise_and_masks_change_one_modality_by_the_same_draws() -> None:
    problem = data("classification")
    seen: list[list[Tensor]] = []

    def score(modalities: list[Tensor]) -> float:
        seen.append(modalities)
        return float(len(seen))

    found = robustness(score, problem, n_draws=1)
    levels = 2 * len(NOISE)
    assert found["noise"] == pytest.approx((levels + 1) / 2)
    batch = problem.test[torch.arange(len(problem.test))]
    unchanged = [[torch.equal(x, y) for x, y in zip(changed, batch.modalities, strict=True)] for changed in seen]
    noisy, masked = ([[False, True]] * n + [[True, False]] * n for n in (len(NOISE), len(MASKED)))
    assert unchanged == [*noisy, *masked]
    first = [torch.cat(modalities) for modalities in seen]
    seen.clear()
    robustness(score, problem, n_draws=1)
    torch.testing.assert_close([torch.cat(modalities) for modalities in seen], first, rtol=0, atol=0)


def test_augmented_batches_change_one_modality_of_half_of_the_samples() -> None:
    torch.manual_seed(0)
    n = 4000
    x = (torch.randn(n, 8), 10 * torch.randn(n, 8))
    available, target = torch.ones(n, 2, dtype=torch.bool), torch.arange(n)
    ((*changed, mask), found), *more = Augmented([((*x, available), target)], x)
    assert not more
    assert mask is available
    assert found is target
    moved = torch.stack([(after != before).any(1) for before, after in zip(x, changed, strict=True)], dim=1)
    assert moved.sum(1).max() == 1
    assert moved.float().mean(0).tolist() == pytest.approx([0.25, 0.25], abs=0.05)
    # Masked entries are the mean; noise has the deviation of the modality and the levels' root mean square.
    for before, after, rows in zip(x, changed, moved.unbind(1), strict=True):
        masked = (after == before.mean(0)).any(1)
        noise = (after - before)[rows & ~masked] / before.std(0)
        assert 0.3 < masked[rows].float().mean() < 0.7
        assert noise.std().item() == pytest.approx(torch.tensor(NOISE).square().mean().sqrt().item(), rel=0.1)


def test_likelihoods_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 2, generator=generator), torch.randint(2, (50,), generator=generator)
    found = likelihood_scores(logits, targets, logits, targets, is_regression=False)
    probabilities = logits.double().softmax(1)
    assert found["nll"] == pytest.approx(log_loss(targets, probabilities))
    assert found["brier"] == pytest.approx(2 * brier_score_loss(targets, probabilities[:, 1]))
    assert found["nll, scaled"] <= found["nll"]
    values = torch.randn(50, 1, generator=generator)
    gaussian = likelihood_scores(values, values + 0.1, values, values + 0.1, is_regression=True)["nll"]
    assert gaussian == pytest.approx(-torch.distributions.Normal(0.0, 0.1).log_prob(torch.tensor(0.1)).item(), abs=1e-5)
