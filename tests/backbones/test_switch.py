from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2moe.backbones import SwitchLayer, SwitchTransformer, SwitchTransformerLayer
from tests.backbones import oracle
from tests.covering import every_pair

GROUPS = ["batch", "sample"]


def to_expert(layer: SwitchLayer, expert: int, strength: float = 10.0) -> None:
    """Let the router send every token with a first feature of 1 to one expert."""
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[expert, 0] = strength


def tokens_of_ones(*shape: int) -> torch.Tensor:
    tokens = torch.randn(*shape)
    tokens[..., 0] = 1.0
    return tokens


@pytest.mark.parametrize(
    ("n_experts", "shape", "factor", "group"),
    every_pair([1, 2, 5, 11], [(4, 6, 8), (1, 1, 8), (1, 5, 3), (3, 1, 7)], [None, 0.3, 1.0, 1.2, 50.0], GROUPS),
)
def test_a_layer_equals_loops_over_tokens(
    n_experts: int, shape: tuple[int, int, int], factor: float | None, group: Literal["batch", "sample"]
) -> None:
    layer = SwitchLayer(shape[-1], n_experts, capacity_factor=factor, jitter=0, group=group)
    tokens = torch.randn(shape)

    output, aux_loss = layer(tokens)

    expected, expected_loss = oracle.switch(layer, tokens)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(aux_loss, expected_loss)


@pytest.mark.parametrize("group", GROUPS)
def test_gradients_of_a_layer_equal_those_of_loops_over_tokens(group: Literal["batch", "sample"]) -> None:
    layer = SwitchLayer(5, 3, capacity_factor=0.8, jitter=0, group=group)
    tokens = torch.randn(3, 4, 5, requires_grad=True)
    inputs = [tokens, *layer.parameters()]

    output, aux_loss = layer(tokens)
    expected, expected_loss = oracle.switch(layer, tokens)

    torch.testing.assert_close(
        torch.autograd.grad(output.square().sum() + aux_loss, inputs),
        torch.autograd.grad(expected.square().sum() + expected_loss, inputs, materialize_grads=True),
    )


def test_places_are_more_in_evaluation() -> None:
    layer = SwitchLayer(8, 4)

    assert (layer.capacity(64), layer.eval().capacity(64)) == (math.ceil(1.2 * 16), math.ceil(2.4 * 16))


def test_late_tokens_pass_through_the_residual_alone() -> None:
    layer = SwitchLayer(8, 4, capacity_factor=1.0, jitter=0)
    to_expert(layer, 2)

    output, _ = layer(tokens_of_ones(2, 6, 8))  # 12 tokens, 3 places

    assert output.flatten(0, 1).any(dim=-1).tolist() == [True] * 3 + [False] * 9


def test_samples_do_not_compete_in_groups_of_their_own() -> None:
    layer = SwitchLayer(8, 4, capacity_factor=1.0, jitter=0, group="sample")
    to_expert(layer, 2)

    output, _ = layer(tokens_of_ones(2, 6, 8))  # 6 tokens each, 2 places

    assert output.any(dim=-1).tolist() == [[True] * 2 + [False] * 4] * 2


@pytest.mark.parametrize("group", GROUPS)
def test_one_expert_is_a_dense_network(group: Literal["batch", "sample"]) -> None:
    layer, tokens = SwitchLayer(8, 1, jitter=0, group=group), torch.randn(2, 6, 8)

    output, aux_loss = layer(tokens)

    torch.testing.assert_close(output, oracle.gelu(tokens @ layer.w1[0]) @ layer.w2[0])
    torch.testing.assert_close(aux_loss, torch.ones(()))


def test_balance_is_one_for_even_routing_and_n_for_a_single_expert() -> None:
    layer = SwitchLayer(4, 4, jitter=0)
    with torch.no_grad():
        layer.router.weight.copy_(100 * torch.eye(4))

    even = layer(torch.eye(4).expand(3, 4, 4))[1]
    collapsed = layer(torch.eye(4)[:1].expand(3, 4, 4))[1]

    torch.testing.assert_close(torch.stack([even, collapsed]), torch.tensor([1.0, 4.0]))


