"""Modules that several examples build: a plain fusion, an ensemble, and what says which modalities are available."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from i2moe import BackboneOutput

__all__ = ["Ensemble", "Fusion", "Model"]


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


class Model(nn.Module):
    """A body, told which modalities are available. A body without fill of its own gets zeros for the others.

    Args:
        body: what predicts.
        takes_available: whether it takes `available` by keyword.
        has_experts: whether it returns weights.
    """

    def __init__(self, body: nn.Module, *, takes_available: bool = False, has_experts: bool = False) -> None:
        super().__init__()
        self.body, self.takes_available, self.has_experts = body, takes_available or has_experts, has_experts

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the body returns for M modalities (B, ...) followed by `available` (B, M)."""
        return self._call(self.body, inputs)

    def predict(self, *inputs: Tensor) -> Tensor:
        """Return the outputs (B, C), and compute no weights where they do not matter."""
        return _prediction_of(self._call(getattr(self.body, "predict", self.body), inputs))

    def _call(self, body: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Any:
        *modalities, available = inputs
        present = [
            torch.where(available[:, i].reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0) for i, x in enumerate(modalities)
        ]
        return body(*present, available=available) if self.takes_available else body(*present)


def _prediction_of(out: Any) -> Tensor:
    """Return the outputs (n, C) of what a model returned."""
    prediction: Tensor = out if isinstance(out, Tensor) else out[0] if isinstance(out, tuple) else out.prediction
    return prediction
