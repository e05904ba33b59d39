"""The transformer with heterogeneous routed experts (MoE++) in place of its MLPs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from i2moe.backbones.layers import dispatch
from i2moe.backbones.layers.attention import AttentionLayer
from i2moe.backbones.layers.fusion import TokenFusion
from i2moe.backbones.layers.moepp import MoEPlusPlusLayer

__all__ = ["MoEPlusPlus", "MoEPlusPlusTransformerLayer"]


class MoEPlusPlusTransformerLayer(AttentionLayer):
    """A pre-norm transformer layer whose MLP is a `MoEPlusPlusLayer`.

    Args:
        dim: width D of the tokens.
        n_heads: heads of the attention, a divisor of `dim`.
        experts: the routed layer.

    Example:
        >>> import torch
        >>> layer = MoEPlusPlusTransformerLayer(8, n_heads=2, experts=MoEPlusPlusLayer(8, n_experts=4))
        >>> tokens, aux_loss, scores = layer(torch.randn(3, 5, 8))
    """

    def __init__(self, dim: int, *, n_heads: int, experts: MoEPlusPlusLayer) -> None:
        super().__init__(dim, n_heads)
        self.norm_experts: nn.LayerNorm = nn.LayerNorm(dim)
        self.experts = experts

    def forward(self, tokens: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Update the tokens: (B, T, D) -> (B, T, D), load-balancing loss and scores (B, T, n)."""
        tokens = self.attend(tokens)
        # NOTE[DIFF] both residuals stay; the released code overwrites the routed output with the attention's
        routed, aux_loss, scores = self.experts(self.norm_experts(tokens), previous)
        return tokens + routed, aux_loss, scores


class MoEPlusPlus(TokenFusion):
    r"""Fuses tokens by joint self-attention and heterogeneous routed experts.

    `FusionTransformer` with a `MoEPlusPlusLayer` in place of every MLP; from the second layer on, routers
    have a gating residual. `aux_loss` is the sum of the layers' load-balancing losses, with its graph.
    Execution: batched and vmap with ``group="sample"``; with ``group="batch"`` samples compete for places
    and each view is a forward pass of its own.

    Source: Xin et al. 2025 (I2MoE), Appendix G; Jin et al. 2024 (arXiv 2410.07348).

    Args:
        feature_dims: width of each modality.
        n_outputs: number of outputs C.
        n_tokens: tokens of each modality, or one number for all; a vector (B, D) is one token.
        hidden_dim: width D of the tokens; None for the widest modality. Other widths are projected.
        n_layers: number of layers.
        n_heads: heads of each attention, a divisor of D.
        n_experts: SwiGLU experts of each layer (a zero, a copy and the constant experts come on top).
        n_constants: constant experts of each layer.
        n_active: experts per token.
        inner_dim: inner width of a SwiGLU expert.
        tau: see `MoEPlusPlusLayer`.
        capacity_factor: see `MoEPlusPlusLayer`.
        eval_capacity_factor: see `MoEPlusPlusLayer`.
        dropout: dropout of the SwiGLU experts, in [0, 1).
        group: "batch" or "sample", see `MoEPlusPlusLayer`.

    Raises:
        ValueError: if the heads do not divide D, `n_active` exceeds the experts, or sizes are out of range.

    Example:
        >>> import torch
        >>> fusion = MoEPlusPlus((32, 32), 3, n_tokens=8, n_experts=4)
        >>> out = fusion(torch.randn(5, 8, 32), torch.randn(5, 8, 32))
        >>> out.prediction.shape, out.aux_loss.shape
        (torch.Size([5, 3]), torch.Size([]))
    """

    def __init__(
        self,
        feature_dims: Sequence[int],
        n_outputs: int,
        *,
        n_tokens: int | Sequence[int] = 1,
        hidden_dim: int | None = None,
        n_layers: int = 2,
        n_heads: int = 4,
        n_experts: int = 8,
        n_constants: int = 2,
        n_active: int = 2,
        inner_dim: int = 64,
        tau: float = 0.75,
        capacity_factor: float | None = 1.1,
        eval_capacity_factor: float | None = 2.2,
        dropout: float = 0.1,
        group: dispatch.Group = "batch",
    ) -> None:

        def build_layer(dim: int, depth: int) -> MoEPlusPlusTransformerLayer:
            experts = MoEPlusPlusLayer(
                dim,
                n_experts,
                n_constants=n_constants,
                n_active=n_active,
                inner_dim=inner_dim,
                tau=tau,
                capacity_factor=capacity_factor,
                eval_capacity_factor=eval_capacity_factor,
                dropout=dropout,
                group=group,
                gating_residual=depth > 0,
            )
            return MoEPlusPlusTransformerLayer(dim, n_heads=n_heads, experts=experts)

        super().__init__(
            feature_dims, n_outputs, build_layer, n_tokens=n_tokens, hidden_dim=hidden_dim, n_layers=n_layers
        )

    @override
    def update(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the layers."""
        losses, scores = [], None
        for layer in self.layers:
            tokens, loss, scores = layer(tokens, scores)
            losses.append(loss)
        return tokens, torch.stack(losses).sum()
