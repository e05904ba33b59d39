"""Passes through a module: what is called, the first pass, which sizes waiting parameters, and those of evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

__all__ = ["call_parameters", "evaluating", "sizes_parameters", "unwrap"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


def sizes_parameters(run: _Method) -> _Method:
    """Let a module's method leave `torch.inference_mode` for the first pass: what it makes inside can never be trained.

    That pass then runs without gradients, and its results are the same.
    """

    @wraps(run)
    def outside(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if (
            torch.compiler.is_compiling()
            or not torch.is_inference_mode_enabled()
            or not any(map(is_lazy, chain(module.parameters(), module.buffers())))
        ):
            return run(module, *args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return run(module, *args, **kwargs)

    return cast(_Method, outside)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluate without gradient, then put back the mode of each submodule, whatever happened."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        # Not inference_mode: a tensor that a module keeps (a cached mask) must stay usable in training.
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel, DataParallel or torch.compile."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, wrappers) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, wrappers) else model._orig_mod  # type: ignore[assignment]
    return model


def call_parameters(called: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters, by name, that a module's forward or a function is called with."""
    return dict(inspect.signature(called.forward if isinstance(called, nn.Module) else called).parameters)
