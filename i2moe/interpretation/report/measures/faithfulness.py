"""Faithfulness: what predictions lose without a modality, and whether the weights agree with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan

import torch
from torch import Tensor

from i2moe._common.modalities import Modality, leaves
from i2moe._common.tasks import Task
from i2moe.interpretation.statistics import rank_correlation
from i2moe.losses import Interaction
from i2moe.perturbations import Perturbation, replace_where

__all__ = ["agreement", "behavior_bounds", "evidence", "prior_outputs", "score_drops"]


def score_drops(
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
        Comprehensiveness and sufficiency, (B, M) each; NaN where a modality is not available, and for a batch of one
        that was replaced by itself, by the mean of one sample say.
    """
    everything = frozenset(range(len(modalities)))
    without = [frozenset([j]) for j in everything]
    alone = [everything - {j} for j in everything]
    totals = dict.fromkeys(without + alone, torch.zeros(()))  # with two modalities one without is the other alone
    measured = len(full) > 1
    for _ in range(n_draws):
        replacements = tuple(perturbation(modality) for modality in modalities)
        measured = measured or not _equal(replacements, modalities)
        if available is not None:
            replacements = replace_where(available.unbind(1), replacements, modalities)
        for replaced in totals:
            mixed = tuple(replacements[j] if j in replaced else modalities[j] for j in sorted(everything))
            totals[replaced] = totals[replaced] + score(mixed) / n_draws

    comprehensiveness = torch.stack([full - totals[replaced] for replaced in without], dim=1)
    sufficiency = torch.stack([full - totals[replaced] for replaced in alone], dim=1)
    if not measured:
        return torch.full_like(comprehensiveness, nan), torch.full_like(sufficiency, nan)
    if available is not None:
        absent = ~available.to(full.device)
        comprehensiveness, sufficiency = (drop.masked_fill(absent, nan) for drop in (comprehensiveness, sufficiency))
    return comprehensiveness, sufficiency


def evidence(comprehensiveness: Tensor, sufficiency: Tensor, interactions: Sequence[Interaction]) -> Tensor:
    r"""How strongly each sample behaves like each interaction when modalities are replaced.

    * uniqueness i: $c_i - \max_{j \ne i} c_j$. Modality i is needed, the others are not.
    * synergy: $\min_j s_j$. Not even the best modality is enough alone.
    * redundancy: $-\max_j c_j$. No modality is needed.

    with $c$ comprehensiveness and $s$ sufficiency, over the modalities that a sample has; NaN for a sample with one
    modality, and for the uniqueness of what it lacks. Each is highest on exactly its own kind of sample. The drop when
    modality i is replaced would not do for uniqueness i: synergy makes it just as high.

    Args:
        comprehensiveness: (N, M).
        sufficiency: (N, M).
        interactions: the E experts' interactions.

    Returns:
        (N, E), in the score's unit.
    """
    absent = comprehensiveness.isnan()
    drops = comprehensiveness.masked_fill(absent, -inf)
    shown = []
    for interaction in interactions:
        if interaction == "synergy":
            shown.append(sufficiency.masked_fill(absent, inf).amin(1))
        elif interaction == "redundancy":
            shown.append(-drops.amax(1))
        else:
            others = [j for j in range(drops.shape[1]) if j != interaction]
            shown.append(comprehensiveness[:, interaction] - drops[:, others].amax(1))
    alone = (~absent).sum(1, keepdim=True) < 2
    return torch.stack(shown, dim=1).masked_fill(alone, nan)


