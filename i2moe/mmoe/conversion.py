"""From MMoE to InteractionMoE: the same experts and router, to explain or to train on end to end."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._common.names import interaction_names
from i2moe.losses import InteractionLosses
from i2moe.mmoe.parts.parts import Parts
from i2moe.moe import InteractionMoE
from i2moe.moe.inputs import bind

__all__ = ["as_interaction_moe"]


class _Backbone(nn.Module):
    """An expert called with the modalities, its probabilities turned back into logits."""

    def __init__(self, expert: nn.Module, names: tuple[str, ...], *, logits: bool) -> None:
        super().__init__()
        self.expert = expert
        self.names = names
        self.logits = logits

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        predictions: Tensor = self.expert(bind(self.names, args, kwargs)[0])
        return predictions.clamp(min=torch.finfo(predictions.dtype).tiny).log() if self.logits else predictions


def as_interaction_moe(parts: Parts) -> InteractionMoE:
    """Build an `InteractionMoE` from copies of the experts and the router; see `MMoE.to_interaction_moe`."""
    expected = interaction_names(parts.modality_names)
    if parts.expert_names != expected:
        raise ValueError(f"the categories must be {expected}, however they are {parts.expert_names}")
    if not isinstance(parts.router, nn.Module):
        raise TypeError(f"the router must be a torch.nn.Module, however it is a {type(parts.router).__name__}")
    logits = parts.objective.task == "classification"
    experts = [
        parts.baseline if falls_back else expert
        for expert, falls_back in zip(parts.experts, parts.fallback.tolist(), strict=True)
    ]
    backbones = iter([_Backbone(copy.deepcopy(expert), parts.modality_names, logits=logits) for expert in experts])
    return InteractionMoE(
        lambda: next(backbones),
        parts.n_modalities,
        modality_names=parts.modality_names,
        reweighter=copy.deepcopy(parts.router),
        losses=InteractionLosses(parts.objective.task),
    ).train(parts.training)
