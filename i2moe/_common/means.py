"""Means: over samples and views, of which some may not exist, over experts, over tokens without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from i2moe._common.modalities import Modality

__all__ = [
    "ProcessGroupAttribute",
    "expand_to_rows",
    "joined_processes",
    "mean",
    "pool_tokens",
    "renormalized",
    "scaled_to_all",
    "update_running_mean",
    "view_weights",
    "weighted_sum",
]


def view_weights(interaction: int | str, replaced: Tensor | None, available: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights by which a mean over all samples and views becomes one over those that exist.

    Args:
        interaction: a number being a modality's uniqueness, whose terms are pairs of this modality and another.
        replaced: (V - 1, M) bool, the modality replaced in each view; None for all in turn.
        available: (B, M) bool. Samples with a single modality have no terms.
        dtype: of the weights.

    Returns:
        (B, V - 1), exactly 1 where everything exists.
    """
    exists, n_existing = _existing(interaction, available)
    n_terms = exists.numel() - (0 if isinstance(interaction, str) else len(exists))
    weights = exists * (n_terms / n_existing.clamp(min=1).to(dtype))
    return weights if replaced is None else weights.index_select(1, replaced.int().argmax(1))


def scaled_to_all(
    losses: Tensor,
    interactions: Sequence[int | str],
    drawn: Tensor,
    available: Tensor,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Scale means over the terms of some rows so that they are, on average, those over the terms of all.

    Args:
        losses: (E,), means over the terms of the rows drawn.
        interactions: the E experts' interactions.
        drawn: (B', M) bool, which modalities the rows drawn have.
        available: (B, M) bool, which modalities all rows have.
        group: the processes whose rows are all rows, together; None for this one alone. The mean of the losses over the
            processes is then that over all terms.

    Returns:
        (E,), unchanged where everything exists.
    """
    if drawn is available and group is None:
        return losses
    some = torch.stack([_existing(interaction, drawn)[1] for interaction in interactions])
    every = torch.stack([_existing(interaction, available)[1] for interaction in interactions])
    n_rows = every.new_full((1,), len(available))
    if group is not None:
        counts = torch.cat([every, n_rows])
        dist.all_reduce(counts, group=group)
        every, n_rows = counts.tensor_split([len(interactions)])
    return losses * ((some * n_rows).to(losses.dtype) / (every * len(drawn)).clamp(min=1).to(losses.dtype))


class ProcessGroupAttribute:
    """A module's attribute that holds a group of processes, None at first. Copies of the module have the same group."""

    def __get__(self, module: Any, owner: type) -> dist.ProcessGroup | None:
        found: dist.ProcessGroup | None = vars(module).get("_group", (None,))[0]
        return found

    def __set__(self, module: Any, group: dist.ProcessGroup | None) -> None:
        vars(module)["_group"] = _Uncopied((group,))


class _Uncopied(tuple[Any, ...]):
    def __deepcopy__(self, memo: dict[int, Any]) -> _Uncopied:
        return self


def joined_processes(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """Return the processes of a group, of all if there is none; None where this one is alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = dist.group.WORLD if group is None else group
    return None if dist.get_world_size(group) == 1 else group


def _existing(interaction: int | str, available: Tensor) -> tuple[Tensor, Tensor]:
    """Say where a loss has terms, (B, M) bool, and how many."""
    exists = available & (available.sum(1, keepdim=True) > 1)
    if isinstance(interaction, str):
        return exists, exists.sum()
    exists = exists & exists.select(1, interaction).unsqueeze(1)
    return exists, exists.sum() - exists.select(1, interaction).sum()


def mean(terms: Tensor, weights: Tensor | None) -> Tensor:
    """Average terms (V - 1, R) or (V - 1, R, C) of R rows; weights are (B, V - 1)."""
    if weights is None:
        return terms.mean()
    rows = expand_to_rows(weights, terms.shape[1])
    return (terms * rows.reshape(*rows.shape, *(1,) * (terms.ndim - 2))).mean()


def expand_to_rows(weights: Tensor, n_rows: int) -> Tensor:
    """Repeat the weights (B, V - 1) of samples for each of their rows: (V - 1, R)."""
    n_samples, n_views = weights.shape
    return weights.mT.unsqueeze(-1).expand(-1, -1, n_rows // n_samples).reshape(n_views, n_rows)


@torch.no_grad()
def update_running_mean(
    running: Tensor, n_batches: Tensor, batch: Tensor, *, momentum: float, counts: Tensor | None = None
) -> None:
    """Move an exponential average, in place, towards the mean of a batch.

    The first batches weigh the same: the average is unbiased from the first one on.

    Args:
        running: (C,), the average.
        n_batches: scalar, the batches it has seen.
        batch: (C,), the mean of the newest batch.
        momentum: least weight of the newest batch.
        counts: scalar, whether the batch counts; where it does not, nothing changes. None: it does.
    """
    n_batches += 1 if counts is None else counts
    rate = n_batches.clamp(min=1).reciprocal().clamp(min=momentum)
    rate = rate if counts is None else rate * counts
    running.lerp_(batch.to(running), rate.to(running))


def weighted_sum(predictions: Tensor, weights: Tensor) -> Tensor:
    """Mix the predictions (B, E, ...) of the experts by weights (B, E): (B, ...)."""
    return (weights.reshape(*weights.shape, *(1,) * (predictions.ndim - 2)) * predictions).sum(1)


def renormalized(weights: Tensor, counts: Tensor) -> Tensor:
    """Scale the weights (B, E) of the experts that count, (B, E) bool, to sum to 1 in each row; the others get 0.

    Where all weights that count have rounded to 0, the experts that count weigh the same. One must count in each row.
    """
    counted = weights * counts
    total = counted.sum(1, keepdim=True)
    none_left = total == 0  # false for NaN, which stays NaN
    even = counts / counts.sum(1, keepdim=True)
    return torch.where(none_left, even.to(counted.dtype), counted / torch.where(none_left, 1, total))


def pool_tokens(modality: Modality) -> list[Tensor]:
    """Average each floating-point tensor of a modality over its token axes, all between the first and the last.

    A boolean tensor (B, T) beside tokens (B, T, D), in the same tuple, list or dict, says which of them are averaged.
    A sample with no token has the average 0.

    Returns:
        (B, D) each, from left to right.

    Raises:
        ValueError: if two masks fit the same tokens.
    """
    if modality is None or isinstance(modality, Tensor):
        return [] if modality is None else _pooled(modality, [])
    parts = list(modality.values() if isinstance(modality, Mapping) else modality)
    masks = [part for part in parts if isinstance(part, Tensor) and part.dtype == torch.bool]
    each = [_pooled(part, masks) if isinstance(part, Tensor) else pool_tokens(part) for part in parts]
    return [average for averages in each for average in averages]


def _pooled(x: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
    if not x.is_floating_point():
        return []
    if x.ndim < 3:
        return [x.unsqueeze(-1) if x.ndim == 1 else x]
    masks = [mask for mask in masks if 1 < mask.ndim < x.ndim and mask.shape[1:] == x.shape[1 : mask.ndim]]
    if len(masks) > 1:
        raise ValueError(
            f"tokens must have one boolean mask, however {len(masks)} fit those of shape {tuple(x.shape)}; put tokens "
            "and their mask into a tuple or dict of their own, and make other flags integers"
        )
    tokens = x.flatten(1, -2)
    if not masks:
        return [tokens.mean(1)]
    kept = masks[0].reshape(*masks[0].shape, *(1,) * (x.ndim - masks[0].ndim)).expand(*x.shape[:-1], 1).flatten(1, -2)
    # NOTE[DIFF] the released code averages all tokens.
    # Not a sum over their number, neither of which half precision may hold; exactly the mean where all are kept.
    fraction = kept.to(torch.promote_types(x.dtype, torch.float32)).mean(1).clamp(min=1 / tokens.shape[1])
    return [torch.where(kept, tokens, 0).mean(1) / fraction.to(x.dtype)]
