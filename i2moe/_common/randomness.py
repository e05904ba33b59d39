"""Random numbers: dropout that draws faster on the CPU, and blocks that draw from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Dropout", "seeded"]


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, three times faster on the CPU in float32, where torch draws Bernoulli numbers slowly.

    Example:
        >>> Dropout(0.25)(torch.ones(1000)).max()
        tensor(1.3333)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Scale by 1 / (1 - p) what is kept, in training."""
        drops = self.training and 0 < self.p < 1
        if not drops or x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
            return F.dropout(x, self.p, self.training)
        kept = torch.rand_like(x).sub_(self.p).ceil_()  # 0 or 1; torch.vmap has no rule for ge_
        return x * kept.div_(1 - self.p)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw random numbers of torch, numpy and Python from a seed, then put their states back.

    Args:
        seed: decides everything random.
        device: that in use; the random state of a CUDA device is seeded too, and of no other one.
    """
    on_cuda = device is not None and device.type == "cuda"
    state = random.getstate()
    with torch.random.fork_rng([device] if on_cuda else []), _numpy_seeded(seed):
        random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    try:
        import numpy as np
    except ImportError:
        yield
        return
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)
