"""Fewer experts in evaluation: exact where nothing is dropped, the chosen ones alone where something is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2moe import InteractionMoE, StaticReweighter, explain
from i2moe.backbones import SwitchTransformer
from i2moe.interpretation import InteractionReport
from i2moe.moe.pruning import TopExperts, experts_above, prune
from tests.zoo import mlp

pytestmark = pytest.mark.usefixtures("double")

NAMES = ("uniqueness/x", "uniqueness/y", "synergy", "redundancy")


def make(**options: Any) -> InteractionMoE:
    torch.manual_seed(1)
    model = InteractionMoE(mlp, 2, modality_names=("x", "y"), feature_dims=(3, 5), **options)
    with torch.no_grad():  # weights that differ between samples
        for parameter in model.reweighter.parameters():  # type: ignore[attr-defined]
            parameter.mul_(4)
    return model.eval()


def batch(n_samples: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(n_samples, 3), torch.randn(n_samples, 5)


def backward(loss: Tensor) -> None:
    loss.backward()


# --- prune ---


@pytest.mark.parametrize("keep", [NAMES, NAMES[::-1], ("redundancy", "uniqueness", "synergy")])
def test_keeping_all_changes_nothing(keep: tuple[str, ...]) -> None:
    model, (x, y) = make(), batch()
    found, expected = prune(model, keep)(x, y), model(x, y)
    torch.testing.assert_close(found.to_dict(), expected.to_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("keep", [("synergy",), ("redundancy", "uniqueness/x"), ["uniqueness"]])
def test_kept_experts_share_the_weight_in_proportion(keep: Any) -> None:
    model, (x, y) = make(), batch()
    smaller = prune(model, keep)
    kept = [e for e, name in enumerate(NAMES) if name in keep or (keep == ["uniqueness"] and "/" in name)]

    out, full = smaller(x, y), model(x, y)

    assert smaller.expert_names == tuple(NAMES[e] for e in kept)
    assert smaller.interactions == tuple(model.interactions[e] for e in kept)
    weights = full.weights[:, kept] / full.weights[:, kept].sum(1, keepdim=True)
    torch.testing.assert_close(out.weights, weights)
    torch.testing.assert_close(out.expert_predictions, full.expert_predictions[:, kept])
    torch.testing.assert_close(out.prediction, torch.einsum("be,bec->bc", weights, full.expert_predictions[:, kept]))


def test_pruning_twice_is_pruning_once() -> None:
    model, (x, y) = make(), batch()
    twice = prune(prune(model, ("synergy", "redundancy", "uniqueness/y")), ("uniqueness/y", "redundancy"))
    torch.testing.assert_close(twice(x, y).prediction, prune(model, ("uniqueness/y", "redundancy"))(x, y).prediction)


def test_a_pruned_model_has_fewer_parameters_trains_and_is_saved() -> None:
    model, (x, y) = make(execution="sequential", checkpoint=True), batch()
    untouched = copy.deepcopy(model.state_dict())
    smaller = prune(copy.deepcopy(model), ("synergy", "redundancy"))
    assert sum(p.numel() for p in smaller.experts.parameters()) * 2 == sum(
        p.numel() for p in model.experts.parameters()
    )
    assert smaller.experts.execution == "sequential"
    assert smaller.experts.checkpoint

    optimizer = torch.optim.SGD(smaller.parameters(), lr=0.1)
    out = smaller.train()(x, y)
    assert tuple(out.interaction_losses) == ("synergy", "redundancy")
    assert out.interaction_loss is not None
    backward(out.prediction.square().sum() + out.interaction_loss)
    optimizer.step()
    torch.testing.assert_close(model.state_dict(), untouched, rtol=0, atol=0)

    twin = prune(make(), ("synergy", "redundancy"))
    twin.load_state_dict(smaller.state_dict())
    torch.testing.assert_close(twin(x, y).prediction, smaller.eval()(x, y).prediction)


@pytest.mark.parametrize("training", [True, False])
def test_pruning_keeps_the_mode(training: bool) -> None:
    assert prune(make().train(training), ("synergy",)).training is training


def test_pruning_leaves_the_mode_of_frozen_parts() -> None:
    model = make().train()
    frozen = next(model.experts[0].children())
    frozen.eval()
    smaller = prune(model, NAMES[:3])
    assert smaller.training
    assert smaller.experts.training
    assert smaller.experts[1].training
    assert not frozen.training


def test_a_pruned_model_is_exported() -> None:
    smaller, (x, y) = prune(make(), ("synergy", "redundancy")), batch()
    exported = torch.export.export(smaller, (x, y))
    torch.testing.assert_close(exported.module()(x, y).prediction, smaller(x, y).prediction)


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float64, 1e4), (torch.float32, 200.0), (torch.float16, 20.0)])
@pytest.mark.parametrize("keep", [NAMES[:3], ("synergy",)])
def test_kept_weights_that_have_rounded_to_zero_are_even(dtype: torch.dtype, gap: float, keep: tuple[str, ...]) -> None:
    reweighter = StaticReweighter(4)
    with torch.no_grad():
        reweighter.logits[3] = gap
    model = InteractionMoE(mlp, 2, modality_names=("x", "y"), reweighter=reweighter).to(dtype).eval()
    smaller = prune(model, keep)
    x, y = batch()
    out = smaller(x.to(dtype), y.to(dtype))
    torch.testing.assert_close(out.weights, torch.full_like(out.weights, 1 / len(keep)))
    backward(out.prediction.sum())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in smaller.parameters())


@pytest.mark.parametrize(
    "keep",
    [
        *((), "synergy", ("synergy", "synergy"), ("luck",), ("uniqueness/z",)),
        *(("uniqueness", "uniqueness/x"), ("uniqueness", "uniqueness")),
    ],
)
def test_unknown_experts_are_refused(keep: Any) -> None:
    with pytest.raises(ValueError, match=r"keep must list some of the experts .*however they are"):
        prune(make(), keep)


def test_experts_above_a_mean_weight() -> None:
    model, (x, y) = make(), batch(64)
    report = explain(model, [((x, y), torch.zeros(64, dtype=torch.long))])
    means = model(x, y).weights.mean(0).detach()
    threshold = float(means.sort().values[1:3].mean())
    assert experts_above(report, threshold) == tuple(NAMES[e] for e in range(4) if means[e] > threshold)
    assert experts_above(report, 0.0) == NAMES


def test_a_threshold_above_all_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most the largest mean weight 0\.350, however it is 0\.9"):
        experts_above(InteractionReport.example(), 0.9)


# --- top experts ---


def test_all_experts_are_the_model() -> None:
    model, (x, y) = make(), batch()
    found, expected = TopExperts(model, 4).eval()(x, y), model(x, y)
    assert "k=4" in repr(TopExperts(model, 4))
    torch.testing.assert_close(found.to_dict(), expected.to_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_highest_weighted_experts_of_each_sample_decide(k: int) -> None:
    model, (x, y) = make(), batch()
    out, full = TopExperts(model, k).eval()(x, y), model(x, y)
    for sample in range(16):
        kept = full.weights[sample].argsort(descending=True)[:k]
        weights = full.weights[sample, kept] / full.weights[sample, kept].sum()
        torch.testing.assert_close(out.weights[sample, kept], weights)
        torch.testing.assert_close(out.prediction[sample], weights @ full.expert_predictions[sample, kept])
        assert int((out.expert_predictions[sample].abs().sum(-1) > 0).sum()) == k


def test_top_experts_take_samples_that_lack_modalities() -> None:
    model, (x, y) = make(fill="zero"), batch()
    available = torch.tensor([[True, False], [False, True]] * 8)
    x = torch.where(available[:, :1], x, torch.nan)
    found, expected = (m(x, y, available=available) for m in (TopExperts(model, 4).eval(), model))
    assert torch.equal(found.available, available)
    assert TopExperts(model, 4).eval()(x, y).available.all()
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)
    torch.testing.assert_close(found.prediction, expected.prediction)
    best = TopExperts(model, 1).eval()(x, y, available=available)
    assert (best.weights[~available[:, 0], 0] == 0).all()


def test_top_experts_are_called_as_a_model_whose_modalities_are_several_arguments() -> None:
    class Pairs(nn.Module):
        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            return a + b * c

    model = InteractionMoE(Pairs, 2, modality_names={"first": ("a", "b"), "second": "c"}, feature_dims=(6, 3)).eval()
    arguments = {name: torch.randn(5, 3) for name in "abc"}
    found, expected = TopExperts(model, 4).eval()(**arguments), model(**arguments)
    torch.testing.assert_close(found.prediction, expected.prediction, rtol=0, atol=0)


def test_an_expert_sees_its_samples_alone() -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            seen.append(len(x))
            return x + y

    model = InteractionMoE(Counting, 2, feature_dims=(3, 3)).eval()
    TopExperts(model, 2).eval()(torch.randn(16, 3), torch.randn(16, 3))
    assert sum(seen) == 32
    assert 0 not in seen


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_predictions_of_any_shape(shape: tuple[int, ...]) -> None:
    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(shape))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x.sum(1) + y.sum(1)).reshape(-1, *(1,) * len(shape)) * self.scale

    model = InteractionMoE(Shaped, 2, feature_dims=(3, 5)).eval()
    assert TopExperts(model, 1).eval()(*batch()).prediction.shape == (16, *shape)


def test_k_that_is_no_integer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"k must be an integer, however it is 1\.5"):
        TopExperts(make(), 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, 5])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must lie between 1 and the number of experts 4, however it is {k}"):
        TopExperts(make(), k)


def test_top_experts_refuse_training() -> None:
    with pytest.raises(ValueError, match="must run in evaluation, however the model is in training"):
        TopExperts(make(), 1).train()(*batch())


def test_samples_that_compete_are_refused() -> None:
    model = InteractionMoE(lambda: SwitchTransformer((8, 8), 3, n_experts=2), 2, feature_dims=(8, 8))
    with pytest.raises(
        ValueError, match=r"\(SwitchLayer\) lets the samples of a batch influence each other; use prune"
    ):
        TopExperts(model, 1).eval()(torch.randn(4, 8), torch.randn(4, 8))


@pytest.mark.parametrize("use", [lambda model: prune(model, ["synergy"]), lambda model: TopExperts(model, 1)])
def test_a_model_around_the_model_is_refused(use: Any) -> None:
    with pytest.raises(TypeError, match="model must be an InteractionMoE, however it is a Sequential; pass the part"):
        use(nn.Sequential(make()))
