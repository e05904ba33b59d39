"""How categories move with the distance, the threshold and the unimodal classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from i2moe._common.modalities import Array
from i2moe._common.names import expert_colors
from i2moe._common.tasks import Task
from i2moe.categorization.categories import categorize
from i2moe.categorization.distances import DistanceLike, as_distance
from i2moe.categorization.thresholds import Quantile, Threshold

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Sensitivity", "Setting", "sensitivity"]


@dataclass(frozen=True)
class Setting:
    """One way to categorize: whose unimodal predictions, which distance, which threshold."""

    classifiers: str
    distance: str
    threshold: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.classifiers, self.distance, self.threshold) if part)


@dataclass(frozen=True)
class Sensitivity:
    """The categories of the same B samples under S settings.

    Args:
        settings: the S settings.
        category: (S, B), the samples' categories under each.
        names: the K names of the categories.
    """

    settings: tuple[Setting, ...]
    category: Tensor
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Sensitivity({len(self.settings)} settings, {self.category.shape[1]} samples, categories {self.names})"

    @property
    def fractions(self) -> Tensor:
        """(S, K), the fraction of the samples in each category."""
        return torch.stack([row.bincount(minlength=len(self.names)) for row in self.category]) / self.category.shape[1]

    @property
    def agreement(self) -> Tensor:
        """(S, S), the fraction of the samples that two settings put in the same category."""
        return torch.stack([(self.category == row).double().mean(1) for row in self.category])

    @property
    def kappa(self) -> Tensor:
        r"""(S, S), Cohen's kappa: agreement beyond that of independent settings, 1 at best; 1 on the diagonal."""
        by_chance = self.fractions.double() @ self.fractions.double().T
        kappa = (self.agreement - by_chance) / (1 - by_chance).clamp(min=1e-12)
        return torch.where(self.agreement == 1, 1.0, kappa)

    def by_factor(self) -> dict[str, float]:
        """Average the agreement of settings that differ in one factor only; factors that never vary are left out."""
        found: dict[str, list[float]] = {}
        agreement = self.agreement
        for (i, a), (j, b) in combinations(enumerate(self.settings), 2):
            differing = [
                name for name in ("classifiers", "distance", "threshold") if getattr(a, name) != getattr(b, name)
            ]
            if len(differing) == 1:
                found.setdefault(differing[0], []).append(float(agreement[i, j]))
        return {name: sum(values) / len(values) for name, values in found.items()}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw each setting's categories as one stacked bar, and return the axes (a new figure's if not given)."""
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=(7, 1 + 0.3 * len(self.settings)), layout="constrained")[1] if ax is None else ax
        labels, left = [str(setting) for setting in self.settings], torch.zeros(len(self.settings))
        for (name, color), fractions in zip(expert_colors(self.names).items(), self.fractions.T, strict=True):
            ax.barh(range(len(labels)), fractions.tolist(), left=left.tolist(), label=name, color=color)
            left = left + fractions
        ax.set_yticks(range(len(labels)), labels)
        ax.invert_yaxis()
        ax.set(xlim=(0, 1), xlabel="fraction of samples")
        ax.legend(ncols=len(self.names), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small", frameon=False)
        return ax


def sensitivity(
    unimodal: Array | Mapping[str, Array],
    multimodal: Array,
    target: Array | None = None,
    *,
    distances: Sequence[DistanceLike] = ("l1", "l2", "cosine", "kl", "jensen_shannon", "total_variation"),
    thresholds: Sequence[Threshold] = (Quantile(0.3), Quantile(0.5), Quantile(0.7)),
    task: Task = "classification",
    modality_names: Sequence[str] | None = None,
) -> Sensitivity:
    """Categorize the same samples under every combination of classifiers, distance and threshold.

    Quantiles make thresholds comparable between distances, whose units differ. For `Calibrated()` and
    `LikeliestClass()` the distance makes no difference.

    Args:
        unimodal: as for `categorize`, or a name -> the same for the predictions of different unimodal classifiers.
        multimodal: (B, C).
        target: (B,) classes, (B,) or (B, C) values; None to compare with `multimodal`.
        distances: names or `Distance` objects.
        thresholds: see `categorize`.
        task: "classification" or "regression"; choose distances that fit the outputs.
        modality_names: M names.

    Returns:
        A `Sensitivity` with S = classifiers x distances x thresholds settings.

    Raises:
        ValueError: if there is nothing to combine, and as `categorize`.

    Example:
        >>> unimodal, multimodal = torch.rand(50, 2, 3).softmax(-1), torch.rand(50, 3).softmax(-1)
        >>> found = sensitivity(unimodal, multimodal, distances=("l1", "total_variation"), thresholds=(Quantile(),))
        >>> found.by_factor()  # half the L1 distance is the total variation: the same categories
        {'distance': 1.0}
    """
    by_name: Mapping[str, Array] = unimodal if isinstance(unimodal, Mapping) else {"": unimodal}
    if not (by_name and distances and thresholds):
        raise ValueError("there must be at least one set of classifiers, distance and threshold, however one is empty")
    combinations_ = list(product(by_name, distances, thresholds))
    found = [
        categorize(
            by_name[name],
            multimodal,
            target,
            distance=distance,
            threshold=threshold,
            task=task,
            modality_names=modality_names,
        )
        for name, distance, threshold in combinations_
    ]
    return Sensitivity(
        tuple(Setting(name, _name(distance), _describe(threshold)) for name, distance, threshold in combinations_),
        torch.stack([categories.category for categories in found]),
        found[0].names,
    )


def _name(distance: DistanceLike) -> str:
    if isinstance(distance, str):
        return distance
    return getattr(distance, "__name__", None) or repr(as_distance(distance))


def _describe(threshold: Threshold) -> str:
    if threshold is None:
        return "default"
    if isinstance(threshold, Quantile):
        return f"quantile {threshold.q:g}"
    return f"<= {threshold:g}" if isinstance(threshold, int | float) else repr(threshold)
