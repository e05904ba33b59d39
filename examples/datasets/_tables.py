"""Columns of a table as model inputs, fitted to the training rows alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["group_split", "multi_hot", "one_hot", "random_split", "standardize", "stratified_split"]


def random_split(n_samples: int, seed: int, fractions: tuple[float, float] = (0.7, 0.15)) -> list[Tensor]:
    """Split rows at random into training, validation and test.

    Args:
        n_samples: number of rows N.
        seed: which split.
        fractions: shares for training and validation; the rest is for testing.

    Example:
        >>> [len(rows) for rows in random_split(100, seed=0)]
        [70, 15, 15]
    """
    order = torch.randperm(n_samples, generator=torch.Generator().manual_seed(seed))
    n_train, n_validation = (round(fraction * n_samples) for fraction in fractions)
    return [order[:n_train], order[n_train : n_train + n_validation], order[n_train + n_validation :]]


def stratified_split(labels: Tensor, seed: int, fractions: tuple[float, float] = (0.7, 0.15)) -> list[Tensor]:
    """Split rows at random into training, validation and test, each class for itself; the order within is random.

    Args:
        labels: (N,) classes.
        seed: which split.
        fractions: shares for training and validation; the rest is for testing.

    Example:
        >>> labels = torch.arange(4).repeat(20)
        >>> [labels[rows].bincount().tolist() for rows in stratified_split(labels, seed=0)]
        [[14, 14, 14, 14], [3, 3, 3, 3], [3, 3, 3, 3]]
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    labels = labels[order]
    part = torch.empty_like(labels)
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        n_train, n_validation = (round(fraction * len(rows)) for fraction in fractions)
        sizes = torch.tensor([n_train, n_validation, len(rows) - n_train - n_validation])
        part[rows] = torch.arange(3).repeat_interleave(sizes)
    return [order[part == i] for i in range(3)]


def group_split(groups: Tensor, seed: int, fractions: tuple[float, float] = (0.7, 0.15)) -> list[Tensor]:
    """Split rows at random into training, validation and test, each group (a person, a day) going to one of them.

    Args:
        groups: (N,) the group of each row.
        seed: which split.
        fractions: shares of the groups for training and validation; the rest is for testing.

    Example:
        >>> groups = torch.arange(20).repeat(3)
        >>> [len(groups[rows].unique()) for rows in group_split(groups, seed=0)]
        [14, 3, 3]
    """
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    names = groups.unique()
    return [order[torch.isin(groups[order], names[part])] for part in random_split(len(names), seed, fractions)]


def standardize(values: NDArray[np.float64], train: Tensor) -> Tensor:
    """Center and scale columns by their mean and deviation in the training rows; what is missing becomes the mean, 0.

    A column that misses values is followed, after all columns, by one that says where: 1 for missing.

    Args:
        values: (N, F), NaN where missing.
        train: the training rows.

    Returns:
        (N, F + number of columns with missing values), float32.

    Example:
        >>> values = np.array([[1.0, 5.0], [3.0, np.nan], [2.0, 5.0]])
        >>> standardize(values, torch.tensor([0, 1])).tolist()
        [[-1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    observed = ~np.isnan(values)
    seen = np.where(observed, values, 0.0)[train.numpy()]
    counts = observed[train.numpy()].sum(0).clip(1)
    mean = seen.sum(0) / counts
    deviation = np.sqrt((np.where(observed[train.numpy()], seen - mean, 0.0) ** 2).sum(0) / counts)
    scaled = np.where(observed, (values - mean) / np.where(deviation > 0, deviation, 1.0), 0.0)
    missing = ~observed[:, ~observed.all(0)]
    return torch.from_numpy(np.concatenate([scaled, missing], axis=1)).float()


def one_hot(values: Sequence[str], train: Tensor) -> Tensor:
    """Return a column (N, K) of 0 and 1 for each of the K values in the training rows, in alphabetical order.

    Example:
        >>> one_hot(["b", "a", "c"], torch.tensor([0, 1])).tolist()
        [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    """
    return multi_hot([[value] for value in values], train)


def multi_hot(sets: Sequence[Sequence[str]], train: Tensor, most: int | None = None) -> Tensor:
    """Return a column of 0 and 1 for each member of the sets that the training rows have.

    Args:
        sets: N sets of names.
        train: the training rows.
        most: number of columns, for the most frequent members; None for all.

    Returns:
        (N, K) float32, the columns in alphabetical order.

    Example:
        >>> multi_hot([["x", "y"], ["y"], ["z"]], torch.tensor([0, 1]), most=1).tolist()
        [[1.0], [1.0], [0.0]]
    """
    counts: dict[str, int] = {}
    for row in train.tolist():
        for member in set(sets[row]):
            counts[member] = counts.get(member, 0) + 1
    kept = sorted(sorted(counts, key=lambda member: (-counts[member], member))[:most])
    columns = {member: column for column, member in enumerate(kept)}
    places = [(row, columns[member]) for row, members in enumerate(sets) for member in members if member in columns]
    hot = torch.zeros(len(sets), len(kept), dtype=torch.float32)
    hot[tuple(torch.tensor(places, dtype=torch.long).reshape(-1, 2).T)] = 1.0
    return hot
