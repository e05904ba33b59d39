"""Modality dropout: training with modalities taken away."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2moe._common.checks import check_fraction, check_rate

__all__ = ["ModalityDropout"]


class ModalityDropout(nn.Module):
    """Drop modalities at random in training, so that a model learns to do without; in evaluation nothing.

    Each modality that a sample has is dropped with the same probability. A sample that would lose all keeps one.

    Args:
        p: the probability, in [0, 1).
        rows: the share of the samples in which modalities are dropped, in [0, 1]; the others stay as they are. With
            half of them, a model learns to do without modalities and loses less where all are there.
        generator: source of the random numbers; None for torch's global one.

    Raises:
        ValueError: if `p` or `rows` is out of range.

    Example:
        >>> drop = ModalityDropout(0.5, generator=torch.Generator().manual_seed(0))
        >>> drop(torch.tensor([[True, True, True], [True, False, False]]))
        tensor([[False, True, False], [ True, False, False]])
    """

    def __init__(self, p: float, *, rows: float = 1.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_rate(p=p)
        check_fraction(rows=rows)
        self.p = p
        self.rows = rows
        self.generator = generator

    def forward(self, available: Tensor) -> Tensor:
        """Return which modalities (B, M) are left of those available, to be passed to the model as `available`."""
        if not self.training:
            return available
        draw = torch.rand(available.shape, device=available.device, generator=self.generator)
        draw = torch.where(available, draw, -1.0)
        left = available & ((draw >= self.p) | (draw == draw.amax(1, keepdim=True)))
        if self.rows == 1:
            return left
        whole = torch.rand(len(draw), 1, device=draw.device, generator=self.generator) >= self.rows
        return torch.where(whole, available, left)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"p={self.p}" if self.rows == 1 else f"p={self.p}, rows={self.rows}"
