"""What the documents say about backbones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import i2moe.backbones
from examples.benchmarks import routing

PAGE = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()
COUNTS = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]{6,}) \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "count"), COUNTS)
def test_parameters_are_as_many_as_documented(name: str, count: str) -> None:
    tokens = {} if name in ("InterpretCC", "LowRankTensorFusion") else {"n_tokens": 8}

    backbone: nn.Module = getattr(i2moe.backbones, name)((128, 128), 3, **tokens)

    assert f"{sum(parameter.numel() for parameter in backbone.parameters()):,}" == count


def test_all_seven_are_documented() -> None:
    assert len(COUNTS) == 7


def test_encoders_are_documented() -> None:
    named = set(re.findall(r"`(\w+(?:Encoder|Embedding))\(", PAGE))

    assert named == {name for name in i2moe.backbones.__all__ if name.endswith(("Encoder", "Embedding"))}


def test_benchmark_times_the_same_function_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "DIM", 8)
    monkeypatch.setattr(routing, "N_EXPERTS", 3)

    pairs = routing.layers("cpu")  # which compares them
    tokens = torch.randn(2, 5, 8, requires_grad=True)
    for layer, looped in pairs.values():
        times = routing.interleaved({"loop": routing.step(looped, looped, tokens)}, repeats=1)
        routing.step(layer, layer, tokens)()
        assert times["loop"] > 0
        assert all(p.grad is not None for p in layer.parameters())
