"""Losses: what makes an expert a uniqueness, a synergy or a redundancy expert, and what trains computed weights.

`InteractionLosses` compares an expert's predictions with and without each modality. `InteractionSupervision` is the
task loss of all experts and of each modality alone. Models with several outputs: `i2moe.losses.heads`.
"""

from i2moe.losses.formulas import (
    cosine_redundancy,
    cosine_synergy,
    difference_uniqueness,
    hinge_synergy,
    squared_redundancy,
    triplet_uniqueness,
)
from i2moe.losses.interaction import Interaction, InteractionLosses, Losses
from i2moe.losses.supervision import InteractionSupervision

__all__ = [
    "Interaction",
    "InteractionLosses",
    "InteractionSupervision",
    "Losses",
    "cosine_redundancy",
    "cosine_synergy",
    "difference_uniqueness",
    "hinge_synergy",
    "squared_redundancy",
    "triplet_uniqueness",
]
