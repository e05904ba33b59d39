"""Passes that leave no trace, neither in a module's buffers nor in its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from i2moe._common.modalities import Modality, versions_of

__all__ = ["borrowed_buffers", "check_untouched", "checkpointed"]

_Buffers: TypeAlias = dict[tuple[nn.Module, str], Tensor | None]


def check_untouched(name: str, modalities: Sequence[Modality], versions: list[int]) -> None:
    """Check that a backbone left its inputs as they were.

    Args:
        name: of the expert, for the error.
        modalities: its inputs.
        versions: `versions_of` them before the pass.

    Raises:
        ValueError: if it changed one in place.
    """
    if versions != versions_of(modalities):
        raise ValueError(
            f"a backbone must leave its inputs as they are, which other experts and views share, however expert "
            f"{name!r} changed one in place; use operations that return a new tensor (relu(x), x = x + 1)"
        )


def checkpointed(
    call: Callable[..., object], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> object:
    """Call what runs a module, and call it again in the backward pass instead of keeping activations."""
    # Passed on, not captured, for checkpoint to find the random state of the arguments' device.
    again = partial(checkpoint, lambda args, kwargs: call(*args, **kwargs), args, kwargs, use_reentrant=False)
    if torch.compiler.is_compiling():  # a trace recomputes no change of a buffer
        return again()
    # The recomputation starts from the buffers of now, and on copies: running statistics are updated once.
    now = _copied_buffers(module)
    return again(context_fn=lambda: (nullcontext(), _EachTime(lambda: borrowed_buffers(module, now))))


@contextmanager
def borrowed_buffers(module: nn.Module, values: _Buffers | None = None) -> Iterator[None]:
    """Let a module work on copies of its buffers, of `values` if given, and drop what it does to them."""
    copies = _copied_buffers(module)
    owned = {(layer, name): layer._buffers[name] for layer, name in copies}
    for (layer, name), copy in (copies | _copied(values or {})).items():
        setattr(layer, name, copy)
    try:
        yield
    finally:
        for (layer, name), buffer in owned.items():
            setattr(layer, name, buffer)


def _copied_buffers(module: nn.Module) -> _Buffers:
    """Copy the buffers of a module, but for lazy ones without a value."""
    return _copied({(layer, name): buffer for layer in module.modules() for name, buffer in layer._buffers.items()})


def _copied(buffers: _Buffers) -> _Buffers:
    """Copy buffers, those that are one tensor to one."""
    copies = {id(b): b.clone() for b in buffers.values() if b is not None and not isinstance(b, UninitializedBuffer)}
    return {where: copies.get(id(b)) for where, b in buffers.items() if b is None or id(b) in copies}


class _EachTime(AbstractContextManager[None]):
    """Enter a new context at each entry: every backward pass through a checkpoint enters the same one."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self.make = make

    @override
    def __enter__(self) -> None:
        self.entered = self.make()
        self.entered.__enter__()

    @override
    def __exit__(self, *error: Any) -> None:
        self.entered.__exit__(*error)
