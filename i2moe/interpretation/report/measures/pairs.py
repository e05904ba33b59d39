"""Pairs of three or more modalities: which replace each other, and which are needed together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from torch import Tensor

from i2moe._common.tasks import difference_bounds, score_name
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.measures.dropping import dropped
from i2moe.interpretation.report.measures.quality import points
from i2moe.interpretation.report.record import dropped_subsets
from i2moe.interpretation.statistics import FEW_SAMPLES, mean_interval, plain

__all__ = ["PairInteraction", "pair_interactions"]


@dataclass(frozen=True)
class PairInteraction:
    r"""How two modalities work together in the score, with the others there.

    Let $\Delta_S$ be how much the score falls without the modalities S. The interaction of a and b is

    $$\Delta_{ab} - \Delta_a - \Delta_b$$

    Above 0 the pair is redundant: they partly replace each other, so that the score falls by more without both than
    without each, summed. Each must help where the other is absent. Below 0 it is synergistic: they are partly needed
    together, so that the score falls by less. Each must help where the other is there. A modality of noise does
    neither, though its presence can mislead a model where another modality is absent.

    Args:
        names: of the two modalities.
        kind: "redundant" or "synergistic" where the interval does not hold 0 and each helps as said above, both beyond
            chance, else "neither".
        n_samples: samples that have both modalities, and another one left.
        interaction: in the score's unit: accuracy, share of labels right, or R².
        low: lower end of its interval, Student's of the samples' values; NaN for a single sample.
        high: upper end. The intervals of all pairs hold at once with the report's confidence (Bonferroni's correction).
        costs: how much the score falls without the first, without the second, and without both, of the same samples.
        score_name: what the score is.
    """

    names: tuple[str, str]
    kind: Literal["redundant", "synergistic", "neither"]
    n_samples: int
    interaction: float
    low: float
    high: float
    costs: tuple[float, float, float]
    score_name: str

    def sentence(self, *, points: bool = False) -> str:
        """Say in plain words what was found.

        Args:
            points: give the score in percentage points (pp), and not as a fraction.
        """
        (first, second), (a, b, both) = self.names, (_moves(cost, points) for cost in self.costs)
        meaning = {
            "redundant": "are redundant, they partly replace each other",
            "synergistic": "are synergistic, they are partly needed together",
            "neither": "are neither redundant nor synergistic as far as these samples show",
        }[self.kind]
        return (
            f"{first} and {second} {meaning}: on the {self.n_samples} samples that have both, the {self.score_name} "
            f"{a} without {first}, {b} without {second}, and {both} without both."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and strings; None for NaN."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def _moves(cost: float, points: bool) -> str:
    amount = f"{abs(100 * cost):.1f} pp" if points else f"{abs(cost):.3f}"
    if round(cost, 3) == 0:
        return "does not change"
    return f"falls by {amount}" if cost > 0 else f"rises by {amount}"


def pair_interactions(report: Diagnostics) -> dict[str, PairInteraction]:
    """Return which pairs of three or more modalities are redundant or synergistic in what the model predicts.

    Returns:
        "image+text", ... -> the interaction. Empty for two modalities (the weights say it), and without a pair that
        fewer than 20 samples tell of.

    Raises:
        ValueError: if predictions without modalities were not measured.

    Example:
        >>> import torch
        >>> from i2moe import InteractionMoE, explain
        >>> class Fusion(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = torch.nn.Linear(3 * 4, 2)
        ...     def forward(self, a, b, c):
        ...         return self.head(torch.cat([a, b, c], dim=-1))
        >>> model = InteractionMoE(Fusion, 3, modality_names=("a", "b", "c"), reweighter="computed")
        >>> batches = [(tuple(torch.randn(3, 50, 4)), torch.randint(2, (50,)))]
        >>> list(explain(model, batches, n_draws=0).pair_interactions())
        ['a+b', 'a+c', 'b+c']
    """
    without = dropped(report)
    names, positions = report.modality_names, {s: i for i, s in enumerate(dropped_subsets(len(report.modality_names)))}
    pairs = [pair for pair in combinations(range(len(names)), 2) if pair in positions]
    found = {}
    for a, b in pairs:
        known = ~without[:, positions[a, b]].isnan().any(1)
        if report.available is not None:
            known &= report.available[:, [a, b]].all(1)
        if known.sum() < FEW_SAMPLES:
            continue
        target = report.target[known]
        full = points(report.task, report.prediction[known], target)
        costs = [
            full - points(report.task, without[known, positions[subset]], target) for subset in ((a,), (b,), (a, b))
        ]
        lowest, highest = difference_bounds(report.task)
        confidence = 1 - (1 - report.confidence) / len(pairs)
        without_a, without_b, without_both = costs
        clusters = report.clusters_of(known)
        interval = mean_interval(without_both - without_a - without_b, confidence, (2 * lowest, 2 * highest), clusters)
        kind: Literal["redundant", "synergistic", "neither"] = "neither"
        if interval[1] > 0 and _help(
            without_both, without_both - without_b, without_both - without_a, confidence=confidence, clusters=clusters
        ):
            kind = "redundant"
        elif interval[2] < 0 and _help(without_a, without_b, confidence=confidence, clusters=clusters):
            kind = "synergistic"
        found[f"{names[a]}+{names[b]}"] = PairInteraction(
            (names[a], names[b]),
            kind,
            len(target),
            *interval,
            (without_a.mean().item(), without_b.mean().item(), without_both.mean().item()),
            score_name[report.task],
        )
    return found


def _help(*gains: Tensor, confidence: float, clusters: Tensor | None) -> bool:
    """Whether all gains (N,) are above 0 beyond chance."""
    return all(mean_interval(gain, confidence, clusters=clusters)[1] > 0 for gain in gains)
