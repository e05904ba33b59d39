"""Early and late fusion by a transformer encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one
from i2moe._common.modalities import BackboneOutput
from i2moe.backbones.layers.attention import TransformerLayer
from i2moe.backbones.layers.checks import check_inputs, per_modality, widths
from i2moe.backbones.layers.tokens import JointTokens, as_tokens

__all__ = ["EarlyFusion", "LateFusion"]


class EarlyFusion(nn.Module):
    r"""Joins the features of all modalities token by token, then encodes them together.

    .. math:: u^0_t = W_0 [z_{1,t}; \dots; z_{M,t}] + b_0 + p_t, \quad u^l = \mathrm{Layer}_l(u^{l-1}), \quad
              y = W\,\tfrac1T \textstyle\sum_t u^L_t + b

    W_0 is a convolution of width 1. All modalities must have the same number of tokens.

    Source: Xin et al. 2025 (I2MoE), baseline "early fusion".

    Args:
        feature_dims: width of each modality.
        n_outputs: number of outputs C.
        n_tokens: number of tokens T of every modality; vectors (B, D) are one token.
        hidden_dim: width of the encoder.
        n_layers: number of layers L.
        n_heads: heads of each attention, a divisor of `hidden_dim`.
        dropout: dropout of the MLPs, in [0, 1).

    Raises:
        ValueError: if the heads do not divide `hidden_dim`, or sizes are out of range.

    Example:
        >>> import torch
        >>> fusion = EarlyFusion((3, 5), 2, n_tokens=7)
        >>> fusion(torch.randn(4, 7, 3), torch.randn(4, 7, 5)).prediction.shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        feature_dims: Sequence[int],
        n_outputs: int,
        *,
        n_tokens: int = 1,
        hidden_dim: int = 128,
        n_layers: int = 3,
        n_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_at_least_one(n_outputs=n_outputs, n_layers=n_layers, hidden_dim=hidden_dim)
        self.feature_dims: tuple[int, ...] = widths(feature_dims)
        self.n_tokens: tuple[int, ...] = per_modality(n_tokens, len(self.feature_dims))
        if len(set(self.n_tokens)) > 1:
            raise ValueError(
                f"early fusion must have the same n_tokens in every modality, however they are {self.n_tokens}; "
                "pool or pad the modalities, or use LateFusion or FusionTransformer"
            )
        self.project: nn.Linear = nn.Linear(sum(self.feature_dims), hidden_dim)
        self.position: nn.Parameter = nn.Parameter(torch.empty(self.n_tokens[0], hidden_dim))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.layers: nn.Sequential = _encoder(hidden_dim, n_layers, n_heads, dropout)
        self.head: nn.Linear = nn.Linear(hidden_dim, n_outputs)

    def forward(self, *modalities: Tensor) -> BackboneOutput:
        """Predict from M modalities (B, T, D_i) or (B, D_i): prediction (B, C), latent (B, H)."""
        check_inputs(modalities, self.feature_dims, self.n_tokens)
        features = torch.cat([as_tokens(modality) for modality in modalities], dim=-1)
        tokens = self.layers(self.project(features) + self.position)
        # NOTE[DIFF] every position counts; the released code attends across the batch and reads the last one
        latent = tokens.mean(dim=1)
        return BackboneOutput(self.head(latent), latent=latent)


class LateFusion(nn.Module):
    r"""Joins the tokens of all modalities one after the other, then encodes them.

    .. math:: u^0 = W_0 ([z_1; \dots; z_M] + p) + b_0, \quad u^l = \mathrm{Layer}_l(u^{l-1}), \quad
              y = W\,\tfrac1T \textstyle\sum_t u^L_t + b

    W_0 is a convolution of width 1 that all modalities share; different widths are first projected to the
    widest. Modalities may have different numbers of tokens.

    Source: Xin et al. 2025 (I2MoE), baseline "late fusion".

    Args:
        feature_dims: width of each modality.
        n_outputs: number of outputs C.
        n_tokens: tokens of each modality, or one number for all; a vector (B, D) is one token.
        hidden_dim: width of the encoder.
        n_layers: number of layers L.
        n_heads: heads of each attention, a divisor of `hidden_dim`.
        dropout: dropout of the MLPs, in [0, 1).

    Raises:
        ValueError: if the heads do not divide `hidden_dim`, or sizes are out of range.

    Example:
        >>> import torch
        >>> fusion = LateFusion((8, 16), 2, n_tokens=(7, 1))
        >>> fusion(torch.randn(4, 7, 8), torch.randn(4, 16)).prediction.shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        feature_dims: Sequence[int],
        n_outputs: int,
        *,
        n_tokens: int | Sequence[int] = 1,
        hidden_dim: int = 128,
        n_layers: int = 2,
        n_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_at_least_one(n_outputs=n_outputs, n_layers=n_layers, hidden_dim=hidden_dim)
        self.join: JointTokens = JointTokens(feature_dims, n_tokens=n_tokens)
        self.project: nn.Linear = nn.Linear(self.join.hidden_dim, hidden_dim)
        self.layers: nn.Sequential = _encoder(hidden_dim, n_layers, n_heads, dropout)
        self.head: nn.Linear = nn.Linear(hidden_dim, n_outputs)

    def forward(self, *modalities: Tensor) -> BackboneOutput:
        """Predict from M modalities (B, T_i, D_i) or (B, D_i): prediction (B, C), latent (B, H)."""
        tokens = self.layers(self.project(self.join(*modalities)))
        latent = tokens.mean(dim=1)
        return BackboneOutput(self.head(latent), latent=latent)


def _encoder(dim: int, n_layers: int, n_heads: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*(TransformerLayer(dim, n_heads=n_heads, dropout=dropout) for _ in range(n_layers)))
