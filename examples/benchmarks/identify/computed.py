"""Weights computed from the model's own predictions, by the recipe that the library recommends."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from examples.benchmarks.identify.networks import Network, accuracy, task_loss
from examples.benchmarks.identify.settings import Training
from examples.datasets.known import KnownInteractions
from i2moe import ComputedReweighter, InteractionMoE, InteractionOutput, InteractionSupervision, calibrate

__all__ = ["Computed"]

_MEMBERS = 4
_WEIGHT_DECAY = 0.1
_DECAY = 0.995


class Computed:
    """Experts that share one network, with computed weights.

    A step makes about half the passes of the paper's objective, so it makes twice as many steps. An average of the
    parameters over the last 200 steps is kept at the epoch at which its validation loss is lowest.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self._model: InteractionMoE | None = None
        self._units: list[tuple[Tensor, Tensor]] = []

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Train, stop early and calibrate."""
        torch.manual_seed(seed)
        # One unit for a whole modality: that of a feature may be information.
        self._units = [(x.mean(), x.std()) for x in train.modalities]
        modalities, held_out = self._standardized(train), self._standardized(validation)
        task: Literal["regression", "classification"] = "regression" if train.n_classes is None else "classification"
        shapes = [x.shape[1:] for x in train.modalities]
        model = InteractionMoE(
            partial(Network, shapes, train.n_classes or 1, self.training),
            len(shapes),
            reweighter=ComputedReweighter(task, train.n_classes or 1),
            members=_MEMBERS,
        )
        average = AveragedModel(model, avg_fn=_warmed_up, use_buffers=True)
        supervise = InteractionSupervision(task_loss)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.training.learning_rate, weight_decay=_WEIGHT_DECAY)
        lowest, best = math.inf, model.state_dict()
        for _ in range(2 * self.training.epochs):
            for rows in torch.split(torch.randperm(len(train.target)), self.training.batch_size):
                loss = supervise(model.train()(*(x[rows] for x in modalities)), train.target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                average.update_parameters(model)
            loss_now = _held_out_loss(average.module, held_out, validation.target)
            if loss_now < lowest:
                lowest, best = loss_now, copy.deepcopy(average.module.state_dict())
        model.load_state_dict(best)
        calibrate(model, [(held_out, validation.target)])
        self._model = model.eval()

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the weights."""
        return self._run(test).weights

    def accuracy(self, test: KnownInteractions) -> float:
        """Return that of the model."""
        return accuracy(self._run(test).prediction, test.target)

    @torch.no_grad()
    def _run(self, test: KnownInteractions) -> InteractionOutput:
        assert self._model is not None, "fit first"
        out: InteractionOutput = self._model(*self._standardized(test))
        return out

    def _standardized(self, data: KnownInteractions) -> tuple[Tensor, ...]:
        return tuple((x - mean) / deviation for x, (mean, deviation) in zip(data.modalities, self._units, strict=True))


def _warmed_up(averaged: Tensor, parameter: Tensor, n_averaged: Tensor | int) -> Tensor:
    """Average over all steps at first, then over the last; counts are no averages."""
    if not averaged.is_floating_point():
        return parameter
    return averaged.lerp(parameter, max(1 - _DECAY, 1 / (float(n_averaged) + 1)))


@torch.no_grad()
def _held_out_loss(model: torch.nn.Module, modalities: tuple[Tensor, ...], target: Tensor) -> float:
    """Return the loss of the prediction, and the mean loss of those from each modality alone."""
    out = model.eval()(*modalities)
    alone = torch.stack([task_loss(marginal, target) for marginal in out.marginals.unbind(1)])
    return float(task_loss(out.prediction, target) + alone.mean())
