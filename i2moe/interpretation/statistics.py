"""Small statistics without numpy: ranks, correlations, means with bootstrap intervals."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["WeightStatistics", "bootstrap_interval", "correlation", "plain", "rank_correlation", "ranks"]


@dataclass(frozen=True, eq=False)
class WeightStatistics:
    """The weights over a group of samples.

    Args:
        n_samples: size of the group.
        mean: (E,), NaN for an empty group like all that follow.
        std: (E,), the standard deviation between samples.
        low: (E,), lower end of the mean's bootstrap interval.
        high: (E,), upper end.

    Example:
        >>> from i2moe.interpretation import InteractionReport
        >>> report = InteractionReport.example()
        >>> report.overall.n_samples, report.overall.mean
        (4, tensor([0.3500, 0.1500, 0.3500, 0.1500], dtype=torch.float64))
    """

    n_samples: int
    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, weights: Tensor, *, n_bootstrap: int, confidence: float, seed: int) -> WeightStatistics:
        """Return the statistics of weights (N, E); the last three are those of `bootstrap_interval`."""
        weights = weights.double()
        mean = weights.mean(0)
        low, high = bootstrap_interval(weights, n_bootstrap=n_bootstrap, confidence=confidence, seed=seed)
        return cls(len(weights), mean, (weights - mean).square().mean(0).sqrt(), low, high)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists; None for NaN."""
        return {name: plain(value) for name, value in asdict(self).items()}


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two vectors; NaN where one of them is constant."""
    a, b = _settled(a), _settled(b)
    a, b = a - a.mean(), b - b.mean()
    if a.abs().max() < 1e-9 or b.abs().max() < 1e-9:
        return float("nan")
    a, b = a / a.norm(), b / b.norm()
    return (a @ b).clamp(-1, 1).item()


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0 of a vector, equal values sharing the mean of their ranks.

    Example:
        >>> ranks(torch.tensor([5.0, 1.0, 5.0]))
        tensor([1.5000, 0.0000, 1.5000], dtype=torch.float64)
    """
    values = values.contiguous()
    ordered = values.sort().values
    lowest, beyond = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (lowest + beyond - 1).double() / 2


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors; NaN where one of them is constant."""
    return correlation(ranks(_settled(a)), ranks(_settled(b)))


def bootstrap_interval(values: Tensor, *, n_bootstrap: int, confidence: float, seed: int) -> tuple[Tensor, Tensor]:
    """Percentile bootstrap interval of the column means of values (N, E).

    Args:
        values: (N, E), one row per independent sample.
        n_bootstrap: number of resamples.
        confidence: share of the resampled means between the two ends.
        seed: of the resampling's own generator.

    Returns:
        The lower and the upper end, (E,) each; NaN without samples.
    """
    n_samples = len(values)
    if n_samples == 0:
        nothing = values.new_full(values.shape[1:], float("nan"))
        return nothing, nothing
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, 2**20 // n_samples)  # resamples at a time: bounded memory, few calls for small groups
    means = [
        values[torch.randint(n_samples, (min(chunk, n_bootstrap - done), n_samples), generator=generator)].mean(1)
        for done in range(0, n_bootstrap, chunk)
    ]
    tail = (1 - confidence) / 2
    low, high = torch.cat(means).quantile(values.new_tensor([tail, 1 - tail]), dim=0)
    return low, high


def plain(value: Any) -> Any:
    """Turn tensors into lists and NaN into None.

    Example:
        >>> plain(torch.tensor([0.5, float("nan")]))
        [0.5, None]
    """
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _settled(values: Tensor) -> Tensor:
    """Scale to at most 1 and round to six digits, so that rounding errors of a constant do not count as variation."""
    values = values.double()
    return (values / values.abs().max().clamp(min=torch.finfo(torch.float64).tiny)).round(decimals=6)
