"""From flat vectors to tokens."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one

__all__ = ["PatchEmbedding"]


class PatchEmbedding(nn.Module):
    r"""Cuts a vector into patches of equal length and maps each to a token.

    .. math:: t_p = W x_{[pL, (p+1)L)} + b, \qquad L = \lceil F / P \rceil

    Zeros fill the vector up to P L features, so that there are P tokens whatever F.

    Source: Xin et al. 2025 (I2MoE), Appendix G.

    Args:
        n_features: length F of the vector.
        n_patches: number of tokens P, at most F.
        dim: width D of a token.

    Raises:
        ValueError: if there are more patches than features, or a size is not positive.

    Example:
        >>> import torch
        >>> PatchEmbedding(10, n_patches=4, dim=8)(torch.randn(2, 10)).shape
        torch.Size([2, 4, 8])
    """

    def __init__(self, n_features: int, n_patches: int, dim: int) -> None:
        super().__init__()
        check_at_least_one(n_features=n_features, n_patches=n_patches, dim=dim)
        if n_patches > n_features:
            raise ValueError(
                f"n_patches must not exceed n_features, however there are {n_patches} patches of {n_features} "
                f"features; use at most {n_features} patches"
            )
        self.n_features: int = n_features
        self.n_patches: int = n_patches
        self.patch_size: int = -(-n_features // n_patches)
        self.project: nn.Linear = nn.Linear(self.patch_size, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Embed the vectors: (B, F) -> (B, P, D)."""
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ValueError(
                f"features must be (B, {self.n_features}), however its shape is {tuple(features.shape)}; "
                "flatten all axes but the first, or set n_features"
            )
        padded = F.pad(features, (0, self.n_patches * self.patch_size - self.n_features))
        tokens: Tensor = self.project(rearrange(padded, "b (p l) -> b p l", p=self.n_patches))
        return tokens
