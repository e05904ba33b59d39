"""Small encoders from raw modalities to vectors or tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one, check_rate
from i2moe._common.randomness import Dropout

__all__ = ["Conv1dEncoder", "Conv3dEncoder", "GRUEncoder", "MLPEncoder", "Maxout", "MaxoutEncoder"]


class MLPEncoder(nn.Sequential):
    """Encodes a vector by a perceptron with ReLU and dropout between its layers: (B, F) -> (B, D).

    Args:
        n_features: width F of the input.
        dim: width D of the output.
        hidden_dim: width of the hidden layers; None for `dim`.
        n_layers: number of linear layers.
        dropout: dropout after each hidden layer, in [0, 1).

    Raises:
        ValueError: if a size is not positive or `dropout` is out of range.

    Example:
        >>> import torch
        >>> MLPEncoder(10, 8)(torch.randn(2, 10)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        n_features: int,
        dim: int,
        *,
        hidden_dim: int | None = None,
        n_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        hidden_dim = dim if hidden_dim is None else hidden_dim
        check_at_least_one(n_features=n_features, dim=dim, hidden_dim=hidden_dim, n_layers=n_layers)
        check_rate(dropout=dropout)
        sizes = [n_features, *[hidden_dim] * (n_layers - 1)]
        hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU(), Dropout(dropout)) for a, b in pairwise(sizes)]
        super().__init__(*hidden, nn.Linear(sizes[-1], dim))


class Maxout(nn.Module):
    r"""Takes the largest of several linear maps (Goodfellow et al. 2013): :math:`\max_k (W_k x + b_k)`.

    Args:
        in_dim: width of the input.
        out_dim: width of the output.
        n_pieces: number of maps.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> import torch
        >>> Maxout(4, 3)(torch.randn(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, in_dim: int, out_dim: int, *, n_pieces: int = 2) -> None:
        super().__init__()
        check_at_least_one(in_dim=in_dim, out_dim=out_dim, n_pieces=n_pieces)
        self.n_pieces = n_pieces
        self.linear: nn.Linear = nn.Linear(in_dim, n_pieces * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map the rows: (..., in_dim) -> (..., out_dim)."""
        pieces: Tensor = self.linear(x).unflatten(-1, (self.n_pieces, -1))
        return pieces.amax(dim=-2)


