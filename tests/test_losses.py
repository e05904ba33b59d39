"""The interaction losses as mathematics: values, bounds, gradients, precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from i2moe import InteractionLosses, losses
from i2moe.losses import (
    Interaction,
    cosine_redundancy,
    cosine_synergy,
    difference_uniqueness,
    hinge_synergy,
    squared_redundancy,
    triplet_uniqueness,
)
from tests import oracle
from tests.covering import every_pair

pytestmark = pytest.mark.usefixtures("double")

TASKS: tuple[Any, ...] = ("classification", "regression", "released_regression")
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "triplet_uniqueness": partial(triplet_uniqueness, negative=1),
    "cosine_synergy": cosine_synergy,
    "cosine_redundancy": cosine_redundancy,
    "hinge_synergy": hinge_synergy,
    "squared_redundancy": squared_redundancy,
    "difference_uniqueness": partial(difference_uniqueness, negative=1),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())


def interactions(n_modalities: int) -> tuple[Interaction, ...]:
    return (*range(n_modalities), "synergy", "redundancy")


def test_integers_of_numpy_are_numbers_of_modalities() -> None:
    views, available = torch.randn(5, 4, 3, 2), torch.rand(5, 2) > 0.2
    ours, theirs = (*range(2), "synergy", "redundancy"), (*np.arange(2), "synergy", "redundancy")
    for options in ({}, {"available": available}):
        expected = InteractionLosses()(views, ours, **options)
        torch.testing.assert_close(InteractionLosses()(views, theirs, **options), expected)


def test_every_function_is_tested() -> None:
    functions = {name for name in losses.__all__ if name[0].islower()}
    assert functions == set(FUNCTIONS)


# --- values ---


@pytest.mark.parametrize(("task", "n_modalities", "n_outputs"), every_pair(TASKS, [2, 3, 4, 5], [2, 7]))
def test_losses_equal_loops_over_samples_and_views(task: Any, n_modalities: int, n_outputs: int) -> None:
    views = torch.randn(6, n_modalities + 2, n_modalities + 1, n_outputs)
    terms = oracle.TERMS[task]
    expected = [oracle.interaction_loss(views[:, e], kind, terms) for e, kind in enumerate(interactions(n_modalities))]
    torch.testing.assert_close(InteractionLosses(task)(views), torch.tensor(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("task", ["regression", "released_regression"])
def test_losses_of_one_output_equal_loops_over_samples_and_views(task: Any) -> None:
    views = torch.randn(6, 5, 4, 1)
    expected = [oracle.interaction_loss(views[:, e], i, oracle.TERMS[task]) for e, i in enumerate(interactions(3))]
    torch.testing.assert_close(InteractionLosses(task)(views), torch.tensor(expected), rtol=0, atol=1e-9)
    torch.testing.assert_close(InteractionLosses(task)(views.squeeze(-1)), torch.tensor(expected), rtol=0, atol=1e-9)


@every_function
def test_token_axes_are_more_samples(function: Callable[[Tensor], Tensor]) -> None:
    views = torch.randn(4, 3, 5, 2, 6)  # (B, V, T, S, C)
    as_rows = views.permute(0, 2, 3, 1, 4).reshape(-1, 3, 6)
    torch.testing.assert_close(function(views), function(as_rows))


@pytest.mark.parametrize("task", TASKS)
def test_experts_are_apart_and_in_any_order(task: Any) -> None:
    views = torch.randn(4, 4, 3, 5)
    of_all = InteractionLosses(task)(views)
    kinds = interactions(2)
    for order in ([3, 1], [2], [0, 1, 2, 3], [3, 2, 1, 0]):
        found = InteractionLosses(task)(views[:, order], [kinds[e] for e in order])
        torch.testing.assert_close(found, of_all[order])


@pytest.mark.parametrize("task", TASKS)
def test_fewer_drawn_views_average_to_all(task: Any) -> None:
    views = torch.randn(6, 6, 5, 3)  # 4 modalities
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    found = []
    for pair in pairs:
        replaced = torch.tensor(pair).unsqueeze(1) == torch.arange(4)
        drawn = views[:, :, [0, *(i + 1 for i in pair)]]
        found.append(InteractionLosses(task)(drawn, interactions(4), replaced))
    torch.testing.assert_close(torch.stack(found).mean(0), InteractionLosses(task)(views), rtol=0, atol=1e-9)


def test_weights_over_negatives_average() -> None:
    views, weights = torch.randn(4, 4, 3), torch.tensor([0.5, 0.0, 2.0])
    for function in (triplet_uniqueness, difference_uniqueness):
        expected = 0.5 * function(views, 0) + 2 * function(views, 2)
        torch.testing.assert_close(function(views, weights), expected)


@pytest.mark.parametrize("margin", [0.1, 1.0, 5.0])
def test_the_margin_is_that_of_the_functions(margin: float) -> None:
    views = torch.randn(4, 3, 5)
    found = InteractionLosses("regression", margin=margin)(views.unsqueeze(1).expand(4, 4, 3, 5))
    expected = [triplet_uniqueness(views, 0, margin=margin), triplet_uniqueness(views, 1, margin=margin)]
    expected += [hinge_synergy(views, margin=margin), squared_redundancy(views)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_losses_of_identical_views_have_known_values() -> None:
    views = torch.randn(4, 1, 5).expand(4, 3, 5)
    torch.testing.assert_close(triplet_uniqueness(views, 0, margin=0.7), torch.tensor(0.7))
    torch.testing.assert_close(cosine_synergy(views), torch.tensor(1.0))
    torch.testing.assert_close(cosine_redundancy(views), torch.tensor(0.0))
    torch.testing.assert_close(hinge_synergy(views, margin=0.7), torch.tensor(0.7), atol=1e-5, rtol=0)
    torch.testing.assert_close(squared_redundancy(views), torch.tensor(0.0))
    torch.testing.assert_close(difference_uniqueness(views, 1), torch.tensor(0.0))


# --- properties ---

SHAPES = st.tuples(st.integers(1, 5), st.integers(2, 4), st.integers(2, 4))


@settings(deadline=None, max_examples=80)
@given(SHAPES, st.integers(0, 2**31), st.floats(-3, 3))
def test_losses_keep_their_bounds(shape: tuple[int, int, int], seed: int, exponent: float) -> None:
    n_samples, n_modalities, n_outputs = shape
    random = torch.Generator().manual_seed(seed)
    views = 10**exponent * torch.randn(n_samples, n_modalities + 1, n_outputs, generator=random, dtype=torch.float64)
    assert -1 - 1e-9 <= cosine_synergy(views) <= 1 + 1e-9
    assert -1e-9 <= cosine_redundancy(views) <= 2 + 1e-9
    assert 0 <= hinge_synergy(views) <= 1
    assert squared_redundancy(views) >= 0
    assert all(triplet_uniqueness(views, i) >= 0 for i in range(n_modalities))
    torch.testing.assert_close(cosine_redundancy(views), 1 - cosine_synergy(views))


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**31), st.lists(st.floats(-6, 6), min_size=3, max_size=3))
def test_cosine_losses_ignore_the_scale_of_every_view(seed: int, exponents: list[float]) -> None:
    views = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scales = 10 ** torch.tensor(exponents, dtype=torch.float64)
    for function in (cosine_synergy, cosine_redundancy):
        torch.testing.assert_close(function(views * scales[:, None]), function(views), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.permutations(range(4)))
def test_the_order_of_the_replaced_modalities(seed: int, order: list[int]) -> None:
    views = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved = views[:, [0, *(i + 1 for i in order)]]
    for name, function in FUNCTIONS.items():
        if "uniqueness" in name:
            plain = triplet_uniqueness if "triplet" in name else difference_uniqueness
            for i in range(4):
                torch.testing.assert_close(plain(moved, order.index(i)), plain(views, i))
        else:
            torch.testing.assert_close(function(moved), function(views))


def test_released_uniqueness_has_no_lower_bound_and_ours_has() -> None:
    views = torch.zeros(1, 3, 2)
    views[0, 1] = 1e3
    assert difference_uniqueness(views, 0) < -1e5
    assert triplet_uniqueness(views, 0) == 0


def test_our_regression_synergy_pushes_apart_and_the_released_one_together() -> None:
    views = torch.randn(4, 4, 3, 2) * 0.1
    for task, sign in (("regression", -1), ("released_regression", 1)):
        leaf = views.clone().requires_grad_()
        InteractionLosses(task)(leaf)[2].backward()  # type: ignore[arg-type]
        assert leaf.grad is not None
        toward = (leaf.grad[:, 2, 1:] * (views[:, 2, 1:] - views[:, 2, :1])).sum()
        assert sign * toward > 0


# --- gradients ---


@every_function
@pytest.mark.parametrize("shape", [(3, 3, 2), (2, 4, 3), (2, 3, 2, 2)])
def test_gradients_equal_finite_differences(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    views = torch.randn(shape, requires_grad=True)
    assert torch.autograd.gradcheck(function, (views,))


@pytest.mark.parametrize(
    ("function", "dtype", "case"),
    every_pair(
        [*FUNCTIONS.values()],
        [torch.float32, torch.float64, torch.bfloat16],
        ["zeros", "identical", "zero anchor", "zero view", "tiny", "huge"],
    ),
)
def test_gradients_are_finite_everywhere(function: Callable[[Tensor], Tensor], dtype: torch.dtype, case: str) -> None:
    views = torch.randn(4, 3, 5)
    if case == "zeros":
        views = torch.zeros_like(views)
    elif case == "identical":
        views = views[:, :1].expand_as(views).clone()
    elif case == "zero anchor":
        views[:, 0] = 0
    elif case == "zero view":
        views[:, 1] = 0
    elif case == "tiny":
        views = views * 1e-12
    else:
        views = views * 1e6
    leaf = views.to(dtype).requires_grad_()
    loss = function(leaf)
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    if case in ("zeros", "zero anchor", "tiny"):
        assert leaf.grad.abs().max() < 1e3  # a head that starts at zero does not blow up


def test_no_gradient_is_stopped() -> None:
    for task in TASKS:
        views = torch.randn(4, 5, 4, 3, requires_grad=True)
        InteractionLosses(task, margin=10.0)(views).sum().backward()
        assert views.grad is not None
        assert (views.grad != 0).flatten(3).any(-1).all()


# --- precision ---


@every_function
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    views = torch.randn(64, 3, 5).to(dtype)
    found = function(views)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, function(views.float()), rtol=0, atol=0)


def test_close_vectors_keep_their_difference_in_half_precision() -> None:
    anchor = torch.tensor([1.0, 0.0])
    views = torch.stack([anchor, torch.tensor([1.0, 2.0**-6]), torch.tensor([1.0, 2.0**-6])]).unsqueeze(0)
    found = cosine_redundancy(views.to(torch.bfloat16))
    assert found > 0
    torch.testing.assert_close(found.double(), cosine_redundancy(views), rtol=1e-2, atol=0)


@every_function
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    views = torch.randn(16, 3, 5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        inside = function(views)
    torch.testing.assert_close(inside, function(views), rtol=0, atol=0)


# --- a loop of the user's own ---


def test_custom_functions_replace_the_tables() -> None:
    views = torch.randn(4, 4, 3, 5)
    given: list[int | Tensor] = []

    def uniqueness(views: Tensor, negative: int | Tensor) -> Tensor:
        given.append(negative)
        return views.sum() * 0 + 1

    criterion = InteractionLosses(
        uniqueness=uniqueness, synergy=lambda views: views.mean(), redundancy=lambda views: views.abs().mean()
    )
    found = criterion(views)
    assert given == [0, 1]
    expected = [torch.ones(()), torch.ones(()), views[:, 2].mean(), views[:, 3].abs().mean()]
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_custom_loop() -> None:
    def experts(modalities: Sequence[Tensor]) -> Tensor:
        x, y = modalities
        return torch.stack([x + y, x - y, x * y, torch.maximum(x, y)], dim=1)  # (B, E, C)

    x, y = torch.randn(2, 6, 3)
    views = torch.stack([experts(view) for view in ((x, y), (torch.zeros_like(x), y), (x, torch.zeros_like(y)))], dim=2)
    assert InteractionLosses()(views).shape == (4,)


def test_losses_show_their_options() -> None:
    text = "InteractionLosses(task='regression', on='latent', margin=0.5)"
    assert repr(InteractionLosses("regression", on="latent", margin=0.5)) == text


def test_several_labels_have_the_losses_of_classes() -> None:
    views = torch.randn(6, 4, 3, 5)
    assert torch.equal(InteractionLosses("multilabel")(views), InteractionLosses("classification")(views))


@pytest.mark.parametrize("function", [cosine_synergy, cosine_redundancy])
def test_second_derivatives_are_finite_at_zero_vectors(function: Callable[[Tensor], Tensor]) -> None:
    views = torch.randn(3, 3, 4, dtype=torch.float64)
    views[0, 0] = views[1, 1] = 0
    views.requires_grad_()
    (gradient,) = torch.autograd.grad(function(views), views, create_graph=True)
    gradient.square().sum().backward()
    assert views.grad is not None
    assert views.grad.isfinite().all()
