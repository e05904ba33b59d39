"""What a model predicts from some of its modalities, and how far its members agree on the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from i2moe.interpretation.observation.observe import Observation
from i2moe.interpretation.report.record import dropped_subsets
from i2moe.moe import InteractionMoE, InteractionOutput
from i2moe.moe.experts import ExpertOutputs
from i2moe.moe.weights.computed import ComputedReweighter

__all__ = ["reduced_predictions", "spread_of_members"]


def reduced_predictions(moe: InteractionMoE, seen: Observation) -> tuple[Tensor, Tensor]:
    """Predict from each modality alone, and without one or two of them.

    Args:
        moe: a model with a fill.
        seen: what passed through it.

    Returns:
        Marginals (B, M, ...), and the predictions without the modalities of each of the S `dropped_subsets`,
        (B, S, ...). NaN where nothing is left.
    """
    assert seen.available is not None
    everything = frozenset(range(moe.n_modalities))
    alone = [frozenset([i]) for i in sorted(everything)]
    without = [everything - set(subset) for subset in dropped_subsets(moe.n_modalities)]
    needed = without if seen.output.marginals is not None else [*alone, *without]  # up to three modalities: the same
    found = {kept: _predict_from(moe, seen, kept) for kept in dict.fromkeys(needed)}
    marginals = seen.output.marginals
    if marginals is None:
        marginals = torch.stack([found[kept] for kept in alone], dim=1)
    return marginals, torch.stack([found[kept] for kept in without], dim=1)


def spread_of_members(moe: InteractionMoE, output: InteractionOutput) -> Tensor | None:
    """Return the standard deviation of the weights that each member's own predictions give, (B, E).

    None where the weights are not computed, or there are no two members.
    """
    predictions, marginals = output.member_predictions, output.member_marginals
    if not isinstance(moe.reweighter, ComputedReweighter) or predictions is None or marginals is None:
        return None
    if predictions.shape[2] < 2:
        return None
    weights = [
        moe.reweighter(ExpertOutputs(own, None, None, output.aux_loss, alone), output.available, moe.interactions)
        for own, alone in zip(predictions.unbind(2), marginals.unbind(2), strict=True)
    ]
    return torch.stack(weights).std(0)


def _predict_from(moe: InteractionMoE, seen: Observation, kept: frozenset[int]) -> Tensor:
    """Predict from the modalities that a sample has among those kept."""
    assert seen.available is not None
    is_kept = torch.tensor([i in kept for i in range(moe.n_modalities)], device=seen.available.device)
    left = seen.available & is_kept
    nothing = ~left.any(1)
    args, kwargs = seen.arrange(seen.modalities)
    prediction = moe.predict(*args, **kwargs, available=torch.where(nothing.unsqueeze(1), seen.available, left))
    return prediction.masked_fill(nothing.reshape(-1, *(1,) * (prediction.ndim - 1)), torch.nan)
