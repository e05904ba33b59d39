"""Quickstart: train a fusion module with and without interaction experts, and look at what the experts do.

Ten people did seven shoulder exercises wearing a smartwatch. Two small encoders embed its accelerometer and its
gyroscope, a fusion module names the exercise. The same fusion module is trained three times, with the same encoders,
batches and number of epochs:

* as it is ("fusion alone"),
* as four experts that a reweighter mixes, without interaction losses ("experts alone"),
* as interaction experts ("I2MoE").

Each of five pairs of people is left out once; all scores are those on people the model has never seen.

    python examples/quickstart.py                       # one to two minutes
    python examples/quickstart.py --folds 1 --epochs 5  # a few seconds
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scipy.stats import ttest_1samp
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn

from examples.datasets.watch import CLASS_NAMES, MODALITY_NAMES, N_FOLDS, WatchData, Windows, load_watch
from i2moe import InteractionMoE, InteractionOutput, Reweighter

WIDTH = 64
"""Width of an embedding."""

EXPERT_NAMES = ("uniqueness/accelerometer", "uniqueness/gyroscope", "synergy", "redundancy")
EXPERT_LABELS = [name.replace("/", "\n") for name in EXPERT_NAMES]


# --- 1. The model: your encoders, your fusion module, and one line that makes experts of it -----------------------


class Encoder(nn.Module):
    """Embed the signals of one sensor, (B, 100, 3), as vectors (B, 64) of unit scale.

    The scale matters: I2MoE replaces an embedding by standard normal noise, which should neither drown in the
    embeddings nor stand out of them.
    """

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

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * WIDTH, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, n_classes))

    def forward(self, accelerometer: Tensor, gyroscope: Tensor) -> Tensor:
        """Return logits (B, C)."""
        logits: Tensor = self.mlp(torch.cat([accelerometer, gyroscope], dim=-1))
        return logits


class Recognizer(nn.Module):
    """Encoders outside, fusion inside: the views of the experts are made of embeddings, encoded only once."""

    def __init__(self, fusion: nn.Module) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([Encoder(), Encoder()])
        self.fusion = fusion

    def forward(self, *modalities: Tensor) -> Tensor | InteractionOutput:
        """Return what the fusion module makes of the embeddings."""
        z = [encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)]
        output: Tensor | InteractionOutput = self.fusion(*z)
        return output


def fusion_alone() -> Recognizer:
    """Build the model you have."""
    return Recognizer(Fusion(len(CLASS_NAMES)))


def i2moe(perturbation: str | None = "gaussian") -> Recognizer:
    """Build the same with interaction experts; without a perturbation they have no interaction loss.

    `InteractionMoE(lambda: Fusion(7), 2)` is enough to start. The reweighter here is smaller than the default one, and
    its temperature above 1, because 1,400 windows are few.
    """
    return Recognizer(
        InteractionMoE(
            lambda: Fusion(len(CLASS_NAMES)),
            2,
            modality_names=MODALITY_NAMES,
            reweighter=Reweighter(len(EXPERT_NAMES), (WIDTH, WIDTH), hidden_dim=64, n_layers=1, temperature=2.0),
            perturbation=perturbation,
        )
    )


MODELS: dict[str, Callable[[], Recognizer]] = {
    "fusion alone": fusion_alone,
    "experts alone": lambda: i2moe(perturbation=None),
    "I2MoE": i2moe,
}


# --- 2. Training: the loop you have, with one more term in the loss ------------------------------------------------


def loss_of(output: Tensor | InteractionOutput, labels: Tensor) -> Tensor:
    """Cross-entropy, plus 0.1 times the interaction loss where there is one."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output, labels)
    loss = F.cross_entropy(output.prediction, labels)
    return loss if output.interaction_loss is None else loss + 0.1 * output.interaction_loss


