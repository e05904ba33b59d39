"""The metrics by name, of all predictions of a split at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from examples.common.best_epoch import higher
from examples.datasets._interface import Task
from i2moe._common.tasks import decide, probabilities

__all__ = ["is_better", "measure"]

_LOWER_IS_BETTER = {"loss", "mae"}


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Whether a value is better than the best so far, None at first; one that is no number never is.

    Example:
        >>> is_better("mae", 0.5, 0.7), is_better("accuracy", 0.5, 0.7), is_better("accuracy", 0.5, None)
        (True, False, True)
    """
    if metric in _LOWER_IS_BETTER:
        return higher(-value, None if best is None else -best)
    return higher(value, best)


def measure(names: Sequence[str], task: Task, prediction: Tensor, targets: Tensor, loss: float) -> Mapping[str, float]:
    """Return the metrics of all predictions.

    AUROC and F1 are averages over the classes that the targets hold (labels that are there and not always there).
    NOTE[DIFF]: AUROC of several classes is one against the rest; the paper's is one against one on ENRICO.

    Args:
        names: of "loss", "accuracy", "macro_f1", "micro_f1", "auroc", "mae", "r2", "correlation", "sign_accuracy".
        task: what the outputs mean.
        prediction: (N, C) outputs.
        targets: (N,) classes or (N, C).
        loss: the task's loss.

    Raises:
        ValueError: if a metric is unknown.

    Example:
        >>> logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
        >>> measure(["accuracy", "auroc"], "classification", logits, targets, loss=0.0)
        {'accuracy': 0.666..., 'auroc': 0.5}
    """
    prediction = prediction.double().cpu()
    return {name: _measure(name, task, prediction, targets.cpu(), loss) for name in names}


def _measure(name: str, task: Task, prediction: Tensor, targets: Tensor, loss: float) -> float:
    from torchmetrics import functional as metrics

    if name == "loss":
        return loss
    if name == "accuracy":
        return float((decide(task, prediction) == targets).double().mean())
    if name in ("macro_f1", "micro_f1"):
        return _f1(name.removesuffix("_f1"), task, decide(task, prediction), targets, prediction.shape[1])
    if name == "auroc":
        return _auroc(task, prediction, targets)
    flat, wanted = prediction.flatten(), targets.double().flatten()
    if name == "mae":
        return float(metrics.mean_absolute_error(flat, wanted))
    if name == "sign_accuracy":
        return float(((flat >= 0) == (wanted >= 0)).double().mean())
    if name == "r2":
        return float(metrics.r2_score(flat, wanted))
    if name == "correlation":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of predictions that are all alike, whose correlation is no number
            return float(metrics.pearson_corrcoef(flat, wanted))
    raise ValueError(f"a metric must be one that examples/reproduce/metrics.py has, however it is {name!r}")


def _f1(average: str, task: Task, decided: Tensor, targets: Tensor, n_outputs: int) -> float:
    from torchmetrics.functional.classification import multiclass_f1_score, multilabel_f1_score

    if task == "multilabel":
        return float(multilabel_f1_score(decided, targets.long(), n_outputs, average=average))  # type: ignore[arg-type]
    return float(multiclass_f1_score(decided, targets, n_outputs, average=average))  # type: ignore[arg-type]


def _auroc(task: Task, prediction: Tensor, targets: Tensor) -> float:
    from torchmetrics.functional.classification import binary_auroc

    labels = targets if task == "multilabel" else torch.nn.functional.one_hot(targets, prediction.shape[1])
    scores = probabilities(task, prediction)
    if task == "classification" and prediction.shape[1] == 2:
        labels, scores = labels[:, 1:], scores[:, 1:]
    both = [c for c in range(labels.shape[1]) if 0 < labels[:, c].sum() < len(labels)]
    areas = [float(binary_auroc(scores[:, c], labels[:, c].long())) for c in both]
    return sum(areas) / len(areas) if areas else float("nan")
