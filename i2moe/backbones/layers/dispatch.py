"""Sends tokens to experts through buffers of fixed size, without a loop over tokens or experts.

G groups of S tokens choose K of n experts each. Every expert has `capacity` places per group; who comes
first (first choices before second ones, then by position) gets them. All shapes follow from the input's
shape alone: nothing here waits for the device, and it compiles and vmaps as it stands.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

__all__ = [
    "Group",
    "RoutedLayer",
    "assign",
    "collect",
    "draw_as_linear",
    "into_groups",
    "rank_in_expert",
    "send",
]

Group: TypeAlias = Literal["batch", "sample"]
"""The tokens that compete for the same places: those of the whole batch, or of one sample."""


class RoutedLayer(nn.Module):
    """The base of routed layers: who competes for the places of an expert, and how many there are.

    Args:
        n_experts: number of experts with weights.
        capacity_factor: places in training, relative to the intended shares; None drops no token.
        eval_capacity_factor: the same in evaluation.
        group: "batch" or "sample".

    Raises:
        ValueError: if a factor is not positive, or the group unknown.
    """

    def __init__(
        self, n_experts: int, capacity_factor: float | None, eval_capacity_factor: float | None, group: Group
    ) -> None:
        super().__init__()
        if group not in ("batch", "sample"):
            raise ValueError(
                f"group must be 'batch' or 'sample', however it is {group!r}; "
                "'sample' makes every prediction independent of the rest of the batch"
            )
        for name, factor in (("capacity_factor", capacity_factor), ("eval_capacity_factor", eval_capacity_factor)):
            if factor is not None and factor <= 0:
                raise ValueError(f"{name} must be positive, however it is {factor}; use None to drop no token")
        self.n_experts = n_experts
        self.group: Group = group
        self.mixes_samples: bool = group == "batch"
        self.capacity_factor = capacity_factor
        self.eval_capacity_factor = eval_capacity_factor

    def places(self, n_tokens: int, fraction: float) -> int:
        """Places of an expert that should receive `fraction` of a group's tokens."""
        factor = self.capacity_factor if self.training else self.eval_capacity_factor
        if factor is None:
            return n_tokens
        return min(n_tokens, math.ceil(factor * fraction * n_tokens - 1e-9))  # 1.1 * 10 places are 11, not 12


def draw_as_linear(*weights: Tensor) -> None:
    """Draw stacked weights (n, D_in, D_out) as `nn.Linear` would."""
    for weight in weights:
        nn.init.uniform_(weight, -1 / math.sqrt(weight.shape[1]), 1 / math.sqrt(weight.shape[1]))


def into_groups(tokens: Tensor, group: Group) -> Tensor:
    """(B, T, D) -> (G, S, D): one group of all tokens, or one group per sample."""
    return tokens.reshape(1, -1, tokens.shape[-1]) if group == "batch" else tokens


def rank_in_expert(expert: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """How many came to the same expert before, (G, S, K), and how many came in all, (G, n).

    Args:
        expert: (G, S, K) chosen experts, best first.
        n_experts: number of experts n.
    """
    arrivals = expert.transpose(1, 2).reshape(expert.shape[0], 1, -1)  # (G, 1, K S)
    chosen = arrivals == torch.arange(n_experts, device=expert.device).unsqueeze(-1)
    arrived = chosen.cumsum(dim=-1, dtype=torch.int32)  # (G, n, K S)
    rank = arrived.gather(1, arrivals) - 1
    return rank.reshape(expert.shape[0], expert.shape[2], -1).transpose(1, 2), arrived[..., -1]


def assign(
    expert: Tensor, rank: Tensor, gate: Tensor, kept: Tensor, *, n_experts: int, capacity: int
) -> tuple[Tensor, Tensor]:
    """Who sits where: the token of each place, (n G capacity,), and its gate, (n, G capacity, 1).

    An empty place holds token 0 with gate 0.

    Args:
        expert: (G, S, K) chosen experts.
        rank: (G, S, K) order of arrival.
        gate: (G, S, K) weight of each choice.
        kept: (G, S, K) whether the token gets a place with one of the experts 0 .. n - 1.
        n_experts: number of experts n with places.
        capacity: places per expert and group.
    """
    n_groups, n_tokens, n_choices = expert.shape
    n_places = n_experts * n_groups * capacity
    group = torch.arange(n_groups, device=expert.device).view(-1, 1, 1)
    place = (expert * n_groups + group) * capacity + rank
    place = torch.where(kept, place, n_places).reshape(-1)  # one place too many, for the dropped

    token = torch.arange(n_groups * n_tokens * n_choices, device=expert.device) // n_choices
    source = token.new_zeros(n_places + 1).scatter(0, place, token)
    weight = gate.new_zeros(n_places + 1).scatter(0, place, gate.reshape(-1))
    return source[:-1], weight[:-1].view(n_experts, -1, 1)


def send(tokens: Tensor, source: Tensor, n_experts: int) -> Tensor:
    """Copy the tokens to their places: (G, S, D) -> (n, G capacity, D)."""
    dim = tokens.shape[-1]
    return tokens.reshape(-1, dim).index_select(0, source).view(n_experts, -1, dim)


def collect(base: Tensor, source: Tensor, outputs: Tensor) -> Tensor:
    """Add the gated outputs to the tokens they belong to: (G, S, D) and (n, G capacity, D) -> (G, S, D)."""
    rows = base.reshape(-1, base.shape[-1])
    return rows.index_add(0, source, outputs.reshape(-1, base.shape[-1]).to(base.dtype)).view(base.shape)
