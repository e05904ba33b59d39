"""Missing modalities: the fills of absent modalities, and training with modalities taken away."""

from i2moe.missing.dropout import ModalityDropout
from i2moe.missing.fills import Fill, LearnedFill, MeanFill, ShuffleFill, ZeroFill, as_fill

__all__ = ["Fill", "LearnedFill", "MeanFill", "ModalityDropout", "ShuffleFill", "ZeroFill", "as_fill"]
