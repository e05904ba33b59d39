"""Missing modalities on SUPPORT2: what masks, fills and modality dropout are worth.

A fifth of the patients were never asked what they can still do by themselves, so one of five modalities is missing.
Models are trained in several ways and tested

* on the patients as they are, apart by which modalities they have,
* on patients of whom more and more modalities are taken away, each with the same probability.

    python -m examples.missing_modalities                       # about ten minutes
    python -m examples.missing_modalities --splits 1 --epochs 3 # half a minute
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import Tensor

from examples.common.best_epoch import train_to_best_epoch
from examples.common.modules import Fusion
from examples.common.statistics import mean_and_deviation
from examples.datasets import find
from examples.datasets._interface import MultimodalData, Split
from i2moe import InteractionMoE, InteractionOutput, Reweighter
from i2moe.missing import ModalityDropout

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Probabilities with which a modality is taken away in the test."""


@dataclass(frozen=True)
class Settings:
    """What to run.

    Args:
        splits: number of random splits, each with a seed of its own.
        epochs: passes over the training patients.
        output: where the figure goes.
    """

    splits: int = 5
    epochs: int = 8
    output: Path = Path("outputs/missing-modalities.png")


@dataclass(frozen=True)
class Way:
    """A way to deal with what is missing.

    Args:
        fill: as for `InteractionMoE`; None leaves the zeros of the data set and hides the mask.
        dropout: probability of dropping a modality in training.
        complete: train on the patients who have everything.
    """

    fill: str | None = "learned"
    dropout: float = 0.0
    complete: bool = False


WAYS = {
    "zeros, no mask": Way(fill=None),
    "complete patients only": Way(complete=True),
    "mask, learned fill": Way(),
    "mask, zero fill": Way(fill="zero"),
    "mask, mean fill": Way(fill="mean"),
    "mask, shuffle fill": Way(fill="shuffle"),
    "zeros, no mask, dropout 0.3": Way(fill=None, dropout=0.3),
    "mask, dropout 0.3": Way(dropout=0.3),
    "mask, dropout 0.5": Way(dropout=0.5),
}
DRAWN = {
    "mask, dropout 0.5": ("C3", "-"),
    "mask, dropout 0.3": ("C1", "-"),
    "mask, learned fill": ("C0", "-"),
    "zeros, no mask, dropout 0.3": ("C1", "--"),
    "zeros, no mask": ("C0", "--"),
}
PAIRS = (
    ("mask, learned fill", "zeros, no mask"),
    ("mask, dropout 0.3", "mask, learned fill"),
    ("mask, dropout 0.5", "mask, learned fill"),
    ("mask, dropout 0.3", "zeros, no mask, dropout 0.3"),
)
"""What is compared split by split."""


def build(data: MultimodalData, way: Way) -> InteractionMoE:
    """Build a model; its fill is the only thing that differs."""
    widths = [shape[0] for shape in data.shapes]
    return InteractionMoE(
        lambda: Fusion(sum(widths), 2, dropout=0.2),
        len(widths),
        modality_names=data.modality_names,
        feature_dims=widths if way.fill else None,
        reweighter=Reweighter(len(widths) + 2, widths, hidden_dim=64, n_layers=1, temperature=2.0),
        fill=way.fill,
    )


def call(model: InteractionMoE, modalities: Sequence[Tensor], available: Tensor) -> InteractionOutput:
    """Call a model with a mask, or where it takes none, with zeros for what is missing."""
    if model.fill is not None:
        out: InteractionOutput = model(*modalities, available=available)
        return out
    zeroed = [x * present.unsqueeze(-1) for x, present in zip(modalities, available.unbind(1), strict=True)]
    out = model(*zeroed)
    return out


@torch.no_grad()
def predict(model: InteractionMoE, split: Split, available: Tensor) -> Tensor:
    """Return the probability of death, (N,)."""
    return call(model, split[range(len(split))].modalities, available).prediction.softmax(-1)[:, 1]


