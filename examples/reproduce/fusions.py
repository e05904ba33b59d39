"""The fusions by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import nn

from examples.reproduce.settings import Settings
from i2moe.backbones import (
    EarlyFusion,
    FusionTransformer,
    InterpretCC,
    LateFusion,
    LowRankTensorFusion,
    MoEPlusPlus,
    SwitchTransformer,
)

__all__ = ["FusionName", "fusion_factory"]

FusionName: TypeAlias = Literal["transformer", "switchgate", "interpretcc", "moepp", "ef", "lf", "lrtf"]


def fusion_factory(
    name: FusionName, settings: Settings, *, n_modalities: int, n_tokens: int, n_outputs: int
) -> Callable[[], nn.Module]:
    """Return a function that builds the fusion of embeddings (B, T, D) of every modality.

    Args:
        name: which fusion.
        settings: sizes and rates.
        n_modalities: number of modalities M.
        n_tokens: tokens T of each.
        n_outputs: outputs C.

    Example:
        >>> build = fusion_factory("lrtf", Settings(), n_modalities=2, n_tokens=1, n_outputs=3)
        >>> type(build()).__name__
        'LowRankTensorFusion'
    """
    s, widths = settings, (settings.hidden_dim,) * n_modalities

    def build() -> nn.Module:
        if name == "interpretcc":
            gates = {"tau": s.tau, "threshold": s.threshold}
            return InterpretCC(widths, n_outputs, hidden_dim=s.hidden_dim, dropout=s.dropout, hard=True, **gates)
        if name == "lrtf":
            return LowRankTensorFusion(widths, n_outputs, rank=s.rank, hidden_dim=s.hidden_dim, dropout=s.dropout)
        sizes = {"n_tokens": n_tokens, "hidden_dim": s.hidden_dim, "n_layers": s.n_layers, "n_heads": s.n_heads}
        if name == "switchgate":
            return SwitchTransformer(
                widths, n_outputs, **sizes, dropout=s.dropout, n_experts=s.n_experts, group=s.routing
            )
        if name == "moepp":
            routed = {"n_experts": s.n_experts, "n_active": s.n_active}
            return MoEPlusPlus(widths, n_outputs, **sizes, dropout=s.dropout, **routed, group=s.routing)
        of_tokens = {"transformer": FusionTransformer, "ef": EarlyFusion, "lf": LateFusion}
        return of_tokens[name](widths, n_outputs, **sizes, dropout=s.dropout)

    return build
