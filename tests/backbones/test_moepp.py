from __future__ import annotations

from typing import Literal

import pytest
import torch

from i2moe.backbones import MoEPlusPlus, MoEPlusPlusLayer
from tests.backbones import oracle
from tests.covering import every_pair

GROUPS = ["batch", "sample"]


def to_experts(layer: MoEPlusPlusLayer, *experts: int) -> None:
    """Let the router send every token to these experts, the first one first, with even gates."""
    last = layer.router_out
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(-100.0)
        for rank, expert in enumerate(experts):
            last.bias[expert] = -1e-9 * rank


def layers_of(fusion: MoEPlusPlus) -> list[MoEPlusPlusLayer]:
    return [layer for layer in fusion.modules() if isinstance(layer, MoEPlusPlusLayer)]


@pytest.mark.parametrize(
    ("counts", "shape", "factor", "group"),
    every_pair(
        [(1, 1, 1), (3, 2, 2), (2, 1, 5), (9, 3, 3)],
        [(4, 6, 8), (1, 1, 8), (1, 5, 3), (3, 1, 7)],
        [None, 0.3, 1.1, 50.0],
        GROUPS,
    ),
)
def test_a_layer_equals_loops_over_tokens(
    counts: tuple[int, int, int],
    shape: tuple[int, int, int],
    factor: float | None,
    group: Literal["batch", "sample"],
) -> None:
    n_experts, n_constants, n_active = counts
    layer = MoEPlusPlusLayer(
        shape[-1],
        n_experts,
        n_constants=n_constants,
        n_active=n_active,
        inner_dim=5,
        capacity_factor=factor,
        group=group,
        gating_residual=True,
    )
    tokens, previous = torch.randn(shape), torch.randn(*shape[:2], layer.n_all)

    torch.testing.assert_close(layer(tokens, previous), oracle.moepp(layer, tokens, previous))


@pytest.mark.parametrize("group", GROUPS)
def test_gradients_of_a_layer_equal_those_of_loops_over_tokens(group: Literal["batch", "sample"]) -> None:
    layer = MoEPlusPlusLayer(5, 3, inner_dim=4, capacity_factor=0.7, group=group)
    tokens = torch.randn(3, 4, 5, requires_grad=True)
    inputs = [tokens, *layer.parameters()]

    output, aux_loss, _ = layer(tokens)
    expected, expected_loss, _ = oracle.moepp(layer, tokens)

    torch.testing.assert_close(
        torch.autograd.grad(output.square().sum() + aux_loss, inputs),
        torch.autograd.grad(expected.square().sum() + expected_loss, inputs, materialize_grads=True),
    )


def test_zero_and_copy_experts() -> None:
    layer, tokens = MoEPlusPlusLayer(8, 4, capacity_factor=None), torch.randn(3, 5, 8)

    to_experts(layer, 4, 5)  # half zero, half copy

    torch.testing.assert_close(layer(tokens)[0], tokens / 2)


def test_constant_experts_can_forget_the_token() -> None:
    layer, tokens = MoEPlusPlusLayer(8, 4, capacity_factor=None), torch.randn(3, 5, 8).abs()
    with torch.no_grad():
        layer.mix.weight.zero_()
        layer.mix.weight[1::2] = 100.0  # alpha_2 = 1 for positive tokens

    to_experts(layer, 6, 7)

    torch.testing.assert_close(layer(tokens)[0], layer.constants.mean(dim=0).expand_as(tokens))


def test_late_tokens_lose_a_choice_alone() -> None:
    layer = MoEPlusPlusLayer(8, 2, n_active=2, capacity_factor=0.5)
    to_experts(layer, 0, 3)  # a network, then the copy
    tokens = torch.randn(2, 6, 8)
    places, copies = layer.capacities(12)

    output = layer(tokens)[0].flatten(0, 1)

    rows = tokens.flatten(0, 1)
    both, one, none = output[:places], output[places:copies], output[copies:]
    assert (places, copies) == (2, 3)
    torch.testing.assert_close(one, rows[places:copies] / 2)
    assert not torch.allclose(both, rows[:places] / 2)
    assert not none.any()


