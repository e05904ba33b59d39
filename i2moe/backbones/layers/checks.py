"""Checks of what callers hand in, shared by the backbones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

from torch import Tensor

from i2moe._common.checks import check_at_least_one

__all__ = ["check_heads", "check_inputs", "per_modality", "widths"]


def widths(feature_dims: Sequence[int]) -> tuple[int, ...]:
    """The width of each modality, as a checked tuple."""
    if isinstance(feature_dims, Integral):
        raise TypeError(
            f"feature_dims must hold one width per modality, however it is the number {feature_dims}; "
            f"write feature_dims=({feature_dims}, {feature_dims}) for two modalities of that width"
        )
    dims = tuple(feature_dims)
    if not dims or min(dims) < 1:
        raise ValueError(
            f"feature_dims must hold one positive width per modality, however it is {dims}; "
            "give the size of the last axis of every modality"
        )
    return dims


def per_modality(n_tokens: int | Sequence[int], n_modalities: int) -> tuple[int, ...]:
    """One number of tokens per modality; a single number holds for all of them."""
    counts = tuple(n_tokens) if isinstance(n_tokens, Iterable) else (n_tokens,) * n_modalities
    if len(counts) != n_modalities or min(counts) < 1:
        raise ValueError(
            f"n_tokens must be positive, one number or one per modality, however it is {n_tokens} for "
            f"{n_modalities} modalities; use 1 for a modality that is a vector (B, D)"
        )
    return counts


def check_heads(dim: int, n_heads: int) -> None:
    """Raise unless the heads divide the width."""
    check_at_least_one(dim=dim, n_heads=n_heads)
    if dim % n_heads:
        divisors = [n for n in range(1, dim + 1) if dim % n == 0 and n <= 16]
        raise ValueError(
            f"the number of heads must divide the width, however there are {n_heads} heads for width {dim}; "
            f"set n_heads to one of {divisors} or change hidden_dim"
        )


def check_inputs(
    modalities: Sequence[Tensor], feature_dims: Sequence[int], n_tokens: Sequence[int] | None = None
) -> None:
    """Raise unless the call brings every modality in its width (and number of tokens)."""
    if len(modalities) != len(feature_dims):
        raise ValueError(
            f"the call must bring {len(feature_dims)} modalities, however it brings {len(modalities)}; "
            "feature_dims holds one width per modality, in the order of the call"
        )
    for i, (modality, dim) in enumerate(zip(modalities, feature_dims, strict=True)):
        if modality.ndim not in (2, 3):
            raise ValueError(
                f"modality {i} must be (B, D) or (B, T, D), however its shape is {tuple(modality.shape)}; "
                "encode it first (i2moe.backbones has PatchEmbedding and small encoders)"
            )
        if modality.shape[-1] != dim:
            raise ValueError(
                f"modality {i} must be {dim} wide, however its shape is {tuple(modality.shape)}; "
                f"put {modality.shape[-1]} at position {i} of feature_dims or encode it to {dim}"
            )
        found = modality.shape[1] if modality.ndim == 3 else 1
        if n_tokens is not None and found != n_tokens[i]:
            raise ValueError(
                f"modality {i} must have {n_tokens[i]} tokens, however its shape is "
                f"{tuple(modality.shape)}; set n_tokens to {found} there, or pad or pool it"
            )
