"""Interaction experts for multimodal fusion: how modalities work together, per sample and per data set."""

from i2moe._types import BackboneOutput
from i2moe.interpretation import explain
from i2moe.losses import InteractionLosses
from i2moe.moe import InteractionMoE, InteractionOutput
from i2moe.reweighting import Reweighter, StaticReweighter

__version__ = "0.1.0.dev0"

__all__ = [
    "BackboneOutput",
    "InteractionLosses",
    "InteractionMoE",
    "InteractionOutput",
    "Reweighter",
    "StaticReweighter",
    "explain",
]
