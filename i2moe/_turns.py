"""Turns: calls of which only some count."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Turns"]


class Turns(nn.Module):
    """Count calls, in checkpoints too, and let every so many of them stand for all.

    Args:
        every: how many calls one stands for.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self._n_calls = 0

    def forward(self) -> int:
        """Say for how many calls this one stands: `every` or 0, and 1 in evaluation and in compiled code."""
        if not self.training or torch.compiler.is_compiling():
            return 1
        self._n_calls += 1
        return self.every if (self._n_calls - 1) % self.every == 0 else 0

    def get_extra_state(self) -> Tensor:
        """Return the number of calls so far, for a checkpoint."""
        return torch.tensor(self._n_calls)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on counting from a checkpoint."""
        self._n_calls = int(state)
