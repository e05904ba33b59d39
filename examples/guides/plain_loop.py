"""Plain PyTorch, with computed weights and a report: `python -m examples.guides.plain_loop`."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from examples.guides.task import load, make_model
from i2moe import InteractionMoE, InteractionSupervision, calibrate, explain


def train(data: TensorDataset, held_out: Sequence[tuple[tuple[Tensor, ...], Tensor]], n_epochs: int) -> InteractionMoE:
    """Train, and return the average of the parameters that loses least on held-out batches, calibrated."""
    model, supervise = make_model(), InteractionSupervision(F.cross_entropy)  # the whole loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    best, lowest = model.state_dict(), float("inf")
    for epoch in range(n_epochs):
        for a, b, y in DataLoader(data, batch_size=128, shuffle=True):
            loss = supervise(model(a, b), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(model)
        terms = "  ".join(f"{name} {value:.3f}" for name, value in supervise.losses.items())
        average.eval()
        with torch.no_grad():
            losses = [supervise(average.module(*modalities), y).item() for modalities, y in held_out]
        print(f"epoch {epoch}  {terms}  held-out {sum(losses) / len(losses):.3f}")
        if sum(losses) < lowest:
            best, lowest = copy.deepcopy(average.module.state_dict()), sum(losses)
    model.load_state_dict(best)
    calibrate(model, held_out)  # no surer than it is right
    return model.eval()


def batches(n_samples: int, seed: int) -> list[tuple[tuple[Tensor, ...], Tensor]]:
    """Draw batches `(modalities, target)`."""
    return [((a, b), y) for a, b, y in DataLoader(load(n_samples, seed), batch_size=500)]


if __name__ == "__main__":
    torch.manual_seed(0)
    model = train(load(4_000, seed=0), held_out=batches(1_000, seed=2), n_epochs=12)
    report = explain(model, batches(2_000, seed=1), class_names=("minus", "plus"))
    print(report.summary())
