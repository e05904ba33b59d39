"""What the model returns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["InteractionOutput", "SoftTargets"]


@dataclass(frozen=True, repr=False, eq=False)
class InteractionOutput:
    """What `InteractionMoE` returns.

    Args:
        prediction: (B, ...), the experts' predictions summed by weight.
        weights: (B, E), how much each expert counts for each sample; rows sum to 1.
        expert_predictions: (B, E, ...), each expert's own.
        aux_loss: scalar, mean over the experts of the backbones' own losses; 0 without.
        interaction_loss: scalar, mean over the experts; None where no perturbed views were made (evaluation).
        interaction_losses: expert name -> scalar; empty where no perturbed views were made.
        views: (B', E, V, ...), each expert's prediction with all modalities (view 0) and with modality j - 1
            replaced (view j); None where no perturbed views were made.
        marginals: (B, M, ...), what the model predicts from each modality alone; None without computed weights.
        available: (B, M) bool, which modalities each sample had; None where the model has no fill.
        member_predictions: (B, E, k, ...), of the members of each expert, whose mean it is; None without members.
            Experts that are one network have the same ones.
        member_marginals: (B, M, k, ...), the same of the marginals.
    """

    prediction: Tensor
    weights: Tensor
    expert_predictions: Tensor
    aux_loss: Tensor
    interaction_loss: Tensor | None = None
    interaction_losses: dict[str, Tensor] = field(default_factory=dict)
    views: Tensor | None = None
    marginals: Tensor | None = None
    available: Tensor | None = None
    member_predictions: Tensor | None = None
    member_marginals: Tensor | None = None

    def __repr__(self) -> str:
        """Show shapes, not numbers."""
        shapes = [f"{name} {tuple(x.shape)}" for name, x in self.to_dict().items() if isinstance(x, Tensor)]
        return f"InteractionOutput({', '.join(shapes)})"

    @property
    def losses(self) -> dict[str, Tensor]:
        """All losses as detached scalars by name, for a log."""
        losses = {f"interaction/{name}": loss.detach() for name, loss in self.interaction_losses.items()}
        if self.interaction_loss is not None:
            losses["interaction"] = self.interaction_loss.detach()
        return losses | {"aux": self.aux_loss.detach()}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are there as a dict, which some trainers need."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor) or value}


torch.export.register_dataclass(InteractionOutput, serialized_type_name="i2moe.InteractionOutput")


class SoftTargets(NamedTuple):
    """What a teacher predicts: probabilities, or the values of a regression.

    Args:
        target: (B, ...), from all modalities that a sample has.
        marginal_target: (B, M, ...), from each modality alone.
    """

    target: Tensor
    marginal_target: Tensor
