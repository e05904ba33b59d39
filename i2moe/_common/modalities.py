"""What callers hand in: modalities, arrays in place of tensors, and what their backbones return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "Array",
    "BackboneOutput",
    "Modality",
    "Nested",
    "as_backbone_output",
    "as_tensor",
    "leaves",
    "map_leaves",
    "sequence_like",
    "versions_of",
    "where_present",
]

Modality: TypeAlias = "Tensor | Sequence[Modality] | Mapping[str, Modality] | None"
"""A tensor with a leading batch axis, or a nested tuple, list or dict of them (features and a mask, say)."""

Array: TypeAlias = Union[Tensor, "ArrayLike"]
"""A tensor, an array of numpy's, a series or data frame of pandas'."""

Nested: TypeAlias = "Array | Sequence[Nested] | Mapping[str, Nested] | None"
"""A modality with arrays in place of tensors."""


@dataclass(frozen=True, eq=False)
class BackboneOutput:
    """What a backbone may return instead of a plain tensor. It equals itself alone, as tensors have no one truth value.

    Args:
        prediction: (B, ...), usually logits (B, C).
        aux_loss: scalar loss of the backbone itself (load balancing of a router, say), with its graph.
        latent: (B, ...), the representation that `InteractionLosses(on="latent")` compares.

    Example:
        >>> BackboneOutput(torch.zeros(2, 3), aux_loss=torch.tensor(0.5)).aux_loss
        tensor(0.5000)
    """

    prediction: Tensor
    aux_loss: Tensor | None = None
    latent: Tensor | None = None

    def __repr__(self) -> str:
        """Show shapes, not numbers."""
        named = {"prediction": self.prediction, "aux_loss": self.aux_loss, "latent": self.latent}
        shapes = [f"{name} {tuple(x.shape)}" for name, x in named.items() if isinstance(x, Tensor)]
        return f"BackboneOutput({', '.join(shapes)})"


torch.export.register_dataclass(BackboneOutput, serialized_type_name="i2moe.BackboneOutput")


def as_backbone_output(output: object, what: str) -> BackboneOutput:
    """Return what a backbone returned as a `BackboneOutput`.

    Args:
        output: what it returned.
        what: names the backbone, for errors.

    Raises:
        TypeError: if it is neither a tensor, nor a `BackboneOutput` of tensors, nor holds `logits`.
    """
    if isinstance(output, Tensor):
        return BackboneOutput(output)
    if isinstance(getattr(output, "logits", None), Tensor):  # as models of Hugging Face return them
        return BackboneOutput(output.logits)  # type: ignore[attr-defined]
    if not isinstance(output, BackboneOutput) or not isinstance(output.prediction, Tensor):
        raise TypeError(
            f"a backbone must return a tensor or a BackboneOutput, however {what} returned a "
            f"{type(output).__name__}; wrap several results as BackboneOutput(prediction, aux_loss, latent)"
        )
    return output


def map_leaves(function: Callable[..., Any], modality: Any, *others: Any) -> Any:
    """Apply `function` to the tensors of equally nested modalities; `None` stays `None`."""
    if isinstance(modality, Tensor):  # first, since it is what most are
        return function(modality, *others)
    if modality is None:
        return None
    if isinstance(modality, Mapping):
        return {key: map_leaves(function, modality[key], *(other[key] for other in others)) for key in modality}
    if isinstance(modality, tuple | list):
        return sequence_like(modality, [map_leaves(function, *items) for items in zip(modality, *others, strict=True)])
    return function(modality, *others)


def sequence_like(sequence: Sequence[Any], items: Sequence[Any]) -> Sequence[Any]:
    """Make a list, a tuple or the same named tuple of items."""
    if hasattr(sequence, "_fields"):
        return type(sequence)(*items)
    return list(items) if isinstance(sequence, list) else tuple(items)


def leaves(modality: Modality) -> list[Tensor]:
    """The tensors of a modality, from left to right."""
    found: list[Tensor] = []
    map_leaves(found.append, modality)
    return found


def as_tensor(value: Any) -> Any:
    """Turn an array, a series or a data frame into a tensor of its own; return anything else as it is.

    Raises:
        TypeError: if the array holds something that torch has no numbers for.
    """
    if isinstance(value, Tensor) or not hasattr(value, "__array__"):
        return value
    import numpy as np

    copied = np.array(value, order="C")  # pandas hands out memory that must not be written to
    try:
        return torch.from_numpy(copied)
    except TypeError as error:
        raise TypeError(
            f"an array must hold numbers, however its dtype is {copied.dtype}; number classes 0, 1, ..., "
            "and convert other columns with astype(float)"
        ) from error


def versions_of(modalities: Sequence[Modality]) -> list[int]:
    """How often each tensor was changed in place, where torch keeps count."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return []
    return [leaf._version for modality in modalities for leaf in leaves(modality) if not leaf.is_inference()]


def where_present(present: Tensor, x: Tensor, fill_values: Tensor) -> Tensor:
    """Return x (B, ...), with `fill_values` in the rows that are not present, (B,) bool."""
    return torch.where(present.reshape(-1, *(1,) * (x.ndim - 1)), x, fill_values)
