"""Report: whether experts beat the baseline on their own kind, and whether the router finds it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from i2moe.categorization import Categories
from i2moe.mmoe.parts.aggregation import AGGREGATIONS, oracle
from i2moe.mmoe.parts.objectives import Objective
from i2moe.moe import InteractionOutput

__all__ = ["MMoEReport", "ReportRow", "make_report"]


@dataclass(frozen=True)
class ReportRow:
    """The scores on the samples of one category, or on all; NaN for a category without samples.

    Args:
        name: the category, or "all".
        n_samples: how many samples it has.
        baseline: the multimodal baseline's score.
        mixture: the model's, router and aggregation included.
        oracle: the score with the true category instead of the router: within a category, that of its own expert.
        best: the score if for each sample the best of all experts were known: a bound for any router.
        router: share of the samples routed to their true category (largest weight).
        has_expert: False where the baseline predicts in its place.
    """

    name: str
    n_samples: int
    baseline: float
    mixture: float
    oracle: float
    best: float
    router: float
    has_expert: bool


@dataclass(frozen=True)
class MMoEReport:
    """What `MMoE.report` returns; `print` shows it as a Markdown table.

    Where categories were found with the labels of the same samples, `oracle` and `best` have seen these labels:
    they bound what routing could give, no model reaches them.

    Args:
        metric: "accuracy" or "squared error".
        rows: one per category.
        overall: all samples.
        aggregations: the score of each named aggregation on all samples.
        confusion: (K, K), how many samples of category k (row) are routed to category l (column).
    """

    metric: str
    rows: tuple[ReportRow, ...]
    overall: ReportRow
    aggregations: dict[str, float]
    confusion: Tensor

    def __getitem__(self, name: str) -> ReportRow:
        """Return the row of a category."""
        for row in (*self.rows, self.overall):
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        columns = ("samples", "baseline", "mixture", "oracle", "best expert", "routed right")
        lines = [f"| category ({self.metric}) | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for row in (*self.rows, self.overall):
            scores = (row.baseline, row.mixture, row.oracle, row.best, row.router)
            name = row.name if row.has_expert else f"{row.name} (baseline)"
            shown = " | ".join(f"{score:.3f}" for score in scores).replace("nan", "-")  # of no samples
            lines.append(f"| {name} | {row.n_samples} | {shown} |")
        return "\n".join(lines)


def make_report(
    objective: Objective,
    target: Tensor,
    baseline: Tensor,
    out: InteractionOutput,
    categories: Categories,
    fallback: Tensor,
) -> MMoEReport:
    """Score predictions by category.

    Args:
        objective: what scores them.
        target: (B,) or (B, C).
        baseline: (B, C).
        out: what the model predicts: of all together, of the experts, and the router's weights.
        categories: of the B samples.
        fallback: (K,) bool, categories without an expert.
    """
    experts, weights = out.expert_predictions, out.weights
    category = categories.category.to(experts.device)
    each = torch.stack([objective.score(expert, target) for expert in experts.unbind(1)], dim=1)  # (B, K)
    columns = {
        "baseline": objective.score(baseline, target),
        "mixture": objective.score(out.prediction, target),
        "oracle": objective.score(oracle(experts, category), target),
        "best": each.amax(1) if objective.higher_is_better else each.amin(1),
        "router": (weights.argmax(-1) == category).double(),
    }

    def row(name: str, chosen: Tensor, has_expert: bool) -> ReportRow:
        means = {column: float(values[chosen].double().mean()) for column, values in columns.items()}
        return ReportRow(name, int(chosen.sum()), has_expert=has_expert, **means)

    n_categories = len(categories.names)
    routed = torch.bincount(category * n_categories + weights.argmax(-1), minlength=n_categories**2)
    usable = (
        AGGREGATIONS
        if objective.task == "classification"
        else {name: AGGREGATIONS[name] for name in ("router", "hard", "mean_probabilities")}
    )
    return MMoEReport(
        objective.metric,
        tuple(row(name, category == k, not bool(fallback[k])) for k, name in enumerate(categories.names)),
        row("all", torch.ones_like(category, dtype=torch.bool), True),
        {name: float(objective.score(f(experts, weights), target).double().mean()) for name, f in usable.items()},
        routed.reshape(n_categories, n_categories),
    )
