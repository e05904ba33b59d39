"""Weights on the simplex, pooled over tokens, sharpened by temperature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from i2moe import Reweighter, StaticReweighter
from i2moe._common.randomness import Dropout

pytestmark = pytest.mark.usefixtures("double")


def logits(reweighter: Reweighter, *modalities: Any) -> Tensor:
    """The logits up to a constant per sample."""
    log: Tensor = reweighter(modalities).log() * reweighter.temperature
    return log - log.mean(-1, keepdim=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.05, 20), st.integers(0, 2**31))
def test_weights_lie_on_the_simplex(n_samples: int, n_experts: int, temperature: float, seed: int) -> None:
    torch.manual_seed(seed)
    reweighter = Reweighter(n_experts, (3, 2), hidden_dim=8, temperature=temperature)
    weights = reweighter((10 * torch.randn(n_samples, 3), torch.randn(n_samples, 2)))
    assert weights.shape == (n_samples, n_experts)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[:, 0]))


def test_a_reweighter_has_the_layers_asked_for() -> None:
    reweighter = Reweighter(5, (3, 4), hidden_dim=16, n_layers=3, dropout=0.25)
    kinds = [type(layer) for layer in reweighter.mlp]
    assert kinds == [nn.Linear, nn.ReLU, Dropout] * 3 + [nn.Linear]
    linears = [layer for layer in reweighter.mlp if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linears] == [(7, 16), (16, 16), (16, 16), (16, 5)]
    assert {layer.p for layer in reweighter.mlp if isinstance(layer, nn.Dropout)} == {0.25}


@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 4), (6, 2, 5, 4), (6, 1, 4)])
def test_tokens_are_averaged(shape: tuple[int, ...]) -> None:
    reweighter = Reweighter(4, (4, 3)).eval()
    x, y = torch.randn(shape), torch.randn(6, 3)
    pooled = x if x.ndim == 2 else torch.stack([sample.reshape(-1, 4).mean(0) for sample in x])
    torch.testing.assert_close(reweighter((x, y)), reweighter((pooled, y)))


def test_one_number_per_sample_is_a_feature() -> None:
    reweighter = Reweighter(4, (1, 3)).eval()
    x, y = torch.randn(6), torch.randn(6, 3)
    torch.testing.assert_close(reweighter((x, y)), reweighter((x.unsqueeze(-1), y)))


def test_nested_modalities_give_their_floating_point_tensors() -> None:
    reweighter = Reweighter(4, (4 + 2, 3)).eval()
    x, z, y = torch.randn(6, 5, 4), torch.randn(6, 2), torch.randn(6, 3)
    nested = {"x": (x, torch.ones(6, 5, dtype=torch.bool)), "none": None, "z": [z, torch.arange(6)]}
    torch.testing.assert_close(reweighter((nested, y)), reweighter((torch.cat([x.mean(1), z], -1), y)))


def test_samples_are_weighed_apart() -> None:
    reweighter = Reweighter(4, (3, 2)).eval()
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    alone = torch.cat([reweighter((x[i : i + 1], y[i : i + 1])) for i in range(6)])
    torch.testing.assert_close(reweighter((x, y)), alone)
    assert not torch.isclose(alone[0], alone[1]).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    reweighter = Reweighter(4, (3, 2)).eval()
    expected = logits(reweighter, x, y)
    entropy = -(reweighter((x, y)) * reweighter((x, y)).log()).sum(-1)
    reweighter.temperature = temperature
    torch.testing.assert_close(logits(reweighter, x, y), expected)
    changed = -(reweighter((x, y)) * reweighter((x, y)).log()).sum(-1)
    assert ((changed > entropy) == (temperature > 1)).all()


def test_a_lazy_reweighter_equals_a_sized_one() -> None:
    x, y = torch.randn(6, 5, 3), torch.randn(6, 2)
    lazy, sized = Reweighter(4, hidden_dim=8).eval(), Reweighter(4, (3, 2), hidden_dim=8).eval()
    lazy((x, y))
    sized.load_state_dict(lazy.state_dict())
    torch.testing.assert_close(lazy((x, y)), sized((x, y)))
    assert set(lazy.state_dict()) == set(Reweighter(4).state_dict())


def test_dropout_acts_in_training_alone() -> None:
    reweighter, modalities = Reweighter(4, (3, 2)), (torch.randn(6, 3), torch.randn(6, 2))
    assert not torch.equal(reweighter(modalities), reweighter(modalities))
    reweighter.eval()
    assert torch.equal(reweighter(modalities), reweighter(modalities))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_static_weights_are_one_vector_for_all(temperature: float) -> None:
    reweighter = StaticReweighter(3, temperature=temperature)
    modalities = ({"x": None, "y": torch.randn(5, 2)}, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(reweighter(modalities), torch.full((5, 3), 1 / 3))
    with torch.no_grad():
        reweighter.logits.copy_(torch.tensor([0.0, 1.0, 2.0]))
    weights = reweighter(modalities)
    torch.testing.assert_close(weights, torch.softmax(torch.arange(3.0) / temperature, 0).expand(5, 3))
    weights[:, 0].sum().backward()
    assert reweighter.logits.grad is not None
    assert reweighter.logits.grad.abs().min() > 0


def test_gradient_reaches_parameters_and_modalities() -> None:
    x, y = torch.randn(6, 4, 3, requires_grad=True), torch.randn(6, 2, requires_grad=True)
    reweighter = Reweighter(4, (3, 2))
    reweighter((x, y))[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in reweighter.parameters())
    assert x.grad is not None
    assert (x.grad.abs().sum(-1) > 0).all()
    assert y.grad is not None


# --- padding ---


def masked(n_samples: int = 6, n_tokens: int = 5) -> Tensor:
    """A mask of one to all tokens, each number of them at least once."""
    return torch.arange(n_tokens) <= torch.arange(n_samples).unsqueeze(1) % n_tokens


def nested_in(kind: str, x: Tensor, mask: Tensor) -> Any:
    return {
        "tuple": (x, mask),
        "list": [mask, x],
        "dict": {"tokens": x, "mask": mask},
        "deep": [{"text": (x, mask), "none": None}],
    }[kind]


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "deep"])
@pytest.mark.parametrize("inner", [(), (3,)], ids=["tokens", "frames of tokens"])
def test_padded_tokens_leave_the_average(kind: str, inner: tuple[int, ...]) -> None:
    reweighter, y, mask = Reweighter(4, (4, 3)).eval(), torch.randn(6, 3), masked()
    x = torch.randn(6, 5, *inner, 4)
    pooled = torch.stack([sample[counts].reshape(-1, 4).mean(0) for sample, counts in zip(x, mask, strict=True)])
    for padding in (0.0, 1e3, torch.nan, torch.inf):
        padded = torch.where(mask.reshape(6, 5, *(1,) * (x.ndim - 2)), x, padding).requires_grad_()
        weights = reweighter((nested_in(kind, padded, mask), y))
        torch.testing.assert_close(weights, reweighter((pooled, y)))
        weights.square().sum().backward()
        assert padded.grad is not None
        assert padded.grad.flatten(2).any(2).equal(mask)


def test_the_length_of_the_padding_changes_nothing() -> None:
    reweighter, x, mask, y = Reweighter(4, (4, 3)).eval(), torch.randn(6, 5, 4), masked(), torch.randn(6, 3)
    longer, more = torch.cat([x, torch.zeros(6, 9, 4)], 1), torch.cat([mask, torch.zeros(6, 9, dtype=torch.bool)], 1)
    torch.testing.assert_close(reweighter(((longer, more), y)), reweighter(((x, mask), y)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_mask_of_all_tokens_is_none_bit_for_bit(dtype: torch.dtype) -> None:
    x, everything = 200 * torch.rand(2, 700, 4).to(dtype), torch.ones(2, 700, dtype=torch.bool)
    reweighter = Reweighter(4, (4, 3)).eval().to(dtype)
    y = torch.randn(2, 3).to(dtype)
    assert torch.equal(reweighter(((x, everything), y)), reweighter((x, y)))


def test_a_sample_without_tokens_has_the_average_zero() -> None:
    reweighter, y = Reweighter(4, (4, 3)).eval(), torch.randn(2, 3)
    x, nothing = torch.full((2, 5, 4), torch.nan), torch.zeros(2, 5, dtype=torch.bool)
    torch.testing.assert_close(reweighter(((x, nothing), y)), reweighter((torch.zeros(2, 4), y)))


def test_what_is_no_mask_is_not_read() -> None:
    reweighter, x, y = Reweighter(4, (4, 3)).eval(), torch.randn(6, 5, 4), torch.randn(6, 3)
    expected = reweighter((x, y))
    elsewhere, other_length, numbers = {"inside": masked()}, torch.zeros(6, 4, dtype=torch.bool), masked().long()
    for beside in (elsewhere, other_length, numbers, torch.zeros(6, dtype=torch.bool)):
        torch.testing.assert_close(reweighter(((x, beside), y)), expected)


def test_each_mask_is_for_the_tokens_beside_it() -> None:
    reweighter, x, z, y = Reweighter(4, (8, 3)).eval(), *torch.randn(2, 6, 5, 4), torch.randn(6, 3)
    both, apart = ((x, masked()), (z, ~masked())), ((z, ~masked()), (x, masked()))
    weights = reweighter((both, y))
    columns = torch.cat([torch.arange(4, 8), torch.arange(4), torch.arange(8, 11)])
    first = reweighter.mlp[0]
    assert isinstance(first, nn.Linear)
    first.weight = nn.Parameter(first.weight[:, columns])
    torch.testing.assert_close(reweighter((apart, y)), weights)
    with pytest.raises(ValueError, match=r"one boolean mask, however 2 fit those of shape \(6, 5, 4\)") as caught:
        reweighter(((x, masked(), masked()), y))
    assert caught.value.__notes__ == ["in modality 0"]
