"""What callers hand in: modalities, and the way a backbone is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, Union

from torch import Tensor

__all__ = ["Modality", "leaves", "map_leaves"]

Modality: TypeAlias = Union[Tensor, None, Sequence["Modality"], Mapping[str, "Modality"]]
"""A tensor with a leading batch axis, or a nested tuple, list or dict of them (features and a mask, say)."""


def map_leaves(function: Callable[..., Tensor], modality: Modality, *others: Modality) -> Modality:
    """Apply `function` to the tensors of equally nested modalities; `None` stays `None`."""
    if modality is None:
        return None
    if isinstance(modality, Tensor):
        return function(modality, *others)
    if isinstance(modality, Mapping):
        return {key: map_leaves(function, modality[key], *(other[key] for other in others)) for key in modality}  # type: ignore[call-overload,index]
    mapped = [map_leaves(function, *items) for items in zip(modality, *others, strict=True)]  # type: ignore[arg-type]
    if hasattr(modality, "_fields"):
        return type(modality)(*mapped)
    return mapped if isinstance(modality, list) else tuple(mapped)


def leaves(modality: Modality) -> list[Tensor]:
    """The tensors of a modality, from left to right."""
    found: list[Tensor] = []
    map_leaves(lambda leaf: found.append(leaf) or leaf, modality)  # type: ignore[func-returns-value]
    return found
