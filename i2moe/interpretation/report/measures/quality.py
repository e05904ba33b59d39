"""How good predictions are, and whether they are as sure as they are right."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from i2moe._common.tasks import Task, certain, decide, probabilities, score_bounds
from i2moe.interpretation.statistics import FEW_SAMPLES, mean_interval, plain, ranks

__all__ = ["Quality", "calibration", "calibration_error", "chance", "points", "quality"]

_N_BINS = 15


@dataclass(frozen=True)
class Quality:
    """How good predictions of one kind are, from all modalities or from one alone.

    Args:
        n_samples: number of samples.
        score: accuracy, the share of labels right, or R².
        low: lower end of the score's interval, Student's of the mean over samples, within the score's range; NaN for a
            single sample.
        high: upper end.
        nll: negative log-likelihood of the true class, or per label, in nats; None in regression.
        calibration_error: how far the probabilities lie from how often they come true, in [0, 1], the expected
            calibration error of 15 bins; None in regression.
        calibration_noise: what the calibration error of so many samples would be on average if their probabilities were
            right; None in regression.
        better_than_chance: whether predictions go along with the targets: their covariance, summed over outputs, is
            above 0 by more than two of the standard errors that it had if they were independent. In regression that of
            their ranks. None of fewer than 20 samples, and where all targets are the same.
    """

    n_samples: int
    score: float
    low: float
    high: float
    nll: float | None
    calibration_error: float | None
    calibration_noise: float | None
    better_than_chance: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers; None for NaN."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def quality(
    task: Task, prediction: Tensor, target: Tensor, confidence: float, clusters: Tensor | None = None
) -> Quality:
    """Return how good raw outputs (N, C) are for the targets, as reports hold them; `clusters` (N,) belong together.

    Example:
        >>> found = quality("classification", torch.eye(2).repeat(10, 1), torch.tensor([0, 1]).repeat(10), 0.95)
        >>> found.score, round(found.nll, 3), round(found.calibration_error, 3)
        (1.0, 0.313, 0.269)
    """
    mean, low, high = mean_interval(points(task, prediction, target), confidence, score_bounds(task), clusters)
    nll = error = noise = None
    if task != "regression":
        outputs = prediction.double()
        if task == "classification":
            nll = F.cross_entropy(outputs, target).item()
        else:
            nll = F.binary_cross_entropy_with_logits(outputs, target.double()).item()
        error, noise = calibration(task, prediction, target)
    return Quality(len(target), mean, low, high, nll, error, noise, _better_than_chance(task, prediction, target))


def points(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    r"""What each sample adds to the score, (N,) in float64, whose mean it is.

    1 for the right class, or the share of labels right. R² is one minus a ratio r of mean squares, of the errors e and
    of the target's deviations d. To the first order a sample adds

    $$1 - r - (e^2 - r d^2) / \overline{d^2}$$

    (the delta method), so that intervals of the mean are those of the ratio: a large target makes both large.
    """
    if task == "classification":
        return (decide(task, prediction) == target).double()
    if task == "multilabel":
        return (decide(task, prediction) == target).double().mean(1)
    target = target.double()
    deviations, errors = (target - target.mean(0)).square(), (prediction.double() - target).square()
    variance = deviations.mean(0)
    variance = torch.where(variance > 0, variance, math.nan)
    unexplained = errors.mean(0) / variance
    return (1 - unexplained - (errors - unexplained * deviations) / variance).nanmean(1)


def chance(task: Task, target: Tensor) -> float:
    """The score of always saying the same: the most frequent class or labels, or the mean value.

    Example:
        >>> chance("classification", torch.tensor([0, 1, 1, 1]))
        0.75
    """
    if task == "classification":
        return target.bincount().max().item() / len(target)
    if task == "regression":
        return 0.0
    frequency = target.double().mean(0)
    return torch.maximum(frequency, 1 - frequency).mean().item()


def calibration(
    task: Task, prediction: Tensor, target: Tensor, sample_weight: Tensor | None = None
) -> tuple[float, float]:
    """Return the `calibration_error` of raw outputs (N, C) of classes or labels, and what it is by chance."""
    sure, right = _confidence(task, prediction, target)
    if sample_weight is not None:
        sample_weight = sample_weight.repeat_interleave(len(sure) // len(target))
    return calibration_error(sure, right, sample_weight)


def calibration_error(
    sure: Tensor, right: Tensor, sample_weight: Tensor | None = None, n_bins: int = _N_BINS
) -> tuple[float, float]:
    r"""Return the expected calibration error, and what it is by chance.

    Predictions are put into bins of equal width by their probability p. With $w_n$ the samples' weights, of sum 1,

    $$\mathrm{ECE} = \sum_b \left| \textstyle\sum_{n \in b} w_n (\mathrm{right}_n - p_n) \right|, \qquad
    \mathrm{chance} = \sum_b \sqrt{\tfrac{2}{\pi} \textstyle\sum_{n \in b} w_n^2 p_n (1 - p_n)}$$

    the second being its mean if each is right with probability p.

    Args:
        sure: (N,), the probability of what was predicted.
        right: (N,) bool, whether it came true.
        sample_weight: (N,), how much each counts; None for alike.
        n_bins: number of bins.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Example:
        >>> round(calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([True, False]))[0], 3)
        0.4
    """
    sure = sure.double()
    weight = torch.ones_like(sure) if sample_weight is None else sample_weight.double()
    weight = weight / weight.sum()
    bins = (sure * n_bins).long().clamp(max=n_bins - 1)
    too_sure, variance = (
        sure.new_zeros(n_bins).index_add(0, bins, values)
        for values in (weight * (sure - right.double()), weight.square() * sure * (1 - sure))
    )
    return too_sure.abs().sum().item(), (variance * 2 / math.pi).sqrt().sum().item()


def _confidence(task: Task, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How sure each decision is, and whether it is right: of each sample, or of each label of each sample."""
    probability = probabilities(task, prediction.double())
    if task == "classification":
        sure, predicted = probability.max(1)
        return sure, predicted == target
    return torch.maximum(probability, 1 - probability).flatten(), (decide(task, prediction) == target).flatten()


def _better_than_chance(task: Task, prediction: Tensor, target: Tensor) -> bool | None:
    if len(target) < FEW_SAMPLES:
        return None
    predicted, actual = probabilities(task, prediction.double()), certain(task, target, prediction.shape[1])
    if task == "regression":  # ranks, as a few large values would decide about the covariance and its error
        predicted, actual = (torch.stack([*map(ranks, x.unbind(1))], dim=1) for x in (predicted, actual))
    if (actual == actual[0]).all():
        return None
    predicted, actual = predicted - predicted.mean(0), actual - actual.mean(0)
    variance = ((predicted.T @ predicted) * (actual.T @ actual)).sum() / len(target)
    return bool((predicted * actual).sum() > 2 * variance.sqrt())
