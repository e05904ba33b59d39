"""Interaction experts trained by the paper's objective."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from examples.benchmarks.identify.networks import Embedding, accuracy, task_loss
from examples.benchmarks.identify.settings import Training
from examples.common.modules import Fusion
from examples.datasets.known import KnownInteractions
from i2moe import InteractionLosses, InteractionMoE, InteractionOutput
from i2moe.perturbations import Perturbation

__all__ = ["EmbeddedExperts", "Experts", "train_experts"]


class EmbeddedExperts(nn.Module):
    """Interaction experts on the embedded modalities."""

    def __init__(self, embed: Embedding, experts: InteractionMoE) -> None:
        super().__init__()
        self.embed = embed
        self.experts = experts

    def forward(self, *modalities: Tensor) -> InteractionOutput:
        """Predict."""
        out: InteractionOutput = self.experts(*self.embed(modalities))
        return out


class Experts:
    """The paper's objective, for `METHODS`."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self._model: EmbeddedExperts | None = None

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Train; validation samples are not used."""
        self._model = train_experts(train, seed, self.training)

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the weights of the experts."""
        weights: Tensor = self._run(test).weights
        return weights

    def accuracy(self, test: KnownInteractions) -> float:
        """Return that of the mixture."""
        return accuracy(self._run(test).prediction, test.target)

    @torch.no_grad()
    def _run(self, test: KnownInteractions) -> InteractionOutput:
        assert self._model is not None, "fit first"
        self._model.eval()
        out: InteractionOutput = self._model(*test.modalities)
        return out


def train_experts(
    data: KnownInteractions,
    seed: int,
    training: Training,
    perturbation: str | Perturbation = "gaussian",
) -> EmbeddedExperts:
    """Train interaction experts."""
    torch.manual_seed(seed)
    embed = Embedding([x.shape[1:] for x in data.modalities], training.convolutional)
    task: Literal["regression", "classification"] = "regression" if data.n_classes is None else "classification"
    n_outputs = data.n_classes or 1
    model = EmbeddedExperts(
        embed,
        InteractionMoE(
            lambda: Fusion(sum(embed.widths), n_outputs, [training.hidden_dim] * 2),
            len(embed.widths),
            feature_dims=embed.widths,
            losses=InteractionLosses(task),
            perturbation=perturbation,
        ),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)

    for _ in range(training.epochs):
        for rows in torch.split(torch.randperm(len(data.target)), training.batch_size):
            embedded, target = embed([x[rows] for x in data.modalities]), data.target[rows]
            out = model.experts(*embedded)
            loss = task_loss(out.prediction, target) + 0.1 * out.interaction_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model
