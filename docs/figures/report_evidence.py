"""Draw the figures of report-evidence.md and print its tables: `python docs/figures/report_evidence.py`, a minute.

Two models of the same data, in which each sample's interaction is known: one trained with the paper's objective, one
that is also trained on the true interactions. The second is no method, it shows what a report of right weights is.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib import pyplot
from torch import Tensor, nn

from i2moe import InteractionMoE, explain
from i2moe.interpretation import InteractionReport, stability
from i2moe.interpretation.plots import plot_classes, plot_faithfulness, plot_weights

FOLDER = Path(__file__).parent


def make_data(n_samples: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Two modalities, a binary class, and the interaction (0 to 3, in the experts' order) that decides it."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(4, (n_samples,), generator=generator)
    sign = torch.randint(2, (n_samples,), generator=generator) * 2 - 1
    image = torch.randint(2, (n_samples,), generator=generator) * 2 - 1
    text = torch.randint(2, (n_samples,), generator=generator) * 2 - 1
    image = torch.where((kind == 0) | (kind == 3), sign, image)
    text = torch.where((kind == 1) | (kind == 3), sign, torch.where(kind == 2, sign * image, text))

    def modality(carried: Tensor) -> Tensor:
        x = 0.5 * torch.randn(n_samples, 16, generator=generator)
        x[:, 10] += 2 * carried
        x[torch.arange(n_samples), kind] += 3  # the cue by which a model can know the interaction
        return x

    return (modality(image), modality(text)), (sign > 0).long(), kind


class Fusion(nn.Module):
    """A small early fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        logits: Tensor = self.net(torch.cat([image, text], dim=-1))
        return logits


def train(seed: int, *, true_interactions: bool) -> InteractionMoE:
    """Train for 15 epochs."""
    torch.manual_seed(seed)
    model = InteractionMoE(Fusion, 2, modality_names=("image", "text"), feature_dims=(16, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    (image, text), target, kind = make_data(8000, seed=1)
    for _ in range(15):
        for rows in torch.randperm(8000).split(128):
            out = model(image[rows], text[rows])
            task = F.cross_entropy(out.prediction, target[rows])
            loss = task + 0.1 * out.interaction_loss
            if true_interactions:
                of_its_expert = out.expert_predictions[torch.arange(len(rows)), kind[rows]]
                loss = loss + F.nll_loss(out.weights.clamp(min=1e-6).log(), kind[rows])
                loss = loss + F.cross_entropy(of_its_expert, target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def report_of(model: InteractionMoE) -> InteractionReport:
    """Explain 2,000 samples the model has not seen."""
    (image, text), target, _ = make_data(2000, seed=2)
    batches = zip(zip(image.split(250), text.split(250), strict=True), target.split(250), strict=True)
    return explain(model, batches, class_names=("minus", "plus"))


def main() -> None:
    """Train, print the tables and save the figures."""
    paper = [train(seed, true_interactions=False) for seed in range(3)]
    supervised = [train(seed, true_interactions=True) for seed in range(3)]
    for name, runs in (("paper", paper), ("true-interactions", supervised)):
        reports = [report_of(model) for model in runs]
        print(f"== {name}\n{reports[0].summary()}\n\n{stability(reports).summary()}\n")

        # Subfigures, and not one grid: a legend in one would make the others narrower.
        figure = pyplot.figure(figsize=(8, 10.5), layout="constrained")
        parts = figure.subfigures(3, 1, height_ratios=(3.2, 2.3, 4), hspace=0.04)
        plot_weights(reports[0], ax=parts[0].subplots())
        plot_classes(reports[0], ax=parts[1].subplots())
        plot_faithfulness(reports[0], ax=parts[2].subplots())
        figure.savefig(FOLDER / f"report-{name}.png", dpi=100)


if __name__ == "__main__":
    main()