def test_balance_loss_moves_the_gates() -> None:
    fusion = SwitchTransformer((8, 8), 2, n_tokens=16, n_layers=1, n_experts=4, jitter=0, dropout=0)
    (layer,) = (layer for layer in fusion.modules() if isinstance(layer, SwitchTransformerLayer))
    to_expert(layer.switch, 0, strength=0.5)
    with torch.no_grad():
        layer.norm_switch.bias[0] = 5.0
    modalities = torch.randn(8, 16, 8), torch.randn(8, 16, 8)
    optimizer = torch.optim.Adam([layer.switch.router.weight], lr=0.3)

    history = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = fusion(*modalities).aux_loss
        loss.backward()
        optimizer.step()
        history.append(loss.item())

    assert history[0] > 1.5
    assert min(history) < 1.1


def test_jitter_is_drawn_in_training_alone() -> None:
    layer, tokens = SwitchLayer(8, 4, jitter=0.1, capacity_factor=None), torch.randn(4, 6, 8)
    calm = SwitchLayer(8, 4, jitter=0)
    calm.load_state_dict(layer.state_dict())

    noisy = torch.stack([layer.route(tokens) for _ in range(50)])

    assert noisy.std(dim=0).gt(0).all()
    assert torch.equal(layer.eval().route(tokens), calm.route(tokens))


@given(jitter=st.floats(0.01, 0.9), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_jitter_stays_in_its_bounds(jitter: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = SwitchLayer(1, 2, jitter=jitter)
    with torch.no_grad():
        layer.router.weight.copy_(torch.tensor([[1.0], [0.0]]))

    odds = layer.route(torch.ones(1000, 1))
    noise = odds[:, 0].log() - odds[:, 1].log()  # the jittered input itself

    assert noise.sub(1).abs().max() <= jitter + 1e-6
    assert noise.std().sub(jitter / math.sqrt(3)).abs() < 0.1 * jitter


@given(
    n_samples=st.integers(1, 4),
    n_tokens=st.integers(1, 7),
    n_experts=st.integers(1, 6),
    factor=st.floats(0.1, 3.0),
    group=st.sampled_from(GROUPS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_no_expert_takes_more_than_its_places(
    n_samples: int, n_tokens: int, n_experts: int, factor: float, group: Literal["batch", "sample"], seed: int
) -> None:
    torch.manual_seed(seed)
    layer = SwitchLayer(4, n_experts, capacity_factor=factor, jitter=0, group=group).double()
    tokens = torch.randn(n_samples, n_tokens, 4, dtype=torch.float64)

    served = layer(tokens)[0].any(dim=-1)
    chosen = layer.route(tokens).argmax(dim=-1)

    for rows, experts in [(served.view(1, -1), chosen.view(1, -1))] if group == "batch" else [(served, chosen)]:
        places = layer.capacity(rows.shape[1])
        for row, expert in zip(rows, experts, strict=True):
            for e in range(n_experts):
                assert row[expert == e].tolist() == [i < places for i in range(int((expert == e).sum()))]


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"capacity_factor": 0.0}, "capacity_factor must be positive, however it is 0.0; use None to drop no token"),
        ({"eval_capacity_factor": -1.0}, "eval_capacity_factor must be positive"),
        ({"group": "row"}, "group must be 'batch' or 'sample', however it is 'row'"),
        ({"jitter": 1.0}, r"jitter must lie in \[0, 1\), however it is 1.0; use 0 to switch it off"),
        ({"n_experts": 0}, "n_experts must be at least 1, however it is 0"),
    ],
)
def test_bad_options_of_a_switch_layer_are_refused(options: dict[str, object], cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        SwitchLayer(8, **({"n_experts": 4} | options))  # type: ignore[arg-type]
