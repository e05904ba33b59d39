"""Do the weights name the interaction? On data where it is known for every sample, with and without supervision.

`python -m examples.benchmarks.known_interactions` trains the paper's objective and the supervised one on every
generator and for every seed with the same settings, prints a table, and writes it with a figure to `outputs/`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.datasets.known import KnownInteractions
from examples.datasets.mixtures import Mixture
from examples.datasets.synthetic import GENERATORS, decompose, decompose_by_type, generate
from i2moe import InteractionLosses, InteractionMoE, InteractionSupervision
from i2moe.perturbations import Perturbation

__all__ = ["Method", "Run", "Scores", "Settings", "calibration_error", "evaluate", "fit", "main", "score", "train"]

Method = Literal["paper", "supervised"]
METHODS: tuple[Method, ...] = ("paper", "supervised")
TABLE = (
    "two-modalities",
    "three-modalities",
    "four-modalities",
    "four-classes",
    "label-noise",
    "imbalanced",
    "warped",
    "region",
    "one-cue",
    "only-uniqueness-0",
    "only-uniqueness-1",
    "only-synergy",
    "only-redundancy",
    "regression",
)
TEST_SEED = 1_000_000  # plus the first seed: all share one test set, so weights can be compared sample by sample


@dataclass(frozen=True)
class Settings:
    """What to run.

    Args:
        generators: names out of `examples.datasets.synthetic.GENERATORS`.
        seeds: number of seeds; each draws its own training data and its own start.
        first_seed: the first of them; another one also draws another test set.
        n_train: training samples.
        n_test: test samples.
        epochs: passes over the training data.
        batch_size: samples a step.
        learning_rate: of Adam.
        hidden_dim: width of the fusion network.
        processes: runs at a time, one thread each.
        output: folder for `results.json` and `figure.png`.
    """

    generators: tuple[str, ...] = TABLE
    seeds: int = 5
    first_seed: int = 0
    n_train: int = 8000
    n_test: int = 4000
    epochs: int = 16
    batch_size: int = 256
    learning_rate: float = 1.5e-3
    hidden_dim: int = 128
    processes: int = 2
    output: Path = Path("outputs/known_interactions")


@dataclass(frozen=True)
class Run:
    """One trained model on the test data: its accuracy (R2 for a regression) and weights (n, E)."""

    accuracy: float
    weights: Tensor


@dataclass(frozen=True)
class Scores:
    """What the seeds of one method reach on one generator.

    Args:
        accuracy: per seed; R2 for a regression.
        named: per seed, share of the test samples whose largest weight is on the expert of their true type.
        calibration: per seed, see `calibration_error`.
        distance: per seed, half the L1 distance of the mean weights from the true mix.
        correlation: mean over pairs of seeds of the correlation of their weights.
        mean_weights: (E, E), mean weights of the samples of each type; None where there are none.
    """

    accuracy: list[float]
    named: list[float]
    calibration: list[float]
    distance: list[float]
    correlation: float
    mean_weights: list[list[float] | None]


class Fusion(nn.Module):
    """Concatenate the modalities; two hidden layers."""

    def __init__(self, n_features: int, hidden_dim: int, n_outputs: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(n_features, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, n_outputs),
        )

    def forward(self, *modalities: Tensor) -> Tensor:
        """Predict (B, C) from M modalities (B, D)."""
        prediction: Tensor = self.network(torch.cat(modalities, dim=-1))
        return prediction


def train(data: KnownInteractions, test: KnownInteractions, method: Method, seed: int, settings: Settings) -> Run:
    """Train a model on `data` and run it on `test`."""
    return evaluate(fit(data, method, seed, settings), test)


def fit(
    data: KnownInteractions,
    method: Method,
    seed: int,
    settings: Settings,
    perturbation: str | Perturbation = "gaussian",
) -> InteractionMoE:
    """Train a model on `data`."""
    torch.manual_seed(seed)
    widths = [modality.shape[1] for modality in data.modalities]
    regression = data.n_classes is None
    n_outputs = data.n_classes or 1
    model = InteractionMoE(
        lambda: Fusion(sum(widths), settings.hidden_dim, n_outputs),
        len(widths),
        feature_dims=widths,
        losses=InteractionLosses("regression" if regression else "classification"),
        perturbation=perturbation,
    )
    supervise = InteractionSupervision(widths, n_outputs, "regression" if regression else "classification")
    optimizer = torch.optim.Adam([*model.parameters(), *supervise.parameters()], lr=settings.learning_rate)

    for _ in range(settings.epochs):
        for rows in torch.split(torch.randperm(len(data.target)), settings.batch_size):
            modalities, target = tuple(modality[rows] for modality in data.modalities), data.target[rows]
            out = model(*modalities)
            loss = _task_loss(out.prediction, target) + 0.1 * out.interaction_loss
            if method == "supervised":
                loss = loss + supervise(out, modalities, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def evaluate(model: nn.Module, test: KnownInteractions) -> Run:
    """Run a model on `test`."""
    model.eval()
    with torch.no_grad():
        out = model(*test.modalities)
    return Run(_accuracy(out.prediction, test.target), out.weights)


def score(runs: Sequence[Run], test: KnownInteractions) -> Scores:
    """Judge the seeds of one method."""
    types = range(len(test.mix))
    right = [(run.weights.argmax(1) == test.interaction).float() for run in runs]
    mean = torch.stack([run.weights for run in runs]).mean(0)
    return Scores(
        accuracy=[run.accuracy for run in runs],
        named=[float(hits.mean()) for hits in right],
        calibration=[calibration_error(run.weights, test.interaction) for run in runs],
        distance=[float((run.weights.mean(0) - test.mix).abs().sum() / 2) for run in runs],
        correlation=_correlation([run.weights for run in runs]),
        mean_weights=[
            mean[test.interaction == kind].mean(0).tolist() if (test.interaction == kind).any() else None
            for kind in types
        ],
    )


def calibration_error(weights: Tensor, interaction: Tensor, n_bins: int = 10) -> float:
    """Compare the largest weight with how often it is right: the mean gap over bins of equal width, by their size.

    Args:
        weights: (n, E).
        interaction: (n,), the true types.
        n_bins: number of bins.

    Example:
        >>> round(calibration_error(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1])), 3)
        0.3
    """
    confidence, named = weights.max(1)
    gap = (named == interaction).double() - confidence.double()
    bins = (confidence * n_bins).long().clamp(max=n_bins - 1)
    gaps = torch.zeros(n_bins, dtype=torch.float64).index_add_(0, bins, gap)
    return float(gaps.abs().sum() / len(weights))


def main(settings: Settings) -> dict[str, dict[Method, Scores]]:
    """Run everything, print the table, write `results.json` and `figure.png`."""
    jobs = [
        (name, method, seed, settings)
        for name in settings.generators
        for method in METHODS
        for seed in _seeds(settings)
    ]
    with ProcessPoolExecutor(settings.processes, mp_context=get_context("spawn")) as pool:
        runs = dict(zip([job[:3] for job in jobs], _with_progress(pool.map(_run, jobs), len(jobs)), strict=True))

    results: dict[str, dict[Method, Scores]] = {}
    for name in settings.generators:
        test = generate(name, settings.n_test, TEST_SEED + settings.first_seed)
        results[name] = {
            method: score([runs[name, method, seed] for seed in _seeds(settings)], test) for method in METHODS
        }

    settings.output.mkdir(parents=True, exist_ok=True)
    content = {name: {method: asdict(scores) for method, scores in rows.items()} for name, rows in results.items()}
    (settings.output / "results.json").write_text(json.dumps(content, indent=1))
    _print(results)
    _plot(results, settings.output / "figure.png")
    return results


def _seeds(settings: Settings) -> range:
    return range(settings.first_seed, settings.first_seed + settings.seeds)


def _run(job: tuple[str, Method, int, Settings]) -> Run:
    name, method, seed, settings = job
    torch.set_num_threads(1)
    data, test = (
        generate(name, settings.n_train, seed),
        generate(name, settings.n_test, TEST_SEED + settings.first_seed),
    )
    return train(data, test, method, seed, settings)


def _task_loss(prediction: Tensor, target: Tensor) -> Tensor:
    if target.is_floating_point():
        return F.mse_loss(prediction.squeeze(-1), target)
    return F.cross_entropy(prediction, target)


def _accuracy(prediction: Tensor, target: Tensor) -> float:
    if target.is_floating_point():
        return float(1 - F.mse_loss(prediction.squeeze(-1), target) / target.var(correction=0))
    return float((prediction.argmax(1) == target).float().mean())


def _correlation(weights: Sequence[Tensor]) -> float:
    pairs = [torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1] for a, b in combinations(weights, 2)]
    return float(torch.stack(pairs).mean()) if pairs else math.nan


def _with_progress(runs: Iterable[Run], total: int) -> list[Run]:
    from rich.progress import track

    return list(track(runs, "Training", total=total))


def _print(results: dict[str, dict[Method, Scores]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Paper's objective / supervised; means over seeds; worst seed in brackets")
    for column in ("generator", "PID, whole data", "PID, type by type"):
        table.add_column(column)
    for column in ("accuracy %", "type named %", "calibration error", "mix distance", "seed correlation"):
        table.add_column(column, justify="right")
    for name, rows in results.items():
        paper, ours = rows["paper"], rows["supervised"]
        table.add_row(
            name,
            *_decompositions(name),
            _pair(paper.accuracy, ours.accuracy, 100, 2),
            f"{_pair(paper.named, ours.named, 100, 1)} ({100 * min(ours.named):.1f})",
            _pair(paper.calibration, ours.calibration, 1, 3),
            f"{_pair(paper.distance, ours.distance, 1, 3)} ({max(ours.distance):.3f})",
            f"{paper.correlation:.2f} / {ours.correlation:.2f}",
        )
    Console(width=180).print(table)


def _decompositions(name: str) -> tuple[str, str]:
    generator = GENERATORS[name]
    if not isinstance(generator, Mixture):
        return "", ""
    whole, by_type = decompose(generator.joint()), decompose_by_type(generator)
    return _row(whole), _row(by_type)


def _row(bits: Tensor) -> str:
    return " ".join(f"{abs(value):.2f}" for value in bits.tolist())


def _pair(paper: list[float], ours: list[float], scale: float, digits: int) -> str:
    return " / ".join(f"{scale * sum(values) / len(values):.{digits}f}" for values in (paper, ours))


def _plot(results: dict[str, dict[Method, Scores]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(results)
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(names) + 1.3), layout="constrained")
    styles: dict[Method, tuple[str, str]] = {"paper": ("0.6", "paper's objective"), "supervised": ("C0", "supervised")}
    for method, (color, label) in styles.items():
        values = [[100 * value for value in results[name][method].named] for name in names]
        axes.plot([sum(v) / len(v) for v in values], range(len(names)), "o", color=color, label=label)
        axes.hlines(range(len(names)), [min(v) for v in values], [max(v) for v in values], color=color)
    axes.axvline(95, color="0.8", linewidth=1, zorder=0)
    axes.set(xlim=(0, 101), xlabel="samples whose true interaction is named, % (mean and range of seeds)")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings))
