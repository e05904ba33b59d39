"""Encoders: from what a data set holds to tokens (B, T, D) or a vector (B, D) of every modality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from examples.reproduce.settings import Settings
from i2moe.backbones import Conv1dEncoder, Conv3dEncoder, GRUEncoder, MaxoutEncoder, MLPEncoder, PatchEmbedding

__all__ = ["Encoders", "ScreenEncoder"]


class Encoders(nn.Module):
    """Encode every modality by what fits its shape, in the same number of tokens.

    * a vector (F,): cut into patches, or an MLP where one token is asked for; on `mmimdb` maxout layers, then patches.
    * a signal (T, F): convolutions over time; on `mosi` a recurrent network, then patches.
    * a volume (X, Y, Z) or an image (3, H, W): convolutions, then patches.

    Args:
        dataset: name of the data set.
        shapes: shapes of the modalities, without the batch axis.
        settings: sizes.

    Attributes:
        n_tokens: tokens T of each modality: as many as asked for, or as the narrowest vector has features.

    Example:
        >>> encoders = Encoders("watch", ((100, 3), (100, 3)), Settings(hidden_dim=8, n_tokens=4, encoder_layers=2))
        >>> [tuple(z.shape) for z in encoders((torch.randn(5, 100, 3), torch.randn(5, 100, 3)))]
        [(5, 4, 8), (5, 4, 8)]
    """

    def __init__(self, dataset: str, shapes: Sequence[Sequence[int]], settings: Settings) -> None:
        super().__init__()
        vectors = [shape[0] for shape in shapes if len(shape) == 1]
        self.n_tokens = min([settings.n_tokens, *vectors])
        self.encoders = nn.ModuleList(_encoder(dataset, shape, self.n_tokens, settings) for shape in shapes)
        self.norms = nn.ModuleList(
            nn.LayerNorm(settings.hidden_dim) if settings.normalize else nn.Identity() for _ in shapes
        )

    def forward(self, modalities: Sequence[Tensor]) -> list[Tensor]:
        """Encode the modalities."""
        return [norm(encoder(x)) for encoder, norm, x in zip(self.encoders, self.norms, modalities, strict=True)]


class ScreenEncoder(nn.Module):
    """Encodes images by the convolutions of VGG-11 with batch normalization: (B, 3, H, W) -> (B, D).

    Weights trained on ImageNet are loaded where torchvision has left them on this machine; otherwise the start is
    random, which `start` says.

    Args:
        dim: width D; the first convolution has D / 16 channels, VGG's 64 for 1024.
        n_layers: linear layers on the pooled features.

    Example:
        >>> ScreenEncoder(64)(torch.rand(2, 3, 64, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(self, dim: int, *, n_layers: int = 1) -> None:
        super().__init__()
        first = max(dim // 16, 1)
        layers: list[nn.Module] = []
        width = 3
        for factor in (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0):  # 0 halves the image
            if factor == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(width, factor * first, 3, padding=1), nn.BatchNorm2d(factor * first), nn.ReLU()]
            width = factor * first
        self.features = nn.Sequential(*layers)
        self.start = "random"
        if first == 64:
            self._load_imagenet()
        self.head = MLPEncoder(width, dim, n_layers=n_layers)

    def forward(self, images: Tensor) -> Tensor:
        """Encode the images."""
        encoded: Tensor = self.head(self.features(images).mean((2, 3)))
        return encoded

    def _load_imagenet(self) -> None:
        for path in sorted(Path(torch.hub.get_dir(), "checkpoints").glob("vgg11_bn-*.pth")):
            weights = torch.load(path, map_location="cpu", weights_only=True)
            prefix = "features."
            self.features.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if prefix in k})
            self.start = path.name


def _encoder(dataset: str, shape: Sequence[int], n_tokens: int, s: Settings) -> nn.Module:
    if len(shape) == 2 and dataset != "mosi":
        return Conv1dEncoder(shape[1], s.hidden_dim, n_tokens=n_tokens, n_layers=s.encoder_layers)
    if len(shape) == 1 and dataset != "mmimdb":
        if n_tokens > 1:
            return PatchEmbedding(shape[0], n_tokens, s.hidden_dim)
        return MLPEncoder(shape[0], s.hidden_dim, n_layers=s.encoder_layers, dropout=s.dropout)
    return nn.Sequential(_deep_encoder(shape, s), PatchEmbedding(s.encoder_dim, n_tokens, s.hidden_dim))


def _deep_encoder(shape: Sequence[int], s: Settings) -> nn.Module:
    if len(shape) == 1:
        return MaxoutEncoder(shape[0], s.encoder_dim, hidden_dim=s.encoder_dim, dropout=s.dropout)
    if len(shape) == 2:
        return GRUEncoder(shape[1], s.encoder_dim, n_layers=s.encoder_layers)
    if len(shape) == 3 and shape[0] == 3:
        return ScreenEncoder(s.encoder_dim, n_layers=s.encoder_layers)
    if len(shape) == 3:
        widths = [8 * max(s.encoder_dim * factor // 128, 1) for factor in (1, 2, 4, 8)]  # 16 to 128 for 256
        return Conv3dEncoder(s.encoder_dim, hidden_dims=widths)
    raise ValueError(
        f"a modality must be (F,), (T, F), (X, Y, Z) or (3, H, W), however its shape is {tuple(shape)}; "
        "give it an encoder in examples/reproduce/encoders.py"
    )
