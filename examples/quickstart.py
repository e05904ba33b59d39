"""Quickstart: make interaction experts of a fusion module, supervise their weights, and end with a report.

Ten people did seven shoulder exercises wearing a smartwatch. Two small encoders embed its accelerometer and its
gyroscope, a fusion module names the exercise. The same fusion module is trained four times, with the same encoders,
batches and number of epochs:

* as it is ("fusion alone"),
* as four experts that a reweighter mixes, without interaction losses ("experts alone"),
* as interaction experts, with the objective of the paper ("I2MoE"),
* the same, with its weights supervised ("I2MoE + supervision").

Each of five pairs of people is left out once; all scores are those on people the model has never seen.

    python examples/quickstart.py                       # two minutes
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
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scipy.stats import ttest_1samp
from sklearn.metrics import f1_score
from torch import Tensor, nn

from examples.datasets.watch import CLASS_NAMES, MODALITY_NAMES, N_FOLDS, WatchData, Windows, load_watch
from i2moe import InteractionMoE, InteractionOutput, InteractionSupervision, Reweighter, explain
from i2moe.interpretation import InteractionReport
from i2moe.interpretation.plots import plot_classes, plot_faithfulness, plot_sample, plot_weights

WIDTH = 64
"""Width of an embedding."""

SUPERVISED = "I2MoE + supervision"


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

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * WIDTH, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, len(CLASS_NAMES)))

    def forward(self, accelerometer: Tensor, gyroscope: Tensor) -> Tensor:
        """Return logits (B, C)."""
        logits: Tensor = self.mlp(torch.cat([accelerometer, gyroscope], dim=-1))
        return logits


class Recognizer(nn.Module):
    """Encoders outside, fusion inside: the views of the experts are made of embeddings, encoded only once."""

    def __init__(self, fusion: nn.Module, supervise: InteractionSupervision | None = None) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([Encoder(), Encoder()])
        self.fusion = fusion
        self.supervise = supervise

    def forward(self, *modalities: Tensor) -> Tensor | InteractionOutput:
        """Return what the fusion module makes of the embeddings."""
        output: Tensor | InteractionOutput = self.fusion(*self.embed(modalities))
        return output

    def embed(self, modalities: Sequence[Tensor]) -> list[Tensor]:
        """Return an embedding (B, 64) of each modality."""
        return [encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)]

    def loss(self, windows: Windows, rows: Tensor) -> Tensor:
        """Cross-entropy, plus 0.1 times the interaction loss and the supervision where there are any."""
        z, labels = self.embed([x[rows] for x in windows.modalities]), windows.labels[rows]
        output = self.fusion(*z)
        if isinstance(output, Tensor):
            return F.cross_entropy(output, labels)
        loss = F.cross_entropy(output.prediction, labels)
        if output.interaction_loss is not None:
            loss = loss + 0.1 * output.interaction_loss
        if self.supervise is not None:
            loss = loss + self.supervise(output, z, labels, index=rows)  # encoders train: windows are known by number
        return loss


def fusion_alone() -> Recognizer:
    """Build the model you have."""
    return Recognizer(Fusion())


def i2moe(perturbation: str | None = "gaussian", *, supervised: bool = False) -> Recognizer:
    """Build the same with interaction experts; without a perturbation they have no interaction loss.

    `InteractionMoE(Fusion, 2)` is enough to start. The reweighter here is smaller than the default one, and its
    temperature above 1, because 1,400 windows are few.
    """
    moe = InteractionMoE(
        Fusion,
        2,
        modality_names=MODALITY_NAMES,
        reweighter=Reweighter(4, (WIDTH, WIDTH), hidden_dim=64, n_layers=1, temperature=2.0),
        perturbation=perturbation,
    )
    return Recognizer(moe, InteractionSupervision((WIDTH, WIDTH), len(CLASS_NAMES)) if supervised else None)


MODELS: dict[str, Callable[[], Recognizer]] = {
    "fusion alone": fusion_alone,
    "experts alone": lambda: i2moe(perturbation=None),
    "I2MoE": i2moe,
    SUPERVISED: lambda: i2moe(supervised=True),
}


# --- 2. Training: the loop you have; the terms of the loss come with the model --------------------------------------


def train(model: Recognizer, data: WatchData, n_epochs: int, seed: int, after_epoch: Callable[[], None]) -> None:
    """Train, and go back to the epoch that was most accurate on the validation subjects."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    best_accuracy, best_state = -1.0, model.state_dict()
    for _ in range(n_epochs):
        model.train()
        for rows in torch.randperm(len(data.train), generator=generator).split(64):
            loss = model.loss(data.train, rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        accuracy = accuracy_of(predict(model, data.validation), data.validation)
        if accuracy > best_accuracy:
            best_accuracy, best_state = accuracy, copy.deepcopy(model.state_dict())
        after_epoch()
    model.load_state_dict(best_state)


def predict(model: Recognizer, windows: Windows) -> Tensor:
    """Predict the exercises (N,) in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        output = model(*windows.modalities)
    return (output if isinstance(output, Tensor) else output.prediction).argmax(-1)


def accuracy_of(predicted: Tensor, windows: Windows) -> float:
    """Share of the windows that are predicted rightly."""
    return float((predicted == windows.labels).double().mean())


# --- 3. The experiment: every model on every fold -------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """What a model makes of the two test subjects of a fold; a fusion alone has nothing to report.

    Args:
        accuracy: share of the windows that are predicted rightly.
        macro_f1: mean F1 score of the exercises.
        report: what the experts do.
        probed: (E,), the mean weights that the probes of the supervision would give.
    """

    accuracy: float
    macro_f1: float
    report: InteractionReport | None = None
    probed: Tensor | None = None


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
            for name, build in MODELS.items():
                progress.update(bar, description=f"fold {fold + 1}/{n_folds}  {name:19}")
                torch.manual_seed(fold)
                model = build()
                train(model, data, n_epochs, fold, lambda: progress.advance(bar))
                results[name].append(examine(model, data.test))
    return results


def examine(model: Recognizer, windows: Windows) -> Fold:
    """Test a model; where it has experts, `explain` reports what they do."""
    predicted, report, probed = predict(model, windows), None, None
    if isinstance(model.fusion, InteractionMoE):
        report = explain(model, [(windows.modalities, windows.labels)], class_names=CLASS_NAMES)
    if model.supervise is not None:
        probed = model.supervise.targets(model.embed(windows.modalities)).mean(0)
    macro_f1 = float(f1_score(windows.labels, predicted, average="macro"))
    return Fold(accuracy_of(predicted, windows), macro_f1, report, probed)


# --- 4. The scores, and what they say -------------------------------------------------------------------------------


def score_table(results: Results) -> Table:
    """Compare the models on people they have never seen."""
    table = Table("model", "accuracy", "macro-F1", "parameters", title="Test subjects: mean ± deviation over the folds")
    for name, folds in results.items():
        model = MODELS[name]()
        n_parameters = sum(p.numel() for part in (model.encoders, model.fusion) for p in part.parameters())
        accuracies, f1s = [fold.accuracy for fold in folds], [fold.macro_f1 for fold in folds]
        table.add_row(name, spread(accuracies), spread(f1s), f"{n_parameters:,}")
    return table


def verdict(results: Results) -> str:
    """Say what came out, whatever it is."""
    lines = [compare(results, "I2MoE", "fusion alone"), compare(results, SUPERVISED, "fusion alone")]
    for name in ("I2MoE", SUPERVISED):
        reports = [fold.report for fold in results[name] if fold.report is not None]
        favorites = [report.expert_names[int(report.weights.mean(0).argmax())] for report in reports]
        agreement = [float(report.agreement.nanmean()) for report in reports]
        lines.append(
            f"{name}: the weights agree with what replaced modalities show by {spread(agreement, '+.2f')} "
            f"(rank correlation, mean over experts); largest mean weight, fold by fold: {', '.join(favorites)}."
        )
    return "\n".join(lines)


def compare(results: Results, name: str, other: str) -> str:
    """Compare two models fold by fold."""
    gains = [100 * (a.accuracy - b.accuracy) for a, b in zip(results[name], results[other], strict=True)]
    return (
        f"{name} against {other}: {spread(gains, '+.1f')} points of accuracy, better on "
        f"{sum(gain > 0 for gain in gains)} of {len(gains)} folds: {judgment(gains)}."
    )


def judgment(gains: Sequence[float]) -> str:
    """Weigh the gains of the folds by a paired t-test."""
    if len(gains) == 1:
        return "one fold says little"
    p = ttest_1samp(gains, 0.0).pvalue
    if p > 0.05:
        return f"no clear difference (p = {p:.2f})"
    return f"a clear {'gain' if mean(gains) > 0 else 'loss'} (p = {p:.2g})"


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Write mean and standard deviation over the folds."""
    return f"{mean(values):{form}}" + (f" ± {stdev(values):{form.strip('+')}}" if len(values) > 1 else "")


# --- 5. The figures of a report -------------------------------------------------------------------------------------


def draw(report: InteractionReport, path: Path) -> None:
    """Draw the weights, whether they are true, the exercises, and the window on which experts share the work most."""
    plt.switch_backend("Agg")
    figure = plt.figure(figsize=(15, 8), layout="constrained")
    parts = figure.subfigures(2, 2, squeeze=False, width_ratios=(1, 1.15), wspace=0.03)
    weights, faithfulness, classes, sample = parts.flat
    plot_weights(report, ax=weights.subplots())
    plot_faithfulness(report, ax=faithfulness.subplots())
    plot_classes(report, ax=classes.subplots())
    plot_sample(report, int(report.entropy.argmax()), ax=sample.subplots())
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the scores, end with the report of the supervised model and its figures."""
    parser = argparse.ArgumentParser(description="Train a fusion module with and without interaction experts.")
    parser.add_argument("--folds", type=int, default=N_FOLDS, choices=range(1, N_FOLDS + 1), help="default: all five")
    parser.add_argument("--epochs", type=int, default=25, help="default: 25")
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart.png"), help="where the figures go")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # the tensors are small: more threads would wait for each other
    console = Console()
    results = run(options.folds, options.epochs, console)
    console.print(score_table(results), verdict(results), sep="\n")

    report, probed = results[SUPERVISED][0].report, results[SUPERVISED][0].probed
    assert report is not None
    assert probed is not None
    console.print(
        f"\nReport of {SUPERVISED} on the test subjects of fold 1\n\n{report.summary()}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        "\nMean weights by the probes, which judge these people without having memorized them: "
        + ", ".join(f"{name} {weight:.2f}" for name, weight in zip(report.expert_names, probed.tolist(), strict=True))
    )
    draw(report, options.output)
    console.print(f"Figures: {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()
