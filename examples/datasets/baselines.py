"""How hard the open data sets are: one linear model on each modality alone, and one on all together.

`python -m examples.datasets.baselines` prints the test scores on all of them, `--data digits houses` on some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.common.statistics import mean_and_deviation
from examples.datasets import OPEN, find
from examples.datasets._interface import Column, MultimodalData

__all__ = ["Settings", "features", "main", "score"]


@dataclass(frozen=True)
class Settings:
    """What to run.

    Args:
        data: names of data sets.
        splits: number of splits; watch has five.
    """

    data: tuple[str, ...] = OPEN
    splits: int = 5


def features(column: Column) -> Tensor:
    """Return what the linear model sees of a modality: a vector as it is, of a signal some statistics over time.

    Args:
        column: (N, F), or (N, T, F): then the mean, deviation, minimum, maximum and mean absolute step of each channel.

    Example:
        >>> features(torch.tensor([[[0.0], [2.0], [1.0]]])).tolist()
        [[1.0, 0.8164..., 0.0, 2.0, 1.5]]
    """
    x = column[torch.arange(column.shape[0])]
    if x.ndim == 2:
        return x
    statistics = x.mean(1), x.std(1, correction=0), x.amin(1), x.amax(1), x.diff(dim=1).abs().mean(1)
    return torch.cat(statistics, dim=1)


def score(data: MultimodalData, modalities: Sequence[int]) -> float:
    """Return the test score, by the first metric of the data set, of a linear model on some of the modalities.

    It is logistic or ridge regression on standardized features, with the penalty that is best on the validation split.

    Args:
        data: the data set.
        modalities: indices of the modalities that the model sees.
    """
    train, validation, test = (
        torch.cat([features(split.modalities[i]) for i in modalities], dim=1).numpy() for split in data.splits.values()
    )
    fitted = [model.fit(train, data.train.targets) for model in _models(data)]
    best = max(fitted, key=lambda model: _measure(model, validation, data.validation.targets, data.metrics[0]))
    return _measure(best, test, data.test.targets, data.metrics[0])


def main(settings: Settings) -> None:
    """Print a table: mean and deviation over the splits, for each modality alone and for all together."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Test scores of linear models, mean ± deviation over {settings.splits} splits")
    for column in ("data", "modality", "score"):
        table.add_column(column)
    console = Console()
    for name in settings.data:
        with console.status(name):
            runs = [_scores(find(name).open(split=split)) for split in range(settings.splits)]
        metric = find(name).open().metrics[0]
        for modality, *found in zip(runs[0], *(run.values() for run in runs), strict=True):
            table.add_row(f"{name} ({metric})", modality, mean_and_deviation(found), end_section=modality == "all")
    console.print(table)


def _scores(data: MultimodalData) -> dict[str, float]:
    """Return the scores of each modality alone, and of all."""
    chosen = {name: [i] for i, name in enumerate(data.modality_names)}
    chosen["all"] = list(range(len(data.modality_names)))
    return {name: score(data, modalities) for name, modalities in chosen.items()}


def _models(data: MultimodalData) -> Iterator[Any]:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for strength in (1.0, 10.0, 100.0, 1000.0):
        penalized = Ridge(strength) if data.task == "regression" else LogisticRegression(C=1 / strength, max_iter=2000)
        yield make_pipeline(StandardScaler(), penalized)


def _measure(model: Any, x: np.ndarray, targets: Tensor, metric: str) -> float:
    """Return the AUROC of two classes, and the accuracy or R2 otherwise."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(targets, model.decision_function(x)) if metric == "auroc" else model.score(x, targets))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings))
