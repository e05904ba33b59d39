"""Faithfulness: what predictions lose without a modality, and whether the weights said so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan

import torch
from torch import Tensor

from i2moe._types import Modality
from i2moe.interpretation.statistics import rank_correlation
from i2moe.losses import Interaction
from i2moe.perturbations import Perturbation, replace_where

__all__ = ["agreement", "evidence", "falls"]


def falls(
    score: Callable[[tuple[Modality, ...]], Tensor],
    full: Tensor,
    modalities: tuple[Modality, ...],
    perturbation: Perturbation,
    n_draws: int,
    available: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Measure what the score loses when a modality is replaced, and when all others are.

    $$\mathrm{comprehensiveness}_j = s(x) - s(x_{\setminus j}), \quad
    \mathrm{sufficiency}_j = s(x) - s(x_{\text{only } j})$$

    Source: DeYoung et al., ERASER, ACL 2020, with modalities as the rationales.

    Args:
        score: maps M modalities to a score (B,), the higher the better.
        full: (B,), the score of the modalities as they are.
        modalities: the M modalities.
        perturbation: what replaces a modality.
        n_draws: number of replacements the scores are averaged over.
        available: (B, M) bool, which modalities each sample has; None for all. Others are not replaced.

    Returns:
        Comprehensiveness and sufficiency, (B, M) each; NaN where a modality is not available.
    """
    everything = frozenset(range(len(modalities)))
    without = [frozenset([j]) for j in everything]
    alone = [everything - {j} for j in everything]
    totals = dict.fromkeys(without + alone, torch.zeros(()))  # with two modalities one without is the other alone
    for _ in range(n_draws):
        replacements = tuple(perturbation(modality) for modality in modalities)
        if available is not None:
            replacements = replace_where(available.unbind(1), replacements, modalities)
        for replaced in totals:
            mixed = tuple(replacements[j] if j in replaced else modalities[j] for j in sorted(everything))
            totals[replaced] = totals[replaced] + score(mixed) / n_draws

    comprehensiveness = torch.stack([full - totals[replaced] for replaced in without], dim=1)
    sufficiency = torch.stack([full - totals[replaced] for replaced in alone], dim=1)
    if available is not None:
        absent = ~available.to(full.device)
        comprehensiveness, sufficiency = (fall.masked_fill(absent, nan) for fall in (comprehensiveness, sufficiency))
    return comprehensiveness, sufficiency


def evidence(comprehensiveness: Tensor, sufficiency: Tensor, interactions: Sequence[Interaction]) -> Tensor:
    r"""How strongly each sample behaves like each interaction when modalities are replaced.

    * uniqueness i: $c_i - \max_{j \ne i} c_j$. Modality i is needed, the others are not.
    * synergy: $\min_j s_j$. Not even the best modality is enough alone.
    * redundancy: $-\max_j c_j$. No modality is needed.

    with $c$ comprehensiveness and $s$ sufficiency, over the modalities that a sample has; NaN for a sample with one
    modality, and for the uniqueness of what it lacks. Each is highest on exactly its own kind of sample. The fall when
    modality i is replaced would not do for uniqueness i: synergy makes it just as high.

    Args:
        comprehensiveness: (N, M).
        sufficiency: (N, M).
        interactions: the E experts' interactions.

    Returns:
        (N, E), in the score's unit.
    """
    absent = comprehensiveness.isnan()
    falls = comprehensiveness.masked_fill(absent, -inf)
    columns = []
    for interaction in interactions:
        if interaction == "synergy":
            columns.append(sufficiency.masked_fill(absent, inf).amin(1))
        elif interaction == "redundancy":
            columns.append(-falls.amax(1))
        else:
            others = [j for j in range(falls.shape[1]) if j != interaction]
            columns.append(comprehensiveness[:, interaction] - falls[:, others].amax(1))
    alone = (~absent).sum(1, keepdim=True) < 2
    return torch.stack(columns, dim=1).masked_fill(alone, nan)


def agreement(weights: Tensor, evidence: Tensor) -> Tensor:
    """Spearman correlation over the samples of each expert's weight and evidence: (E,), NaN for a constant weight.

    Samples without evidence are left out.
    """
    correlations = []
    for weight, shown in zip(weights.unbind(1), evidence.unbind(1), strict=True):
        known = ~shown.isnan()
        correlations.append(rank_correlation(weight[known], shown[known]) if known.any() else nan)
    return torch.tensor(correlations, dtype=torch.float64)