def train(data: MultimodalData, way: Way, epochs: int, seed: int) -> InteractionMoE:
    """Train with the paper's objective; keep the epoch that ranks the validation patients best."""
    torch.manual_seed(seed)
    model, drop = build(data, way), ModalityDropout(way.dropout)
    split = data.train.complete() if way.complete else data.train
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def run_epoch(epoch: int) -> dict[str, float]:
        model.train()
        for rows in torch.randperm(len(split)).split(128):
            modalities, target, available = split[rows]
            out = call(model, modalities, drop(available))
            assert out.interaction_loss is not None
            loss = F.cross_entropy(out.prediction, target) + 0.1 * out.interaction_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        return {"AUROC": auroc(model, data.validation, data.validation.available)}

    train_to_best_epoch(model, run_epoch, "AUROC", epochs)
    return model.eval()


def auroc(model: InteractionMoE, split: Split, available: Tensor) -> float:
    """How well a model ranks patients."""
    return float(roc_auc_score(split.targets, predict(model, split, available)))


def accuracy(model: InteractionMoE, split: Split, available: Tensor) -> float:
    """The share of patients that a model predicts rightly."""
    return float(accuracy_score(split.targets, predict(model, split, available) > 0.5))


@dataclass(frozen=True)
class Scores:
    """What one model scores on the test patients.

    Args:
        everyone: AUROC of all.
        complete: AUROC of those who have all modalities.
        others: AUROC of those who lack one.
        curve: accuracy by the share of modalities taken away, see `SHARES`.
        curve_auroc: AUROC by the same.
    """

    everyone: float
    complete: float
    others: float
    curve: list[float]
    curve_auroc: list[float]


def measure(model: InteractionMoE, test: Split, seed: int) -> Scores:
    """Test on patients as they are, and on patients with less; each share is drawn alike for all models."""
    has_all = test.available.all(1)
    whole, rest = test.select(has_all), test.select(~has_all)
    masks = [ModalityDropout(share, generator=torch.Generator().manual_seed(seed))(test.available) for share in SHARES]
    return Scores(
        auroc(model, test, test.available),
        auroc(model, whole, whole.available),
        auroc(model, rest, rest.available),
        [accuracy(model, test, mask) for mask in masks],
        [auroc(model, test, mask) for mask in masks],
    )


def tables(results: dict[str, list[Scores]]) -> Iterator[Table]:
    """Show the scores as they are, and by the share of modalities taken away; differences split by split."""
    table = Table("trained with", "all", "complete", "without function", title="Test AUROC")
    for name, scores in results.items():
        columns = ([getattr(one, field) for one in scores] for field in ("everyone", "complete", "others"))
        table.add_row(name, *map(mean_and_deviation, columns))
    yield table
    for field, title in (("curve", "accuracy"), ("curve_auroc", "AUROC")):
        table = Table("trained with", *map(str, SHARES), title=f"Test {title} by probability of taking away")
        curves = {name: torch.tensor([getattr(one, field) for one in scores]) for name, scores in results.items()}
        rows = curves | {f"{one} - {other}": curves[one] - curves[other] for one, other in PAIRS}
        for name, curve in rows.items():
            table.add_row(name, *(mean_and_deviation(column.tolist()) for column in curve.unbind(1)))
        yield table


def draw(results: dict[str, list[Scores]], path: Path) -> None:
    """Draw the robustness curves, means over the splits."""
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for ax, field, label in zip(axes, ("curve", "curve_auroc"), ("accuracy", "AUROC"), strict=True):
        for name, (color, line) in DRAWN.items():
            curves = torch.tensor([getattr(scores, field) for scores in results[name]])
            ax.plot(SHARES, curves.mean(0), line, marker="o", color=color, label=name)
        ax.set(xlabel="probability that a modality is taken away", ylabel=f"test {label}", xticks=SHARES)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(settings: Settings) -> None:
    """Train all ways on all splits, print the tables, save the figure."""
    torch.set_num_threads(1)
    console = Console(width=140)
    results: dict[str, list[Scores]] = {name: [] for name in WAYS}
    for split in range(settings.splits):
        data = find("support2").open(split=split)
        for name, way in WAYS.items():
            results[name].append(measure(train(data, way, settings.epochs, split), data.test, split))
            console.log(f"split {split}, {name}: AUROC {results[name][-1].everyone:.3f}")

    for table in tables(results):
        console.print(table)
    draw(results, settings.output)
    console.print(f"Figure: {settings.output}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
