"""Top-1 routed experts in place of the transformer's MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from i2moe._common.checks import check_at_least_one, check_rate
from i2moe._common.randomness import Dropout
from i2moe.backbones.layers import dispatch
from i2moe.backbones.layers.attention import AttentionLayer
from i2moe.backbones.layers.fusion import TokenFusion

__all__ = ["SwitchLayer", "SwitchTransformer", "SwitchTransformerLayer"]


class SwitchLayer(dispatch.RoutedLayer):
    r"""Sends every token to the one expert its router likes best.

    .. math:: p = \mathrm{softmax}(W_r\,x), \quad i = \arg\max p, \quad
              y = p_i\,W^2_i\,\mathrm{GELU}(W^1_i x), \quad
              L_\mathrm{aux} = n \sum_i f_i P_i

    with :math:`f_i` the share of tokens that choose expert i (before any is dropped) and :math:`P_i` the
    mean of :math:`p_i`. An expert has ceil(factor * S / n) places for a group of S tokens; a token that
    comes too late gets y = 0, so that only the residual around the layer carries it. In training the
    router's input is multiplied by uniform noise from [1 - jitter, 1 + jitter].

    **Samples influence one another** with ``group="batch"`` (as in the paper): they compete for the same
    places. The layer says so by ``mixes_samples = True``, and views of an expert are then run one by one.
    With ``group="sample"`` only the tokens of one sample compete: predictions, and the mean loss, are the
    same in whatever batch a sample comes.

    Source: Fedus et al. 2022, Switch Transformers, Section 2 (eq. 1-6); like theirs, experts have no bias.

    Args:
        dim: width D of the tokens.
        n_experts: number of experts n.
        hidden_dim: hidden width H of an expert; None for 2 D.
        capacity_factor: places in training, relative to an even share; None drops no token, at n times
            the places.
        eval_capacity_factor: the same in evaluation.
        jitter: half-width of the noise on the router's input in training, in [0, 1).
        dropout: dropout after the activation of the experts, in [0, 1).
        group: "batch" or "sample": who competes for the same places.

    Raises:
        ValueError: if a size is not positive, a rate is out of range or `group` is unknown.

    Example:
        >>> import torch
        >>> layer = SwitchLayer(8, n_experts=4)
        >>> output, aux_loss = layer(torch.randn(3, 5, 8))
        >>> output.shape, aux_loss.shape
        (torch.Size([3, 5, 8]), torch.Size([]))
    """

    def __init__(
        self,
        dim: int,
        n_experts: int,
        *,
        hidden_dim: int | None = None,
        capacity_factor: float | None = 1.2,
        eval_capacity_factor: float | None = 2.4,
        jitter: float = 0.1,
        dropout: float = 0.0,
        group: dispatch.Group = "batch",
    ) -> None:
        super().__init__(n_experts, capacity_factor, eval_capacity_factor, group)
        hidden_dim = 2 * dim if hidden_dim is None else hidden_dim
        check_at_least_one(dim=dim, n_experts=n_experts, hidden_dim=hidden_dim)
        check_rate(jitter=jitter, dropout=dropout)
        self.jitter: float = jitter
        self.router: nn.Linear = nn.Linear(dim, n_experts, bias=False)
        self.dropout: Dropout = Dropout(dropout)
        self.w1: nn.Parameter = nn.Parameter(torch.empty(n_experts, dim, hidden_dim))
        self.w2: nn.Parameter = nn.Parameter(torch.empty(n_experts, hidden_dim, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the experts' weights as `nn.Linear` would."""
        dispatch.draw_as_linear(self.w1, self.w2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Route the tokens: (B, T, D) -> (B, T, D) and the load-balancing loss, a scalar."""
        groups = dispatch.into_groups(tokens, self.group)  # (G, S, D)
        probabilities = self.route(groups)
        gate, expert = probabilities.max(dim=-1, keepdim=True)  # (G, S, 1)
        rank, load = dispatch.rank_in_expert(expert, self.n_experts)

        capacity = self.capacity(groups.shape[1])
        source, gates = dispatch.assign(
            expert, rank, gate.to(groups.dtype), rank < capacity, n_experts=self.n_experts, capacity=capacity
        )
        outputs = gates * self.experts(dispatch.send(groups, source, self.n_experts))
        output = dispatch.collect(torch.zeros_like(groups), source, outputs)

        fraction = load / groups.shape[1]  # (G, n)
        aux_loss = self.n_experts * (fraction * probabilities.mean(dim=1)).sum(dim=-1).mean()
        return output.reshape(tokens.shape), aux_loss

    def route(self, tokens: Tensor) -> Tensor:
        """The probability of each expert for each token: (..., D) -> (..., n)."""
        if self.training and self.jitter > 0:
            tokens = tokens * torch.rand_like(tokens).mul_(2 * self.jitter).add_(1 - self.jitter)
        logits = self.router(tokens)
        return F.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))

    def experts(self, buffers: Tensor) -> Tensor:
        """Apply each expert to its buffer: (n, R, D) -> (n, R, D)."""
        return torch.bmm(self.dropout(F.gelu(torch.bmm(buffers, self.w1))), self.w2)

    def capacity(self, n_tokens: int) -> int:
        """Places of an expert for a group of `n_tokens` tokens."""
        return self.places(n_tokens, 1 / self.n_experts)

    def extra_repr(self) -> str:
        """Show what decides the routing."""
        return (
            f"n_experts={self.n_experts}, capacity_factor={self.capacity_factor}, "
            f"eval_capacity_factor={self.eval_capacity_factor}, jitter={self.jitter}, group={self.group!r}"
        )


class SwitchTransformerLayer(AttentionLayer):
    """A pre-norm transformer layer whose MLP is a `SwitchLayer`.

    Args:
        dim: width D of the tokens.
        n_heads: heads of the attention, a divisor of `dim`.
        switch: the routed layer.

    Example:
        >>> import torch
        >>> layer = SwitchTransformerLayer(8, n_heads=2, switch=SwitchLayer(8, n_experts=4))
        >>> tokens, aux_loss = layer(torch.randn(3, 5, 8))
    """

    def __init__(self, dim: int, *, n_heads: int, switch: SwitchLayer) -> None:
        super().__init__(dim, n_heads)
        self.norm_switch: nn.LayerNorm = nn.LayerNorm(dim)
        self.switch = switch

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Update the tokens: (B, T, D) -> (B, T, D) and the load-balancing loss."""
        tokens = self.attend(tokens)
        routed, aux_loss = self.switch(self.norm_switch(tokens))
        return tokens + routed, aux_loss


class SwitchTransformer(TokenFusion):
    r"""Fuses tokens by joint self-attention and top-1 routed experts ("SwitchGate" in the I2MoE paper).

    `FusionTransformer` with a `SwitchLayer` in place of every MLP; `aux_loss` is the sum of the layers'
    load-balancing losses, with its graph, so that adding it (0.01 is a good weight) moves the routers.
    See `SwitchLayer` for when samples influence one another. Execution: batched and vmap with
    ``group="sample"``; with ``group="batch"`` each view is a forward pass of its own.

    Source: Xin et al. 2025 (I2MoE), Appendix G; Fedus et al. 2022.

    Args:
        feature_dims: width of each modality.
        n_outputs: number of outputs C.
        n_tokens: tokens of each modality, or one number for all; a vector (B, D) is one token.
        hidden_dim: width D of the tokens; None for the widest modality. Other widths are projected.
        n_layers: number of layers.
        n_heads: heads of each attention, a divisor of D.
        n_experts: routed experts of each layer.
        capacity_factor: see `SwitchLayer`.
        eval_capacity_factor: see `SwitchLayer`.
        jitter: see `SwitchLayer`.
        dropout: dropout of the routed experts, in [0, 1).
        group: "batch" or "sample", see `SwitchLayer`.

    Raises:
        ValueError: if the heads do not divide D, or sizes are out of range.

    Example:
        >>> import torch
        >>> fusion = SwitchTransformer((32, 32), 3, n_tokens=8, n_experts=4)
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
        n_experts: int = 16,
        capacity_factor: float | None = 1.2,
        eval_capacity_factor: float | None = 2.4,
        jitter: float = 0.1,
        dropout: float = 0.1,
        group: dispatch.Group = "batch",
    ) -> None:

        def build_layer(dim: int, depth: int) -> SwitchTransformerLayer:
            switch = SwitchLayer(
                dim,
                n_experts,
                capacity_factor=capacity_factor,
                eval_capacity_factor=eval_capacity_factor,
                jitter=jitter,
                dropout=dropout,
                group=group,
            )
            return SwitchTransformerLayer(dim, n_heads=n_heads, switch=switch)

        super().__init__(
            feature_dims, n_outputs, build_layer, n_tokens=n_tokens, hidden_dim=hidden_dim, n_layers=n_layers
        )

    @override
    def update(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the layers."""
        losses = []
        for layer in self.layers:
            tokens, loss = layer(tokens)
            losses.append(loss)
        return tokens, torch.stack(losses).sum()
