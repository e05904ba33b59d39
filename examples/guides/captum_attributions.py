"""Captum beside the experts: which modality does a prediction rest on, and through which expert?

    python -m examples.guides.captum_attributions

A prediction is a sum over the experts, so its integrated gradients are the sum of theirs.
"""

from __future__ import annotations

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from examples.guides.plain_loop import make_model, train
from examples.guides.task import NAMES, load
from i2moe import InteractionMoE


class Contributions(nn.Module):
    """Return what each expert adds to the logits, (B, E, C): its weight times its own logits."""

    def __init__(self, model: InteractionMoE) -> None:
        super().__init__()
        self.model = model

    def forward(self, *modalities: Tensor) -> Tensor:
        """The sum over the experts is the prediction."""
        out = self.model(*modalities)
        added: Tensor = out.weights.unsqueeze(-1) * out.expert_predictions
        return added


def attribute(model: InteractionMoE, modalities: tuple[Tensor, ...], y: Tensor, n_steps: int = 64) -> Tensor:
    """Integrate gradients from zeros to the samples for the logit of class y: (B, E, M), summed over features."""
    gradients = IntegratedGradients(Contributions(model.eval()))
    per_expert = []
    for e in range(len(model.expert_names)):
        target = [(e, int(c)) for c in y]
        features = gradients.attribute(modalities, target=target, n_steps=n_steps)  # M tensors (B, D)
        per_expert.append(torch.stack([x.sum(-1) for x in features], dim=-1))
    return torch.stack(per_expert, dim=1)


if __name__ == "__main__":
    torch.manual_seed(0)
    model = make_model()
    train(model, load(4_000, seed=0), n_epochs=12)

    a, b, y = load(200, seed=1)[:]
    attributions = attribute(model, (a, b), y)  # (B, E, M)
    experts = model(a, b).weights.argmax(-1)
    print("of samples that rest most on", *(f"  logit from {name}" for name in NAMES))
    for e, name in enumerate(model.expert_names):
        print(f"{name:28}", *(f"{x:14.2f}" for x in attributions[experts == e].sum(1).mean(0)))
