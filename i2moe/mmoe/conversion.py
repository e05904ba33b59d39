"""From MMoE to InteractionMoE: the same experts and router, to explain or to train on end to end."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from i2moe._inputs import bind
from i2moe.losses import InteractionLosses
from i2moe.moe import InteractionMoE

if TYPE_CHECKING:
    from i2moe.mmoe.model import MMoE

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


def as_interaction_moe(model: MMoE) -> InteractionMoE:
    """Build an `InteractionMoE` from copies of a model's experts and router; see `MMoE.to_interaction_moe`."""
    expected = (*(f"uniqueness/{name}" for name in model.modality_names), "synergy", "redundancy")
    if model.expert_names != expected:
        raise ValueError(f"the categories must be {expected}, however they are {model.expert_names}")
    if not isinstance(model.router, nn.Module):
        raise TypeError(f"the router must be a torch.nn.Module, however it is a {type(model.router).__name__}")
    classifies = model.task.higher_is_better
    experts = [
        model.baseline if missing else expert
        for expert, missing in zip(model.experts, model.fallback.tolist(), strict=True)
    ]
    backbones = iter([_Backbone(copy.deepcopy(expert), model.modality_names, logits=classifies) for expert in experts])
    return InteractionMoE(
        lambda: next(backbones),
        model.n_modalities,
        modality_names=model.modality_names,
        reweighter=copy.deepcopy(model.router),
        losses=InteractionLosses("classification" if classifies else "regression"),
    ).train(model.training)
