from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from i2moe.backbones import (
    Conv1dEncoder,
    Conv3dEncoder,
    GRUEncoder,
    Maxout,
    MaxoutEncoder,
    MLPEncoder,
    PatchEmbedding,
)


@pytest.mark.parametrize(("n_features", "n_patches"), [(12, 4), (10, 4), (5, 4), (7, 7), (7, 1), (1, 1)])
def test_patches_equal_the_loops(n_features: int, n_patches: int) -> None:
    embedding, features = PatchEmbedding(n_features, n_patches, 3), torch.randn(2, n_features)

    size = -(-n_features // n_patches)
    for b in range(2):
        values = [*features[b].tolist(), *[0.0] * (n_patches * size - n_features)]
        for p in range(n_patches):
            patch = torch.tensor(values[p * size : (p + 1) * size])
            expected = embedding.project.weight @ patch + embedding.project.bias
            torch.testing.assert_close(embedding(features)[b, p], expected)


def test_refuses_more_patches_than_features() -> None:
    with pytest.raises(ValueError, match="however there are 8 patches of 5 features; use at most 5 patches"):
        PatchEmbedding(5, 8, 4)


def test_maxout_takes_the_largest_piece() -> None:
    maxout, x = Maxout(4, 3, n_pieces=5), torch.randn(6, 4)

    pieces = torch.stack(
        [
            x @ w.T + b
            for w, b in zip(torch.split(maxout.linear.weight, 3), torch.split(maxout.linear.bias, 3), strict=True)
        ]
    )

    torch.testing.assert_close(maxout(x), pieces.max(dim=0).values)


def test_maxout_encoder_ignores_the_scale_of_its_input() -> None:
    encoder, x = MaxoutEncoder(4, 3, hidden_dim=6), torch.randn(50, 4)

    torch.testing.assert_close(encoder(x), encoder(1000 * x + 7), rtol=1e-3, atol=1e-3)


def test_gru_returns_the_state_after_the_last_step() -> None:
    encoder, sequence = GRUEncoder(3, 4), torch.randn(2, 5, 3)
    cell = nn.GRUCell(3, 4)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in encoder.gru.state_dict().items()})

    state = torch.zeros(2, 4)
    for t in range(5):
        state = cell(sequence[:, t], state)

    torch.testing.assert_close(encoder(sequence), state)


def test_mlp_has_as_many_layers_as_asked_for() -> None:
    encoder, x = MLPEncoder(5, 3, hidden_dim=4, n_layers=3), torch.randn(2, 5)
    linear = [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)]

    hidden = x
    for layer in linear[:-1]:
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    expected = hidden @ linear[-1].weight.T + linear[-1].bias

    assert [tuple(layer.weight.shape) for layer in linear] == [(4, 5), (4, 4), (3, 4)]
    torch.testing.assert_close(encoder(x), expected)


@pytest.mark.parametrize(("n_steps", "n_tokens"), [(100, 4), (33, 9), (16, 1), (4, 1)])
def test_signal_becomes_tokens_in_order(n_steps: int, n_tokens: int) -> None:
    encoder, signal = Conv1dEncoder(3, 8, n_tokens=n_tokens), torch.randn(2, n_steps, 3, requires_grad=True)

    tokens = encoder(signal)
    reach = torch.autograd.grad(tokens[:, 0].square().sum(), signal)[0].abs().sum(dim=(0, 2)).nonzero().max()

    assert tokens.shape == (2, n_tokens, 8)
    assert reach < n_steps / n_tokens + 12  # two layers of width 5 and stride 2 see 12 steps further


def test_refuses_a_signal_too_short_for_its_tokens() -> None:
    with pytest.raises(ValueError, match="2 halvings leave 3; lower n_tokens or n_layers"):
        Conv1dEncoder(3, 8, n_tokens=4)(torch.randn(2, 12, 3))


def test_volume_with_and_without_a_channel_axis() -> None:
    encoder, volume = Conv3dEncoder(6, hidden_dims=(8, 16)), torch.randn(2, 9, 11, 10)

    assert encoder(volume).shape == (2, 6)
    assert torch.equal(encoder(volume), encoder(volume.unsqueeze(1)))


def test_refuses_channels_that_no_group_divides() -> None:
    with pytest.raises(ValueError, match=r"multiples of 8 .* however they are \(8, 12\); round them up"):
        Conv3dEncoder(6, hidden_dims=(8, 12))


ENCODERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "patches": (lambda: PatchEmbedding(10, 4, 6), (10,)),
    "mlp": (lambda: MLPEncoder(10, 6), (10,)),
    "maxout": (lambda: MaxoutEncoder(10, 6, hidden_dim=8), (10,)),
    "gru": (lambda: GRUEncoder(3, 6), (12, 3)),
    "conv1d": (lambda: Conv1dEncoder(3, 6, n_tokens=2), (12, 3)),
    "conv3d": (lambda: Conv3dEncoder(6, hidden_dims=(8, 8)), (9, 8, 7)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    make, shape = ENCODERS[name]
    encoder = make()

    encoder(torch.randn(8, *shape)).square().sum().backward()

    assert all(p.grad is not None and p.grad.any() for n, p in encoder.named_parameters())


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "maxout"])  # which normalizes over the batch
def test_samples_do_not_influence_one_another(name: str) -> None:
    make, shape = ENCODERS[name]
    encoder, x = make(), torch.randn(4, *shape)

    torch.testing.assert_close(encoder(x), torch.cat([encoder(x[b : b + 1]) for b in range(4)]))


@pytest.mark.parametrize("name", ["patches", "gru", "conv1d", "conv3d"])
def test_refuses_other_shapes(name: str) -> None:
    make, shape = ENCODERS[name]

    with pytest.raises(ValueError, match=r"must be .*, however its shape is"):
        make()(torch.randn(2, 5, 5, 5, *shape))
