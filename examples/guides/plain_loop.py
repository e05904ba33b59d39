"""Plain PyTorch, with supervised weights and a report: `python -m examples.guides.plain_loop`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from examples.guides.task import load, make_model
from i2moe import InteractionMoE, InteractionSupervision, explain


def train(model: InteractionMoE, data: TensorDataset, n_epochs: int) -> dict[str, float]:
    """Train with all terms of the loss, and return the last batch's by name."""
    supervise = InteractionSupervision(feature_dims=(16, 16), n_outputs=2)  # so that weights name interactions
    optimizer = torch.optim.Adam([*model.parameters(), *supervise.parameters()], lr=2e-3)
    for epoch in range(n_epochs):
        for a, b, y in DataLoader(data, batch_size=128, shuffle=True):
            out = model(a, b)
            loss = F.cross_entropy(out.prediction, y) + supervise(out, (a, b), y)
            loss = loss + 0.1 * out.interaction_loss + 0.01 * out.aux_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        named = {name: value.item() for name, value in (out.losses | supervise.losses).items()}
        print(f"epoch {epoch}", *(f"{name} {value:.3f}" for name, value in named.items()), sep="  ")
    return named


if __name__ == "__main__":
    torch.manual_seed(0)
    model = make_model()
    train(model, load(4_000, seed=0), n_epochs=8)
    batches = (((a, b), y) for a, b, y in DataLoader(load(2_000, seed=1), batch_size=500))
    report = explain(model, batches, class_names=("minus", "plus"))
    print(report.summary())
