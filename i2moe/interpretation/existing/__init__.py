"""Explaining models that were trained without experts."""

from i2moe.interpretation.existing.interactions import interactions
from i2moe.interpretation.existing.marginals import Apart, Background, Fitted, Marginals, Replaced

__all__ = ["Apart", "Background", "Fitted", "Marginals", "Replaced", "interactions"]
