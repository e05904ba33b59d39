"""What the fusions by joint self-attention share: tokens in, layers, one vector per modality out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one
from i2moe._common.modalities import BackboneOutput
from i2moe.backbones.layers.tokens import JointTokens

__all__ = ["TokenFusion"]


class TokenFusion(nn.Module, ABC):
    """The base of the transformers: joins the modalities' tokens, updates them layer by layer, pools, and predicts.

    Args:
        feature_dims: width of each modality.
        n_outputs: number of outputs C.
        build_layer: called with the width D of the tokens and the depth, from 0, of each layer.
        n_tokens: tokens of each modality, or one number for all; a vector (B, D) is one token.
        hidden_dim: width D of the tokens; None for the widest modality.
        n_layers: number of layers.
    """

    def __init__(
        self,
        feature_dims: Sequence[int],
        n_outputs: int,
        build_layer: Callable[[int, int], nn.Module],
        *,
        n_tokens: int | Sequence[int],
        hidden_dim: int | None,
        n_layers: int,
    ) -> None:
        super().__init__()
        check_at_least_one(n_outputs=n_outputs, n_layers=n_layers)
        self.join: JointTokens = JointTokens(feature_dims, n_tokens=n_tokens, hidden_dim=hidden_dim)
        dim = self.join.hidden_dim
        self.layers: nn.ModuleList = nn.ModuleList(build_layer(dim, depth) for depth in range(n_layers))
        self.head: nn.Linear = nn.Linear(len(self.join.feature_dims) * dim, n_outputs)

    def forward(self, *modalities: Tensor) -> BackboneOutput:
        """Predict from M modalities (B, T_i, D_i) or (B, D_i): prediction (B, C), latent (B, M D)."""
        tokens, aux_loss = self.update(self.join(*modalities))
        latent = self.join.pool(tokens)
        return BackboneOutput(self.head(latent), aux_loss=aux_loss, latent=latent)

    @abstractmethod
    def update(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the layers: tokens (B, T, D) -> (B, T, D), and the sum of their auxiliary losses where they have any."""
