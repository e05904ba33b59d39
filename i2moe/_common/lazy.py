"""First passes, which size the parameters that wait for a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

__all__ = ["sizes_parameters"]

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
