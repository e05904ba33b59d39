"""Small statistics without numpy: ranks, correlations, means with intervals."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "FEW_SAMPLES",
    "WeightStatistics",
    "check_confidence",
    "correlation",
    "explained_by_groups",
    "group_statistics",
    "mean_interval",
    "plain",
    "rank_correlation",
    "ranks",
    "reliability_of_means",
    "student_quantile",
]

FEW_SAMPLES = 20
"""Of fewer samples an interval is rough, and a correlation says little."""


@dataclass(frozen=True, eq=False)
class WeightStatistics:
    r"""The weights over a group of samples.

    The interval is Student's, of the mean on the scale of the logit, where it is less skewed and cannot leave [0, 1]:

    $$\operatorname{logit} m \pm t_{n - 1} \frac{s}{\sqrt{n}\, m (1 - m)}$$

    It needs samples that are independent, or clusters that are. In groups of fewer than 20 it can miss the true mean
    more often than it says, most of all where few samples carry the weight.

    Args:
        n_samples: size n of the group.
        mean: (E,), the mean m; NaN for an empty group like all that follow.
        std: (E,), the standard deviation between samples.
        low: (E,), lower end of the mean's interval; 0 for a single sample, which says nothing about others.
        high: (E,), upper end; 1 for a single sample.

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
    def of(cls, weights: Tensor, *, confidence: float, clusters: Tensor | None = None) -> WeightStatistics:
        """Return the statistics of weights (N, E); `clusters` as for `group_statistics`."""
        everybody = torch.zeros(len(weights), dtype=torch.long)
        return group_statistics(weights, everybody, 1, confidence=confidence, clusters=clusters)[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists; None for NaN."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def group_statistics(
    weights: Tensor, groups: Tensor, n_groups: int, *, confidence: float, clusters: Tensor | None = None
) -> list[WeightStatistics]:
    """Return the statistics of the weights in each group.

    Args:
        weights: (N, E).
        groups: (N,) int64, each sample's group, from 0 to `n_groups` - 1.
        n_groups: number of groups; one may be empty.
        confidence: share of the intervals that hold the true mean.
        clusters: (N,) int64, what samples belong to: intervals are for another draw of clusters. None for samples on
            their own.

    Example:
        >>> few, none = group_statistics(torch.tensor([[0.2], [0.4]]), torch.tensor([0, 0]), 2, confidence=0.95)
        >>> few.n_samples, none.n_samples, none.mean
        (2, 0, tensor([nan], dtype=torch.float64))
    """
    sizes = groups.bincount(minlength=n_groups)
    mean = _sums(weights.double(), groups, n_groups) / sizes.unsqueeze(1)
    variance = _sums((weights - mean[groups]).square(), groups, n_groups) / sizes.unsqueeze(1)
    error, n_clusters = _standard_errors(weights.double() - mean[groups], groups, sizes, clusters)
    low, high = _intervals(mean, error, n_clusters, confidence)
    rows = zip(sizes.tolist(), mean, variance.sqrt(), low, high, strict=True)
    return [WeightStatistics(*row) for row in rows]


def explained_by_groups(values: Tensor, groups: Tensor) -> float:
    """The share of the variance of values (N, E), summed over columns, that lies between groups (N,) of integers.

    Random groups explain something too, and everything if each has one sample. So the share is adjusted for the number
    of groups, as an adjusted R² is. For random groups it is 0 on average.

    Returns:
        At most 1; NaN where the values are constant, or no group has two samples.
    """
    labels, groups = groups.unique(return_inverse=True)
    n_samples, n_groups = len(values), len(labels)
    values = values.double()
    total = (values - values.mean(0)).square().sum().item()
    if n_samples == n_groups or total == 0:
        return math.nan
    means = _sums(values, groups, n_groups) / groups.bincount().unsqueeze(1)
    within = (values - means[groups]).square().sum().item()
    return 1 - within / (n_samples - n_groups) * (n_samples - 1) / total


def mean_interval(
    values: Tensor,
    confidence: float,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    clusters: Tensor | None = None,
) -> tuple[float, float, float]:
    """Return the mean of values (N,) and Student's interval of it, no wider than the bounds of the mean.

    NaN where it is unknown. `clusters` (N,) as for `group_statistics`. Where all values (the means of all clusters) are
    the same, a share of other ones may not have been seen: the largest share that n samples miss with a probability of
    half of one minus the confidence. In the interval it is at the bounds (of a share of n successes this is Clopper and
    Pearson's).

    Example:
        >>> [round(end, 3) for end in mean_interval(torch.tensor([0.0, 1.0, 2.0]), confidence=0.95)]
        [1.0, -1.484, 3.484]
        >>> [round(end, 3) for end in mean_interval(torch.ones(30), confidence=0.95, bounds=(0, 1))]
        [1.0, 0.884, 1.0]
    """
    values = values.double()
    mean, everybody = values.mean().item(), torch.zeros(len(values), dtype=torch.long)
    error, n_clusters = _standard_errors((values - mean).unsqueeze(1), everybody, torch.tensor([len(values)]), clusters)
    if n_clusters < 2:
        return mean, math.nan, math.nan
    if error <= 1e-12 * max(1.0, abs(mean)):
        unseen = 1 - ((1 - confidence) / 2) ** (1 / int(n_clusters))
        low, high = (mean + unseen * (bound - mean) if math.isfinite(bound) else mean for bound in bounds)
        return mean, low, high
    margin = student_quantile(confidence, int(n_clusters) - 1) * error.item()
    return mean, max(mean - margin, bounds[0]), min(mean + margin, bounds[1])


