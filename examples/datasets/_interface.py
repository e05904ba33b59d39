"""The one form all data sets take: three splits, names, a task, and what is expected of the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from i2moe._common.tasks import Task

__all__ = ["Augment", "Batch", "Column", "Expected", "Lazy", "MultimodalData", "Source", "Split", "Task"]

Augment: TypeAlias = Callable[[tuple[Tensor, ...], Generator | None], tuple[Tensor, ...]]
"""Changes the modalities of a training batch at random, the randomness coming from the generator."""


class Column(Protocol):
    """One modality of all samples: a tensor (N, ...), or an object such as `Lazy` that reads samples when asked."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, ...)."""
        ...

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the samples (B, ...) of the rows (B,)."""
        ...


class Lazy:
    """A modality that is too large for memory: each sample is read when it is asked for.

    Args:
        read: returns sample `i` of the source, a tensor of shape `sample_shape`.
        sample_shape: shape of a sample, without the batch axis.
        sources: (N,), which sample of the source each row is.

    Example:
        >>> column = Lazy(lambda i: torch.full((2,), float(i)), (2,), torch.tensor([7, 8, 9]))
        >>> column.shape, column[torch.tensor([2, 0])].tolist()
        ((3, 2), [[9.0, 9.0], [7.0, 7.0]])
    """

    def __init__(self, read: Callable[[int], Tensor], sample_shape: Sequence[int], sources: Tensor) -> None:
        self.read, self.sample_shape, self.sources = read, tuple(sample_shape), sources

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        return len(self.sources), *self.sample_shape

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.stack([self.read(int(source)) for source in self.sources[rows]])

    def select(self, rows: Tensor) -> Lazy:
        """Return these rows as a column, without reading them."""
        return Lazy(self.read, self.sample_shape, self.sources[rows])


class Batch(NamedTuple):
    """Some samples: the modalities (B, ...), the targets (B, ...) and which modalities are there, (B, M) bool."""

    modalities: tuple[Tensor, ...]
    targets: Tensor
    available: Tensor


class Split(Dataset[Batch]):
    """Samples to train on, to choose by or to test on.

    It is indexed by rows and returns batches. `DataLoader(split, sampler=BatchSampler(...), batch_size=None)` therefore
    collates nothing and copies each tensor once.

    Args:
        modalities: M columns (N, ...).
        targets: (N,) classes, (N, C) labels 0 or 1 (multi-label), or (N, C) values (regression).
        available: (N, M) bool, which modalities each sample really has; all by default. What is missing holds zeros.

    Raises:
        ValueError: if the columns differ in length.

    Example:
        >>> split = Split((torch.randn(5, 3), torch.randn(5, 8, 2)), torch.tensor([0, 1, 1, 0, 1]))
        >>> batch = split[[0, 3]]
        >>> [tuple(x.shape) for x in batch.modalities], batch.targets.tolist(), len(split)
        ([(2, 3), (2, 8, 2)], [0, 0], 5)
    """

    def __init__(self, modalities: Sequence[Column], targets: Tensor, available: Tensor | None = None) -> None:
        self.modalities, self.targets = tuple(modalities), targets
        everything = torch.ones(len(targets), len(self.modalities), dtype=torch.bool)
        self.available = everything if available is None else available
        lengths = [column.shape[0] for column in self.modalities]
        if set(lengths) != {len(targets)} or self.available.shape != everything.shape:
            raise ValueError(
                f"modalities and available (N, M) must have a row for each of the {len(targets)} targets, however "
                f"the modalities have {lengths} and available is {tuple(self.available.shape)}"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: int | Sequence[int] | Tensor) -> Batch:
        rows = torch.as_tensor([rows] if isinstance(rows, int) else rows, dtype=torch.long)
        return Batch(tuple(column[rows] for column in self.modalities), self.targets[rows], self.available[rows])

    def select(self, rows: Tensor) -> Split:
        """Return a split of these rows, given as indices or as (N,) bool."""
        rows = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        columns = [column.select(rows) if isinstance(column, Lazy) else column[rows] for column in self.modalities]
        return Split(columns, self.targets[rows], self.available[rows])

    def complete(self) -> Split:
        """Return the samples that have every modality."""
        return self if bool(self.available.all()) else self.select(self.available.all(dim=1))


@dataclass(frozen=True)
class MultimodalData:
    """A data set, split and named.

    Args:
        train: what a model is fitted to.
        validation: what checkpoints and hyper-parameters are chosen by.
        test: what results are reported on.
        modality_names: M names.
        output_names: C names: the classes, the labels (multi-label) or the values (regression).
        task: "classification" (one of C classes), "multilabel" (each of C labels or not) or "regression".
        metrics: what is reported; the first one chooses the checkpoint. "loss" is the task's loss.
        augment: changes training batches at random; None for nothing.
    """

    train: Split
    validation: Split
    test: Split
    modality_names: tuple[str, ...]
    output_names: tuple[str, ...]
    task: Task
    metrics: tuple[str, ...]
    augment: Augment | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The modalities' shapes, without the batch axis."""
        return tuple(tuple(column.shape[1:]) for column in self.train.modalities)

    def complete(self) -> MultimodalData:
        """Return the data set without the samples that lack a modality."""
        return replace(
            self, train=self.train.complete(), validation=self.validation.complete(), test=self.test.complete()
        )


@dataclass(frozen=True)
class Expected:
    """What the complete, official files hold, as far as it is published; nothing by default.

    Args:
        n_samples: samples of all splits together.
        splits: samples for training, validation and test; None where only the total is known.
        shapes: the modalities' shapes without the batch axis, None for a size that is not published.
        n_outputs: classes, labels or values.
    """

    n_samples: int | None = None
    splits: tuple[int, int, int] | None = None
    shapes: tuple[tuple[int | None, ...], ...] = ()
    n_outputs: int | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and how it is opened: the one thing that a data set's file must define.

    Args:
        load: returns the data from (root, split), `root` being the folder with its files and `split` a number.
        where: how to get the files, in one sentence.
        expected: what the official files hold.
        n_splits: number of ways to split the samples: 1 where the split is official, None for any number (a seed).
        root: folder of the files unless the caller names another; None for data inside an installed package.
    """

    load: Callable[[Path, int], MultimodalData]
    where: str = ""
    expected: Expected = Expected()
    n_splits: int | None = 1
    root: Path | None = None

    def open(self, root: Path | None = None, split: int = 0) -> MultimodalData:
        """Load the data.

        Args:
            root: folder of the files.
            split: which way to split the samples.

        Raises:
            FileNotFoundError: if files are missing; the message names all of them and where to get them.
            ValueError: if there is no such split, or a file has not the official form.
        """
        if split < 0 or (self.n_splits is not None and split >= self.n_splits):
            last = "" if self.n_splits is None else f" and {self.n_splits - 1}"
            raise ValueError(f"split must lie between 0{last}, however it is {split}")
        return self.load(root or self.root or Path(), split)
