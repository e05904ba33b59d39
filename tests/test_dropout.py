"""Dropout: what torch's does, drawn faster."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from i2moe._common.randomness import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_dropout_keeps_its_share_and_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(100_000, dtype=dtype, requires_grad=True)
    y = Dropout(p)(x)
    kept = y != 0
    assert abs(float(kept.double().mean()) - (1 - p)) < 0.005
    assert y.dtype == dtype
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p) if p < 1 else 0.0))
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach())


def test_dropout_is_the_identity_in_evaluation() -> None:
    x = torch.randn(10)
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_the_seed_decides_what_dropout_drops() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        dropped: torch.Tensor = Dropout(0.5)(torch.ones(64))
        return dropped

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_dropout_draws_no_bernoulli_numbers() -> None:
    """They are what makes torch's own slow on the CPU."""
    names: dict[type[nn.Module], set[str]] = {}
    for kind in (nn.Dropout, Dropout):
        with torch.profiler.profile() as profile:
            kind(0.5)(torch.ones(8))
        names[kind] = {event.key for event in profile.key_averages()}
    assert "aten::bernoulli_" in names[nn.Dropout]
    assert "aten::bernoulli_" not in names[Dropout]


def test_dropout_runs_under_vmap_without_a_loop() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = torch.vmap(Dropout(0.5), randomness="different")(torch.ones(3, 1000))
    assert set(y.flatten().tolist()) == {0.0, 2.0}
    assert len({tuple(row) for row in y.tolist()}) == 3
