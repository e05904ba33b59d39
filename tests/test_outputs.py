"""Outputs beyond one vector: sequences, dense maps, two towers, several heads, survival."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2moe import (
    ComputedReweighter,
    InteractionLosses,
    InteractionMoE,
    InteractionOutput,
    InteractionSupervision,
    explain,
)
from i2moe.losses.heads import HeadLosses, Heads
from i2moe.moe.experts import Execution
from tests.covering import in_turn
from tests.zoo import EXECUTIONS

pytestmark = pytest.mark.usefixtures("double")

B = 6
HEADS = Heads({"activity": 3, "age": 1, "tags": 4})
HEAD_LOSSES = {"activity": InteractionLosses(), "age": InteractionLosses("regression")}


class Sequences(nn.Module):
    """Outputs (B, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.head(torch.cat([x, y], dim=-1))
        return output


class DenseMaps(nn.Module):
    """Outputs (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.convolution(torch.cat([x, y], dim=1))
        return output


class TwoTowers(nn.Module):
    """Outputs an embedding for each modality, (B, 2, D), that has seen the other."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y, self.both = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shared = self.both(torch.cat([x, y], dim=-1))
        return torch.stack([self.x(x) + shared, self.y(y) + shared], dim=1)


class ManyHeads(nn.Module):
    """Several tasks, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(8, size) for name, size in HEADS.sizes.items()})

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = torch.cat([x, y], dim=-1)
        return HEADS.join({name: head(z) for name, head in self.heads.items()})


def contrastive(out: InteractionOutput) -> Tensor:
    x, y = F.normalize(out.prediction, dim=-1).unbind(1)
    return F.cross_entropy(x @ y.mT, torch.arange(B))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], InteractionLosses, Callable[..., Tensor]]] = {
    "sequences": (
        Sequences,
        (7, 4),
        InteractionLosses(),
        lambda out: F.cross_entropy(out.prediction.flatten(0, 1), torch.arange(7 * B) % 3),
    ),
    "dense maps": (
        DenseMaps,
        (2, 5, 4),
        InteractionLosses(dim=1),
        lambda out: F.cross_entropy(out.prediction, (torch.arange(B * 20) % 3).reshape(B, 5, 4)),
    ),
    "two towers": (TwoTowers, (4,), InteractionLosses(), contrastive),
}


@pytest.mark.parametrize(("name", "execution"), in_turn([*CASES], EXECUTIONS))
def test_outputs_of_any_form_are_learned_and_every_parameter_takes_part(name: str, execution: Execution) -> None:
    factory, shape, losses, criterion = CASES[name]
    torch.manual_seed(0)
    model = InteractionMoE(factory, 2, losses=losses, execution=execution)
    x, y = torch.randn(B, *shape), torch.randn(B, *shape)
    model(x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = None
    for _ in range(30):
        out = model(x, y)
        loss = criterion(out) + 0.1 * out.interaction_loss
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first is not None
    assert loss.item() < 0.9 * first
    assert all(p.grad is not None and p.grad.any() for p in model.experts.parameters())
    assert out.prediction.shape[:1] == out.expert_predictions.shape[:1] == (B,)
    assert out.expert_predictions.shape == (B, 4, *out.prediction.shape[1:])
    weights = out.weights.reshape(B, 4, *(1,) * (out.prediction.ndim - 1))
    torch.testing.assert_close((weights * out.expert_predictions).sum(1), out.prediction)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("task", ["classification", "regression", "released_regression"])
def test_positions_are_samples_of_the_interaction_losses(name: str, task: Any) -> None:
    factory, shape, losses, _ = CASES[name]
    losses = InteractionLosses(task, dim=losses.dim)
    model = InteractionMoE(factory, 2, losses=losses)
    out = model(torch.randn(B, *shape), torch.randn(B, *shape))
    views = out.views.movedim(3, -1) if name == "dense maps" else out.views  # (B, E, V, ..., C)
    rows = views.flatten(3, -2).movedim(3, 1).flatten(0, 1)  # (rows, E, V, C)
    found = torch.stack(list(out.interaction_losses.values()))
    torch.testing.assert_close(found, InteractionLosses(task)(rows))


@pytest.mark.parametrize("dim", [-3, 1])
def test_the_axis_of_the_outputs(dim: int) -> None:
    views = torch.randn(B, 4, 3, 5, 2, 2)
    torch.testing.assert_close(InteractionLosses(dim=dim)(views), InteractionLosses()(views.movedim(3, -1)))
    with pytest.raises(ValueError, match="dim must be an axis of outputs"):
        InteractionLosses(dim=0)


# --- several heads ---


def many_heads(**options: Any) -> InteractionMoE:
    torch.manual_seed(0)
    return InteractionMoE(ManyHeads, 2, feature_dims=(4, 4), **options)


def test_split_undoes_join_for_predictions_experts_and_views() -> None:
    out = many_heads()(torch.randn(B, 4), torch.randn(B, 4))
    for tensor in (out.prediction, out.expert_predictions, out.views):
        parts = HEADS.split(tensor)
        assert {name: part.shape[-1] for name, part in parts.items()} == HEADS.sizes
        torch.testing.assert_close(HEADS.join(dict(reversed(parts.items()))), tensor)
        assert all(torch.equal(part, tensor[..., HEADS[name]]) for name, part in parts.items())


@pytest.mark.parametrize("fill", [None, "zero"])
def test_losses_of_a_head_are_those_of_a_model_with_this_head_alone(fill: str | None) -> None:
    losses = HeadLosses(HEADS, HEAD_LOSSES)
    model = many_heads(losses=losses, fill=fill, experts=("uniqueness", "redundancy"))
    available = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [1, 1], [1, 1]]).bool()
    mask = {} if fill is None else {"available": available}
    out = model(torch.randn(B, 4), torch.randn(B, 4), **mask)
    parts = HEADS.split(out.views)
    each = [HEAD_LOSSES[name](parts[name], model.interactions, None, **mask) for name in HEAD_LOSSES]
    torch.testing.assert_close(torch.stack(list(out.interaction_losses.values())), (each[0] + each[1]) / 2)
    found = losses.by_head(out.views, model.interactions, None, **mask)
    torch.testing.assert_close(found, dict(zip(HEAD_LOSSES, each, strict=True)))


class OneHead(nn.Module):
    """A backbone of several heads that shows one."""

    def __init__(self, backbone: nn.Module, name: str) -> None:
        super().__init__()
        self.backbone, self.name = backbone, name

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.backbone(x, y)[:, HEADS[self.name]]
        return output


@pytest.mark.parametrize(
    ("name", "task", "target"),
    [
        ("activity", "classification", torch.arange(B) % 3),
        ("age", "regression", torch.arange(float(B))),
        ("tags", "multilabel", (torch.arange(4 * B) % 2).reshape(B, 4)),
    ],
)
def test_the_report_of_a_head_is_that_of_a_model_with_this_head_alone(name: str, task: Any, target: Tensor) -> None:
    model = many_heads()
    experts = iter(model.experts)
    alone = InteractionMoE(lambda: OneHead(next(experts), name), 2, reweighter=model.reweighter)
    data = [((torch.randn(B, 4), torch.randn(B, 4)), target)]
    found = explain(model, data, task=task, outputs=HEADS[name])
    expected = explain(alone, data, task=task)
    for field in ("prediction", "expert_predictions", "weights", "target", "comprehensiveness", "sufficiency"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field))


@pytest.mark.parametrize("members", [None, 2])
def test_a_supervision_for_each_head(members: int | None) -> None:
    model = InteractionMoE(ManyHeads, 2, reweighter=ComputedReweighter("regression"), members=members)
    out, target = model(torch.randn(B, 4), torch.randn(B, 4)), torch.arange(B) % 3
    supervise = InteractionSupervision(torch.nn.functional.cross_entropy)
    selected = HEADS.select(out, "activity")
    assert selected.marginals is not None
    torch.testing.assert_close(selected.marginals, HEADS.split(out.marginals)["activity"])
    found = supervise(selected, target)
    by_hand = InteractionSupervision(lambda y, target: torch.nn.functional.cross_entropy(y[:, :3], target))
    torch.testing.assert_close(found, by_hand(out, target))
    torch.autograd.backward(found)


def test_a_mistake_with_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one output each"):
        Heads({})
    with pytest.raises(ValueError, match="at least one output each"):
        Heads({"a": 0})
    with pytest.raises(KeyError, match="there must be a head 'b'"):
        Heads({"a": 1})["b"]
    with pytest.raises(ValueError, match="must be of the heads"):
        HEADS.join({"activity": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"outputs must be .* wide, however they are"):
        Heads({"a": 2}).join({"a": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="must hold the 8 outputs"):
        HEADS.split(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="losses must be for some of the heads"):
        HeadLosses(HEADS, {"height": InteractionLosses()})
    with pytest.raises(ValueError, match="losses must be for some of the heads"):
        HeadLosses(HEADS, {})
    with pytest.raises(ValueError, match=r"must compare predictions, however those of \['age'\] compare the latent"):
        HeadLosses(HEADS, HEAD_LOSSES | {"age": InteractionLosses("regression", on="latent")})
    assert "activity" in repr(HEADS)
    assert "regression" in repr(HeadLosses(HEADS, HEAD_LOSSES))
