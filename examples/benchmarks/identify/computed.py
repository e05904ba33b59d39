"""Weights computed from the model's own predictions, by the recipe that the library recommends."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.benchmarks.identify.networks import Network, accuracy
from examples.benchmarks.identify.settings import Training
from examples.common.modules import Model
from examples.common.recipe import (
    MEMBERS,
    STUDENT_PATIENCE,
    Dropping,
    dropout_of_three,
    soft_targets,
)
from examples.datasets.known import KnownInteractions
from i2moe import ComputedReweighter, InteractionMoE, InteractionOutput, InteractionSupervision
from i2moe.moe.teacher import SoftTargets
from i2moe.training import Batches, fit

__all__ = ["Computed"]

PATIENCE = 4  # epochs, of a teacher


class Computed:
    """Experts that share one network, with computed weights, which learn from four models of the same kind.

    Training stops early, after at most eight times as many epochs as other methods have.
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
        self._model = self._train(train, validation, seed, soft)

    def _targets(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> SoftTargets | None:
        """Train teachers, and return what they predict; None for the targets themselves."""
        if not self.training.teachers:
            return None
        teacher = partial(self._train, train, validation)
        return soft_targets(teacher, self._inputs(train), _target(train), seed, self.training.teachers)

    def _train(
        self,
        train: KnownInteractions,
        validation: KnownInteractions,
        seed: int,
        soft: SoftTargets | None = None,
    ) -> Model:
        torch.manual_seed(seed)
        task: Literal["regression", "classification"] = "regression" if train.n_classes is None else "classification"
        shapes = [x.shape[1:] for x in train.modalities]
        experts = InteractionMoE(
            partial(Network, shapes, train.n_classes or 1, self.training),
            len(shapes),
            reweighter=ComputedReweighter(task, train.n_classes or 1),
            members=MEMBERS,
        )
        model = Model(experts, has_experts=True)
        targets = _target(train) if soft is None else soft
        fit(
            model,
            Dropping(
                Batches(self._inputs(train), targets, self.training.batch_size, seed), dropout_of_three(len(shapes))
            ),
            [(self._inputs(validation), _target(validation))],
            InteractionSupervision(F.mse_loss if train.n_classes is None else F.cross_entropy),
            8 * self.training.epochs,
            optimizer=partial(torch.optim.AdamW, lr=self.training.learning_rate),
            patience=PATIENCE * (1 if soft is None else STUDENT_PATIENCE),
        )
        return model

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


def _target(data: KnownInteractions) -> Tensor:
    """Return classes (n,), or values (n, 1) as the model predicts them."""
    return data.target.unsqueeze(1) if data.n_classes is None else data.target
