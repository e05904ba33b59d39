"""Bounds: what somebody could name who knows more than a method may."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from examples.benchmarks.identify.computed import Computed
from examples.benchmarks.identify.networks import accuracy
from examples.benchmarks.identify.predictors import Predictor
from examples.benchmarks.identify.settings import Training
from examples.datasets.known import UNKNOWN, KnownInteractions
from i2moe.moe.teacher import SoftTargets
from i2moe.moe.weights import interaction_shares

__all__ = ["Ceiling", "Exact", "Informed", "Told"]


class Ceiling:
    """A classifier trained on the true types, which no method sees; it predicts no target."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self._predictor: Predictor | None = None

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Train on the types."""
        self._predictor = Predictor(_ask_type(train), _ask_type(validation), seed, self.training)

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the probabilities of the types; that of an unknown type is shared out evenly."""
        assert self._predictor is not None, "fit first"
        probabilities = self._predictor(test.modalities).softmax(1)
        known, unknown = probabilities[:, :-1], probabilities[:, -1:]
        return known + unknown / known.shape[1]

    def accuracy(self, test: KnownInteractions) -> float:
        """Return NaN."""
        return math.nan


class Exact:
    """The shares of the exact posteriors; NaN where data has none."""

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Do nothing."""

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the shares."""
        return torch.full((len(test.target), len(test.mix)), torch.nan) if test.exact is None else test.exact.shares

    def accuracy(self, test: KnownInteractions) -> float:
        """Return that of the most probable class."""
        return math.nan if test.exact is None else accuracy(test.exact.joint, test.target)


class Informed(Computed):
    """The model of `Computed`, taught the exact posteriors of its training samples; NaN where data has none."""

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Train, stop early and calibrate."""
        if train.exact is not None:
            super().fit(train, validation, seed)

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the weights."""
        return Exact().weights(test) if test.exact is None else super().weights(test)

    def accuracy(self, test: KnownInteractions) -> float:
        """Return that of the model."""
        return math.nan if test.exact is None else super().accuracy(test)

    def _targets(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> SoftTargets:
        assert train.exact is not None
        return SoftTargets(train.exact.joint, train.exact.alone)


class Told(Computed):
    """The model of `Computed`, told the target: the shares of its predictions from each modality alone in the target.

    What the weights were if the model's predictions from all modalities had no error.
    """

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the shares."""
        alone, target = self._run(test).marginals, test.target
        assert alone is not None
        if test.n_classes is None:
            joint = target.unsqueeze(1)
        else:
            joint, alone = one_hot(target, test.n_classes).float(), alone.softmax(2)
        return interaction_shares(alone, joint, joint.mean(0))[0]


def _ask_type(data: KnownInteractions) -> KnownInteractions:
    """Ask for the type in place of the target, unknown ones being the last class."""
    n_types = len(data.mix)
    target = torch.where(data.interaction == UNKNOWN, n_types, data.interaction)
    return replace(data, target=target, n_classes=n_types + 1)
