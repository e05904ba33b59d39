"""Does supervision cost accuracy on real data? Four models, the same splits, paired differences.

`python -m examples.benchmarks.real_data` trains, on watch, support2 and films, one fusion module, an ensemble of as
many as there are experts, the paper's objective and the supervised one. Encoders are trained along. Each split of the
data has a seed of its own for start and batches. Prints a table and writes every score to `outputs/real_data.json`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from math import ceil, sqrt
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.datasets import find
from examples.datasets._interface import MultimodalData, Split
from examples.quickstart import WIDTH, Encoder
from i2moe import InteractionLosses, InteractionMoE, InteractionOutput, InteractionSupervision
from i2moe.pruning import TopExperts, prune

__all__ = ["METHODS", "Model", "Settings", "difference", "fewer_experts", "main", "score", "train"]

Method = Literal["fusion", "ensemble", "paper", "supervised"]
METHODS: tuple[Method, ...] = ("fusion", "ensemble", "paper", "supervised")


@dataclass(frozen=True)
class Settings:
    """What to run.

    Args:
        data: names out of watch, support2 and films.
        splits: number of splits; watch has five.
        first_seed: of split 0; another one starts all models anew on the same splits.
        steps: of training, rounded up to whole epochs; the epoch that scored best on the validation split counts.
        batch_size: samples a step.
        learning_rate: of Adam.
        processes: runs at a time, one thread each.
        output: where the scores go.
    """

    data: tuple[str, ...] = ("watch", "support2", "films")
    splits: int = 5
    first_seed: int = 0
    steps: int = 500
    batch_size: int = 128
    learning_rate: float = 1e-3
    processes: int = 2
    output: Path = Path("outputs/real_data.json")


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


class Ensemble(nn.Module):
    """Fusion modules side by side, each trained for itself."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Return what each predicts (B, E, C)."""
        return torch.stack([member(*embeddings) for member in self.members], dim=1)


class Model(nn.Module):
    """Encoders, and one of the four ways to fuse what they return."""

    def __init__(self, method: Method, data: MultimodalData) -> None:
        super().__init__()
        self.task = data.task
        self.encoders = nn.ModuleList([_encoder(shape) for shape in data.shapes])
        n_modalities, n_outputs = len(data.shapes), len(data.output_names)
        widths = [WIDTH] * n_modalities

        self.supervise = InteractionSupervision(widths, n_outputs, data.task) if method == "supervised" else None
        self.fusion: nn.Module
        if method in ("fusion", "ensemble"):
            n_members = n_modalities + 2 if method == "ensemble" else 1
            self.fusion = Ensemble([Fusion(n_modalities, n_outputs) for _ in range(n_members)])
        else:
            self.fusion = InteractionMoE(
                lambda: Fusion(n_modalities, n_outputs),
                n_modalities,
                feature_dims=widths,
                losses=InteractionLosses("regression" if data.task == "regression" else "classification"),
            )

    def forward(self, modalities: Sequence[Tensor]) -> Tensor:
        """Predict (B, C)."""
        out: Tensor | InteractionOutput = self.fusion(*self.embed(modalities))
        return out.mean(1) if isinstance(out, Tensor) else out.prediction

    def loss(self, modalities: Sequence[Tensor], target: Tensor, index: Tensor) -> Tensor:
        """Mean task loss of the members, or the objective of the experts."""
        embeddings = self.embed(modalities)
        out = self.fusion(*embeddings)
        if isinstance(self.fusion, Ensemble):
            return torch.stack([self._task_loss(member, target) for member in out.unbind(1)]).mean()
        loss: Tensor = self._task_loss(out.prediction, target) + 0.1 * out.interaction_loss
        if self.supervise is not None:
            loss = loss + self.supervise(out, embeddings, target, index=index)
        return loss

    def embed(self, modalities: Sequence[Tensor]) -> list[Tensor]:
        """Run the encoders: M embeddings (B, 64)."""
        return [encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)]

    def _task_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction, target) if self.task == "regression" else F.cross_entropy(prediction, target)


