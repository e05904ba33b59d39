"""Draw the figure of read-the-report.md and print its tables: `python docs/figures/read_the_report.py`, a minute.

Data in which each sample's interaction is known: in a quarter of the samples the image alone tells the class, in a
quarter the text, in a quarter only both together (a product of signs), in a quarter either.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib import pyplot
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2moe import InteractionMoE, InteractionSupervision, explain
from i2moe.interpretation import InteractionReport
from i2moe.interpretation.calibration import calibrate
from i2moe.interpretation.plots import plot_classes, plot_faithfulness, plot_weights

FOLDER = Path(__file__).parent


def make_data(n_samples: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Two modalities, and a binary class."""
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

    return (modality(image), modality(text)), (sign > 0).long()


class Fusion(nn.Module):
    """A small early fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        logits: Tensor = self.net(torch.cat([image, text], dim=-1))
        return logits


def train(seed: int) -> InteractionMoE:
    """Train for 10 epochs and calibrate."""
    torch.manual_seed(seed)
    model = InteractionMoE(Fusion, 2, modality_names=("image", "text"), reweighter="computed", members=4)
    supervise = InteractionSupervision(cross_entropy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    (image, text), target = make_data(8000, seed=1)
    for _ in range(10):
        for rows in torch.randperm(8000).split(128):
            loss = supervise(model(image[rows], text[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    calibrate(model, [make_data(2000, seed=3)])
    return model


def report_of(model: InteractionMoE) -> InteractionReport:
    """Explain 2,000 samples the model has not seen."""
    (image, text), target = make_data(2000, seed=2)
    batches = zip(zip(image.split(250), text.split(250), strict=True), target.split(250), strict=True)
    return explain(model, batches, class_names=("minus", "plus"))


def main() -> None:
    """Train, print the tables and save the figure."""
    model, other = train(0), train(1)
    report = report_of(model)
    print(report.summary(), end="\n\n")
    index = int(report.weights[:, 2].argmax())
    print(report.sample(index), end="\n\n")
    print(report.compare(report_of(other)).summary())

    # Subfigures, and not one grid: a legend in one would make the others narrower.
    figure = pyplot.figure(figsize=(8, 10.5), layout="constrained")
    parts = figure.subfigures(3, 1, height_ratios=(3.2, 2.3, 4), hspace=0.04)
    plot_weights(report, ax=parts[0].subplots())
    plot_classes(report, ax=parts[1].subplots())
    plot_faithfulness(report, ax=parts[2].subplots())
    figure.savefig(FOLDER / "report-weights.png", dpi=100)


if __name__ == "__main__":
    main()
