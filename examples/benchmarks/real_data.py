"""Weights on real data: do they say what the model does, are they the same after another start, and what do they cost?

    python -m examples.benchmarks.real_data
    python -m examples.benchmarks.real_data --data support2 --splits 1 --json outputs/real_data.json

No interaction is known here, so a model's weights are compared with its own predictions from one modality alone. Five
methods are trained by one recipe, each twice a split: one network, an ensemble, the same with modality dropout,
interaction experts by the paper's objective, and experts that share a network, with computed weights.

* score: accuracy, AUROC or R2 on the test split, and the mean of those without one modality.
* faithful: rank correlation over the samples of an expert's weight and the share that it names, of the model's own
  predictions: mean over the experts, and the worst expert.
* stable: rank correlation of the weights of two starts, mean over the experts.
* apart: distance (half L1) of the mean weights from the shares by networks trained apart on one modality each.
* benefit: how well the weights tell on which samples the model does better without a modality (macro AUROC).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.benchmarks._behavior import Behavior, coalition_benefit, correlations, observe_behavior, shares_of
from examples.common.modules import Ensemble
from examples.common.recipe import Batches, fit, paper_objective
from examples.common.statistics import mean_and_deviation
from examples.datasets import find
from examples.datasets._interface import MultimodalData, Split, Task
from examples.quickstart import WIDTH, Encoder
from i2moe import ComputedReweighter, InteractionLosses, InteractionMoE, InteractionSupervision
from i2moe.missing import ModalityDropout

__all__ = [
    "METHODS",
    "Method",
    "Model",
    "Network",
    "Settings",
    "main",
    "mean_shares_apart",
    "measure",
    "score",
    "train",
]

_SEEDS = (0, 1)
_DROPOUT = 0.3


@dataclass(frozen=True)
class Settings:
    """What to run.

    Args:
        data: names out of watch, support2 and films.
        splits: number of splits; watch has five.
        steps: most steps of training, rounded up to whole epochs.
        patience: epochs without a lower validation loss before training stops.
        batch_size: samples a step.
        processes: runs at a time, one thread each.
        json: where to write all numbers.
    """

    data: tuple[str, ...] = ("watch", "support2", "films")
    splits: int = 2
    steps: int = 500
    patience: int = 4
    batch_size: int = 128
    processes: int = 2
    json: Path | None = None


# --- The methods ---


class Fusion(nn.Module):
    """Concatenate the embeddings; one hidden layer."""

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__()
        hidden = nn.Linear(n_modalities * WIDTH, 64)
        self.network = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, n_outputs))

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Predict (B, C) from M embeddings (B, 64)."""
        prediction: Tensor = self.network(torch.cat(embeddings, dim=-1))
        return prediction


class Network(nn.Module):
    """Encode the modalities and fuse the embeddings.

    Args:
        data: says the shapes.
        fusion: what fuses; None for a `Fusion`.
    """

    def __init__(self, data: MultimodalData, fusion: nn.Module | None = None) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([_encoder(shape) for shape in data.shapes])
        self.fusion = Fusion(len(data.shapes), len(data.output_names)) if fusion is None else fusion

    def forward(self, *modalities: Tensor, **options: Tensor) -> Any:
        """Return what the fusion makes of the embeddings."""
        return self.fusion(*(encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)), **options)


