"""Every backbone, small enough to test and large enough that all of it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from i2moe.backbones import (
    EarlyFusion,
    FusionTransformer,
    InterpretCC,
    LateFusion,
    LowRankTensorFusion,
    MoEPlusPlus,
    SwitchTransformer,
)

__all__ = ["ALONE", "BACKBONES", "N_OUTPUTS", "Case"]

N_OUTPUTS = 3


@dataclass(frozen=True)
class Case:
    """A backbone and its input.

    Args:
        name: of the case.
        make: builds the backbone, without dropout or jitter.
        shapes: of each modality, without the batch.
        mixes: whether samples influence one another.
    """

    name: str
    make: Callable[[], nn.Module]
    shapes: Sequence[tuple[int, ...]]
    mixes: bool = False

    def batch(self, n_samples: int = 6) -> list[Tensor]:
        """Draw the modalities."""
        return [torch.randn(n_samples, *shape) for shape in self.shapes]

    def __str__(self) -> str:
        return self.name


TOKENS = [(5, 8), (4, 8)]
MIXED = [(5, 8), (7,), (3, 9)]
WIDTHS, COUNTS = (8, 7, 9), (5, 1, 3)

BACKBONES = [
    Case("transformer", lambda: FusionTransformer((8, 8), 3, n_tokens=(5, 4), n_heads=2, dropout=0), TOKENS),
    Case(
        "transformer-widths",
        lambda: FusionTransformer(WIDTHS, 3, n_tokens=COUNTS, hidden_dim=10, n_layers=1, n_heads=5, dropout=0),
        MIXED,
    ),
    Case(
        "switch-batch",
        lambda: SwitchTransformer((8, 8), 3, n_tokens=(5, 4), n_heads=2, n_experts=2, jitter=0, dropout=0),
        TOKENS,
        mixes=True,
    ),
    Case(
        "switch-sample",
        lambda: SwitchTransformer(
            WIDTHS,
            3,
            n_tokens=COUNTS,
            hidden_dim=7,
            n_layers=1,
            n_heads=1,
            n_experts=2,
            jitter=0,
            dropout=0,
            group="sample",
        ),
        MIXED,
    ),
    Case(
        "moepp-batch",
        lambda: MoEPlusPlus((8, 8), 3, n_tokens=(5, 4), n_heads=2, n_experts=2, inner_dim=4, n_active=3, dropout=0),
        TOKENS,
        mixes=True,
    ),
    Case(
        "moepp-sample",
        lambda: MoEPlusPlus(
            WIDTHS,
            3,
            n_tokens=COUNTS,
            hidden_dim=9,
            n_layers=1,
            n_heads=3,
            n_experts=2,
            inner_dim=5,
            n_active=3,
            dropout=0,
            group="sample",
        ),
        MIXED,
    ),
    Case("interpretcc", lambda: InterpretCC((8, 7), 3, hidden_dim=6), [(8,), (7,)]),
    Case("interpretcc-soft", lambda: InterpretCC(WIDTHS, 3, hidden_dim=6, hard=False), MIXED),
    Case("tensor-fusion", lambda: LowRankTensorFusion((8, 7), 3, rank=2, hidden_dim=6), [(8,), (7,)]),
    Case("tensor-fusion-tokens", lambda: LowRankTensorFusion(WIDTHS, 3, rank=3, hidden_dim=5), MIXED),
    Case(
        "early",
        lambda: EarlyFusion((8, 7), 3, n_tokens=5, hidden_dim=6, n_layers=1, n_heads=3, dropout=0),
        [(5, 8), (5, 7)],
    ),
    Case(
        "late",
        lambda: LateFusion(WIDTHS, 3, n_tokens=COUNTS, hidden_dim=6, n_layers=1, n_heads=2, dropout=0),
        MIXED,
    ),
]
ALONE = [case for case in BACKBONES if not case.mixes]
