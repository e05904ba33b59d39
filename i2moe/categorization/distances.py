"""Distances between two models' predictions of a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor

from i2moe._common.checks import check_callable, look_up

__all__ = [
    "KL",
    "L1",
    "L2",
    "Cosine",
    "Distance",
    "DistanceLike",
    "JensenShannon",
    "TotalVariation",
    "as_distance",
    "measure",
]


class Distance(Protocol):
    """Anything called with predictions p and q (..., C) that returns their distances (...), finite and >= 0."""

    def __call__(self, p: Tensor, q: Tensor, /) -> Tensor:
        """Return one distance per prediction."""


@dataclass(frozen=True)
class L1:
    r"""Return $\sum_c |p_c - q_c|$, in [0, 2] for distributions.

    Example:
        >>> L1()(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75]))
        tensor(1.5000)
    """

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the distances (...) of p and q (..., C)."""
        return (p - q).abs().sum(-1)


@dataclass(frozen=True)
class L2:
    r"""Return $\sqrt{\sum_c (p_c - q_c)^2}$, in [0, sqrt 2] for distributions.

    Example:
        >>> L2()(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]))
        tensor(5.)
    """

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the distances (...) of p and q (..., C)."""
        return (p - q).square().sum(-1).sqrt()


@dataclass(frozen=True)
class Cosine:
    r"""Return $1 - \cos(p, q)$, in [0, 1] for distributions, in [0, 2] for other vectors of at least two entries.

    Example:
        >>> Cosine()(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(1.)
    """

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the distances (...) of p and q (..., C)."""
        return (1 - torch.cosine_similarity(p, q, dim=-1)).clamp(min=0)


@dataclass(frozen=True)
class KL:
    r"""Return the Kullback-Leibler divergence $\sum_c p_c \ln(p_c / q_c)$ in nats, not symmetric.

    Args:
        floor: the least probability of q, which keeps the divergence finite where q rules out what p says.

    Example:
        >>> KL()(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
        tensor(0.6931)
    """

    floor: float = 1e-12
    of_distributions: ClassVar[bool] = True

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the distances (...) of p and q (..., C)."""
        return (torch.xlogy(p, p) - p * q.clamp(min=self.floor).log()).sum(-1).clamp(min=0)


@dataclass(frozen=True)
class JensenShannon:
    r"""Return $\frac12 KL(p, m) + \frac12 KL(q, m)$, $m = \frac12 (p + q)$, in nats: in [0, ln 2], symmetric.

    Example:
        >>> JensenShannon()(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(0.6931)
    """

    of_distributions: ClassVar[bool] = True

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the distances (...) of p and q (..., C)."""
        middle = (p + q) / 2
        return (torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(middle, middle)).sum(-1).clamp(min=0) / 2


@dataclass(frozen=True)
class TotalVariation:
    r"""Return $\frac12 \sum_c |p_c - q_c|$, in [0, 1].

    Example:
        >>> TotalVariation()(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75]))
        tensor(0.7500)
    """

    of_distributions: ClassVar[bool] = True

    def __call__(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the distances (...) of p and q (..., C)."""
        return (p - q).abs().sum(-1) / 2


DistanceLike: TypeAlias = str | Distance
"""A name ("l1", "l2", "cosine", "kl", "jensen_shannon", "total_variation"), or any `Distance`."""

_BY_NAME: dict[str, Callable[[], Distance]] = {
    "l1": L1,
    "l2": L2,
    "cosine": Cosine,
    "kl": KL,
    "jensen_shannon": JensenShannon,
    "total_variation": TotalVariation,
}


def as_distance(distance: DistanceLike) -> Distance:
    """Turn a name into its distance; anything callable is one already.

    Raises:
        TypeError: if it is neither a name nor an object to call (a class, say).
        ValueError: if the name is unknown.

    Example:
        >>> as_distance("jensen_shannon")
        JensenShannon()
    """
    if isinstance(distance, str):
        return look_up("distance", distance, _BY_NAME)()
    check_callable("distance must be a name or an object called with p and q", distance)
    return distance


def measure(distance: Distance, p: Tensor, q: Tensor) -> Tensor:
    """Apply a distance and check what it returns: shape, finite, not negative beyond rounding.

    Args:
        distance: any `Distance`.
        p: (..., C).
        q: (..., C), of the same shape.

    Returns:
        (...), >= 0.

    Raises:
        TypeError: if the distance returns no tensor.
        ValueError: if what it returns is no distance.
    """
    found = distance(p, q)
    if not isinstance(found, Tensor):
        raise TypeError(f"distance {distance!r} must return a tensor, however it returned a {type(found).__name__}")
    if found.shape != p.shape[:-1]:
        raise ValueError(
            f"distance {distance!r} must reduce the last axis, (..., C) to (...), "
            f"however it turned {tuple(p.shape)} into {tuple(found.shape)}"
        )
    if not bool(found.isfinite().all()):
        raise ValueError(f"distance {distance!r} must be finite, however it returned {found[~found.isfinite()][0]}")
    if bool((found < -1e-6).any()):
        raise ValueError(f"distance {distance!r} must not be negative, however it returned {found.min():g}")
    return found.clamp(min=0)
