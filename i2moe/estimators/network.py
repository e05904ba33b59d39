"""The networks inside the estimators: an encoder for each modality, and the fusion of what they say."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from i2moe._common.randomness import Dropout

__all__ = ["Encoder", "Fusion", "SequenceEncoder", "VectorEncoder", "choose_encoders", "make_encoder"]

Encoder: TypeAlias = nn.Module | Callable[[], nn.Module] | None
"""A module (B, ...) -> (B, H), a function that builds one, or None for the default."""


class VectorEncoder(nn.Sequential):
    """Encodes vectors: (B, D) -> (B, H).

    Args:
        n_features: width D of the input.
        dim: width H of the output.

    Example:
        >>> VectorEncoder(10, 8)(torch.randn(2, 10)).shape
        torch.Size([2, 8])
    """

    def __init__(self, n_features: int, dim: int) -> None:
        super().__init__(nn.Linear(n_features, dim), nn.ReLU(), nn.LayerNorm(dim))


class SequenceEncoder(nn.Module):
    """Encodes sequences of any length by two convolutions, then mean and maximum over time: (B, T, D) -> (B, H).

    Args:
        n_features: width D of the input.
        dim: width H of the output.

    Example:
        >>> SequenceEncoder(3, 8)(torch.randn(2, 50, 3)).shape
        torch.Size([2, 8])
    """

    def __init__(self, n_features: int, dim: int) -> None:
        super().__init__()
        self.convolve: nn.Sequential = nn.Sequential(
            nn.Conv1d(n_features, dim, kernel_size=5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv1d(dim, dim, kernel_size=5, stride=2, padding=2),
            nn.ReLU(),
        )
        self.pooled: VectorEncoder = VectorEncoder(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Encode sequences."""
        steps = self.convolve(x.mT)  # (B, H, T / 4)
        encoded: Tensor = self.pooled(torch.cat((steps.mean(2), steps.amax(2)), dim=1))
        return encoded


class Fusion(nn.Module):
    """Encodes each modality, then predicts from all of them by a perceptron with one hidden layer.

    Args:
        encoders: M modules (B, ...) -> (B, H_i).
        widths: the M widths H_i.
        n_outputs: number of outputs C.
        hidden_dim: width of the hidden layer.
        dropout: after the hidden layer, in [0, 1).

    Example:
        >>> fusion = Fusion([VectorEncoder(10, 8), SequenceEncoder(3, 8)], (8, 8), 2, hidden_dim=16, dropout=0.1)
        >>> fusion(torch.randn(4, 10), torch.randn(4, 50, 3)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self, encoders: Sequence[nn.Module], widths: Sequence[int], n_outputs: int, *, hidden_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.encoders: nn.ModuleList = nn.ModuleList(encoders)
        self.head: nn.Sequential = nn.Sequential(
            nn.Linear(sum(widths), hidden_dim), nn.ReLU(), Dropout(dropout), nn.Linear(hidden_dim, n_outputs)
        )

    def forward(self, *modalities: Tensor) -> Tensor:
        """Predict from M modalities: (B, C)."""
        encoded = [encode(modality) for encode, modality in zip(self.encoders, modalities, strict=True)]
        prediction: Tensor = self.head(torch.cat(encoded, dim=1))
        return prediction


def make_encoder(name: str, encoder: Encoder, sample: Tensor, dim: int) -> tuple[nn.Module, int]:
    """Build the encoder of a modality, and say how wide its output is.

    Args:
        name: of the modality, for errors.
        encoder: the caller's, of which a module is copied; None for the default.
        sample: some rows (B, ...) of the modality.
        dim: width of the default's output.

    Raises:
        TypeError: if the encoder is none.
        ValueError: if there is no default for the shape, or the encoder returns no vectors.
    """
    if encoder is None:
        if sample.ndim > 3:
            raise ValueError(
                f"modality {name!r} must be (N, D) or (N, T, D) for the default encoders, however a sample has shape "
                f"{tuple(sample.shape[1:])}; give one of your own in encoders="
            )
        default = VectorEncoder if sample.ndim == 2 else SequenceEncoder
        return default(sample.shape[-1], dim), dim
    built = copy.deepcopy(encoder) if isinstance(encoder, nn.Module) else encoder() if callable(encoder) else None
    if not isinstance(built, nn.Module):
        raise TypeError(
            f"the encoder of modality {name!r} must be a torch.nn.Module or a function that returns one, however it is "
            f"{encoder!r}"
        )
    with torch.no_grad():
        encoded = built.eval()(sample)
    if not isinstance(encoded, Tensor) or encoded.ndim != 2 or len(encoded) != len(sample):
        found = tuple(encoded.shape) if isinstance(encoded, Tensor) else type(encoded).__name__
        raise ValueError(
            f"the encoder of modality {name!r} must return vectors (B, H), however it turned {tuple(sample.shape)} "
            f"into {found}; flatten or pool its output"
        )
    return built.train(), encoded.shape[1]


def choose_encoders(encoders: Sequence[Encoder] | Mapping[str, Encoder] | None, names: Sequence[str]) -> list[Encoder]:
    """Return the caller's encoder for each modality, None where it has none.

    Raises:
        ValueError: if there is not one for each modality, or a name is unknown.
    """
    if encoders is None:
        return [None] * len(names)
    if isinstance(encoders, Mapping):
        if not set(encoders) <= set(names):
            raise ValueError(f"encoders must be for the modalities {tuple(names)}, however they are {tuple(encoders)}")
        return [encoders.get(name) for name in names]
    if not isinstance(encoders, list | tuple) or len(encoders) != len(names):
        raise ValueError(
            f"encoders must have one for each of the modalities {tuple(names)}, however they are {encoders!r}; "
            "None means the default, a dict may leave it out"
        )
    return list(encoders)
