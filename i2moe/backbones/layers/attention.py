"""The pre-norm transformer layer, its two halves, and what it shares with routed layers."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one, check_rate
from i2moe._common.randomness import Dropout
from i2moe.backbones.layers.checks import check_heads

__all__ = ["MLP", "AttentionLayer", "SelfAttention", "TransformerLayer"]


class SelfAttention(nn.Module):
    r"""Mixes tokens by multi-head self-attention (Vaswani et al. 2017, eq. 1).

    .. math:: \mathrm{out} = W_o\,[\mathrm{softmax}(q_h k_h^\top / \sqrt{D / H})\,v_h]_{h = 1..H} + b_o

    Queries, keys and values have no bias, the output has one: 4 D^2 + D parameters. The CPU kernel has no
    batching rule in torch 2.13: under `torch.vmap` it is looped over, with a warning from torch; on CUDA
    it is batched.

    Args:
        dim: width D of the tokens.
        n_heads: number of heads H, a divisor of `dim`.

    Raises:
        ValueError: if the heads do not divide the width.

    Example:
        >>> import torch
        >>> SelfAttention(8, n_heads=2)(torch.randn(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        check_heads(dim, n_heads)
        self.n_heads = n_heads
        self.qkv: nn.Linear = nn.Linear(dim, 3 * dim, bias=False)
        self.out: nn.Linear = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the tokens: (B, T, D) -> (B, T, D)."""
        # Split before the heads: their gradients are then joined by one copy, where a stack would take two.
        q, k, v = (rearrange(x, "b t (h d) -> b h t d", h=self.n_heads) for x in self.qkv(tokens).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(rearrange(mixed, "b h t d -> b t (h d)"))
        return out


class MLP(nn.Sequential):
    r"""Transforms each row by a two-layer perceptron: :math:`W_2\,\mathrm{GELU}(W_1 x + b_1) + b_2`.

    Dropout follows the activation and the output.

    Args:
        in_dim: width of the input.
        hidden_dim: width of the hidden layer.
        out_dim: width of the output; None for `in_dim`.
        dropout: probability of a zero, in [0, 1).

    Raises:
        ValueError: if a width is not positive or `dropout` is no probability.

    Example:
        >>> import torch
        >>> MLP(8, 16)(torch.randn(3, 8)).shape
        torch.Size([3, 8])
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int | None = None, *, dropout: float = 0.0) -> None:
        out_dim = in_dim if out_dim is None else out_dim
        check_at_least_one(in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim)
        check_rate(dropout=dropout)
        super().__init__(
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(hidden_dim, out_dim),
            Dropout(dropout),
        )


class AttentionLayer(nn.Module):
    """The base of pre-norm transformer layers: the attention half, with a residual to its input.

    Args:
        dim: width D of the tokens.
        n_heads: number of heads, a divisor of `dim`.
    """

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.norm_attention: nn.LayerNorm = nn.LayerNorm(dim)
        self.attention: SelfAttention = SelfAttention(dim, n_heads)

    def attend(self, tokens: Tensor) -> Tensor:
        """Add what the tokens say to each other: (B, T, D) -> (B, T, D)."""
        # NOTE[DIFF] the residual adds the input; the released code adds the attention's output to itself
        updated: Tensor = tokens + self.attention(self.norm_attention(tokens))
        return updated


class TransformerLayer(AttentionLayer):
    r"""Updates tokens by pre-norm attention and a pre-norm MLP, each with a residual to its input.

    .. math:: v = u + \mathrm{Attention}(\mathrm{LN}(u)), \qquad \mathrm{out} = v + \mathrm{MLP}(\mathrm{LN}(v))

    It has 8 D^2 + 8 D parameters at the default hidden width.

    Args:
        dim: width D of the tokens.
        n_heads: number of heads, a divisor of `dim`.
        hidden_dim: hidden width of the MLP; None for 2 D.
        dropout: dropout of the MLP, in [0, 1).

    Raises:
        ValueError: if the heads do not divide the width, or a size is out of range.

    Example:
        >>> import torch
        >>> TransformerLayer(8, n_heads=2)(torch.randn(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, *, n_heads: int = 4, hidden_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__(dim, n_heads)
        self.norm_mlp: nn.LayerNorm = nn.LayerNorm(dim)
        self.mlp: MLP = MLP(dim, 2 * dim if hidden_dim is None else hidden_dim, dropout=dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Update the tokens: (B, T, D) -> (B, T, D)."""
        tokens = self.attend(tokens)
        updated: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return updated
