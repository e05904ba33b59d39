"""Captum beside the experts: which modality does a prediction rest on, and through which expert?

    python -m examples.guides.captum_attributions

A prediction is a sum over the experts. With the sample's weights, its integrated gradients are the sum of theirs.
"""

from __future__ import annotations

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from examples.guides.plain_loop import batches, train
from examples.guides.task import NAMES, load
from i2moe import InteractionMoE


class ExpertLogits(nn.Module):
    """Return the logits of each expert, (B, E, C)."""

    def __init__(self, model: InteractionMoE) -> None:
        super().__init__()
        self.model = model

    def forward(self, *modalities: Tensor) -> Tensor:
        """Their sum, times the weights, is the prediction."""
        logits: Tensor = self.model(*modalities).expert_predictions
        return logits


def attribute(model: InteractionMoE, modalities: tuple[Tensor, ...], y: Tensor, n_steps: int = 64) -> Tensor:
    """Integrate gradients from zeros to the samples for the logit of class y: (B, E, M), summed over features."""
    gradients = IntegratedGradients(ExpertLogits(model.eval()))
    per_expert = []
    for e in range(len(model.expert_names)):
        target = [(e, int(c)) for c in y]
        features = gradients.attribute(modalities, target=target, n_steps=n_steps)  # M tensors (B, D)
        per_expert.append(torch.stack([x.sum(-1) for x in features], dim=-1))
    weights: Tensor = model(*modalities).weights.detach()
    return weights.unsqueeze(-1) * torch.stack(per_expert, dim=1)


if __name__ == "__main__":
    torch.manual_seed(0)
    model = train(load(4_000, seed=0), held_out=batches(1_000, seed=2), n_epochs=12)

    a, b, y = load(200, seed=1)[:]
    attributions = attribute(model, (a, b), y)  # (B, E, M)
    experts = model(a, b).weights.argmax(-1)
    print("of samples that rest most on", *(f"  logit from {name}" for name in NAMES))
    for e, name in enumerate(model.expert_names):
        print(f"{name:28}", *(f"{x:14.2f}" for x in attributions[experts == e].sum(1).mean(0)))
