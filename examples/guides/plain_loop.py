"""Plain PyTorch, with computed weights and a report: `python -m examples.guides.plain_loop`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from examples.guides.task import NAMES, Fusion, load
from i2moe import InteractionMoE, InteractionSupervision, calibrate, explain


def make_model() -> InteractionMoE:
    """Make the fusion module four experts that share its weights, each the mean of four members."""
    return InteractionMoE(Fusion, 2, modality_names=NAMES, reweighter="computed", members=4)


def train(model: InteractionMoE, data: TensorDataset, n_epochs: int) -> dict[str, float]:
    """Train experts and modalities to predict, and return the last batch's losses by name."""
    supervise = InteractionSupervision(F.cross_entropy)  # the whole loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for epoch in range(n_epochs):
        for a, b, y in DataLoader(data, batch_size=128, shuffle=True):
            loss = supervise(model(a, b), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        named = {name: value.item() for name, value in supervise.losses.items()}
        print(f"epoch {epoch}", *(f"{name} {value:.3f}" for name, value in named.items()), sep="  ")
    return named


def batches(n_samples: int, seed: int) -> list[tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Draw batches `(modalities, target)`."""
    return [((a, b), y) for a, b, y in DataLoader(load(n_samples, seed), batch_size=500)]


if __name__ == "__main__":
    torch.manual_seed(0)
    model = make_model()
    train(model, load(4_000, seed=0), n_epochs=12)
    calibrate(model, batches(1_000, seed=2))  # no surer than it is right
    report = explain(model, batches(2_000, seed=1), class_names=("minus", "plus"))
    print(report.summary())
