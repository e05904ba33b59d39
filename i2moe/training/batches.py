"""Batches of tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from i2moe._common.checks import check_at_least_one
from i2moe._common.modalities import leaves, map_leaves
from i2moe.interpretation.observation.observe import move

__all__ = ["Batches"]


class Batches:
    """Batches `(modalities, target)` of tensors in memory, in a new order each time.

    Args:
        modalities: M tensors or arrays (N, ...), or a dict of such by the names of the model's arguments.
        target: (N, ...), or the `SoftTargets` of a `Teacher`, or a tuple or dict of such.
        batch_size: samples in a batch. The last one may have fewer, or one more: a sample alone is no batch for a
            BatchNorm.
        seed: of the orders.
        shuffle: False for the same order each time, as reports need it.

    Raises:
        TypeError: if the modalities are a single tensor, or something is no tensor.
        ValueError: if there is no sample, the tensors have not the same number of samples or a gradient, or the batch
            size is not positive.

    Example:
        >>> batches = Batches((torch.randn(5, 8), torch.randn(5, 4)), torch.arange(5), batch_size=2, seed=0)
        >>> [len(target) for modalities, target in batches]
        [2, 3]
    """

    def __init__(
        self,
        modalities: Sequence[Any] | Mapping[str, Any],
        target: Any,
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
    ) -> None:
        check_at_least_one(batch_size=batch_size)
        if hasattr(modalities, "shape"):
            raise TypeError(
                "modalities must be a tuple or a dict of tensors, however they are one; give (x,) if it is one modality"
            )
        self.modalities, self.target = move((modalities, target), None, arrays=True)
        found = leaves((self.modalities, self.target))
        others = {type(value).__name__ for value in found if not isinstance(value, Tensor)}
        if others:
            raise TypeError(
                f"modalities and target must be tensors or arrays of numbers, however they hold {', '.join(others)}; "
                "convert them by torch.as_tensor"
            )
        if any(tensor.grad_fn is not None for tensor in found):
            raise ValueError(
                "modalities and target must be data, however some carry a gradient, which ends with the "
                "first batch; detach them, x.detach(), or compute them inside the model"
            )
        shapes = [tuple(tensor.shape) for tensor in found]
        if len({shape[:1] for shape in shapes}) != 1 or shapes[0][:1] in ((), (0,)):
            raise ValueError(
                "modalities and target must have a row for each sample, and one at least, however their shapes are "
                f"{shapes}; give those of the same samples"
            )
        self.batch_size, self.n_samples, self.shuffle = batch_size, shapes[0][0], shuffle
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        n, size = self.n_samples, self.batch_size
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for rows in order.tensor_split(tuple(range(size, size * len(self), size))):
            yield map_leaves(lambda x, rows=rows: x[rows], (self.modalities, self.target))

    def __len__(self) -> int:
        n_full, n_left = divmod(self.n_samples, self.batch_size)
        return max(n_full + (n_left > 1), 1)
