from __future__ import annotations

import pytest
import torch
from torch import nn

from i2moe.backbones import InterpretCC, gumbel_sigmoid
from tests.backbones import oracle


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize(("tau", "threshold"), [(1.0, 0.5), (0.7, 0.6), (4.0, 0.4)])
def test_equals_the_equations(tau: float, threshold: float, hard: bool) -> None:
    fusion = InterpretCC((4, 3), 2, hidden_dim=5, tau=tau, threshold=threshold, hard=hard).eval()
    modalities = torch.randn(20, 4), torch.randn(20, 3)

    gated, gates = [], []
    for network, z in zip(fusion.gate_networks, modalities, strict=True):
        first, second = network[0], network[2]  # type: ignore[index]
        logit = torch.relu(z @ first.weight.T + first.bias) @ second.weight.T + second.bias
        soft = 1 / (1 + torch.exp(-logit / tau))
        gates.append((soft > threshold).to(soft.dtype) if hard else soft)
        gated.append(gates[-1] * z)
    latent = torch.cat(gated, dim=-1)
    first, second = fusion.head[0], fusion.head[3]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    prediction = oracle.gelu(latent @ first.weight.T + first.bias) @ second.weight.T + second.bias

    torch.testing.assert_close(fusion.gates(*modalities), torch.cat(gates, dim=-1))
    torch.testing.assert_close(fusion(*modalities).latent, latent)
    torch.testing.assert_close(fusion(*modalities).prediction, prediction)


@pytest.mark.parametrize(("logit", "tau", "threshold"), [(0.0, 1.0, 0.5), (1.2, 0.7, 0.6), (-0.8, 4.0, 0.4)])
def test_hard_gates_open_with_the_logistic_probability(logit: float, tau: float, threshold: float) -> None:
    gates = gumbel_sigmoid(torch.full((40_000,), logit), tau=tau, threshold=threshold)

    bar = tau * torch.logit(torch.tensor(threshold))
    assert gates.mean().item() == pytest.approx(torch.sigmoid(logit - bar).item(), abs=0.012)


def test_hard_gates_are_exact_and_have_the_soft_gradient() -> None:
    logits = torch.randn(1000, requires_grad=True)

    hard = gumbel_sigmoid(logits, tau=0.7, noise=False)
    soft = gumbel_sigmoid(logits, tau=0.7, hard=False, noise=False)

    assert set(hard.tolist()) == {0.0, 1.0}
    torch.testing.assert_close(
        torch.autograd.grad(hard.sum(), logits), torch.autograd.grad(soft.sum(), logits), rtol=0, atol=0
    )


def test_noise_never_overflows() -> None:
    assert gumbel_sigmoid(torch.zeros(2_000_000, dtype=torch.float32), tau=0.01, hard=False).isfinite().all()


def test_training_samples_the_gates() -> None:
    fusion, modalities = InterpretCC((4, 3), 2), (torch.randn(200, 4), torch.randn(200, 3))

    assert not torch.equal(fusion.gates(*modalities), fusion.gates(*modalities))
    assert torch.equal(fusion.eval().gates(*modalities), fusion.gates(*modalities))


def test_a_closed_gate_hides_its_modality() -> None:
    fusion = InterpretCC((4, 3), 2).eval()
    with torch.no_grad():
        fusion.gate_networks[0][2].bias.fill_(-100.0)  # type: ignore[index]
        fusion.gate_networks[1][2].bias.fill_(100.0)  # type: ignore[index]
    a, b = torch.randn(20, 4), torch.randn(20, 3)

    prediction = fusion(a, b).prediction

    assert torch.equal(fusion(torch.randn(20, 4), b).prediction, prediction)
    assert not torch.equal(fusion(a, torch.randn(20, 3)).prediction, prediction)
    assert fusion.gates(a, b).tolist() == [[0.0, 1.0]] * 20


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"tau": 0.0}, "tau must be positive, however it is 0.0"),
        ({"threshold": 1.0}, r"threshold must lie in \(0, 1\), however it is 1.0; 0.5 is neutral"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1"),
    ],
)
def test_bad_options_of_interpretcc_are_refused(options: dict[str, float], cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        InterpretCC((4, 3), 2, **options)  # type: ignore[arg-type]