def train(model: Recognizer, data: WatchData, n_epochs: int, seed: int, after_epoch: Callable[[], None]) -> None:
    """Train, and go back to the epoch that was most accurate on the validation subjects."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    best_accuracy, best_state = -1.0, model.state_dict()
    for _ in range(n_epochs):
        model.train()
        for rows in torch.randperm(len(data.train), generator=generator).split(64):
            loss = loss_of(model(*(x[rows] for x in data.train.modalities)), data.train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        accuracy = predict(model, data.validation).accuracy
        if accuracy > best_accuracy:
            best_accuracy, best_state = accuracy, copy.deepcopy(model.state_dict())
        after_epoch()
    model.load_state_dict(best_state)


# --- 3. Prediction: the weights and the experts' own predictions come with every output ----------------------------


@dataclass(frozen=True)
class Predictions:
    """What a model makes of windows.

    Args:
        windows: N windows.
        weights: (N, E), how much each expert counts.
        contributions: (N, E, C), what each expert adds to the logits: its weight times its own logits.
    """

    windows: Windows
    weights: Tensor
    contributions: Tensor

    @property
    def labels(self) -> Tensor:
        """(N,) the predicted exercises."""
        return self.contributions.sum(1).argmax(-1)

    @property
    def accuracy(self) -> float:
        """Share of the windows that are predicted rightly."""
        return float(accuracy_score(self.windows.labels, self.labels))

    @property
    def macro_f1(self) -> float:
        """Mean F1 score of the exercises."""
        return float(f1_score(self.windows.labels, self.labels, average="macro"))


def predict(model: Recognizer, windows: Windows) -> Predictions:
    """Predict in evaluation mode. A fusion alone counts as one expert of weight 1."""
    model.eval()
    with torch.inference_mode():
        output = model(*windows.modalities)
    if isinstance(output, Tensor):
        return Predictions(windows, torch.ones(len(windows), 1), output.unsqueeze(1))
    return Predictions(windows, output.weights, output.weights.unsqueeze(-1) * output.expert_predictions)


# --- 4. The experiment: every model on every fold -------------------------------------------------------------------

Results: TypeAlias = dict[str, list[Predictions]]
"""Name of a model -> its predictions for the test subjects of each fold."""


def run(n_folds: int, n_epochs: int, console: Console) -> Results:
    """Train all models on all folds, each from the same seed and with the same batches."""
    results: Results = {name: [] for name in MODELS}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("loading", total=n_folds * len(MODELS) * n_epochs)
        for fold in range(n_folds):
            data = load_watch(fold)
            for name, build in MODELS.items():
                progress.update(bar, description=f"fold {fold + 1}/{n_folds}  {name:13}")
                torch.manual_seed(fold)
                model = build()
                train(model, data, n_epochs, fold, lambda: progress.advance(bar))
                results[name].append(predict(model, data.test))
    return results


# --- 5. The tables --------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Write mean and standard deviation over the folds."""
    return f"{mean(values):{form}}" + (f" ± {stdev(values):{form.strip('+')}}" if len(values) > 1 else "")


def score_table(results: Results) -> Table:
    """Compare the models on people they have never seen."""
    table = Table("model", "accuracy", "macro-F1", "parameters", title="Test subjects: mean ± deviation over the folds")
    for name, folds in results.items():
        n_parameters = sum(parameter.numel() for parameter in MODELS[name]().parameters())
        accuracies, f1s = [fold.accuracy for fold in folds], [fold.macro_f1 for fold in folds]
        table.add_row(name, spread(accuracies), spread(f1s), f"{n_parameters:,}")
    return table


def weight_table(folds: Sequence[Predictions]) -> Table:
    """Show how much each expert counts for each exercise."""
    table = Table("exercise", title="I2MoE: mean weight of each expert, mean ± deviation over the folds")
    for label in EXPERT_LABELS:
        table.add_column(label, justify="right")

    def add(title: str, weights: Sequence[Tensor]) -> None:
        means = torch.stack([rows.mean(0) for rows in weights])  # (folds, E)
        table.add_row(title, *(spread(expert.tolist(), ".2f") for expert in means.T))

    add("all", [fold.weights for fold in folds])
    table.add_section()
    for exercise, name in enumerate(CLASS_NAMES):
        add(name, [fold.weights[fold.windows.labels == exercise] for fold in folds])
    return table


def verdict(results: Results) -> str:
    """Say what came out, whatever it is."""
    pairs = zip(results["I2MoE"], results["fusion alone"], strict=True)
    gains = [100 * (ours.accuracy - alone.accuracy) for ours, alone in pairs]
    favorites = [EXPERT_NAMES[int(fold.weights.mean(0).argmax())] for fold in results["I2MoE"]]
    lines = [
        f"I2MoE was more accurate than the fusion alone on {sum(gain > 0 for gain in gains)} of {len(gains)} folds, "
        f"by {spread(gains, '+.1f')} points: {judgment(gains)}.",
        f"The expert with the largest mean weight was, fold by fold: {', '.join(favorites)}.",
        "Weights that only the interaction losses shape say which expert a prediction rests on, "
        "not which interaction the data holds: see README.md.",
    ]
    return "\n".join(lines)


