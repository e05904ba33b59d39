"""What a model predicts from some of its modalities, and how well its weights say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from examples.benchmarks.identify import coalitions
from examples.benchmarks.identify.scores import distance
from examples.datasets._interface import Split, Task
from i2moe.interpretation.statistics import correlation, rank_correlation, reliability_of_means
from i2moe.moe.weights import interaction_shares

__all__ = [
    "Behavior",
    "agreement",
    "coalition_benefit",
    "correlations",
    "observe_behavior",
    "over_samples",
    "shares_of",
]

Predict = Callable[[Sequence[Tensor], Tensor], Tensor]
"""Maps the modalities (n, ...) and which of them are available, (n, M) bool, to outputs (n, C)."""


@dataclass(frozen=True)
class Behavior:
    """What a model predicts for the samples of a split.

    Args:
        full: (n, C), outputs from all that a sample has.
        without: M outputs (n, C), each without one modality.
        alone: (n, M, C), from one modality alone; `full` where a sample lacks it.
        subsets: (n, S, C), from each of `coalitions.proper_subsets`.
        has_more: (n, M) bool, whether a sample has something else than this modality.
    """

    full: Tensor
    without: tuple[Tensor, ...]
    alone: Tensor
    subsets: Tensor
    has_more: Tensor


@torch.no_grad()
def observe_behavior(predict: Predict, split: Split) -> Behavior:
    """Ask for predictions from all modalities and from each subset.

    Args:
        predict: the model in evaluation mode.
        split: the samples. Where a sample has nothing of a subset, it keeps all it has.
    """
    batch = split[torch.arange(len(split))]
    n_modalities = len(batch.modalities)
    found: dict[tuple[int, ...], Tensor] = {}
    for chosen in (*coalitions.proper_subsets(n_modalities), tuple(range(n_modalities))):
        kept = batch.available & torch.tensor([i in chosen for i in range(n_modalities)])
        kept = torch.where(kept.any(1, keepdim=True), kept, batch.available)
        found[chosen] = predict(batch.modalities, kept)
    everything = found.popitem()[1]
    others = [tuple(j for j in range(n_modalities) if j != i) for i in range(n_modalities)]
    return Behavior(
        full=everything,
        without=tuple(found[chosen] for chosen in others),
        alone=torch.stack([found[i,] for i in range(n_modalities)], dim=1),
        subsets=torch.stack(list(found.values()), dim=1),
        has_more=torch.stack([batch.available[:, chosen].any(1) for chosen in others], dim=1),
    )


def shares_of(alone: Tensor, full: Tensor, available: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Return the shares (n, M + 2) of the interactions in predictions, and the squared distances (n,) from the prior.

    Args:
        alone: (n, M, C), outputs from one modality alone.
        full: (n, C), outputs from all.
        available: (n, M) bool; what is absent says nothing.
        task: says what the outputs are: logits of classes, or numbers.
    """
    if task == "classification":
        alone, full = alone.softmax(-1), full.softmax(-1)
    prior = full.mean(0)
    return interaction_shares(torch.where(available.unsqueeze(-1), alone, prior), full, prior)


def over_samples(weights: Tensor, moved: Tensor) -> Tensor:
    """Return (2, E): the mean of weights (n, E), and the one in which samples count by their distance `moved` (n,)."""
    return torch.stack((weights.mean(0), moved @ weights / moved.sum()))


def correlations(
    weights: Tensor, others: Tensor, of: Callable[[Tensor, Tensor], float] = rank_correlation
) -> list[float]:
    """Return the rank correlation over the samples for each expert, of (n, E) and (n, E); NaN for a constant one."""
    return [of(one, other) for one, other in zip(weights.unbind(1), others.unbind(1), strict=True)]


def agreement(weights: Sequence[Tensor]) -> dict[str, float]:
    """Say how far the weights (n, E) of two models or more agree, see `examples.benchmarks.real_data`."""
    each = [_agreement_of_two(*pair) for pair in combinations(weights, 2)]
    found = {name: fmean(values[name] for values in each) for name in each[0]}
    return found | _agreement_of_means(weights[:4]) if len(weights) > 3 else found


def _agreement_of_means(weights: Sequence[Tensor]) -> dict[str, float]:
    """Say how far the means of two of four models agree with those of the two others."""
    pairs = list(combinations(weights, 2))
    alike = torch.tensor([correlations(*pair, of=correlation) for pair in pairs]).mean(0)
    means = [(one + other) / 2 for one, other in pairs]
    parts = list(zip(means[:3], reversed(means[3:]), strict=True))  # the first pair and the last share no model
    return {
        "stable, two models": fmean(fmean(correlations(*part)) for part in parts),
        "Pearson": float(alike.mean()),
        "Pearson, two models": fmean(fmean(correlations(*part, of=correlation)) for part in parts),
        "Pearson, expected": float(reliability_of_means(alike, 2).mean()),
    }


def _agreement_of_two(weights: Tensor, others: Tensor) -> dict[str, float]:
    by_expert = correlations(weights, others)
    means = ((weights + others) / 2).mean(0).tolist()
    return {
        "stable": fmean(by_expert),
        "stable, by weight": sum(mean * value for mean, value in zip(means, by_expert, strict=True)),
        "starts differ": float(distance(weights, others).mean()),
    }


def coalition_benefit(behavior: Behavior, split: Split, weights: Tensor | None) -> dict[str, float]:
    """Say how well scores tell where taking modalities away helps: macro AUROC by the score's name.

    Args:
        behavior: what a classifier predicts for the split.
        split: the samples, of which those count that have every modality.
        weights: (n, E), or None for a model without.
    """
    complete = split.available.all(1)
    subsets, full = (x[complete].log_softmax(-1) for x in (behavior.subsets, behavior.full))
    events = coalitions.benefits(subsets, full, split.targets[complete])
    scores = {
        "posterior": coalitions.posterior_score(subsets, full),
        "confidence": 1 - coalitions.confidence_score(full, subsets.shape[1]),
        "entropy": coalitions.entropy_score(full, subsets.shape[1]),
    }
    if weights is not None:
        scores = {"weights": coalitions.weight_score(weights[complete]), **scores}
    return {name: coalitions.macro_auroc(score, events) for name, score in scores.items()}
