"""The cost of dropping modalities: what predictions lose without one or two of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.measures.quality import points
from i2moe.interpretation.report.record import dropped_subsets
from i2moe.interpretation.statistics import mean_interval, plain

__all__ = ["DroppingCost", "cost_of_dropping"]


@dataclass(frozen=True)
class DroppingCost:
    """What is lost without some modalities.

    Args:
        n_samples: samples that have another modality left; the others are not counted.
        score: accuracy, share of labels right, or R² without the modalities.
        cost: by how much the score falls, the mean of the samples' differences. Below 0 it rises.
        low: lower end of the cost's interval, Student's of these differences; NaN for a single sample.
        high: upper end. It covers the choice of samples, not another training.
    """

    n_samples: int
    score: float
    cost: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers; None for NaN."""
        return {name: plain(value) for name, value in asdict(self).items()}


def cost_of_dropping(report: Diagnostics) -> dict[str, DroppingCost]:
    """Return what each modality, and each pair of them, is worth to the model: how much its score falls without.

    The model stays as it is and is called with `available`. One that is trained anew without the modality may lose
    less.

    Returns:
        "image", "image+text", ... -> the cost.

    Raises:
        ValueError: if it was not measured.

    Example:
        >>> import torch
        >>> from i2moe import InteractionMoE, explain
        >>> model = InteractionMoE(lambda: torch.nn.Bilinear(8, 4, 3), 2, reweighter="computed")
        >>> batches = [((torch.randn(16, 8), torch.randn(16, 4)), torch.randint(3, (16,)))]
        >>> list(explain(model, batches, n_draws=0).cost_of_dropping())
        ['0', '1']
    """
    if report.predictions_without is None:
        raise ValueError(
            "the cost of dropping modalities must have been measured, however there are no predictions without them; "
            "explain a model that has a fill, with drop_modalities=True"
        )
    found = {}
    for subset, without in zip(
        dropped_subsets(len(report.modality_names)), report.predictions_without.unbind(1), strict=True
    ):
        known = ~without.isnan().any(1)
        if not known.any():
            continue
        target = report.target[known]
        left = points(report.task, without[known], target)
        differences = points(report.task, report.prediction[known], target) - left
        name = "+".join(report.modality_names[i] for i in subset)
        found[name] = DroppingCost(int(known.sum()), left.mean().item(), *mean_interval(differences, report.confidence))
    return found
