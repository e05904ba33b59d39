"""First passes, which size the parameters that wait for a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import chain
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

__all__ = ["sizes_parameters"]

_Module = TypeVar("_Module", bound=nn.Module)
_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def sizes_parameters(
    run: Callable[Concatenate[_Module, _Args], _Result],
) -> Callable[Concatenate[_Module, _Args], _Result]:
    """Let a method's first pass leave `torch.inference_mode`, inside of which it would make tensors that never train.

    It runs without gradients there, and its results are the same.
    """

    @wraps(run)
    def outside(module: _Module, *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        if (
            torch.compiler.is_compiling()
            or not torch.is_inference_mode_enabled()
            or not any(map(is_lazy, chain(module.parameters(), module.buffers())))
        ):
            return run(module, *args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return run(module, *args, **kwargs)

    return outside