def train(data: MultimodalData, method: Method, seed: int, settings: Settings) -> Model:
    """Train a model, and go back to the epoch that scored best on the validation split."""
    torch.manual_seed(seed)
    model = Model(method, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    best_score, best_state = float("-inf"), model.state_dict()
    for _ in range(ceil(settings.steps * settings.batch_size / len(data.train))):
        model.train()
        for rows in torch.randperm(len(data.train), generator=generator).split(settings.batch_size):
            batch = data.train[rows]
            loss = model.loss(batch.modalities, batch.targets, rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        validation_score = score(model, data.validation, data.metrics[0])
        if validation_score > best_score:
            best_score, best_state = validation_score, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    return model


def score(model: Model, split: Split, metric: str) -> float:
    """Score a model by accuracy, AUROC (two classes) or R2."""
    from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

    batch = split[torch.arange(len(split))]
    model.eval()
    with torch.no_grad():
        prediction = model(batch.modalities)
    if metric == "accuracy":
        return float(accuracy_score(batch.targets, prediction.argmax(1)))
    if metric == "auroc":
        return float(roc_auc_score(batch.targets, prediction.softmax(1)[:, 1]))
    return float(r2_score(batch.targets, prediction))


def fewer_experts(model: Model, data: MultimodalData) -> dict[str, float]:
    """Score interaction experts with two and with one of them, those heaviest in validation or for each sample."""
    moe = model.fusion
    if not isinstance(moe, InteractionMoE):
        return {}
    batch = data.validation[torch.arange(len(data.validation))]
    model.eval()
    with torch.no_grad():
        weights: Tensor = moe(*model.embed(batch.modalities)).weights
    heaviest = [moe.expert_names[e] for e in weights.mean(0).argsort(descending=True)]
    found = {}
    for k in (2, 1):
        for how, fusion in (("of the data", prune(moe, heaviest[:k])), ("of each sample", TopExperts(moe, k))):
            model.fusion = fusion
            found[f"{k} {how}"] = score(model, data.test, data.metrics[0])
    model.fusion = moe
    return found


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Compare scores pair by pair: their mean difference, and half the width of its 95% interval (Student's t).

    No number for the width where the pairs cannot tell how much they vary: one pair, or differences all equal.

    Example:
        >>> gain, margin = difference([0.8, 0.9, 0.7], [0.7, 0.8, 0.65])
        >>> round(gain, 3), round(margin, 3)
        (0.083, 0.072)
    """
    from scipy.stats import t

    gains = [a - b for a, b in zip(ours, theirs, strict=True)]
    if max(gains) - min(gains) <= 1e-9 * max(map(abs, (*ours, *theirs))):  # equal but for rounding
        return mean(gains), float("nan")
    return mean(gains), float(t.ppf(0.975, len(gains) - 1)) * stdev(gains) / sqrt(len(gains))


def main(settings: Settings) -> None:
    """Run everything, print the table, write the scores."""
    jobs = list(product(settings.data, METHODS, range(settings.splits), [settings]))
    with ProcessPoolExecutor(settings.processes, mp_context=get_context("spawn")) as pool:
        found = _with_progress(pool.map(_run, jobs), len(jobs))
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in settings.data}
    for (name, method, _, _), values in zip(jobs, found, strict=True):
        for how, value in values.items():
            scores[name].setdefault(f"{method} {how}".strip(), []).append(value)

    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(scores, indent=1))
    _print(scores)
    _print_fewer(scores)


def _encoder(shape: Sequence[int]) -> nn.Module:
    """Embed signals (T, 3) as the quickstart does, vectors by one layer; both as vectors (B, 64) of unit scale."""
    if len(shape) == 2:
        return Encoder()
    return nn.Sequential(nn.Linear(shape[0], WIDTH), nn.ReLU(), nn.LayerNorm(WIDTH))


def _run(job: tuple[str, Method, int, Settings]) -> dict[str, float]:
    name, method, split, settings = job
    torch.set_num_threads(1)
    data = find(name).open(split=split)
    model = train(data, method, settings.first_seed + split, settings)
    return {"": score(model, data.test, data.metrics[0]), **fewer_experts(model, data)}


def _with_progress(runs: Iterable[dict[str, float]], total: int) -> list[dict[str, float]]:
    from rich.progress import track

    return list(track(runs, "Training", total=total))


def _print(scores: dict[str, dict[str, list[float]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Test scores x 100, means over splits; differences with their 95% intervals")
    for column in ("data", *METHODS, *(f"supervised - {method}" for method in METHODS[:-1])):
        table.add_column(column, justify="right")
    for name, rows in scores.items():
        differences = [difference(rows["supervised"], rows[method]) for method in METHODS[:-1]]
        table.add_row(
            f"{name} ({find(name).open().metrics[0]})",
            *(f"{100 * mean(rows[method]):.1f}" for method in METHODS),
            *(f"{100 * gain:+.1f} ± {100 * margin:.1f}" for gain, margin in differences),
        )
    Console(width=150).print(table)


def _print_fewer(scores: dict[str, dict[str, list[float]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    kept = ("", "2 of the data", "1 of the data", "2 of each sample", "1 of each sample")
    table = Table(title="The same with fewer experts in evaluation")
    for column in ("data", "method", "all", *kept[1:]):
        table.add_column(column, justify="right")
    for (name, rows), method in product(scores.items(), ("paper", "supervised")):
        values = (100 * mean(rows[f"{method} {how}".strip()]) for how in kept)
        table.add_row(name, method, *(f"{value:.1f}" for value in values))
    Console(width=150).print(table)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings))
