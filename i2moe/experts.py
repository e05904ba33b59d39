"""The experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BackboneOutput"]


@dataclass(frozen=True)
class BackboneOutput:
    """What a backbone may return instead of a plain tensor.

    Args:
        prediction: (B, ...), usually logits (B, C).
        aux_loss: scalar loss of the backbone itself (load balancing of a router, say), with its graph.
        latent: (B, ...), the representation that `InteractionLosses(on="latent")` compares.
    """

    prediction: Tensor
    aux_loss: Tensor | None = None
    latent: Tensor | None = None


torch.export.register_dataclass(BackboneOutput, serialized_type_name="i2moe.BackboneOutput")