def check_confidence(confidence: float) -> None:
    """Raise a ValueError if no interval has this confidence."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), however it is {confidence}")


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two vectors; NaN where one of them is constant up to rounding errors."""
    if _is_constant(a) or _is_constant(b):
        return math.nan
    a, b = _standardized(a), _standardized(b)
    return (a @ b).clamp(-1, 1).item()


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0 of a vector, equal values sharing the mean of their ranks.

    Example:
        >>> ranks(torch.tensor([5.0, 1.0, 5.0]))
        tensor([1.5000, 0.0000, 1.5000], dtype=torch.float64)
    """
    ordered, order = values.sort()
    _, group, sizes = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    middle = sizes.cumsum(0).double() - (sizes + 1) / 2
    return torch.empty_like(middle[group]).scatter(0, order, middle[group])


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors; NaN where one of them is constant up to rounding errors."""
    if _is_constant(a) or _is_constant(b):
        return math.nan
    return correlation(ranks(a), ranks(b))


def reliability_of_means(correlations: Tensor, n: int) -> Tensor:
    r"""Return how far means of n measurements are expected to correlate with means of n others.

    It follows from the correlation r of one with another, where their errors are independent:

    $$\frac{n r}{1 + (n - 1) r}$$

    0 where r is negative. Source: Spearman, and Brown, British Journal of Psychology 3, 1910.

    Example:
        >>> reliability_of_means(torch.tensor([0.5, -0.5]), n=2)
        tensor([0.6667, 0.0000])
    """
    r = correlations.clamp(min=0)
    return n * r / (1 + (n - 1) * r)


@cache
def student_quantile(confidence: float, dof: int) -> float:
    r"""The t for which Student's distribution lies in [-t, t] with probability `confidence`.

    With $t = \sqrt{\mathrm{dof}} \tan a$ the density is proportional to $\cos^{\mathrm{dof} - 1} a$, which is summed
    by the trapezoid rule.

    Example:
        >>> round(student_quantile(0.95, 4), 3)
        2.776
    """
    widest = min(math.pi / 2, 40 / math.sqrt(dof))  # nothing lies beyond
    angles = torch.linspace(0, widest, 10_001, dtype=torch.float64)
    shares = torch.cumulative_trapezoid(angles.cos() ** (dof - 1))
    shares = torch.cat([shares.new_zeros(1), shares / shares[-1]])
    above = int(torch.searchsorted(shares, confidence))
    part = (confidence - shares[above - 1]) / (shares[above] - shares[above - 1])
    return math.sqrt(dof) * math.tan(angles[above - 1].lerp(angles[above], part).item())


def plain(value: Any) -> Any:
    """Turn tensors and tuples into lists and NaN into None, in dicts and lists too.

    Example:
        >>> plain(torch.tensor([0.5, float("nan")]))
        [0.5, None]
    """
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _sums(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Sum the rows of each group: (n_groups, E)."""
    return values.new_zeros(n_groups, values.shape[1]).index_add(0, groups, values)


def _standard_errors(
    deviations: Tensor, groups: Tensor, sizes: Tensor, clusters: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The standard errors (G, E) of G groups' means, of deviations (N, E) from them, and numbers of clusters (G,)."""
    if clusters is not None:
        pairs, cluster = torch.stack([groups, clusters]).unique(dim=1, return_inverse=True)
        groups, deviations = pairs[0], _sums(deviations, cluster, pairs.shape[1])
    n = groups.bincount(minlength=len(sizes))
    squares = _sums(deviations.square(), groups, len(sizes)) * (n / (n - 1).clamp(min=1)).unsqueeze(1)
    return squares.sqrt() / sizes.unsqueeze(1), n


def _intervals(mean: Tensor, error: Tensor, sizes: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """The ends of the intervals of G groups' means: (G, E) each."""
    quantiles = [student_quantile(confidence, max(size - 1, 1)) for size in sizes.tolist()]
    margin = mean.new_tensor(quantiles).unsqueeze(1) * error
    slope = (mean * (1 - mean)).clamp(min=torch.finfo(mean.dtype).tiny)
    low, high = (torch.sigmoid(mean.logit() + sign * margin / slope) for sign in (-1, 1))
    exact = error == 0  # the logit and back would round, and is infinite at 0 and 1
    single = (sizes == 1).unsqueeze(1)
    low, high = torch.where(exact, mean, low), torch.where(exact, mean, high)
    return low.masked_fill(single, 0), high.masked_fill(single, 1)


def _is_constant(values: Tensor) -> bool:
    """Whether values differ by no more than rounding errors of single precision, summed over a few operations."""
    values = values.double()
    lowest, highest = values.aminmax()
    return bool(highest - lowest <= 1e-6 * torch.maximum(lowest.abs(), highest.abs()))


def _standardized(values: Tensor) -> Tensor:
    """Center, and scale to length 1."""
    values = values.double()
    values = values / values.abs().max()  # squares of huge numbers would overflow
    values = values - values.mean()
    standardized: Tensor = values / values.norm()
    return standardized
