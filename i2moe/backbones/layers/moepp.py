"""A layer of heterogeneous routed experts (MoE++)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one, check_rate
from i2moe._common.randomness import Dropout
from i2moe.backbones.layers import dispatch

__all__ = ["MoEPlusPlusLayer"]


class MoEPlusPlusLayer(dispatch.RoutedLayer):
    r"""Sends every token to its best K of n experts, some of which compute nothing.

    Of the n = n_experts + 2 + n_constants experts, in this order, `n_experts` are SwiGLU networks, one is
    zero, one copies, and `n_constants` mix the token with a learned vector:

    .. math::
        E_\mathrm{FFN}(x) = W^3\,(\mathrm{SiLU}(W^1 x) \odot W^2 x), \quad
        E_\mathrm{zero}(x) = 0, \quad E_\mathrm{copy}(x) = x, \quad
        E_\mathrm{const}(x) = \alpha_1 x + \alpha_2 v, \; \alpha = \mathrm{softmax}(W_c x)

    .. math::
        s = W^b \tanh(W^a x + b^a) + b^b + W_g\,s_\mathrm{prev}, \quad g = \mathrm{softmax}(s), \quad
        y = \sum_{i \in \mathrm{top}_K(g)} g_i E_i(x), \quad
        L_\mathrm{aux} = \sum_i \eta_i f_i P_i

    :math:`W_g s_\mathrm{prev}` is the gating residual from the previous layer's scores; :math:`\eta` is 1
    for SwiGLU experts and tau for the others; :math:`f_i` is the share of tokens that choose expert i
    (before any is dropped) and :math:`P_i` the mean of :math:`g_i`.

    Places are limited. With N_f SwiGLU experts and N_z others, a SwiGLU expert has
    factor * K * S * tau / (tau N_f + N_z) places for a group of S tokens. Another expert has
    factor * K * S / (tau N_f + N_z). Both are rounded up. Tokens without a place add nothing to y.

    **Samples influence one another** with ``group="batch"``, as in `SwitchLayer` (which see).

    Source: Jin et al. 2024, MoE++ (arXiv 2410.07348), Section 3.

    Args:
        dim: width D of the tokens.
        n_experts: number of SwiGLU experts.
        n_constants: number of constant experts.
        n_active: experts per token K.
        inner_dim: inner width of a SwiGLU expert.
        tau: weight of the experts that compute nothing, in (0, 1]: less sends more tokens to them.
        capacity_factor: places in training, relative to the intended shares; None drops no token.
        eval_capacity_factor: the same in evaluation.
        dropout: dropout before the output of the SwiGLU experts, in [0, 1).
        group: "batch" or "sample": who competes for the same places.
        gating_residual: whether the router listens to the previous layer's scores.

    Raises:
        ValueError: if K exceeds the number of experts, a size is not positive or `tau` is out of range.

    Example:
        >>> import torch
        >>> layer = MoEPlusPlusLayer(8, n_experts=4)
        >>> output, aux_loss, scores = layer(torch.randn(3, 5, 8))
        >>> output.shape, scores.shape
        (torch.Size([3, 5, 8]), torch.Size([3, 5, 8]))
    """

    def __init__(
        self,
        dim: int,
        n_experts: int,
        *,
        n_constants: int = 2,
        n_active: int = 2,
        inner_dim: int = 64,
        tau: float = 0.75,
        capacity_factor: float | None = 1.1,
        eval_capacity_factor: float | None = 2.2,
        dropout: float = 0.0,
        group: dispatch.Group = "batch",
        gating_residual: bool = False,
    ) -> None:
        super().__init__(n_experts, capacity_factor, eval_capacity_factor, group)
        check_at_least_one(dim=dim, inner_dim=inner_dim)
        check_rate(dropout=dropout)
        _check_experts(n_experts, n_constants, n_active, tau)
        self.n_constants = n_constants
        self.n_all = n_all = n_experts + 2 + n_constants
        self.n_active = n_active
        self.tau = tau

        self.router_in: nn.Linear = nn.Linear(dim, n_all)
        self.router_out: nn.Linear = nn.Linear(n_all, n_all)
        self.residual: nn.Linear | None = nn.Linear(n_all, n_all, bias=False) if gating_residual else None
        self.w_in: nn.Parameter = nn.Parameter(torch.empty(n_experts, dim, 2 * inner_dim))  # W1 and W2 side by side
        self.w_out: nn.Parameter = nn.Parameter(torch.empty(n_experts, inner_dim, dim))
        self.dropout: Dropout = Dropout(dropout)
        self.mix: nn.Linear = nn.Linear(dim, 2 * n_constants, bias=False)
        self.constants: nn.Parameter = nn.Parameter(torch.empty(n_constants, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the networks' weights as `nn.Linear` would, the constants as N(0, 0.02)."""
        dispatch.draw_as_linear(self.w_in, self.w_out)
        nn.init.normal_(self.constants, std=0.02)

    def forward(self, tokens: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Route the tokens.

        Args:
            tokens: (B, T, D).
            previous: (B, T, n) scores of the previous layer, exactly if there is a gating residual.

        Returns:
            Output (B, T, D), load-balancing loss (scalar) and scores (B, T, n).
        """
        scores = self.scores(tokens, previous)
        groups = dispatch.into_groups(tokens, self.group)  # (G, S, D)
        grouped_scores = dispatch.into_groups(scores, self.group)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        probabilities = F.softmax(grouped_scores, dim=-1, dtype=dtype)  # (G, S, n)
        gate, expert = probabilities.topk(self.n_active, dim=-1)  # (G, S, K)
        rank, load = dispatch.rank_in_expert(expert, self.n_all)

        ffn_capacity, other_capacity = self.capacities(groups.shape[1])
        is_ffn = expert < self.n_experts
        kept = rank < torch.where(is_ffn, ffn_capacity, other_capacity)
        gate = (gate * kept).to(groups.dtype)
        gates = gate.new_zeros(probabilities.shape).scatter(-1, expert, gate)
        output = self.without_networks(groups, gates[..., self.n_experts :])

        source, gates = dispatch.assign(
            expert, rank, gate, kept & is_ffn, n_experts=self.n_experts, capacity=ffn_capacity
        )
        outputs = self.networks(dispatch.send(groups, source, self.n_experts), gates)
        output = dispatch.collect(output, source, outputs)

        fraction = load / groups.shape[1]  # (G, n)
        balance = fraction * probabilities.mean(dim=1)
        aux_loss = balance[:, : self.n_experts].sum(dim=-1) + self.tau * balance[:, self.n_experts :].sum(dim=-1)
        return output.reshape(tokens.shape), aux_loss.mean(), scores

    def scores(self, tokens: Tensor, previous: Tensor | None) -> Tensor:
        """The router's scores, with the gating residual: (B, T, D), (B, T, n) -> (B, T, n)."""
        if (self.residual is None) != (previous is None):
            raise ValueError(
                "previous scores must come with gating_residual=True and only then, however "
                f"gating_residual={self.residual is not None}, scores given: {previous is not None}; "
                "a first layer has no gating residual, each next one takes the scores of the layer before"
            )
        scores: Tensor = self.router_out(torch.tanh(self.router_in(tokens)))
        return scores if self.residual is None else scores + self.residual(previous)

    def networks(self, buffers: Tensor, gates: Tensor) -> Tensor:
        """The gated SwiGLU experts: (n_experts, R, D), (n_experts, R, 1) -> (n_experts, R, D)."""
        gate, value = torch.bmm(buffers, self.w_in).chunk(2, dim=-1)
        # the last map is linear: gating before it costs less than after
        return torch.bmm(gates * self.dropout(F.silu(gate) * value), self.w_out)

    def without_networks(self, tokens: Tensor, gates: Tensor) -> Tensor:
        """The gated sum of the other experts: (G, S, D), (G, S, 2 + n_constants) -> (G, S, D)."""
        mix = self.mix(tokens).unflatten(-1, (self.n_constants, 2)).softmax(dim=-1)
        constant = gates[..., 2:, None] * mix  # (G, S, n_constants, 2)
        kept = gates[..., 1:2] + constant[..., 0].sum(dim=-1, keepdim=True)
        mixed: Tensor = kept * tokens + constant[..., 1] @ self.constants
        return mixed

    def capacities(self, n_tokens: int) -> tuple[int, int]:
        """Places of a SwiGLU expert, and of another, for a group of `n_tokens` tokens."""
        fraction = self.n_active / (self.tau * self.n_experts + self.n_all - self.n_experts)
        return self.places(n_tokens, self.tau * fraction), self.places(n_tokens, fraction)

    def extra_repr(self) -> str:
        """Show what decides the routing."""
        return (
            f"n_experts={self.n_experts}, n_constants={self.n_constants}, n_active={self.n_active}, tau={self.tau}, "
            f"capacity_factor={self.capacity_factor}, eval_capacity_factor={self.eval_capacity_factor}, "
            f"group={self.group!r}"
        )


def _check_experts(n_experts: int, n_constants: int, n_active: int, tau: float) -> None:
    check_at_least_one(n_experts=n_experts, n_constants=n_constants, n_active=n_active)
    n_all = n_experts + 2 + n_constants
    if n_active > n_all:
        raise ValueError(
            f"n_active must not exceed the number of experts, however it is {n_active} of {n_all} "
            f"({n_experts} networks, zero, copy, {n_constants} constants); lower n_active"
        )
    if not 0 < tau <= 1:
        raise ValueError(f"tau must lie in (0, 1], however it is {tau}; 1 treats all experts alike")
