"""Batches of tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from i2moe._common.checks import check_at_least_one
from i2moe._common.modalities import leaves, map_leaves

__all__ = ["Batches"]


class Batches:
    """Batches `(modalities, target)` of tensors in memory, in a new order each time.

    Args:
        modalities: M tensors (N, ...), or a dict of such by the names of the model's arguments.
        target: (N, ...), or the `SoftTargets` of a `Teacher`, or a tuple or dict of such.
        batch_size: samples in a batch; the last one may have fewer.
        seed: of the orders.

    Raises:
        ValueError: if the tensors have not the same number of samples, or the batch size is not positive.

    Example:
        >>> batches = Batches((torch.randn(5, 8), torch.randn(5, 4)), torch.arange(5), batch_size=2, seed=0)
        >>> [len(target) for modalities, target in batches]
        [2, 2, 1]
    """

    def __init__(
        self, modalities: Sequence[Tensor] | Mapping[str, Tensor], target: Any, batch_size: int, seed: int = 0
    ) -> None:
        check_at_least_one(batch_size=batch_size)
        lengths = [len(tensor) for tensor in leaves((modalities, target))]
        if len(set(lengths)) != 1:
            raise ValueError(f"modalities and target must be of the same samples, however they have {lengths} rows")
        self.modalities = modalities if isinstance(modalities, Mapping) else tuple(modalities)
        self.target, self.batch_size, self.n_samples = target, batch_size, lengths[0]
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for rows in torch.randperm(self.n_samples, generator=self.generator).split(self.batch_size):
            yield map_leaves(lambda x, rows=rows: x[rows], (self.modalities, self.target))

    def __len__(self) -> int:
        return -(-self.n_samples // self.batch_size)
