"""What the guides share: a task, a fusion module, and interaction experts made of it. Put your own in their place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from examples.datasets.mixtures import Mixture
from i2moe import ComputedReweighter, InteractionMoE

__all__ = ["DIMS", "NAMES", "Fusion", "load", "make_model"]

NAMES, DIMS = ("a", "b"), (16, 16)


def load(n_samples: int, seed: int) -> TensorDataset:
    """Draw samples (a, b, y): modalities (16,) and a class that is unique to one, redundant or synergistic."""
    data = Mixture()(n_samples, seed)
    return TensorDataset(*data.modalities, data.target)


class Fusion(nn.Module):
    """Predict from vectors side by side."""

    def __init__(self, dims: Sequence[int] = DIMS, n_outputs: int = 2) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(sum(dims), 64), nn.ReLU(), nn.Linear(64, n_outputs))

    def forward(self, *modalities: Tensor) -> Tensor:
        """Return logits (B, C)."""
        logits: Tensor = self.mlp(torch.cat(modalities, dim=-1))
        return logits


def make_model() -> InteractionMoE:
    """Make the fusion module four experts that share its weights, each the mean of four members.

    With `n_outputs` no buffer waits for the first batch to get its size, so that copies may be made before.
    """
    weights = ComputedReweighter("classification", n_outputs=2)
    return InteractionMoE(Fusion, 2, modality_names=NAMES, reweighter=weights, members=4)
