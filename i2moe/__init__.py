"""Interaction experts for multimodal fusion: how modalities work together, per sample and per data set."""

from importlib import import_module
from typing import TYPE_CHECKING

from i2moe._common.modalities import BackboneOutput
from i2moe.losses import InteractionLosses, InteractionSupervision
from i2moe.moe import InteractionMoE, InteractionOutput
from i2moe.moe.teacher import Specialist, Teacher
from i2moe.moe.weights.computed import ComputedReweighter
from i2moe.moe.weights.learned import Reweighter, StaticReweighter

if TYPE_CHECKING:
    from i2moe.categorization import categorize
    from i2moe.interpretation import explain
    from i2moe.interpretation.calibration import calibrate
    from i2moe.interpretation.existing import interactions
    from i2moe.mmoe import MMoE

__version__ = "0.1.0.dev0"

__all__ = [
    "BackboneOutput",
    "ComputedReweighter",
    "InteractionLosses",
    "InteractionMoE",
    "InteractionOutput",
    "InteractionSupervision",
    "MMoE",
    "Reweighter",
    "Specialist",
    "StaticReweighter",
    "Teacher",
    "calibrate",
    "categorize",
    "explain",
    "interactions",
]

_AT_FIRST_USE = {
    "MMoE": "i2moe.mmoe",
    "calibrate": "i2moe.interpretation.calibration",
    "categorize": "i2moe.categorization",
    "explain": "i2moe.interpretation",
    "interactions": "i2moe.interpretation.existing",
}


def __getattr__(name: str) -> object:
    """Import what training does without when it is first used, to keep `import i2moe` short."""
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module 'i2moe' has no attribute {name!r}")
    return getattr(import_module(_AT_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
