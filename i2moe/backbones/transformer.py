"""The fusion transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from i2moe.backbones.layers.attention import TransformerLayer
from i2moe.backbones.layers.fusion import TokenFusion

__all__ = ["FusionTransformer"]


class FusionTransformer(TokenFusion):
    r"""Fuses the tokens of all modalities by joint self-attention.

    .. math:: u^0 = [z_1; \dots; z_M] + p, \quad u^{l} = \mathrm{Layer}_l(u^{l-1}), \quad
              h = [\bar u^L_1, \dots, \bar u^L_M], \quad y = W h + b

    with :math:`\bar u_i` the mean over the tokens of modality i. With all widths equal to `hidden_dim` D
    it has L (8 D^2 + 8 D) + D sum T_i + (M D + 1) C parameters, those of the paper.

    Source: Xin et al. 2025 (I2MoE), the transformer backbone of Section 4 and Appendix G.

    Args:
        feature_dims: width of each modality.
        n_outputs: number of outputs C.
        n_tokens: tokens of each modality, or one number for all; a vector (B, D) is one token.
        hidden_dim: width D of the tokens; None for the widest modality. Other widths are projected.
        n_layers: number of layers L.
        n_heads: heads of each attention, a divisor of D.
        dropout: dropout of the MLPs, in [0, 1).

    Raises:
        ValueError: if the heads do not divide D, or sizes are out of range.

    Example:
        >>> import torch
        >>> fusion = FusionTransformer((32, 48), 3, n_tokens=(8, 1), hidden_dim=32)
        >>> out = fusion(torch.randn(5, 8, 32), torch.randn(5, 48))
        >>> out.prediction.shape, out.latent.shape
        (torch.Size([5, 3]), torch.Size([5, 64]))
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
        dropout: float = 0.1,
    ) -> None:
        super().__init__(
            feature_dims,
            n_outputs,
            lambda dim, depth: TransformerLayer(dim, n_heads=n_heads, dropout=dropout),
            n_tokens=n_tokens,
            hidden_dim=hidden_dim,
            n_layers=n_layers,
        )

    @override
    def update(self, tokens: Tensor) -> tuple[Tensor, None]:
        """Run the layers."""
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens, None
