"""The table of rules: what is drawn is what is said, and the default rule finds it."""

from __future__ import annotations

import pytest
import torch

from examples.benchmarks.mmoe_categories import KINDS, copies, measure, product


def test_copies_are_right_as_often_as_said() -> None:
    signs, target = copies(0.9, 0.66, 0.5)(20_000, torch.Generator().manual_seed(0))
    shares = [float((sign == target).double().mean()) for sign in signs]
    assert shares == pytest.approx([0.9, 0.66, 0.5], abs=0.01)


@pytest.mark.parametrize("accuracy", [1.0, 0.75])
def test_one_sign_of_a_product_says_nothing(accuracy: float) -> None:
    signs, target = product(3, accuracy)(20_000, torch.Generator().manual_seed(0))
    assert all(float((sign == target).double().mean()) == pytest.approx(0.5, abs=0.02) for sign in signs)
    assert float((torch.stack(signs).sum(0) % 2 == target).double().mean()) == pytest.approx(accuracy, abs=0.01)


@pytest.mark.parametrize("kind", ["copies, 90% and 85%", "one modality, 95%"])
def test_the_default_finds_what_is_there(kind: str) -> None:
    assert kind in KINDS
    found = measure(kind, n=300, n_epochs=15, seed=0)
    assert found["default"] >= 0.9
    assert found["default"] > found["Halfway()"]
