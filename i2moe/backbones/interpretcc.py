"""Gated fusion: a sample uses only the modalities its gates let through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one, check_positive
from i2moe._common.modalities import BackboneOutput
from i2moe.backbones.layers.attention import MLP
from i2moe.backbones.layers.checks import check_inputs, widths
from i2moe.backbones.layers.tokens import as_vector

__all__ = ["InterpretCC", "gumbel_sigmoid"]


def gumbel_sigmoid(
    logits: Tensor, *, tau: float = 1.0, threshold: float = 0.5, hard: bool = True, noise: bool = True
) -> Tensor:
    r"""Draws relaxed Bernoulli gates (Maddison et al. 2017; Jang et al. 2017).

    .. math:: s = \sigma\!\left(\frac{\ell + g_1 - g_2}{\tau}\right), \quad
              g_1, g_2 \sim \mathrm{Gumbel}(0, 1), \quad m = \mathbb{1}[s > \mathrm{threshold}]

    Args:
        logits: (...), log-odds of an open gate.
        tau: temperature, positive.
        threshold: a hard gate opens above it.
        hard: return m, with the gradient of s (straight-through), instead of s.
        noise: draw Gumbel noise; without, g_1 = g_2 = 0.

    Returns:
        Gates (...) in [0, 1]; hard ones are exactly 0 or 1.

    Example:
        >>> import torch
        >>> gumbel_sigmoid(torch.tensor([-3.0, 3.0]), noise=False)
        tensor([0., 1.])
    """
    if noise:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        uniform = torch.rand_like(logits, dtype=dtype).clamp(min=torch.finfo(dtype).tiny)
        # the difference of two Gumbel variables is logistic
        logits = logits + (torch.log(uniform) - torch.log1p(-uniform)).to(logits.dtype)
    soft = torch.sigmoid(logits / tau)
    if not hard:
        return soft
    return (soft > threshold).to(soft.dtype) + (soft - soft.detach())


class InterpretCC(nn.Module):
    r"""Opens or closes a gate per modality and sample, and fuses what passes.

    .. math:: m_i = \mathrm{GumbelSigmoid}(\mathrm{MLP}_i(z_i)), \qquad
              y = \mathrm{MLP}([m_1 z_1; \dots; m_M z_M])

    Training draws Gumbel noise; evaluation draws none, so that predictions repeat. `gates` returns the
    gates of given inputs.

    Source: Swamy et al. 2024, InterpretCC (feature gating); Xin et al. 2025 (I2MoE), Appendix G.

    Args:
        feature_dims: width of each modality. Tokens (B, T, D) are averaged over T.
        n_outputs: number of outputs C.
        hidden_dim: hidden width H of the head.
        tau: temperature of the gates, positive.
        threshold: hard gates open above it, in (0, 1).
        hard: gates of exactly 0 or 1, with the straight-through gradient.
        dropout: dropout of the head, in [0, 1).

    Raises:
        ValueError: if a size is not positive, or `tau`, `threshold` or `dropout` is out of range.

    Example:
        >>> import torch
        >>> fusion = InterpretCC((8, 16), 3).eval()
        >>> a, b = torch.randn(5, 8), torch.randn(5, 16)
        >>> fusion(a, b).prediction.shape, fusion.gates(a, b).shape
        (torch.Size([5, 3]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        feature_dims: Sequence[int],
        n_outputs: int,
        *,
        hidden_dim: int = 128,
        tau: float = 1.0,
        threshold: float = 0.5,
        hard: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least_one(n_outputs=n_outputs, hidden_dim=hidden_dim)
        check_positive(tau=tau)
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie in (0, 1), however it is {threshold}; 0.5 is neutral")

        self.feature_dims: tuple[int, ...] = widths(feature_dims)
        self.tau: float = tau
        self.threshold: float = threshold
        self.hard: bool = hard
        self.gate_networks: nn.ModuleList = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1)) for dim in self.feature_dims
        )
        self.head: MLP = MLP(sum(self.feature_dims), hidden_dim, n_outputs, dropout=dropout)

    def forward(self, *modalities: Tensor) -> BackboneOutput:
        """Predict from M modalities (B, D_i) or (B, T, D_i): prediction (B, C), latent (B, sum D_i)."""
        vectors = self._vectors(modalities)
        gates = self._gates(vectors)
        latent = torch.cat(
            [gate * vector for gate, vector in zip(torch.split(gates, 1, dim=-1), vectors, strict=True)],
            dim=-1,
        )
        return BackboneOutput(self.head(latent), latent=latent)

    def gates(self, *modalities: Tensor) -> Tensor:
        """The gates (B, M): which modalities are let through. In evaluation, those that `forward` uses."""
        return self._gates(self._vectors(modalities))

    def _vectors(self, modalities: Sequence[Tensor]) -> list[Tensor]:
        check_inputs(modalities, self.feature_dims)
        return [as_vector(modality) for modality in modalities]

    def _gates(self, vectors: Sequence[Tensor]) -> Tensor:
        logits = [gate(vector) for gate, vector in zip(self.gate_networks, vectors, strict=True)]
        # NOTE[DIFF] the released code draws the noise in evaluation as well
        return gumbel_sigmoid(
            torch.cat(logits, dim=-1),
            tau=self.tau,
            threshold=self.threshold,
            hard=self.hard,
            noise=self.training,
        )
