"""All that one trained contender shows on a split."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from examples.benchmarks.real_data.behavior import (
    Behavior,
    coalition_benefit,
    correlations,
    observe_behavior,
    over_samples,
    shares_of,
)
from examples.benchmarks.real_data.contenders import CONTENDERS, Contender, train
from examples.benchmarks.real_data.robustness import robustness
from examples.benchmarks.real_data.scores import likelihood_scores, main_score, temperature
from examples.benchmarks.real_data.settings import Settings
from examples.common.modules import Model
from examples.datasets._interface import MultimodalData, Split

__all__ = ["Measured", "measure", "run", "shares_apart"]


@dataclass(frozen=True)
class Measured:
    """What one trained model shows.

    Args:
        values: by name.
        weights: (n, E), of the test samples; None for a model without experts.
        overall: (2, E), these `over_samples`.
    """

    values: dict[str, float]
    weights: Tensor | None
    overall: Tensor | None


def run(data: MultimodalData, contender: Contender, seed: int, settings: Settings) -> Measured:
    """Train and measure; `training` is in seconds of CPU time."""
    start = time.process_time()
    model = train(data, contender, seed, settings)
    seconds = time.process_time() - start
    found = measure(model, data, settings.noise_draws)
    return replace(found, values=found.values | {"training": seconds})


@torch.no_grad()
def measure(model: Model, data: MultimodalData, n_noise_draws: int) -> Measured:
    """Measure all that needs one model; `inference` is in milliseconds of CPU time for 1,000 samples."""
    test, metric = data.test, data.metrics[0]
    batch, held_out = (split[torch.arange(len(split))] for split in (test, data.validation))
    outputs, prediction_time = _timed(lambda: model.predict(*batch.modalities, batch.available))
    seen = observe_behavior(lambda modalities, available: model.predict(*modalities, available), test)
    without = _scores_without(seen, test, metric)
    values = {
        "score": main_score(outputs, batch.targets, metric),
        "missing": fmean(without),
        "missing, worst": min(without),
        "subsets": fmean(main_score(x, batch.targets, metric) for x in seen.subsets.unbind(1)),
        "parameters": float(sum(p.numel() for p in model.parameters() if p.requires_grad)),
        "inference": 1e6 * prediction_time / len(test),
        **robustness(
            lambda changed: main_score(model.predict(*changed, batch.available), batch.targets, metric),
            data,
            n_noise_draws,
        ),
        **likelihood_scores(
            outputs,
            batch.targets,
            model.predict(*held_out.modalities, held_out.available),
            held_out.targets,
            data.task == "regression",
        ),
    }
    weights: Tensor | None = None
    overall: Tensor | None = None
    if model.has_experts:
        out, whole_time = _timed(lambda: model(*batch.modalities, batch.available))
        weights = out.weights
        shares, moved = shares_of(seen.alone, seen.full, test.available, data.task)
        faithful, overall = correlations(weights, shares), over_samples(weights, moved)
        values |= {"inference, weights": 1e6 * whole_time / len(test)}
        values |= {"faithful": fmean(faithful), "faithful, worst": min(faithful)}
    if data.task == "classification":
        benefit = coalition_benefit(seen, test, weights)
        values |= {f"benefit, {name}": value for name, value in benefit.items()}
    return Measured(values, weights, overall)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and the least CPU time in seconds of three calls."""
    times = []
    for _ in range(3):
        start = time.process_time()
        found = call()
        times.append(time.process_time() - start)
    return found, min(times)


def shares_apart(data: MultimodalData, seed: int, settings: Settings) -> Tensor:
    """Return the shares (2, M + 2) `over_samples` in predictions by networks of their own, of each modality and of all.

    Outputs of classes are scaled by a temperature that fits the validation split, as the model is by `calibrate`.
    """

    def outputs(chosen: Sequence[int]) -> Tensor:
        some = _only(data, chosen)
        model = train(some, CONTENDERS["fusion"], seed, settings)
        test, held_out = (split[torch.arange(len(split))] for split in (some.test, some.validation))
        with torch.no_grad():
            found = model.predict(*test.modalities, test.available)
            if data.task == "regression":
                return found
            logits = model.predict(*held_out.modalities, held_out.available)
        return found / temperature(logits, held_out.targets)

    n_modalities = len(data.shapes)
    alone = torch.stack([outputs([i]) for i in range(n_modalities)], dim=1)
    return over_samples(*shares_of(alone, outputs(range(n_modalities)), data.test.available, data.task))


def _scores_without(seen: Behavior, test: Split, metric: str) -> list[float]:
    """Return for each modality the score without it, of the samples that have another."""
    pairs = zip(seen.without, seen.has_more.unbind(1), strict=True)
    return [main_score(outputs[rows], test.targets[rows], metric) for outputs, rows in pairs]


def _only(data: MultimodalData, chosen: Sequence[int]) -> MultimodalData:
    """Return data of some modalities."""

    def some(split: Split) -> Split:
        return Split([split.modalities[i] for i in chosen], split.targets, split.available[:, list(chosen)])

    names = tuple(data.modality_names[i] for i in chosen)
    train, validation, test = (some(split) for split in data.splits.values())
    return replace(data, train=train, validation=validation, test=test, modality_names=names)