class MaxoutEncoder(nn.Sequential):
    """Encodes a vector by batch-normalised maxout layers: (B, F) -> (B, D).

    Source: Arevalo et al. 2017, Gated Multimodal Units (their encoder for films).

    Args:
        n_features: width F of the input.
        dim: width D of the output.
        hidden_dim: width of the hidden layers.
        n_layers: number of maxout layers.
        n_pieces: linear maps of each maxout layer.
        dropout: dropout after each maxout layer, in [0, 1).

    Raises:
        ValueError: if a size is not positive or `dropout` is out of range.

    Example:
        >>> import torch
        >>> MaxoutEncoder(10, 8)(torch.randn(2, 10)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        n_features: int,
        dim: int,
        *,
        hidden_dim: int = 512,
        n_layers: int = 2,
        n_pieces: int = 2,
        dropout: float = 0.0,
    ) -> None:
        check_at_least_one(n_features=n_features, dim=dim, hidden_dim=hidden_dim, n_layers=n_layers)
        check_rate(dropout=dropout)
        sizes = [n_features, *[hidden_dim] * (n_layers - 1), dim]
        layers = [
            nn.Sequential(nn.BatchNorm1d(a), Maxout(a, b, n_pieces=n_pieces), Dropout(dropout))
            for a, b in pairwise(sizes)
        ]
        super().__init__(*layers)


class GRUEncoder(nn.Module):
    """Encodes a sequence by the last state of a recurrent network: (B, T, F) -> (B, D).

    Args:
        n_features: width F of a step.
        dim: width D of the state.
        n_layers: number of recurrent layers.

    Raises:
        ValueError: if a size is not positive, or the input is not (B, T, F).

    Example:
        >>> import torch
        >>> GRUEncoder(5, 8)(torch.randn(2, 50, 5)).shape
        torch.Size([2, 8])
    """

    def __init__(self, n_features: int, dim: int, *, n_layers: int = 1) -> None:
        super().__init__()
        check_at_least_one(n_features=n_features, dim=dim, n_layers=n_layers)
        self.gru: nn.GRU = nn.GRU(n_features, dim, n_layers, batch_first=True)

    def forward(self, sequence: Tensor) -> Tensor:
        """Encode the sequences: (B, T, F) -> (B, D)."""
        _check_axes(sequence, ("B", "T", self.gru.input_size))
        state: Tensor = self.gru(sequence)[1]  # (n_layers, B, D)
        return state[-1]


class Conv1dEncoder(nn.Module):
    """Encodes a signal by strided convolutions into tokens: (B, T, C) -> (B, n_tokens, D).

    Each layer halves the time axis (width 5, stride 2, ReLU, then layer normalisation over the channels);
    what is left is averaged into `n_tokens` spans.

    Args:
        n_channels: channels C of the signal.
        dim: width D of a token.
        n_tokens: number of tokens.
        n_layers: number of convolutions.

    Raises:
        ValueError: if a size is not positive, the input is not (B, T, C) or too short.

    Example:
        >>> import torch
        >>> Conv1dEncoder(3, 8, n_tokens=4)(torch.randn(2, 100, 3)).shape
        torch.Size([2, 4, 8])
    """

    def __init__(self, n_channels: int, dim: int, *, n_tokens: int = 1, n_layers: int = 2) -> None:
        super().__init__()
        check_at_least_one(n_channels=n_channels, dim=dim, n_tokens=n_tokens, n_layers=n_layers)
        self.n_channels: int = n_channels
        self.n_tokens: int = n_tokens
        self.convolutions: nn.ModuleList = nn.ModuleList(
            nn.Conv1d(n_channels if depth == 0 else dim, dim, kernel_size=5, stride=2, padding=2)
            for depth in range(n_layers)
        )
        self.norms: nn.ModuleList = nn.ModuleList(nn.LayerNorm(dim) for _ in range(n_layers))

    def forward(self, signal: Tensor) -> Tensor:
        """Encode the signals: (B, T, C) -> (B, n_tokens, D)."""
        _check_axes(signal, ("B", "T", self.n_channels))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            signal = norm(convolution(signal.mT).relu().mT)
        if signal.shape[1] < self.n_tokens:
            raise ValueError(
                f"at least {self.n_tokens} steps must be left for as many tokens, however "
                f"{len(self.norms)} halvings leave {signal.shape[1]}; lower n_tokens or n_layers"
            )
        return nn.functional.adaptive_avg_pool1d(signal.mT, self.n_tokens).mT


class Conv3dEncoder(nn.Module):
    """Encodes a volume by strided convolutions: (B, X, Y, Z) or (B, C, X, Y, Z) -> (B, D).

    Each layer halves every axis (width 3, stride 2) and is followed by group normalisation and ReLU; the
    mean over space is mapped to D.

    Args:
        dim: width D of the output.
        n_channels: channels C of the volume.
        hidden_dims: channels of the layers, each a multiple of 8.

    Raises:
        ValueError: if a size is not positive, or the input has another shape.

    Example:
        >>> import torch
        >>> Conv3dEncoder(16)(torch.randn(2, 20, 24, 20)).shape
        torch.Size([2, 16])
    """

    def __init__(self, dim: int, *, n_channels: int = 1, hidden_dims: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        check_at_least_one(dim=dim, n_channels=n_channels, n_layers=len(hidden_dims))
        if any(width < 8 or width % 8 for width in hidden_dims):
            raise ValueError(
                "hidden_dims must be multiples of 8 (the channels of a norm's group), "
                f"however they are {hidden_dims}; round them up"
            )
        self.n_channels = n_channels
        sizes = [n_channels, *hidden_dims]
        self.layers: nn.Sequential = nn.Sequential(
            *(
                nn.Sequential(nn.Conv3d(a, b, kernel_size=3, stride=2, padding=1), nn.GroupNorm(b // 8, b), nn.ReLU())
                for a, b in pairwise(sizes)
            )
        )
        self.head: nn.Linear = nn.Linear(sizes[-1], dim)

    def forward(self, volume: Tensor) -> Tensor:
        """Encode the volumes: (B, X, Y, Z) or (B, C, X, Y, Z) -> (B, D)."""
        volume = volume.unsqueeze(1) if volume.ndim == 4 else volume
        _check_axes(volume, ("B", self.n_channels, "X", "Y", "Z"))
        encoded: Tensor = self.head(self.layers(volume).mean(dim=(2, 3, 4)))
        return encoded


def _check_axes(x: Tensor, axes: tuple[int | str, ...]) -> None:
    fits = x.ndim == len(axes) and all(
        isinstance(axis, str) or size == axis for size, axis in zip(x.shape, axes, strict=False)
    )
    if not fits:
        expected = ", ".join(map(str, axes))
        raise ValueError(
            f"the input must be ({expected}), however its shape is {tuple(x.shape)}; "
            "move its axes, or build the encoder for this width"
        )
