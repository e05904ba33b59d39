"""Low-rank tensor fusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one
from i2moe._common.modalities import BackboneOutput
from i2moe.backbones.layers.attention import MLP
from i2moe.backbones.layers.checks import check_inputs, widths
from i2moe.backbones.layers.tokens import as_vector

__all__ = ["LowRankTensorFusion"]


class LowRankTensorFusion(nn.Module):
    r"""Fuses by the outer product of all modalities, with a weight tensor of low rank.

    .. math:: h = \sum_{r=1}^R w_r \bigodot_{i=1}^M U_i^{(r)\top} [1; z_i] + b, \qquad y = \mathrm{MLP}(h)

    The ones keep the products of fewer modalities: h is multilinear in the modalities.

    Source: Liu et al. 2018, Efficient Low-rank Multimodal Fusion, eq. 4-9.

    Args:
        feature_dims: width of each modality. Tokens (B, T, D) are averaged over T.
        n_outputs: number of outputs C.
        rank: rank R of the weight tensor.
        hidden_dim: width H of h, and of the head's hidden layer.
        dropout: dropout of the head, in [0, 1).

    Raises:
        ValueError: if a size is not positive or `dropout` is out of range.

    Example:
        >>> import torch
        >>> fusion = LowRankTensorFusion((8, 16), 3, rank=4)
        >>> fusion(torch.randn(5, 8), torch.randn(5, 16)).prediction.shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        feature_dims: Sequence[int],
        n_outputs: int,
        *,
        rank: int = 8,
        hidden_dim: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least_one(n_outputs=n_outputs, rank=rank, hidden_dim=hidden_dim)
        self.feature_dims: tuple[int, ...] = widths(feature_dims)
        # NOTE[DIFF] the released code keeps the factors in a plain list: never trained, never saved
        self.factors: nn.ParameterList = nn.ParameterList(
            torch.empty(rank, dim + 1, hidden_dim) for dim in self.feature_dims
        )
        self.rank_weight: nn.Parameter = nn.Parameter(torch.empty(rank))
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(hidden_dim))
        self.head: MLP = MLP(hidden_dim, hidden_dim, n_outputs, dropout=dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw factors and rank weights so that h starts with variance near 1 for inputs of variance 1."""
        for factor in self.factors:
            nn.init.normal_(factor, std=factor.shape[1] ** -0.5)
        nn.init.normal_(self.rank_weight, std=self.rank_weight.shape[0] ** -0.5)

    def forward(self, *modalities: Tensor) -> BackboneOutput:
        """Predict from M modalities (B, D_i) or (B, T, D_i): prediction (B, C), latent (B, H)."""
        check_inputs(modalities, self.feature_dims)
        product: Tensor | None = None
        for factor, modality in zip(self.factors, modalities, strict=True):
            padded = F.pad(as_vector(modality), (1, 0), value=1.0)  # [1; z_i]
            mapped = torch.einsum("bd,rdh->brh", padded, factor)
            product = mapped if product is None else product * mapped
        assert product is not None  # widths() refuses an empty tuple

        latent = torch.einsum("r,brh->bh", self.rank_weight, product) + self.bias
        return BackboneOutput(self.head(latent), latent=latent)
