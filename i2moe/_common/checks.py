"""Checks of what callers hand in: numbers, choices, probabilities and weights."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

from torch import Tensor

__all__ = [
    "TOLERANCE",
    "check_at_least_one",
    "check_callable",
    "check_distribution",
    "check_finite",
    "check_fraction",
    "check_positive",
    "check_probabilities",
    "check_rate",
    "check_shape",
    "is_unknown",
    "look_up",
]

TOLERANCE = 0.02
"""How far a sum of probabilities may be from 1: bfloat16 rounds each by up to 0.4%, a text to two digits."""

_T = TypeVar("_T")


def check_at_least_one(**numbers: Any) -> None:
    """Raise a TypeError unless every number is an integer, and a ValueError unless it is at least 1."""
    for name, number in numbers.items():
        if not isinstance(number, Integral):
            raise TypeError(f"{name} must be an integer, however it is {number!r}")
        if number < 1:
            raise ValueError(f"{name} must be at least 1, however it is {number}; choose a positive {name}")


def check_callable(what: str, value: object) -> None:
    """Raise a TypeError unless a value can be called; a class is none of what is meant.

    Args:
        what: start of the error: the argument, and what it must be.
        value: the value.
    """
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{what}, however it is {value!r}")


def check_positive(**numbers: Any) -> None:
    """Raise a ValueError unless every number is above 0."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be positive, however it is {number}")


def check_rate(**rates: Any) -> None:
    """Raise a ValueError unless every rate lies in [0, 1)."""
    for name, rate in rates.items():
        if not isinstance(rate, Real) or not 0 <= float(rate) < 1:
            raise ValueError(f"{name} must lie in [0, 1), however it is {rate!r}; use 0 to switch it off")


def check_fraction(**fractions: float) -> None:
    """Raise a ValueError unless every fraction lies in [0, 1]."""
    for name, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise ValueError(f"{name} must lie in [0, 1], however it is {fraction}")


def check_finite(what: str, *predictions: Tensor) -> None:
    """Raise a ValueError unless all predictions of a model are finite."""
    if not all(bool(each.isfinite().all()) for each in predictions):
        raise ValueError(
            f"{what} must be finite, however some are NaN or infinity; look for NaN in the modalities, and say with "
            "available= which samples lack one"
        )


def is_unknown(label: Any) -> bool:
    """Say whether a label is None, NaN or pandas' NA."""
    try:
        return label is None or not bool(label == label)  # NaN differs from itself
    except TypeError:  # NA is neither the same nor another
        return True


def look_up(what: str, name: str, known: Mapping[str, _T]) -> _T:
    """Return what a name means.

    Args:
        what: the argument that it was given as.
        name: the name.
        known: what each name means.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in known:
        raise ValueError(f"{what} must be one of {tuple(known)}, however it is {name!r}")
    return known[name]


def check_shape(what: str, tensor: Tensor, shape: tuple[int, ...], axes: str) -> None:
    """Raise a ValueError unless a tensor has a shape, whose axes are called (B, C), say."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{what} must be {axes} = {shape}, however the shape is {tuple(tensor.shape)}")


def check_probabilities(what: str, probabilities: Tensor) -> None:
    """Check that the last axis holds class probabilities.

    Raises:
        ValueError: if it has fewer than two classes, or some are not finite, negative, or do not sum to 1.
    """
    n_classes = probabilities.shape[-1]
    if n_classes < 2:
        raise ValueError(
            f"{what} must hold the probabilities of at least two classes, however it holds {n_classes}; "
            "a binary p becomes torch.stack([1 - p, p], dim=-1)"
        )
    if not bool(probabilities.isfinite().all()):
        raise ValueError(f"{what} must be finite, however some probabilities are not")
    check_distribution(what, probabilities, "logits go through torch.softmax first")


def check_distribution(what: str, values: Tensor, cure: str) -> None:
    """Raise a ValueError unless the last axis holds numbers that are not negative and sum to 1, but for rounding."""
    totals = values.float().sum(-1)
    if float(values.min()) < -1e-6 or float((totals - 1).abs().max()) > TOLERANCE:
        raise ValueError(
            f"{what} must be at least 0 and sum to 1 over the last axis, however they lie in "
            f"[{float(values.min()):.3g}, {float(values.max()):.3g}] and sum to {float(totals.min()):.3g} to "
            f"{float(totals.max()):.3g}; {cure}"
        )
