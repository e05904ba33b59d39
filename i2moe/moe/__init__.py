"""InteractionMoE: a fusion backbone turned into interaction experts, and the weights that mix them."""

from i2moe._common.output import InteractionOutput
from i2moe.moe.model import InteractionMoE

__all__ = ["InteractionMoE", "InteractionOutput"]
