"""The networks of the benchmark, and how right their predictions are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.benchmarks.identify.settings import Training
from examples.common.modules import Fusion
from examples.quickstart import WIDTH, Encoder

__all__ = ["Embedding", "Network", "accuracy", "task_loss"]


class Embedding(nn.Module):
    """Embed modalities as vectors: these as they are, signals (T, 3) and images (C, H, W) by networks.

    Args:
        shapes: the M modalities' shapes without the batch axis.
        convolutional: whether images are embedded by convolutions; otherwise their pixels are the vector.

    Attributes:
        widths: the M vectors' widths.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], convolutional: bool = False) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([_encoder(shape, convolutional) for shape in shapes])
        with torch.no_grad():
            self.widths: list[int] = [x.shape[1] for x in self([torch.zeros(1, *shape) for shape in shapes])]

    @property
    def learns(self) -> bool:
        """Whether there is anything to train, so that the same sample is embedded differently in each epoch."""
        return any(True for _ in self.parameters())

    def forward(self, modalities: Sequence[Tensor]) -> list[Tensor]:
        """Return M vectors (B, D)."""
        return [encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)]


class Network(nn.Module):
    """Embed the modalities, and fuse them."""

    def __init__(self, shapes: Sequence[Sequence[int]], n_outputs: int, training: Training) -> None:
        super().__init__()
        self.embed = Embedding(shapes, training.convolutional)
        self.fusion = Fusion(sum(self.embed.widths), n_outputs, [training.hidden_dim] * 2)

    def forward(self, *modalities: Tensor) -> Tensor:
        """Predict (B, C)."""
        prediction: Tensor = self.fusion(*self.embed(modalities))
        return prediction


def task_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error for numbers, the cross-entropy for classes."""
    if target.is_floating_point():
        return F.mse_loss(prediction.squeeze(-1), target)
    return F.cross_entropy(prediction, target)


def accuracy(prediction: Tensor, target: Tensor) -> float:
    """Return the share of classes that are right, R2 for numbers."""
    if target.is_floating_point():
        return float(1 - F.mse_loss(prediction.squeeze(-1), target) / target.var(correction=0))
    return float((prediction.argmax(1) == target).float().mean())


def _encoder(shape: Sequence[int], convolutional: bool) -> nn.Module:
    if len(shape) == 1:
        return nn.Identity()
    if len(shape) == 2:
        return Encoder()
    if not convolutional:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5))  # photographs are few, pixels many
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, kernel_size=5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(WIDTH),
        nn.LayerNorm(WIDTH),
    )
