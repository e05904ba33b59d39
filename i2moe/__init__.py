"""Interaction experts for multimodal fusion."""

from i2moe.experts import BackboneOutput

__version__ = "0.1.0.dev0"

__all__ = ["BackboneOutput"]
