"""What a step asks of a machine, counted and not timed: operators, and bytes that live at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Count", "count_step"]


class Count(TorchDispatchMode):
    """Counts what happens inside: in forward, backward and optimizer alike.

    Attributes:
        operators: operators that reach a device's kernels or make a view.
        kernels: those among them that compute or copy, which a GPU would launch.
        live: bytes of tensors made inside that are still there.
        peak: the most there ever were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = self.kernels = self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_storage(tensor) for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        returns = func._schema.returns
        self.kernels += not returns or any(r.alias_info is None or r.alias_info.is_write for r in returns)
        for tensor in _tensors(result):
            if _storage(tensor) not in before:
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._known:
            return
        self._known.add(address)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def count_step(
    forward: Callable[[], Tensor], finish: Callable[[Tensor], object] = Tensor.backward
) -> tuple[Count, int]:
    """Count a step; also return the bytes that its forward pass keeps for the backward pass.

    Args:
        forward: returns the loss.
        finish: what is done with the loss.

    Example:
        >>> x = torch.ones(1000, requires_grad=True)
        >>> count, kept = count_step(lambda: x.exp().exp().sum())
        >>> kept  # the two exponentials, the sum
        8004
    """
    with Count() as count:
        loss = forward()
        kept = count.live
        finish(loss)
        del loss
    return count, kept


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
