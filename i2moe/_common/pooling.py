"""Averages over tokens, without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from i2moe._common.modalities import Modality

__all__ = ["pool_tokens"]


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
    share = kept.to(torch.promote_types(x.dtype, torch.float32)).mean(1).clamp(min=1 / tokens.shape[1])
    return [torch.where(kept, tokens, 0).mean(1) / share.to(x.dtype)]