class Model(nn.Module):
    """A network, an ensemble or experts, told which modalities are available; others are zeros to who has no experts.

    Args:
        body: what predicts.
        has_experts: whether it takes `available`.
        dropout: the share of modalities dropped in training.
    """

    def __init__(self, body: nn.Module, *, has_experts: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.body, self.has_experts, self.drop = body, has_experts, ModalityDropout(dropout)

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the body returns for M modalities (B, ...) followed by `available` (B, M)."""
        *modalities, available = inputs
        available = self.drop(available)
        if self.has_experts:
            return self.body(*modalities, available=available)
        present = [_like(available[:, i], x) for i, x in enumerate(modalities)]
        return self.body(*(torch.where(there, x, 0.0) for there, x in zip(present, modalities, strict=True)))


Loss: TypeAlias = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """A model and its loss.

    Args:
        build: builds the model for data.
        loss_of: makes the loss of what the model returns of the task's criterion.
    """

    build: Callable[[MultimodalData], Model]
    loss_of: Callable[[Loss], Loss] = lambda criterion: criterion


def _ensemble(data: MultimodalData, dropout: float = 0.0) -> Model:
    return Model(Ensemble(lambda: Network(data), len(data.shapes) + 2), dropout=dropout)


def _loss_of_members(criterion: Loss) -> Loss:
    return lambda out, target: torch.stack([criterion(member, target) for member in out[1].unbind(1)]).mean()


def _paper(data: MultimodalData) -> Model:
    n_modalities, n_outputs = len(data.shapes), len(data.output_names)
    experts = InteractionMoE(
        lambda: Fusion(n_modalities, n_outputs),
        n_modalities,
        feature_dims=[WIDTH] * n_modalities,
        losses=InteractionLosses("regression" if data.task == "regression" else "classification"),
        fill="learned",
    )
    return Model(Network(data, experts), has_experts=True)


def _computed(data: MultimodalData) -> Model:
    n_modalities = len(data.shapes)
    experts = InteractionMoE(lambda: Network(data), n_modalities, reweighter=ComputedReweighter(data.task), members=4)
    return Model(experts, has_experts=True, dropout=_DROPOUT if n_modalities > 2 else 0.0)


METHODS = {
    "fusion": Method(lambda data: Model(Network(data))),
    "ensemble": Method(_ensemble, _loss_of_members),
    "ensemble, dropout": Method(lambda data: _ensemble(data, _DROPOUT), _loss_of_members),
    "paper": Method(_paper, paper_objective),
    "computed": Method(_computed, InteractionSupervision),
}


# --- Training and measuring ---


def train(data: MultimodalData, method: Method, seed: int, settings: Settings) -> Model:
    """Train a model by the recipe; it is returned in evaluation mode."""
    torch.manual_seed(seed)
    model = method.build(data)
    criterion = F.mse_loss if data.task == "regression" else F.cross_entropy
    whole, held_out = (split[torch.arange(len(split))] for split in (data.train, data.validation))
    fit(
        model,
        Batches((*whole.modalities, whole.available), whole.targets, settings.batch_size, seed),
        [((*held_out.modalities, held_out.available), held_out.targets)],
        method.loss_of(criterion),
        ceil(settings.steps * settings.batch_size / len(data.train)),
        patience=settings.patience,
    )
    return model.eval()


def predict(model: Model, modalities: Sequence[Tensor], available: Tensor) -> Tensor:
    """Return the outputs (n, C)."""
    out = model(*modalities, available)
    prediction: Tensor = out if isinstance(out, Tensor) else out[0] if isinstance(out, tuple) else out.prediction
    return prediction


def score(prediction: Tensor, targets: Tensor, metric: str) -> float:
    """Score predictions by accuracy, AUROC (two classes) or R2."""
    from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

    if metric == "accuracy":
        return float(accuracy_score(targets, prediction.argmax(1)))
    if metric == "auroc":
        return float(roc_auc_score(targets, prediction.softmax(1)[:, 1]))
    return float(r2_score(targets, prediction))


@dataclass(frozen=True)
class Measured:
    """What one trained model shows.

    Args:
        values: by name.
        weights: (n, E), of the test samples; None for a model without experts.
    """

    values: dict[str, float]
    weights: Tensor | None


@torch.no_grad()
def measure(model: Model, test: Split, metric: str, task: Task) -> Measured:
    """Measure all that needs one model."""
    seen = observe_behavior(lambda modalities, available: predict(model, modalities, available), test)
    values = {"score": score(seen.full, test.targets, metric), "missing": _score_missing(seen, test, metric)}
    weights: Tensor | None = None
    if model.has_experts:
        batch = test[torch.arange(len(test))]
        weights = model(*batch.modalities, batch.available).weights
        faithful = correlations(weights, shares_of(seen.alone, seen.full, test.available, task))
        values |= {"faithful": fmean(faithful), "faithful, worst": min(faithful)}
    if task == "classification":
        benefit = coalition_benefit(seen, test, weights)
        values |= {f"benefit, {name}": value for name, value in benefit.items()}
    return Measured(values, weights)


def mean_shares_apart(data: MultimodalData, seed: int, settings: Settings) -> Tensor:
    """Return the mean shares (M + 2,) in predictions by networks of their own, for each modality and for all."""

    def outputs(chosen: Sequence[int]) -> Tensor:
        some = _only(data, chosen)
        model, test = train(some, METHODS["fusion"], seed, settings), some.test[torch.arange(len(some.test))]
        with torch.no_grad():
            return predict(model, test.modalities, test.available)

    n_modalities = len(data.shapes)
    alone = torch.stack([outputs([i]) for i in range(n_modalities)], dim=1)
    return shares_of(alone, outputs(range(n_modalities)), data.test.available, data.task).mean(0)


def main(settings: Settings) -> None:
    """Run everything, print the tables, write the numbers."""
    torch.set_num_threads(1)
    jobs = list(product(settings.data, range(settings.splits), _SEEDS, (*METHODS, None), [settings]))
    with ProcessPoolExecutor(settings.processes, mp_context=get_context("spawn")) as pool:
        found = dict(zip((job[:4] for job in jobs), _with_progress(pool.map(_run, jobs), len(jobs)), strict=True))
    collected = {name: _collect(name, found, settings) for name in settings.data}
    _print(collected)
    if settings.json is not None:
        settings.json.parent.mkdir(parents=True, exist_ok=True)
        settings.json.write_text(json.dumps(collected, indent=1))


Results: TypeAlias = dict[str, dict[str, list[float]]]
"""Method -> what was measured -> a value for each split and seed, or for each split."""


def _run(job: tuple[str, int, int, str | None, Settings]) -> Measured | Tensor:
    name, split, seed, method, settings = job
    torch.set_num_threads(1)
    data = find(name).open(split=split)
    start = len(_SEEDS) * split + seed
    if method is None:
        return mean_shares_apart(data, start, settings)
    return measure(train(data, METHODS[method], start, settings), data.test, data.metrics[0], data.task)


def _collect(name: str, found: dict[Any, Any], settings: Settings) -> Results:
    results: Results = {method: {} for method in METHODS}
    for method, split in product(METHODS, range(settings.splits)):
        runs = [found[name, split, seed, method] for seed in _SEEDS]
        apart = torch.stack([found[name, split, seed, None] for seed in _SEEDS]).mean(0)
        values = [item for run in runs for item in run.values.items()]
        if runs[0].weights is not None:
            values += [("stable", fmean(correlations(runs[0].weights, runs[1].weights)))]
            values += [("apart", float((run.weights.mean(0) - apart).abs().sum()) / 2) for run in runs]
        for measured, value in values:
            results[method].setdefault(measured, []).append(value)
    return results


def _print(collected: dict[str, Results]) -> None:
    from rich.console import Console
    from rich.table import Table

    for name, results in collected.items():
        columns = list(dict.fromkeys(measured for values in results.values() for measured in values))
        table = Table("method", *columns, title=f"{name}: mean ± deviation over splits and seeds")
        for method, values in results.items():
            table.add_row(method, *(mean_and_deviation(values[c]) if c in values else "-" for c in columns))
        Console(width=200).print(table)


def _with_progress(runs: Any, total: int) -> list[Measured | Tensor]:
    from rich.progress import track

    return list(track(runs, "Training", total=total))


def _score_missing(seen: Behavior, test: Split, metric: str) -> float:
    """Average over the modalities the score without one, of the samples that have another."""
    pairs = zip(seen.without, seen.has_more.unbind(1), strict=True)
    return fmean(score(outputs[rows], test.targets[rows], metric) for outputs, rows in pairs)


def _only(data: MultimodalData, chosen: Sequence[int]) -> MultimodalData:
    """Return data of some modalities."""

    def some(split: Split) -> Split:
        return Split([split.modalities[i] for i in chosen], split.targets, split.available[:, list(chosen)])

    names = tuple(data.modality_names[i] for i in chosen)
    train, validation, test = (some(split) for split in data.splits.values())
    return replace(data, train=train, validation=validation, test=test, modality_names=names)


def _encoder(shape: Sequence[int]) -> nn.Module:
    """Embed signals (T, 3) as the quickstart does, vectors by one layer; both as vectors (B, 64) of unit scale."""
    if len(shape) == 2:
        return Encoder()
    return nn.Sequential(nn.Linear(shape[0], WIDTH), nn.ReLU(), nn.LayerNorm(WIDTH))


def _like(rows: Tensor, x: Tensor) -> Tensor:
    return rows.reshape(-1, *(1,) * (x.ndim - 1))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings))
