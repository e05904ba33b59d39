"""Modules that several examples build: a plain fusion, and an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from i2moe import BackboneOutput

__all__ = ["Ensemble", "Fusion"]


class Fusion(nn.Module):
    """Predict from the modalities side by side, by layers with ReLU between them.

    Args:
        n_features: widths of all modalities together.
        n_outputs: number of outputs C.
        hidden_dims: widths of the hidden layers.
        dropout: dropout after each of these.

    Example:
        >>> Fusion(3 + 4, 2)(torch.randn(5, 3), torch.randn(5, 4)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, n_features: int, n_outputs: int, hidden_dims: Sequence[int] = (64,), dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = n_features
        for hidden_dim in hidden_dims:
            layers += [nn.Linear(width, hidden_dim), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = hidden_dim
        self.mlp = nn.Sequential(*layers, nn.Linear(width, n_outputs))

    def forward(self, *modalities: Tensor) -> Tensor:
        """Predict (B, C) from M modalities (B, D)."""
        prediction: Tensor = self.mlp(torch.cat(modalities, dim=-1))
        return prediction


class Ensemble(nn.Module):
    """Average the outputs of models that are each trained by their own loss.

    Args:
        build: builds a member.
        n_members: number of members E.

    Example:
        >>> Ensemble(lambda: nn.Linear(4, 3), 5)(torch.randn(2, 4))[1].shape
        torch.Size([2, 5, 3])
    """

    def __init__(self, build: Callable[[], nn.Module], n_members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(build() for _ in range(n_members))

    def forward(self, *modalities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean (B, C), the members' outputs (B, E, C) and the mean of their own losses."""
        outputs = [member(*modalities) for member in self.members]
        outputs = [out if isinstance(out, BackboneOutput) else BackboneOutput(out) for out in outputs]
        each = torch.stack([out.prediction for out in outputs], dim=1)
        own = [out.aux_loss for out in outputs if out.aux_loss is not None]
        return each.mean(1), each, torch.stack(own).mean() if own else each.new_zeros(())
