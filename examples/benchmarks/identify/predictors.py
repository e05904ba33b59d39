"""Networks that predict the target from some modalities, stopped where they are best on validation samples."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from examples.benchmarks.identify.networks import Network, accuracy, task_loss
from examples.benchmarks.identify.settings import Training
from examples.datasets.known import KnownInteractions

__all__ = ["Predictor", "only", "prior_log_likelihood"]


class Predictor:
    """A network, trained.

    Args:
        train: samples to learn from.
        validation: the epoch with the least loss on these is kept.
        seed: of start and batches.
        training: settings.
    """

    def __init__(self, train: KnownInteractions, validation: KnownInteractions, seed: int, training: Training) -> None:
        torch.manual_seed(seed)
        shapes = [x.shape[1:] for x in train.modalities]
        self.network = Network(shapes, train.n_classes or 1, training)
        self._train(train, validation, training)
        self.variance = self._loss(validation)  # of what a regression leaves unexplained

    @torch.no_grad()
    def __call__(self, modalities: Sequence[Tensor]) -> Tensor:
        """Predict (n, C): logits, or the numbers of a regression (n, 1)."""
        self.network.eval()
        prediction: Tensor = self.network(*modalities)
        return prediction

    def log_likelihood(self, data: KnownInteractions) -> Tensor:
        """Return log p(y | modalities) of the targets that happened, (n,), in nats.

        A regression's numbers are taken to be normal about what is predicted.
        """
        prediction = self(data.modalities)
        if data.n_classes is None:
            return _normal(data.target - prediction.squeeze(1), self.variance)
        return prediction.log_softmax(1).gather(1, data.target.unsqueeze(1)).squeeze(1)

    def accuracy(self, data: KnownInteractions) -> float:
        """Return the share of targets that are right, R2 for a regression."""
        return accuracy(self(data.modalities), data.target)

    def _train(self, train: KnownInteractions, validation: KnownInteractions, training: Training) -> None:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=training.learning_rate)
        least, best = float("inf"), self.network.state_dict()
        for _ in range(training.epochs):
            self.network.train()
            for rows in torch.randperm(len(train.target)).split(training.batch_size):
                loss = task_loss(self.network(*(x[rows] for x in train.modalities)), train.target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

            held_out = self._loss(validation)
            if held_out < least:
                least, best = held_out, copy.deepcopy(self.network.state_dict())
        self.network.load_state_dict(best)

    def _loss(self, data: KnownInteractions) -> float:
        return float(task_loss(self(data.modalities), data.target))


def only(data: KnownInteractions, modality: int) -> KnownInteractions:
    """Return what is left of data for who sees one modality."""
    return replace(data, modalities=data.modalities[modality : modality + 1])


def prior_log_likelihood(train: KnownInteractions, test: KnownInteractions) -> Tensor:
    """Return log p(y) of the test targets, (n,), by the frequencies of the training targets."""
    if train.n_classes is None:
        return _normal(test.target - train.target.mean(), float(train.target.var()))
    counts = train.target.bincount(minlength=train.n_classes) + 1
    return (counts / counts.sum()).log()[test.target]


def _normal(error: Tensor, variance: float) -> Tensor:
    return -(error.square() / variance + math.log(2 * math.pi * variance)) / 2
