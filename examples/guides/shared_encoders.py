"""Encoders that experts of the paper's objective share, in safetensors: `python -m examples.guides.shared_encoders`.

With `members` all experts share everything, and this is not needed. Experts of their own train and store one set of
parameters under several names, if each gets the same encoder object.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from examples.guides.task import DIMS, Fusion, load
from i2moe import InteractionMoE


class EncodingFusion(nn.Module):
    """A fusion module with its encoders inside."""

    def __init__(self, encoders: nn.ModuleList) -> None:
        super().__init__()
        self.encoders, self.fusion = encoders, Fusion((8, 8))

    def forward(self, *modalities: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        encoded = [encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)]
        logits: Tensor = self.fusion(*encoded)
        return logits


def make_model() -> InteractionMoE:
    """Hand the same encoders to every expert."""
    encoders = nn.ModuleList(nn.Sequential(nn.Linear(width, 8), nn.LayerNorm(8)) for width in DIMS)
    return InteractionMoE(lambda: EncodingFusion(encoders), 2, feature_dims=DIMS)


if __name__ == "__main__":
    torch.manual_seed(0)
    model = make_model()
    a, b, y = load(500, seed=0)[:]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)  # lists every shared parameter once
    for _ in range(5):
        out = model(a, b)
        optimizer.zero_grad()
        (F.cross_entropy(out.prediction, y) + 0.1 * out.interaction_loss).backward()
        optimizer.step()

    path = Path("outputs/shared.safetensors")
    path.parent.mkdir(exist_ok=True)
    save_model(model, str(path))  # save_file(model.state_dict(), path) refuses tensors with several names
    again = make_model()
    load_model(again, path)
    print("the same predictions:", torch.equal(model.eval()(a, b).prediction, again.eval()(a, b).prediction))
    print(f"{path.stat().st_size:,} bytes for {sum(p.numel() for p in model.parameters()):,} parameters")
