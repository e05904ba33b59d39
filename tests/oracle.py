"""The paper in plain nested loops: slow, obvious, float64. What every execution mode must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from i2moe.losses import Interaction


def cosine(a: Tensor, b: Tensor) -> float:
    if not a.any() or not b.any():
        return 0.0
    return float((a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt()))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b + 1e-7).pow(2).sum().sqrt())


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def squared(a: Tensor, b: Tensor) -> float:
    return float((a - b).pow(2).mean())


Terms = dict[str, Callable[..., float]]

CLASSIFICATION: Terms = {
    "uniqueness": lambda real, same, other: max(0.0, distance(real, other) - distance(real, same) + 1.0),
    "synergy": cosine,
    "redundancy": lambda real, other: 1 - cosine(real, other),
}
REGRESSION: Terms = {
    "uniqueness": CLASSIFICATION["uniqueness"],
    "synergy": lambda real, other: max(0.0, 1.0 - distance(real, other)),
    "redundancy": squared,
}
RELEASED_REGRESSION: Terms = {
    "uniqueness": lambda real, same, other: squared(real, other) - squared(real, same),
    "synergy": squared,
    "redundancy": squared,
}
TERMS = {
    "classification": CLASSIFICATION,
    "regression": REGRESSION,
    "released_regression": RELEASED_REGRESSION,
}


def interaction_loss(views: Tensor, interaction: Interaction, terms: Terms) -> float:
    """One expert's loss from its views (B, V, C)."""
    n_samples, n_views, _ = views.shape
    found = []
    for b in range(n_samples):
        real = views[b, 0]
        for j in range(1, n_views):
            if isinstance(interaction, str):
                found.append(terms[interaction](real, views[b, j]))
            elif j != interaction + 1:
                found.append(terms["uniqueness"](real, views[b, interaction + 1], views[b, j]))
    return mean(found)


@dataclass
class Result:
    prediction: Tensor
    expert_predictions: Tensor
    views: Tensor
    losses: list[float]


def run(
    experts: Sequence[nn.Module],
    interactions: Sequence[Interaction],
    weights: Tensor,
    modalities: Sequence[Tensor],
    replacements: Sequence[Tensor],
    terms: Terms,
) -> Result:
    """Algorithm 1: one pass per expert and view, one modality replaced at a time."""
    views = []
    for expert in experts:
        passes = [expert(*modalities)]
        for j in range(len(modalities)):
            passes.append(expert(*[replacements[i] if i == j else modalities[i] for i in range(len(modalities))]))
        views.append(torch.stack(passes, dim=1))  # (B, V, C)

    prediction = torch.zeros_like(views[0][:, 0])
    for b in range(prediction.shape[0]):
        for e in range(len(experts)):
            prediction[b] = prediction[b] + weights[b, e] * views[e][b, 0]
    losses = [interaction_loss(v.detach(), kind, terms) for v, kind in zip(views, interactions, strict=True)]
    return Result(prediction, torch.stack([v[:, 0] for v in views], dim=1), torch.stack(views, dim=1), losses)
