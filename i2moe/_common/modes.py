"""Modes of modules: evaluation for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluating"]


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