def test_first_choices_go_first() -> None:
    layer = MoEPlusPlusLayer(2, 2, n_active=2, inner_dim=3, capacity_factor=0.1)  # one place per expert
    with torch.no_grad():
        layer.router_in.weight.zero_()
        layer.router_in.weight[0, 0] = 1.0
        layer.router_out.weight.zero_()
        layer.router_out.weight[:2, 0] = torch.tensor([10.0, -10.0])
        layer.router_out.bias.copy_(torch.tensor([50.0, 50.0, 0.0, 0.0, 0.0, 0.0]))
    # the first token prefers expert 1 and has expert 0 as its second choice; the second token, the reverse
    tokens = torch.tensor([[[-1.0, 0.3], [1.0, 0.7]]])
    first, second = tokens[0]

    output = layer(tokens)[0][0]

    gates = torch.softmax(layer(tokens)[2][0], dim=-1)
    torch.testing.assert_close(output[0], gates[0, 1] * oracle.moepp_expert(layer, 1, first))
    torch.testing.assert_close(output[1], gates[1, 0] * oracle.moepp_expert(layer, 0, second))


def test_smaller_tau_leaves_fewer_places_at_the_networks() -> None:
    shares = [MoEPlusPlusLayer(8, 4, tau=tau).capacities(1000) for tau in (1.0, 0.5, 0.1)]

    assert shares[0][0] == shares[0][1]
    assert shares[0][0] > shares[1][0] > shares[2][0]
    assert shares[0][1] < shares[1][1] < shares[2][1]


@pytest.mark.parametrize("factor", [None, 1.1])
def test_places_add_up_to_the_choices(factor: float | None) -> None:
    layer = MoEPlusPlusLayer(8, 4, capacity_factor=factor)

    network, other = layer.capacities(4000)

    expected = 8 * 4000 if factor is None else pytest.approx(1.1 * 2 * 4000, rel=1e-2)
    assert 4 * network + 4 * other == expected


def test_gating_residual_carries_the_previous_scores() -> None:
    fusion = MoEPlusPlus((8, 8), 2, n_tokens=4, n_layers=2, n_experts=2, dropout=0)
    first, second = layers_of(fusion)
    seen: list[torch.Tensor] = []
    first.register_forward_hook(lambda _, args, output: seen.append(output[2]))
    second.register_forward_pre_hook(lambda _, args: seen.append(args[1]))

    fusion(torch.randn(3, 4, 8), torch.randn(3, 4, 8))

    assert first.residual is None
    assert second.residual is not None
    assert seen[0] is seen[1]


def test_every_layer_counts() -> None:
    fusion = MoEPlusPlus((8, 8), 2, n_tokens=4, n_layers=3, n_experts=2, dropout=0).eval()
    modalities = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    before = fusion(*modalities).prediction

    with torch.no_grad():
        layers_of(fusion)[0].w_out.mul_(3.0)

    assert not torch.allclose(fusion(*modalities).prediction, before)


def test_balance_loss_moves_the_gates() -> None:
    fusion = MoEPlusPlus((8, 8), 2, n_tokens=16, n_layers=1, n_experts=4, dropout=0)
    (layer,) = layers_of(fusion)
    with torch.no_grad():
        layer.router_out.bias[0] = 3.0
    modalities = torch.randn(8, 16, 8), torch.randn(8, 16, 8)
    optimizer = torch.optim.Adam([*layer.router_in.parameters(), *layer.router_out.parameters()], lr=0.05)

    history = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = fusion(*modalities).aux_loss
        loss.backward()
        optimizer.step()
        history.append(loss.item())

    assert min(history) < 0.6 * history[0]


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"n_active": 9}, "n_active must not exceed the number of experts, however it is 9 of 8 .*; lower n_active"),
        ({"tau": 0.0}, r"tau must lie in \(0, 1\], however it is 0.0; 1 treats all experts alike"),
        ({"capacity_factor": 0.0}, "capacity_factor must be positive"),
        ({"group": "row"}, "group must be 'batch' or 'sample'"),
        ({"n_constants": 0}, "n_constants must be at least 1"),
    ],
)
def test_bad_options_of_a_moepp_layer_are_refused(options: dict[str, object], cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        MoEPlusPlusLayer(8, 4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("residual", [False, True])
def test_scores_come_with_the_gating_residual_and_only_then(residual: bool) -> None:
    layer = MoEPlusPlusLayer(8, 4, gating_residual=residual)
    tokens, scores = torch.randn(2, 3, 8), torch.randn(2, 3, 8)

    with pytest.raises(ValueError, match="previous scores must come with gating_residual=True and only then"):
        layer(tokens, None if residual else scores)
