"""Values of the published implementation, in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from i2moe import InteractionLosses, Reweighter

GOLDEN = Path(__file__).parent / "golden"
LOSSES: list[dict[str, Any]] = json.loads((GOLDEN / "losses.json").read_text())
REWEIGHTER: dict[str, Any] = json.loads((GOLDEN / "reweighter.json").read_text())


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: f"{case['kind']}-{case['n_modalities']}")
def test_losses_equal_the_published_ones(case: dict[str, Any]) -> None:
    views = torch.tensor(case["views"], dtype=torch.float64).movedim(2, 0)  # (B, E, V, C)
    task = {"classification": "classification", "regression": "released_regression"}[case["kind"]]

    losses = InteractionLosses(task)(views)  # type: ignore[arg-type]

    expected = torch.tensor(case["losses"], dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-9)


def test_reweighter_equals_the_published_one() -> None:
    inputs = torch.tensor(REWEIGHTER["inputs"], dtype=torch.float64)  # (M, B, T, D)
    linears = REWEIGHTER["linears"]
    reweighter = Reweighter(
        n_experts=len(inputs) + 2,
        feature_dims=[inputs.shape[-1]] * len(inputs),
        hidden_dim=len(linears[0]["bias"]),
        n_layers=len(linears) - 1,
        temperature=REWEIGHTER["temperature"],
    ).double()
    layers = [layer for layer in reweighter.mlp if isinstance(layer, nn.Linear)]
    for layer, values in zip(layers, linears, strict=True):
        layer.load_state_dict({name: torch.tensor(values[name], dtype=torch.float64) for name in ("weight", "bias")})

    weights = reweighter.eval()(tuple(inputs))

    expected = torch.tensor(REWEIGHTER["weights"], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-9)
