"""The experts' colors in all figures and pages."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["INK", "REDUNDANCY", "SYNERGY", "expert_colors"]

# Okabe and Ito's colors, told apart also without seeing red and green.
_UNIQUENESS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#004D40", "#8C6BB1")
SYNERGY, REDUNDANCY, INK = "#D55E00", "#CC79A7", "#333333"


def expert_colors(expert_names: Sequence[str]) -> dict[str, str]:
    """A color per expert: warm for the two joint interactions, the others for uniqueness."""
    joint = {"synergy": SYNERGY, "redundancy": REDUNDANCY}
    unique = [name for name in expert_names if name not in joint]
    colors = {name: _UNIQUENESS[i % len(_UNIQUENESS)] for i, name in enumerate(unique)} | joint
    return {name: colors[name] for name in expert_names}
