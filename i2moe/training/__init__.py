"""Training by the recommended recipe, for models that have no loop of their own."""

from i2moe.training.batches import Batches
from i2moe.training.recipe import fit

__all__ = ["Batches", "fit"]
