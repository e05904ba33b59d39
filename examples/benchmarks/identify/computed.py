"""Weights computed from the model's own predictions, by the recipe that the library recommends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.benchmarks.identify.networks import Network, accuracy
from examples.benchmarks.identify.settings import Training
from examples.common.modules import Model
from examples.common.recipe import (
    LONGER,
    MEMBERS,
    Batch,
    Dropping,
    dropout_of_three,
    soft_targets,
)
from examples.datasets.known import KnownInteractions
from i2moe import ComputedReweighter, InteractionMoE, InteractionOutput, InteractionSupervision, Specialist
from i2moe.moe.teacher import SoftTargets
from i2moe.training import Batches, fit

__all__ = ["Computed", "fit_early"]

PATIENCE = 4  # epochs, of a teacher


class Computed:
    """Experts that share one network, with computed weights, which learn from networks of each modality and of all.

    Training stops early, that of a network after at most eight times as many epochs as other methods have.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self._model: Model | None = None
        self._units: list[tuple[Tensor, Tensor]] = []

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Train, stop early and calibrate."""
        # One unit for a whole modality: that of a feature may be information.
        self._units = [(x.mean(), x.std()) for x in train.modalities]
        soft = self._targets(train, validation, seed)
        task, n_outputs = _task(train), train.n_classes or 1
        torch.manual_seed(seed)
        experts = InteractionMoE(
            self._network(train),
            len(train.modalities),
            reweighter=ComputedReweighter(task, n_outputs),
            members=MEMBERS,
        )
        self._model = Model(experts, has_experts=True)
        batches = Batches(self._inputs(train), _target(train) if soft is None else soft, self.training.batch_size, seed)
        self._fit(
            self._model,
            Dropping(batches, dropout_of_three(len(train.modalities))),
            validation,
            InteractionSupervision(_criterion(train)),
            longer=1 if soft is None else LONGER,
        )

    def _targets(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> SoftTargets | None:
        """Train teachers, and return what they predict; None for the targets themselves."""
        if not self.training.teachers:
            return None
        inputs, targets = self._inputs(train), _target(train)

        def specialist(modality: int | None, seed: int) -> Model:
            torch.manual_seed(seed)
            network = Specialist(self._network(train), len(train.modalities), modality)
            model = Model(network, takes_available=True)
            batches = Batches(inputs, targets, self.training.batch_size, seed)
            self._fit(model, batches, validation, _criterion(train))
            return model

        return soft_targets(specialist, inputs, targets, _task(train), seed=seed, n_teachers=self.training.teachers)

    def _network(self, train: KnownInteractions) -> Callable[[], Network]:
        shapes = [x.shape[1:] for x in train.modalities]
        return partial(Network, shapes, train.n_classes or 1, self.training)

    def _fit(
        self,
        model: Model,
        batches: Iterable[Batch],
        validation: KnownInteractions,
        loss_of: Callable[[Any, Any], Tensor],
        longer: int = 1,
    ) -> None:
        fit_early(model, batches, (self._inputs(validation), _target(validation)), loss_of, self.training, longer)

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the weights."""
        return self._run(test).weights

    def accuracy(self, test: KnownInteractions) -> float:
        """Return that of the model."""
        return accuracy(self._run(test).prediction, test.target)

    @torch.no_grad()
    def _run(self, test: KnownInteractions) -> InteractionOutput:
        assert self._model is not None, "fit first"
        out: InteractionOutput = self._model(*self._inputs(test))
        return out

    def _inputs(self, data: KnownInteractions) -> tuple[Tensor, ...]:
        """Return the standardized modalities, and that all are available."""
        modalities = [(x - mean) / scale for x, (mean, scale) in zip(data.modalities, self._units, strict=True)]
        return *modalities, torch.ones(len(data.target), len(modalities), dtype=torch.bool)


def fit_early(
    model: nn.Module,
    batches: Iterable[Batch],
    held_out: Batch,
    loss_of: Callable[[Any, Any], Tensor],
    training: Training,
    longer: int = 1,
) -> None:
    """Train by the settings of the benchmark, and stop early; `longer` multiplies epochs and patience."""
    fit(
        model,
        batches,
        [held_out],
        loss_of,
        8 * longer * training.epochs,
        optimizer=partial(torch.optim.AdamW, lr=training.learning_rate),
        patience=PATIENCE * longer,
    )


def _target(data: KnownInteractions) -> Tensor:
    """Return classes (n,), or values (n, 1) as the model predicts them."""
    return data.target.unsqueeze(1) if data.n_classes is None else data.target


def _task(data: KnownInteractions) -> Literal["regression", "classification"]:
    return "regression" if data.n_classes is None else "classification"


def _criterion(data: KnownInteractions) -> Callable[[Tensor, Tensor], Tensor]:
    return F.mse_loss if data.n_classes is None else F.cross_entropy
