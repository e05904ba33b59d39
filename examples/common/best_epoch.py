"""Training that ends at the epoch with the best validation score."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["Progress", "higher", "train_to_best_epoch"]


@dataclass
class Progress:
    """How far a training is.

    Args:
        epoch: epochs done.
        best_epoch: the one with the best score, counted from 1; 0 before any has a score.
        best_score: the score then.
        best_state: the model's state then.
        history: what each epoch logged.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    best_state: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    history: list[dict[str, float]] = field(default_factory=list)


def higher(value: float, best: float | None) -> bool:
    """Whether a score is higher than the best one so far; one that is no number never is."""
    return value == value and (best is None or value > best)


def train_to_best_epoch(
    model: nn.Module,
    run_epoch: Callable[[int], Mapping[str, float]],
    score: str,
    n_epochs: int,
    *,
    patience: int | None = None,
    is_better: Callable[[float, float | None], bool] = higher,
    progress: Progress | None = None,
    after_epoch: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train for some epochs, then give the model the state of the one that scored best.

    Args:
        model: what is trained.
        run_epoch: trains the model for the epoch of this number, counted from 0, and returns what is to be logged.
        score: the name of the validation score in it.
        n_epochs: most epochs.
        patience: epochs without a better score before training stops; None for no early stop.
        is_better: whether a score beats the best one so far, None at first.
        progress: where to go on from.
        after_epoch: called after each epoch, to save or to show it.

    Returns:
        What happened.

    Example:
        >>> model, scores = nn.Linear(1, 1), [0.5, 0.9, 0.7]
        >>> progress = train_to_best_epoch(model, lambda epoch: {"accuracy": scores[epoch]}, "accuracy", 3)
        >>> progress.best_epoch, progress.best_score
        (2, 0.9)
    """
    progress = Progress(best_state=copy.deepcopy(model.state_dict())) if progress is None else progress
    while progress.epoch < n_epochs and (patience is None or progress.epoch - progress.best_epoch < patience):
        logged = run_epoch(progress.epoch)
        progress.epoch += 1
        progress.history.append({"epoch": progress.epoch, **logged})
        if is_better(logged[score], progress.best_score):
            progress.best_epoch, progress.best_score = progress.epoch, logged[score]
            progress.best_state = copy.deepcopy(model.state_dict())
        if after_epoch is not None:
            after_epoch(progress)
    model.load_state_dict(progress.best_state)
    return progress
