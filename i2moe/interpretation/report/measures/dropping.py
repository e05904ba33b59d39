"""The cost of dropping modalities: what predictions lose without one or two of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from i2moe._common.tasks import difference_bounds
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.measures.quality import points
from i2moe.interpretation.report.measures.retraining import Refit, with_retraining
from i2moe.interpretation.report.record import dropped_subsets
from i2moe.interpretation.statistics import mean_interval, plain

__all__ = ["DroppingCost", "cost_of_dropping", "dropped"]


@dataclass(frozen=True)
class DroppingCost:
    """What is lost without some modalities.

    Args:
        n_samples: samples that have another modality left; the others are not counted.
        score: accuracy, share of labels right, or R² without the modalities.
        cost: by how much the score falls, the mean of the samples' differences. Below 0 it rises.
        low: lower end of the cost's interval, Student's of these differences; NaN for a single sample.
        high: upper end. It covers the choice of samples, not another training.
        retrained: the same of a model that was trained without the modalities; None without one, or where it predicts
            no sample.
    """

    n_samples: int
    score: float
    cost: float
    low: float
    high: float
    retrained: DroppingCost | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers; None for NaN."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def cost_of_dropping(report: Diagnostics, refit: Refit | None = None) -> dict[str, DroppingCost]:
    """Return what each modality, and each pair of them, is worth to the model: how much its score falls without.

    The model stays as it is and is called with `available`. One that is trained anew without the modality may lose
    less: `refit` measures it.

    Args:
        report: the report.
        refit: trains without some modalities, see `with_retraining`: `cost.retrained` is then what such a model loses.
            None for no training.

    Returns:
        "image", "image+text", ... -> the cost. Without those that leave all samples nothing.

    Raises:
        ValueError: if it was not measured, or `refit` returns no predictions (N, C).

    Example:
        >>> import torch
        >>> from i2moe import InteractionMoE, explain
        >>> model = InteractionMoE(lambda: torch.nn.Bilinear(8, 4, 3), 2, reweighter="computed")
        >>> batches = [((torch.randn(16, 8), torch.randn(16, 4)), torch.randint(3, (16,)))]
        >>> list(explain(model, batches, n_draws=0).cost_of_dropping())
        ['0', '1']
    """
    without = dropped(report)
    if refit is not None:
        report = with_retraining(report, refit)
    retrained = report.predictions_retrained
    found = {}
    for s, subset in enumerate(dropped_subsets(len(report.modality_names))):
        cost = _cost(report, without[:, s], None if retrained is None else _cost(report, retrained[:, s]))
        if cost is not None:
            found["+".join(report.modality_names[i] for i in subset)] = cost
    return found


def dropped(report: Diagnostics) -> Tensor:
    """Return the predictions without the modalities of each of the S `dropped_subsets`, (N, S, C).

    Raises:
        ValueError: if there are none.
    """
    if report.predictions_without is None:
        raise ValueError(
            "the cost of dropping modalities must have been measured, however there are no predictions without them; "
            "explain a model that has a fill, with drop_modalities=True"
        )
    return report.predictions_without


def _cost(report: Diagnostics, without: Tensor, retrained: DroppingCost | None = None) -> DroppingCost | None:
    """Compare predictions (N, C) with those from all modalities; None where there are none."""
    known = ~without.isnan().any(1)
    if not known.any():
        return None
    target = report.target[known]
    left = points(report.task, without[known], target)
    differences = points(report.task, report.prediction[known], target) - left
    bounds = difference_bounds(report.task)
    interval = mean_interval(differences, report.confidence, bounds, report.clusters_of(known))
    return DroppingCost(int(known.sum()), left.mean().item(), *interval, retrained)