def behavior_bounds(gain: Tensor, sufficiency: Tensor, interactions: Sequence[Interaction]) -> tuple[Tensor, Tensor]:
    r"""Bound what share of a model's knowledge behaves like each interaction, over all samples.

    Let g be a sample's gain, how much better its score is than without any modality. Modality j alone keeps the share
    $a_j = 1 - s_j / g$ of it, with $s_j$ its sufficiency. Let $a_{(1)} \ge a_{(2)} \ge \dots$ be these shares, sorted:

    $$1 = \underbrace{1 - a_{(1)}}_{\text{synergy}} + \underbrace{a_{(1)} - a_{(2)}}_{\text{uniqueness of the best}}
    + \underbrace{a_{(2)}}_{\text{redundancy}}$$

    Which modality is the best for a single sample is mostly noise, so only the means $A_j$ over the samples are used,
    as ratios of means. For any samples with these means

    * synergy lies between $1 - \sum_j A_j$ and $1 - \max_j A_j$,
    * uniqueness i between $A_i - \sum_{j \ne i} A_j$ and $\min(A_i, 1 - \max_{j \ne i} A_j)$,
    * redundancy between $\max_{i < j} (A_i + A_j - 1)$ and $\sum_j A_j - \max_j A_j$.

    The bounds are close together if the data holds one interaction, and far apart if it is mixed.

    Args:
        gain: (N,), with a positive mean.
        sufficiency: (N, M), of two or more modalities; NaN where one is not available, which keeps nothing.
        interactions: the E experts' interactions.

    Returns:
        The lower and the upper bounds in [0, 1], (E,) each, with $A_j$ moved by two of its standard errors.

    Example:
        >>> gain, sufficiency = torch.full((50,), 0.5), torch.tensor([[0.0, 0.5]]).expand(50, 2)
        >>> low, high = behavior_bounds(gain, sufficiency, (0, 1, "synergy", "redundancy"))  # modality 0 is enough
        >>> low, high
        (tensor([1., 0., 0., 0.]), tensor([1., 0., 0., 0.]))
    """
    measured = ~sufficiency.isnan().all(1)
    gain = gain[measured].unsqueeze(1)
    sufficient = gain - torch.where(sufficiency[measured].isnan(), gain, sufficiency[measured])
    share = sufficient.mean(0) / gain.mean()
    error = 2 * (sufficient - share * gain).std(0) / (len(gain) ** 0.5 * gain.mean())
    low, high = (share - error).clamp(0, 1), (share + error).clamp(0, 1)

    def others(values: Tensor, i: int) -> Tensor:
        return torch.cat([values[:i], values[i + 1 :]])

    bounds = {
        "synergy": (1 - high.sum(), 1 - low.amax()),
        "redundancy": (low.topk(2).values.sum() - 1, high.sum() - high.amax()),
    }
    shares = [
        bounds[interaction]
        if isinstance(interaction, str)
        else (
            low[interaction] - others(high, interaction).sum(),
            torch.minimum(high[interaction], 1 - others(low, interaction).amax()),
        )
        for interaction in interactions
    ]
    lowest, highest = (torch.stack(ends).clamp(0, 1) for ends in zip(*shares, strict=True))
    return lowest, highest


def prior_outputs(task: Task, target: Tensor, n_outputs: int) -> Tensor:
    """Raw outputs (C,) of a model that knows the targets' mean alone: class or label frequencies, or the mean value.

    Example:
        >>> prior_outputs("classification", torch.tensor([0, 1, 1, 1]), 2).softmax(0)
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if task == "classification":
        return (target.bincount(minlength=n_outputs).double() / len(target)).log()
    mean = target.double().mean(0)
    return mean.logit(eps=1e-6) if task == "multilabel" else mean


def agreement(task: Task, weights: Tensor, evidence: Tensor) -> Tensor:
    """Spearman correlation over the samples of each expert's weight and evidence: (E,), NaN for a constant weight.

    Weights count as equal to six digits, and so does evidence in probability or nats; squared errors have no unit to
    round in. Samples without evidence are left out.
    """
    weights = weights.double().round(decimals=6)
    evidence = evidence if task == "regression" else evidence.double().round(decimals=6)
    correlations = []
    for weight, shown in zip(weights.unbind(1), evidence.unbind(1), strict=True):
        known = ~shown.isnan()
        correlations.append(rank_correlation(weight[known], shown[known]) if known.any() else nan)
    return torch.tensor(correlations, dtype=torch.float64)


def _equal(a: Modality, b: Modality) -> bool:
    return all(map(torch.equal, leaves(a), leaves(b)))
