"""Quickstart: make interaction experts of your model, compute their weights, and ask whether the weights are true.

Ten people did seven shoulder exercises wearing a smartwatch. From two seconds of its accelerometer and its gyroscope a
small network names the exercise. It is trained

* as it is ("fusion alone"),
* as interaction experts with the objective of the paper, which learns the weights ("I2MoE"),
* as interaction experts that share one network, with computed weights ("I2MoE, computed weights").

A weight is true if it says what the model does. So each model is asked what it predicts from one sensor alone. All
numbers are of people that the model has never seen.

    python examples/quickstart.py            # half a minute
    python examples/quickstart.py --folds 5  # everybody is left out once
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.metrics import f1_score
from torch import Tensor, nn

from examples.common.recipe import paper_objective
from examples.common.statistics import mean_and_deviation, paired_difference
from examples.datasets.watch import CLASS_NAMES, MODALITY_NAMES, N_FOLDS, Windows, load_watch
from i2moe import InteractionMoE, InteractionOutput, InteractionSupervision, Reweighter, explain
from i2moe.interpretation import InteractionReport
from i2moe.interpretation.plots import plot_classes, plot_sample, plot_weights
from i2moe.interpretation.statistics import rank_correlation
from i2moe.moe.weights import interaction_shares
from i2moe.training import Batches, fit

WIDTH = 64
"""Width of an embedding."""

COMPUTED = "I2MoE, computed weights"


# --- 1. The model: yours, and one line that makes experts of it -----------------------------------------------------


class Encoder(nn.Module):
    """Embed the signals of one sensor, (B, 100, 3), as vectors (B, 64) of unit scale."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(3, 32, kernel_size=5, stride=2),
            nn.ReLU(),
            nn.Conv1d(32, WIDTH // 2, kernel_size=5, stride=2),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Average and maximum over time of what two convolutions find."""
        h = self.convolutions(x.mT)  # (B, 32, T)
        z: Tensor = self.norm(torch.cat([h.mean(-1), h.amax(-1)], dim=-1))
        return z


class Fusion(nn.Module):
    """Classify the concatenated embeddings. Any module of yours can stand here."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * WIDTH, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, len(CLASS_NAMES)))

    def forward(self, accelerometer: Tensor, gyroscope: Tensor) -> Tensor:
        """Return logits (B, C)."""
        logits: Tensor = self.mlp(torch.cat([accelerometer, gyroscope], dim=-1))
        return logits


class Recognizer(nn.Module):
    """Encode both sensors and fuse the embeddings."""

    def __init__(self, fusion: nn.Module) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([Encoder(), Encoder()])
        self.fusion = fusion

    def forward(self, *windows: Tensor, **options: Tensor) -> Any:
        """Return what the fusion makes of the embeddings."""
        return self.fusion(*(encoder(x) for encoder, x in zip(self.encoders, windows, strict=True)), **options)


def fusion_alone() -> nn.Module:
    """Build the model you have."""
    return Recognizer(Fusion())


def paper() -> nn.Module:
    """Build interaction experts on embeddings, on whose perturbed views the paper's losses are.

    The reweighter is smaller than the default one, and its temperature above 1, because 1,500 windows are few. The
    fill says what fills a sensor that is not there; here it only serves to ask for predictions from one.
    """
    reweighter = Reweighter(4, (WIDTH, WIDTH), hidden_dim=64, n_layers=1, temperature=2.0)
    widths = (WIDTH, WIDTH)
    return Recognizer(
        InteractionMoE(
            Fusion, 2, modality_names=MODALITY_NAMES, feature_dims=widths, reweighter=reweighter, fill="zero"
        )
    )


def computed() -> nn.Module:
    """Build interaction experts that share one network, each the mean of four members; weights are computed."""
    return InteractionMoE(fusion_alone, 2, modality_names=MODALITY_NAMES, reweighter="computed", members=4)


@dataclass(frozen=True)
class Model:
    """A model to train.

    Args:
        build: builds it.
        loss_of: maps what it returns and the labels to the loss.
    """

    build: Callable[[], nn.Module]
    loss_of: Callable[[Any, Tensor], Tensor]


MODELS = {
    "fusion alone": Model(fusion_alone, F.cross_entropy),
    "I2MoE": Model(paper, paper_objective(F.cross_entropy)),
    COMPUTED: Model(computed, InteractionSupervision(F.cross_entropy)),
}


# --- 2. The experiment: every model on every fold -------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """What a model makes of the two test subjects of a fold; a fusion alone has no experts.

    Args:
        accuracy: share of the windows that are predicted rightly.
        macro_f1: mean F1 score of the exercises.
        report: what the experts do.
        truth: (E,), rank correlation over the windows of each expert's weight and the share that it should name.
    """

    accuracy: float
    macro_f1: float
    report: InteractionReport | None = None
    truth: Tensor | None = None


Results: TypeAlias = dict[str, list[Fold]]
"""Name of a model -> what it makes of each fold."""


def run(n_folds: int, n_epochs: int, console: Console) -> Results:
    """Train all models on all folds, each from the same seed and with the same batches."""
    results: Results = {name: [] for name in MODELS}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("loading", total=n_folds * len(MODELS) * n_epochs)
        for fold in range(n_folds):
            data = load_watch(fold)
            for name, kind in MODELS.items():
                progress.update(bar, description=f"fold {fold + 1}/{n_folds}  {name:23}")
                torch.manual_seed(fold)
                model = kind.build()
                train = Batches(data.train.modalities, data.train.labels, batch_size=64, seed=fold)
                validation = [(data.validation.modalities, data.validation.labels)]
                fit(model, train, validation, kind.loss_of, n_epochs, after_epoch=lambda _: progress.advance(bar))
                results[name].append(examine(model, data.test))
    return results


@torch.no_grad()
def examine(model: nn.Module, windows: Windows) -> Fold:
    """Test a model; where it has experts, report what they do, and compare the weights with what the model does."""
    output = model.eval()(*windows.modalities)
    predicted = (output if isinstance(output, Tensor) else output.prediction).argmax(-1)
    accuracy = float((predicted == windows.labels).double().mean())
    macro_f1 = float(f1_score(windows.labels, predicted, average="macro"))
    if isinstance(output, Tensor):
        return Fold(accuracy, macro_f1)
    held_out = [(windows.modalities, windows.labels)]
    report = explain(model, held_out, perturbation="zero", class_names=CLASS_NAMES)  # as the fill, see `paper`
    shown = shares_of(model, windows)
    truth = [rank_correlation(output.weights[:, e], shown[:, e]) for e in range(shown.shape[1])]
    return Fold(accuracy, macro_f1, report, torch.tensor(truth))


def shares_of(model: nn.Module, windows: Windows) -> Tensor:
    """Return the shares (B, E) of the interactions in what a model predicts from one sensor alone and from both.

    They need no labels. A sensor that alone leads to the same prediction as both is redundant or unique, and so on.
    """

    def predict(*available: bool) -> Tensor:
        mask = torch.tensor(available).expand(len(windows), 2)
        out: InteractionOutput = model(*windows.modalities, available=mask)
        return out.prediction.softmax(-1)

    alone, both = torch.stack([predict(True, False), predict(False, True)], dim=1), predict(True, True)
    shares, _ = interaction_shares(alone, both, prior=both.mean(0))
    return shares


# --- 3. The scores, and what they say -------------------------------------------------------------------------------


def score_table(results: Results) -> Table:
    """Compare the models on people they have never seen."""
    title = "Test subjects: mean ± deviation over the folds"
    table = Table("model", "accuracy", "macro-F1", "weights true", "parameters", title=title)
    for name, folds in results.items():
        accuracies, f1s = [fold.accuracy for fold in folds], [fold.macro_f1 for fold in folds]
        truth = "-" if folds[0].truth is None else f"{mean_truth(folds).mean():.2f}"
        n_parameters = sum(parameter.numel() for parameter in MODELS[name].build().parameters())
        table.add_row(name, mean_and_deviation(accuracies), mean_and_deviation(f1s), truth, f"{n_parameters:,}")
    return table


def verdict(results: Results) -> str:
    """Say what came out, whatever it is."""
    alone, lines = [100 * fold.accuracy for fold in results["fusion alone"]], []
    for name, folds in results.items():
        if folds[0].report is not None:
            gain = paired_difference([100 * fold.accuracy for fold in folds], alone)
            interval = f" [{gain.low:+.1f}, {gain.high:+.1f}]" if gain.n > 2 else ""
            truths = zip(folds[0].report.expert_names, mean_truth(folds).tolist(), strict=True)
            lines.append(
                f"{name}: {gain.mean:+.1f}{interval} points of accuracy against the fusion alone. Each weight agrees "
                "with what the model does by (rank correlation, no labels): "
                + ", ".join(f"{expert} {truth:+.2f}" for expert, truth in truths)
            )
    return "\n".join(lines)


def mean_truth(folds: Sequence[Fold]) -> Tensor:
    """Average each expert's rank correlation over the folds: (E,)."""
    return torch.stack([fold.truth for fold in folds if fold.truth is not None]).nanmean(0)


# --- 4. The figures -------------------------------------------------------------------------------------------------


def draw(results: Results, path: Path) -> None:
    """Draw whether weights are true, and, for computed ones, how they are spread over windows and exercises."""
    report = results[COMPUTED][0].report
    assert report is not None
    plt.switch_backend("Agg")
    figure = plt.figure(figsize=(15, 8), layout="constrained")
    parts = figure.subfigures(2, 2, squeeze=False, width_ratios=(1, 1.15), wspace=0.03)
    weights, truth, classes, sample = parts.flat
    plot_weights(report, ax=weights.subplots())
    plot_truth(results, report.expert_names, truth.subplots())
    plot_classes(report, ax=classes.subplots())
    plot_sample(report, int(report.entropy.argmax()), ax=sample.subplots())
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_truth(results: Results, expert_names: Sequence[str], ax: Axes) -> None:
    """Draw each expert's rank correlation, a bar for each model."""
    models = {name: mean_truth(folds) for name, folds in results.items() if folds[0].truth is not None}
    height = 0.8 / len(models)
    for row, (name, truth) in enumerate(models.items()):
        places = [e + row * height for e in range(len(expert_names))]
        ax.barh(places, truth.nan_to_num().tolist(), height, color=("#BBBBBB", "#333333")[row], label=name)
    ax.set_yticks([e + 0.2 for e in range(len(expert_names))], expert_names)
    ax.set(xlim=(-1, 1), xlabel="rank correlation", title="Does each weight say what the model does?")
    ax.invert_yaxis()
    ax.axvline(0, color="#333333", linewidth=1)
    ax.legend(frameon=False, loc="lower left")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the scores, end with the report of the model with computed weights and its figures."""
    parser = argparse.ArgumentParser(description="Train a network with and without interaction experts.")
    parser.add_argument("--folds", type=int, default=2, choices=range(1, N_FOLDS + 1), help="default: 2")
    parser.add_argument("--epochs", type=int, default=8, help="default: 8")
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart.png"), help="where the figures go")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # the tensors are small: more threads would wait for each other
    console = Console()
    results = run(options.folds, options.epochs, console)
    console.print(score_table(results), verdict(results), sep="\n")

    report = results[COMPUTED][0].report
    assert report is not None
    title = f"Report of {COMPUTED} on the test subjects of fold 1"
    console.print(f"\n{title}\n\n{report.summary()}", highlight=False, soft_wrap=True)
    draw(results, options.output)
    console.print(f"Figures: {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()
