"""The bound of one who knows everything but which samples are of which type, and learns that from the targets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.benchmarks.identify.computed import fit_early
from examples.benchmarks.identify.networks import Network, accuracy, task_loss
from examples.benchmarks.identify.settings import Training
from examples.datasets.known import KnownInteractions
from i2moe.moe.weights import interaction_shares
from i2moe.training import Batches

__all__ = ["Rules"]


class Rules:
    """Networks that are given what each type of interaction would answer, and learn how often it does.

    One of each modality alone, and one of all, as often as `Computed` has teachers. They have the same layers, samples
    and targets as its. So what they do not find is hidden by the noise in the targets, or needs more samples. NaN where
    a generator does not say what each type would answer.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self._networks: list[list[_Answering]] = []

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Train, and stop early."""
        if train.answers is None:
            return
        kinds = [[i] for i in range(len(train.modalities))] + [list(range(len(train.modalities)))]
        self._networks = [
            [self._trained(train, validation, chosen, 1000 * seed + i) for i in range(max(self.training.teachers, 1))]
            for chosen in kinds
        ]

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the shares of the networks' mean predictions."""
        if not self._networks:
            return torch.full((len(test.target), len(test.mix)), torch.nan)
        *alone, joint = self._predictions(test)
        return interaction_shares(torch.stack(alone, dim=1), joint, _prior(test))[0]

    def accuracy(self, test: KnownInteractions) -> float:
        """Return that of the prediction from all modalities."""
        return accuracy(self._predictions(test)[-1], test.target) if self._networks else math.nan

    @torch.no_grad()
    def _predictions(self, test: KnownInteractions) -> list[Tensor]:
        return [
            torch.stack([network(*_inputs(test, network.chosen)) for network in each]).mean(0)
            for each in self._networks
        ]

    def _trained(
        self, train: KnownInteractions, validation: KnownInteractions, chosen: Sequence[int], seed: int
    ) -> _Answering:
        torch.manual_seed(seed)
        network = _Answering(train, chosen, self.training)
        fit_early(
            network,
            Batches(_inputs(train, chosen), train.target, self.training.batch_size, seed),
            (_inputs(validation, chosen), validation.target),
            task_loss if train.n_classes is None else _negative_log_likelihood,
            self.training,
        )
        return network


class _Answering(nn.Module):
    """Mix the answers of types, and the prior, by weights that a network makes of some modalities."""

    prior: Tensor

    def __init__(self, data: KnownInteractions, chosen: Sequence[int], training: Training) -> None:
        super().__init__()
        self.chosen = chosen
        shapes = [data.modalities[i].shape[1:] for i in chosen]
        n_types = _inputs(data, chosen)[-1].shape[1]
        self.network = Network(shapes, n_types + 1, training)
        self.register_buffer("prior", _prior(data))

    def forward(self, *inputs: Tensor) -> Tensor:
        """From modalities and answers (B, E, C) to the prediction (B, C): probabilities, or a value."""
        *modalities, answers = inputs
        weights = self.network(*modalities).softmax(1)
        answers = torch.cat((answers, self.prior.expand(len(answers), 1, -1)), dim=1)
        return torch.einsum("be,bec->bc", weights, answers)


def _inputs(data: KnownInteractions, chosen: Sequence[int]) -> tuple[Tensor, ...]:
    """Return some modalities, and what types would answer (n, E', C): of one modality, that it decides."""
    assert data.answers is not None
    answers = data.answers
    certain = answers.unsqueeze(-1) if data.n_classes is None else F.one_hot(answers, data.n_classes).float()
    return *(data.modalities[i] for i in chosen), certain[:, chosen] if len(chosen) == 1 else certain


def _prior(data: KnownInteractions) -> Tensor:
    """Return what is predicted from nothing, (C,): classes are equally frequent, and values have a mean of 0."""
    return torch.zeros(1) if data.n_classes is None else torch.full((data.n_classes,), 1 / data.n_classes)


def _negative_log_likelihood(prediction: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(prediction.clamp_min(torch.finfo(prediction.dtype).tiny).log(), target)
