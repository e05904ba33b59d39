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

    Each of the K (M + 1) probes is an MLP with two hidden layers. Their first layers are one matrix, of which each
    sees its modality's rows only; the others run as one stack: many small networks cost little more than one.

    Args:
        feature_dims: the M modalities' widths, D in total.
        n_outputs: number of outputs C.
        hidden_dim: width H of the hidden layers.
        n_folds: number of folds K.
    """

    visible: Tensor

    def __init__(self, feature_dims: Sequence[int], n_outputs: int, hidden_dim: int, n_folds: int) -> None:
        super().__init__()
        self.n_folds = n_folds
        owner = torch.repeat_interleave(torch.tensor(feature_dims)).unsqueeze(1)  # (D, 1), the modality of each feature
        visible = torch.cat((owner == torch.arange(len(feature_dims)), torch.ones(len(owner), 1)), dim=1)
        visible = visible.repeat(1, n_folds).unsqueeze(-1)  # (D, K (M + 1), 1)
        self.register_buffer("visible", visible, persistent=False)

        n_features, n_probes, _ = visible.shape
        self.input_weight = nn.Parameter(_uniform(n_features, n_probes, hidden_dim) * (3 / visible.sum(0)).sqrt())
        self.input_bias = nn.Parameter(torch.zeros(n_probes * hidden_dim))
        self.hidden_weight = nn.Parameter(_uniform(n_probes, hidden_dim, hidden_dim) * math.sqrt(6 / hidden_dim))
        self.hidden_bias = nn.Parameter(torch.zeros(n_probes, 1, hidden_dim))
        self.output_weight = nn.Parameter(torch.zeros(n_probes, hidden_dim, n_outputs))
        self.output_bias = nn.Parameter(torch.zeros(n_probes, 1, n_outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Predict from the modalities' features side by side (B, D).

        Returns:
            (K, M + 1, B, C); the last of the M + 1 is the joint probe.
        """
        weight = (self.input_weight * self.visible).flatten(1)  # (D, K (M + 1) H)
        hidden = torch.addmm(self.input_bias, features, weight).relu()
        hidden = hidden.view(len(hidden), len(self.hidden_weight), -1).transpose(0, 1)  # (K (M + 1), B, H)
        hidden = torch.baddbmm(self.hidden_bias, hidden, self.hidden_weight).relu()
        outputs = torch.baddbmm(self.output_bias, hidden, self.output_weight)
        return outputs.view(self.n_folds, -1, *outputs.shape[1:])

    def squared_norm(self) -> Tensor:
        """Sum the squares of all weights, biases left out."""
        weights = [weight.flatten() for weight in (self.input_weight, self.hidden_weight, self.output_weight)]
        return torch.dot(weights[0], weights[0]) + torch.dot(weights[1], weights[1]) + torch.dot(weights[2], weights[2])


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
