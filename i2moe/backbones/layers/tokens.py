"""From modalities to one sequence of tokens, and back to one vector per modality."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one
from i2moe.backbones.layers.checks import check_inputs, per_modality, widths

__all__ = ["JointTokens", "as_tokens", "as_vector"]


def as_tokens(modality: Tensor) -> Tensor:
    """A vector (B, D) as one token (B, 1, D); tokens (B, T, D) as they are."""
    return modality.unsqueeze(1) if modality.ndim == 2 else modality


def as_vector(modality: Tensor) -> Tensor:
    """Tokens (B, T, D) as their mean (B, D); a vector (B, D) as it is."""
    return modality.mean(dim=1) if modality.ndim == 3 else modality


class JointTokens(nn.Module):
    r"""Joins modalities into one token sequence with a learned position embedding.

    .. math:: u = [P_1 z_1; \dots; P_M z_M] + p, \qquad P_i = \mathrm{id} \text{ where } D_i = D

    A modality that already has the common width D passes unchanged: with equal widths the position
    embedding is the only parameter.

    Args:
        feature_dims: width of each modality.
        n_tokens: number of tokens of each modality, or one number for all; a vector (B, D) is one token.
        hidden_dim: the common width D; None for that of the widest modality.

    Raises:
        ValueError: if widths, token counts or `hidden_dim` are not positive or do not match.

    Example:
        >>> import torch
        >>> join = JointTokens((8, 16), n_tokens=(4, 1))
        >>> tokens = join(torch.randn(2, 4, 8), torch.randn(2, 16))
        >>> tokens.shape, join.pool(tokens).shape
        (torch.Size([2, 5, 16]), torch.Size([2, 32]))
    """

    def __init__(
        self, feature_dims: Sequence[int], *, n_tokens: int | Sequence[int] = 1, hidden_dim: int | None = None
    ) -> None:
        super().__init__()
        self.feature_dims: tuple[int, ...] = widths(feature_dims)
        self.n_tokens: tuple[int, ...] = per_modality(n_tokens, len(self.feature_dims))
        self.hidden_dim: int = max(self.feature_dims) if hidden_dim is None else hidden_dim
        check_at_least_one(hidden_dim=self.hidden_dim)

        self.projections: nn.ModuleList = nn.ModuleList(
            nn.Identity() if dim == self.hidden_dim else nn.Linear(dim, self.hidden_dim) for dim in self.feature_dims
        )
        self.position: nn.Parameter = nn.Parameter(torch.empty(sum(self.n_tokens), self.hidden_dim))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, *modalities: Tensor) -> Tensor:
        """Join the modalities: M tensors (B, T_i, D_i) or (B, D_i) -> (B, sum T_i, D)."""
        check_inputs(modalities, self.feature_dims, self.n_tokens)
        projected = [
            project(as_tokens(modality)) for project, modality in zip(self.projections, modalities, strict=True)
        ]
        return torch.cat(projected, dim=1) + self.position

    def pool(self, tokens: Tensor) -> Tensor:
        """The mean of each modality's tokens, side by side: (B, sum T_i, D) -> (B, M D)."""
        return torch.cat([part.mean(dim=1) for part in torch.split(tokens, list(self.n_tokens), dim=1)], dim=-1)
