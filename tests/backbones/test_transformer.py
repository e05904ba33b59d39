from __future__ import annotations

import pytest
import torch

from i2moe.backbones import EarlyFusion, FusionTransformer, JointTokens, LateFusion, SelfAttention, TransformerLayer
from tests.backbones import oracle


def n_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("n_modalities", "n_patches", "dim", "n_layers", "n_outputs", "expected"),
    [
        (4, 16, 256, 2, 3, 1_072_131),
        (3, 8, 128, 2, 2, 268_034),
        (2, 4, 256, 1, 20, 538_644),
        (2, 8, 256, 2, 23, 1_068_567),
    ],
)
def test_has_the_parameters_of_the_paper(
    n_modalities: int, n_patches: int, dim: int, n_layers: int, n_outputs: int, expected: int
) -> None:
    fusion = FusionTransformer((dim,) * n_modalities, n_outputs, n_tokens=n_patches, n_layers=n_layers)

    assert n_parameters(fusion) == expected


@pytest.mark.parametrize(("dim", "n_heads", "n_tokens"), [(6, 3, 4), (5, 1, 2), (4, 4, 1)])
def test_attention_equals_the_loops(dim: int, n_heads: int, n_tokens: int) -> None:
    attention, tokens = SelfAttention(dim, n_heads), torch.randn(3, n_tokens, dim)

    torch.testing.assert_close(attention(tokens), oracle.attention(attention, tokens))


def test_attention_moves_with_its_tokens() -> None:
    attention, tokens, order = SelfAttention(6, 2), torch.randn(2, 5, 6), torch.randperm(5)

    torch.testing.assert_close(attention(tokens[:, order]), attention(tokens)[:, order])


def test_layer_equals_the_loops() -> None:
    layer, tokens = TransformerLayer(6, n_heads=2, dropout=0.5).eval(), torch.randn(3, 4, 6)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)

    torch.testing.assert_close(layer(tokens), oracle.transformer_layer(layer, tokens))


def test_layer_keeps_its_input_where_both_halves_are_silent() -> None:
    layer, tokens = TransformerLayer(6, n_heads=2), torch.randn(3, 4, 6)
    for last in (layer.attention.out, layer.mlp[3]):
        for parameter in last.parameters():
            torch.nn.init.zeros_(parameter)

    assert torch.equal(layer(tokens), tokens)


def test_dropout_acts_in_training_alone() -> None:
    layer, tokens = TransformerLayer(6, n_heads=2, dropout=0.5), torch.randn(3, 4, 6)

    assert not torch.equal(layer(tokens), layer(tokens))
    assert torch.equal(layer.eval()(tokens), layer(tokens))


@pytest.mark.parametrize(
    ("dims", "n_tokens", "hidden_dim", "shapes"),
    [
        ((6, 6), (3, 2), None, [(3, 6), (2, 6)]),
        ((4, 6, 5), (3, 1, 2), 6, [(3, 4), (6,), (2, 5)]),
        ((6,), 3, None, [(3, 6)]),
    ],
)
def test_fusion_equals_the_loops(
    dims: tuple[int, ...], n_tokens: int | tuple[int, ...], hidden_dim: int | None, shapes: list[tuple[int, ...]]
) -> None:
    fusion = FusionTransformer(dims, 2, n_tokens=n_tokens, hidden_dim=hidden_dim, n_heads=2).eval()
    modalities = [torch.randn(3, *shape) for shape in shapes]

    output = fusion(*modalities)

    tokens = oracle.join(fusion.join, modalities)
    for layer in fusion.layers:
        assert isinstance(layer, TransformerLayer)
        tokens = oracle.transformer_layer(layer, tokens)
    latent = oracle.pool(tokens, fusion.join.n_tokens)
    torch.testing.assert_close(output.latent, latent)
    torch.testing.assert_close(output.prediction, latent @ fusion.head.weight.T + fusion.head.bias)


def test_equal_widths_pass_unchanged() -> None:
    join = JointTokens((6, 6), n_tokens=2)

    assert [name for name, _ in join.named_parameters()] == ["position"]


def test_early_fusion_equals_the_loops() -> None:
    fusion = EarlyFusion((3, 5), 2, n_tokens=4, hidden_dim=6, n_layers=1, n_heads=2).eval()
    a, b = torch.randn(2, 4, 3), torch.randn(2, 4, 5)

    steps = [torch.cat([a[:, t], b[:, t]], dim=-1) @ fusion.project.weight.T + fusion.project.bias for t in range(4)]
    tokens = torch.stack([step + fusion.position[t] for t, step in enumerate(steps)], dim=1)
    layer = fusion.layers[0]
    assert isinstance(layer, TransformerLayer)
    latent = oracle.transformer_layer(layer, tokens).mean(dim=1)
    torch.testing.assert_close(fusion(a, b).latent, latent)
    torch.testing.assert_close(fusion(a, b).prediction, latent @ fusion.head.weight.T + fusion.head.bias)


def test_late_fusion_equals_the_loops() -> None:
    fusion = LateFusion((3, 5), 2, n_tokens=(4, 1), hidden_dim=6, n_layers=1, n_heads=2).eval()
    modalities = torch.randn(2, 4, 3), torch.randn(2, 5)

    tokens = oracle.join(fusion.join, modalities) @ fusion.project.weight.T + fusion.project.bias
    layer = fusion.layers[0]
    assert isinstance(layer, TransformerLayer)
    latent = oracle.transformer_layer(layer, tokens).mean(dim=1)
    torch.testing.assert_close(fusion(*modalities).latent, latent)
    torch.testing.assert_close(fusion(*modalities).prediction, latent @ fusion.head.weight.T + fusion.head.bias)


@pytest.mark.parametrize("position", range(4))
def test_every_position_counts(position: int) -> None:
    fusion = EarlyFusion((3, 5), 2, n_tokens=4, hidden_dim=8).eval()
    a, b = torch.randn(2, 4, 3), torch.randn(2, 4, 5)
    changed = a.index_fill(1, torch.tensor([position]), 0.0)

    assert not torch.allclose(fusion(a, b).prediction, fusion(changed, b).prediction)


def test_order_of_tokens_counts() -> None:
    fusion = LateFusion((3, 3), 2, n_tokens=4, hidden_dim=8).eval()
    a, b = torch.randn(2, 4, 3), torch.randn(2, 4, 3)

    assert not torch.allclose(fusion(a, b).prediction, fusion(a.flip(1), b).prediction)


def test_refuses_heads_that_do_not_divide_the_width() -> None:
    cure = r"must divide the width, however there are 4 heads for width 6; set n_heads to one of \[1, 2, 3, 6\]"

    with pytest.raises(ValueError, match=cure):
        FusionTransformer((6, 6), 2)


def test_early_fusion_refuses_different_numbers_of_tokens() -> None:
    with pytest.raises(ValueError, match="pool or pad the modalities, or use LateFusion or FusionTransformer"):
        EarlyFusion((3, 5), 2, n_tokens=(4, 2))  # type: ignore[arg-type]
