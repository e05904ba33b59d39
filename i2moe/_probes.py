"""Probes: small networks that tell what each modality alone, and all together, say about the target."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Folds", "Moments", "Probes"]

_MOMENTUM = 0.1


class Moments(nn.Module):
    """Keep the running mean and variance of a vector (D,), as batch normalization does.

    Args:
        n_features: width D.
        mean: where the running mean starts.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, n_features: int, mean: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((n_features,), mean))
        self.register_buffer("variance", torch.ones(n_features))

    def forward(self, x: Tensor, *, update: bool) -> Tensor:
        """Standardize (B, D): by the batch while updating, by the running moments else. What never varies becomes 0."""
        update = update and len(x) > 1
        return F.batch_norm(x, self.mean, self.variance, training=update, momentum=_MOMENTUM)


class Probes(nn.Module):
    """Predict from each modality alone and from all together, in several folds, all by the same kind of network.

    Each of the K (M + 1) probes is an MLP with two hidden layers. The first layers of those that see the same features
    are one matrix, the other layers run as one stack, and all weights are one vector, because an optimizer's time goes
    by the number of tensors where these are small. So many small networks cost little more than one.

    Args:
        feature_dims: the M modalities' widths, D in total.
        n_outputs: number of outputs C.
        hidden_dim: width H of the hidden layers.
        n_folds: number of folds K.
        speed: how many times faster than other parameters the weights move under Adam: the vector holds them divided
            by it, and gets their gradient divided by it, so that plain gradient descent moves them as ever. What the
            probes know early, the weights are taught longer.
    """

    def __init__(
        self, feature_dims: Sequence[int], n_outputs: int, hidden_dim: int, n_folds: int, speed: float = 5.0
    ) -> None:
        super().__init__()
        self.feature_dims: list[int] = list(feature_dims)
        self.n_folds = n_folds
        self.speed = speed
        n_probes = n_folds * (len(feature_dims) + 1)
        start = (
            torch.cat([_uniform(width, n_folds * hidden_dim) * math.sqrt(3 / width) for width in feature_dims]),
            _uniform(sum(feature_dims), n_folds * hidden_dim) * math.sqrt(3 / sum(feature_dims)),
            torch.zeros(n_probes, 1, hidden_dim),
            _uniform(n_probes, hidden_dim, hidden_dim) * math.sqrt(6 / hidden_dim),
            torch.zeros(n_probes, 1, hidden_dim),
            torch.zeros(n_probes, hidden_dim, n_outputs),
            torch.zeros(n_probes, 1, n_outputs),
        )
        self.shapes: list[torch.Size] = [part.shape for part in start]
        self.vector: nn.Parameter = nn.Parameter(torch.cat([part.flatten() for part in start]) / speed)

    def forward(self, features: Tensor) -> Tensor:
        """Predict from the modalities' features side by side (B, D).

        Returns:
            (K, M + 1, B, C); the last of the M + 1 is the joint probe.
        """
        own_weight, joint_weight, input_bias, *deeper = self.unpack(self._weights())
        hidden_weight, hidden_bias, output_weight, output_bias = deeper

        own = zip(features.split(self.feature_dims, 1), own_weight.split(self.feature_dims), strict=True)
        hidden = torch.cat([*(x @ weight for x, weight in own), features @ joint_weight], dim=1)
        hidden = hidden.view(len(hidden), len(hidden_weight), -1).transpose(0, 1)  # ((M + 1) K, B, H)
        hidden = (hidden + input_bias).relu()
        hidden = torch.baddbmm(hidden_bias, hidden, hidden_weight).relu()
        outputs = torch.baddbmm(output_bias, hidden, output_weight)
        return outputs.view(-1, self.n_folds, *outputs.shape[1:]).transpose(0, 1)

    def unpack(self, vector: Tensor) -> list[Tensor]:
        """Return views of a vector: weights (own and joint) and biases of the first layer, then of the two others.

        The first axis of all but the first two is that of the probes, M + 1 times K.
        """
        parts = vector.split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def squared_norm(self) -> Tensor:
        """Sum the squares of all weights."""
        weights = self._weights()
        return torch.dot(weights, weights)

    def _weights(self) -> Tensor:
        """`speed` times the vector in value, 1 / `speed` times in gradient."""
        return torch.add(self.vector / self.speed, self.vector.detach(), alpha=self.speed - 1 / self.speed)


class Folds(nn.Module):
    """Give every sample a fold by what it looks like, the same in every epoch.

    The bits of its numbers decide, by multiply-and-shift hashing. Equal samples share a fold, so a copy of a sample
    never trains the probe that judges it.

    Args:
        n_features: width D.
        n_folds: number of folds K.
    """

    factors: Tensor

    def __init__(self, n_features: int, n_folds: int) -> None:
        super().__init__()
        self.n_folds = n_folds
        generator = torch.Generator().manual_seed(0)  # the same folds in every run
        factors = 2 * torch.randint(2**30, (n_features,), generator=generator, dtype=torch.int32) + 1
        self.register_buffer("factors", factors, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the folds (B,) in [0, K) of features (B, D)."""
        bits = features.float().contiguous().view(torch.int32)
        mixed = (bits * self.factors).sum(-1)  # overflow wraps, as it should; all bits have a say in the highest
        return (mixed >> 27).remainder(self.n_folds)


def _uniform(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1