def judgment(gains: Sequence[float]) -> str:
    """Weigh the gains of the folds by a paired t-test."""
    if len(gains) == 1:
        return "one fold says little"
    p = ttest_1samp(gains, 0.0).pvalue
    if p > 0.05:
        return f"no clear difference (p = {p:.2f})"
    return f"a clear {'gain' if mean(gains) > 0 else 'loss'} (p = {p:.2g})"


# --- 6. The figure --------------------------------------------------------------------------------------------------

COLORS = ("#4C78A8", "#54A69B", "#E8962E", "#A8649B")
STYLE = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}


def draw(folds: Sequence[Predictions], path: Path) -> None:
    """Draw the weights of all test windows, and the anatomy of one prediction."""
    plt.switch_backend("Agg")
    with plt.rc_context(STYLE):  # type: ignore[arg-type]
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.3), width_ratios=(1, 1.5), layout="constrained")
        draw_weights(left, folds)
        draw_window(right, folds[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def draw_weights(axes: Axes, folds: Sequence[Predictions]) -> None:
    """Draw a strip of windows for each expert and fold, with its mean."""
    generator = np.random.default_rng(0)
    for f, fold in enumerate(folds):
        for e, color in enumerate(COLORS):
            weights = fold.weights[:, e].numpy()
            height = e + 0.8 * ((f + 0.5) / len(folds) - 0.5)
            jitter = generator.uniform(-0.05, 0.05, len(weights))
            axes.scatter(weights, height + jitter, s=5, color=color, alpha=0.15, linewidths=0)
            axes.scatter(weights.mean(), height, s=30, color=color, edgecolors="white", linewidths=1, zorder=3)
    axes.set_yticks(range(len(EXPERT_LABELS)), EXPERT_LABELS)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(-0.02, 1.02), xlabel="weight")
    title(axes, "How much each expert counts", "all test windows, one strip per fold; large dots are means")


def draw_window(axes: Axes, fold: Predictions) -> None:
    """Draw what each expert adds to each exercise in the window on which the experts share the work most evenly."""
    window = int(fold.weights.square().sum(-1).argmin())
    added = fold.contributions[window] - fold.contributions[window].mean(-1, keepdim=True)  # (E, C)
    cells = torch.cat([added, added.sum(0, keepdim=True)]).numpy()
    limit = np.abs(cells).max()
    axes.imshow(cells, cmap="RdBu_r", vmin=-1.3 * limit, vmax=1.3 * limit, aspect="auto")
    for (row, column), value in np.ndenumerate(cells):
        text = f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0"
        bold, color = "bold" if row == len(added) else "normal", "white" if abs(value) > 0.75 * limit else "black"
        axes.text(column, row, text, ha="center", va="center", weight=bold, color=color)
    axes.axhline(len(added) - 0.5, color="white", linewidth=5)

    weights = [f"{label} × {w:.2f}" for label, w in zip(EXPERT_LABELS, fold.weights[window], strict=True)]
    axes.set_yticks(range(len(cells)), [*weights, "prediction"])
    axes.set_xticks(range(len(CLASS_NAMES)), [name.replace(" ", "\n") for name in CLASS_NAMES], size=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    true, predicted = CLASS_NAMES[int(fold.windows.labels[window])], CLASS_NAMES[int(fold.labels[window])]
    subtitle = f"weight × logit, centered; true: {true}, predicted: {predicted}"
    title(axes, "What each expert adds in one test window", subtitle)


def title(axes: Axes, text: str, subtitle: str) -> None:
    """Write a title in bold and a smaller line below it."""
    axes.set_title(f"{text}\n", weight="bold")
    axes.text(0, 1.025, subtitle, transform=axes.transAxes, size=8.5, color="0.35", in_layout=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the tables, save the figure."""
    parser = argparse.ArgumentParser(description="Train a fusion module with and without interaction experts.")
    parser.add_argument("--folds", type=int, default=N_FOLDS, choices=range(1, N_FOLDS + 1), help="default: all five")
    parser.add_argument("--epochs", type=int, default=25, help="default: 25")
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart.png"), help="where the figure goes")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # the tensors are small: more threads would wait for each other
    console = Console()
    results = run(options.folds, options.epochs, console)
    console.print(score_table(results), weight_table(results["I2MoE"]), verdict(results), sep="\n")
    draw(results["I2MoE"], options.output)
    console.print(f"Figure: {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()
