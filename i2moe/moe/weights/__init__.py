"""Weights: how much each expert counts for a sample, learned, the same for all, or computed from the predictions."""

from i2moe.moe.weights.computed import ComputedReweighter
from i2moe.moe.weights.learned import Reweighter, StaticReweighter
from i2moe.moe.weights.shares import interaction_shares

__all__ = ["ComputedReweighter", "Reweighter", "StaticReweighter", "interaction_shares"]
