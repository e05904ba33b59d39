"""Accelerate, the same loop on one CPU or many GPUs.

python -m examples.guides.accelerate_loop
accelerate launch --num_processes 4 -m examples.guides.accelerate_loop
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from examples.guides.task import load, make_model
from i2moe import InteractionSupervision, calibrate


def train(accelerator: Accelerator, n_epochs: int) -> torch.nn.Module:
    """Train. Every process sees its part of each epoch; losses are averaged over processes for the log."""
    model: torch.nn.Module = make_model()
    supervise = InteractionSupervision(F.cross_entropy)  # the whole loss
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loader = DataLoader(load(2_000, seed=0), batch_size=64, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(n_epochs):
        for a, b, y in loader:
            loss = supervise(model(a, b), y)  # the wrapped model: it is the call that synchronizes gradients
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        named = accelerator.reduce(supervise.losses, reduction="mean")
        accelerator.print(f"epoch {epoch}", *(f"{name} {value:.3f}" for name, value in named.items()), sep="  ")
    model = accelerator.unwrap_model(model)
    held_out = DataLoader(load(1_000, seed=2), batch_size=500)  # in every process all of it
    calibrate(model, (((a, b), y) for a, b, y in held_out))
    return model


@torch.no_grad()
def evaluate(accelerator: Accelerator, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Predict new samples in all processes, and bring together what each found: every sample once."""
    parts = []
    for a, b, y in accelerator.prepare(DataLoader(load(1_001, seed=1), batch_size=64)):
        out = model.eval()(a, b)
        parts.append(accelerator.gather_for_metrics({"right": out.prediction.argmax(-1) == y, "weights": out.weights}))
    return {name: torch.cat([part[name] for part in parts]) for name in ("right", "weights")}


if __name__ == "__main__":
    set_seed(0)
    accelerator = Accelerator()
    model = train(accelerator, n_epochs=5)
    found = evaluate(accelerator, model)
    accuracy, weights = found["right"].double().mean(), found["weights"].mean(0)
    accelerator.print(f"{accelerator.num_processes} processes, {len(found['right'])} samples, accuracy {accuracy:.3f}")
    accelerator.print("mean weights", *(f"{weight:.2f}" for weight in weights))
