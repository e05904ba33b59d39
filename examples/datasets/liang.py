"""The generator of Liang et al. (NeurIPS 2023): continuous latents behind two modalities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from examples.datasets.known import KnownInteractions

__all__ = ["Latents"]

N_LATENTS = 5
N_FEATURES = 32  # that show one group of latents


@dataclass(frozen=True)
class Latents:
    """A data set with one type of interaction, decided by the latents behind its label.

    Three groups of five latents: z_0 shown by modality 0 alone, z_1 by modality 1 alone, z_01 by both. The
    label is whether the mean of the chosen groups is above 0, each latent being dropped from it in 20% of
    the samples (so no model reaches 100%).

    "Synergy" here is a *sum* of what the modalities show, not a product: the decomposition of these data is
    two fifths redundancy, and `shows_type` is False there because no sample is of a pure type.

    Args:
        chosen: the groups behind the label, out of "0", "1" and "01".
        interaction: the type that the paper gives them.

    Source: Liang et al., "Quantifying & modeling multimodal interactions", NeurIPS 2023, synthetic data. What
    is not stated there (the projections, how latents drop out) is chosen here.
    """

    chosen: tuple[str, ...]
    interaction: int

    def __call__(self, n: int, seed: int) -> KnownInteractions:
        """Draw n samples."""
        generator = torch.Generator().manual_seed(seed)
        latents = {name: math.sqrt(1.5) * torch.randn(n, N_LATENTS, generator=generator) for name in _PROJECTIONS}
        shown = {name: latents[name] @ projection for name, projection in _PROJECTIONS.items()}

        behind = torch.cat([latents[name] for name in self.chosen], dim=1)
        kept = torch.rand(behind.shape, generator=generator) >= 0.2
        return KnownInteractions(
            modalities=tuple(torch.cat((shown[name], shown["01"]), dim=1) for name in ("0", "1")),
            target=((behind * kept).mean(1) > 0).long(),
            interaction=torch.full((n,), self.interaction),
            mix=torch.eye(4)[self.interaction],
            n_classes=2,
            shows_type=(len(self.chosen) == 1,) * 2,
        )


def _projection(seed: int) -> Tensor:
    return torch.rand(N_LATENTS, N_FEATURES, generator=Generator().manual_seed(seed))


_PROJECTIONS = {name: _projection(seed) for seed, name in enumerate(("0", "1", "01"))}
