"""A plain network, trained without experts, and explained afterwards by `interactions`."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from examples.benchmarks.identify.predictors import Predictor
from examples.benchmarks.identify.settings import Training
from examples.datasets.known import KnownInteractions
from i2moe import interactions

__all__ = ["Existing"]


class Existing:
    """Train one network on all modalities; the validation samples are the background.

    Args:
        training: settings of the network.
        marginals: as for `interactions`.
    """

    def __init__(self, training: Training, marginals: Literal["fitted", "replaced"]) -> None:
        self.training = training
        self.marginals = marginals
        self._predictor: Predictor | None = None
        self._background: list[Any] = []

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Train the network."""
        self._predictor = Predictor(train, validation, seed, self.training)
        self._background = _batches(validation)

    def weights(self, test: KnownInteractions) -> Tensor:
        """Explain the network."""
        assert self._predictor is not None, "fit first"
        return interactions(
            self._predictor.network,
            _batches(test),
            self._background,
            task="regression" if test.n_classes is None else "classification",
            marginals=self.marginals,
            drop_modalities=False,
        ).weights

    def accuracy(self, test: KnownInteractions) -> float:
        """Return that of the network."""
        assert self._predictor is not None, "fit first"
        return self._predictor.accuracy(test)


def _batches(data: KnownInteractions, size: int = 1000) -> list[Any]:
    parts = zip(*(x.split(size) for x in data.modalities), strict=True)
    return list(zip(parts, data.target.split(size), strict=True))
