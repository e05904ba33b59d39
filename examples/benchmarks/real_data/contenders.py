"""The contenders: one network, ensembles, late fusion, experts. All have the same encoders and the same recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.benchmarks.real_data.robustness import Augmented
from examples.benchmarks.real_data.settings import Settings
from examples.common.modules import Ensemble, Model
from examples.common.modules import Fusion as PlainFusion
from examples.common.recipe import (
    DROPOUT,
    LONGER,
    MEMBERS,
    Batch,
    Dropping,
    dropout_of_three,
    paper_objective,
    soft_targets,
)
from examples.datasets._interface import MultimodalData
from examples.quickstart import WIDTH, Encoder
from i2moe import ComputedReweighter, InteractionLosses, InteractionMoE, InteractionSupervision, Specialist
from i2moe.moe.experts.sharing import share
from i2moe.moe.teacher import SoftTargets
from i2moe.training import Batches, fit

__all__ = ["BY_NAME", "CONTENDERS", "Contender", "Network", "criterion_of", "train"]

Loss: TypeAlias = Callable[[Any, Tensor], Tensor]


class Network(nn.Module):
    """Encode the modalities and fuse the embeddings.

    Args:
        data: says the shapes.
        fusion: what fuses; None for one hidden layer on the embeddings side by side.
    """

    def __init__(self, data: MultimodalData, fusion: nn.Module | None = None) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([_encoder(shape) for shape in data.shapes])
        self.fusion = _fusion(data) if fusion is None else fusion

    def forward(self, *modalities: Tensor, **options: Tensor) -> Any:
        """Return what the fusion makes of the embeddings."""
        return self.fusion(*(encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)), **options)


class LateFusion(nn.Module):
    """Average the outputs of one network per modality, of those that are available."""

    def __init__(self, data: MultimodalData) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(_encoder(shape), PlainFusion(WIDTH, len(data.output_names), dropout=0.2))
            for shape in data.shapes
        )

    def forward(self, *modalities: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean (B, C), and the outputs (B, M, C) of each modality, the mean where it is absent."""
        each = torch.stack([head(x) for head, x in zip(self.heads, modalities, strict=True)], dim=1)
        there = available.unsqueeze(-1)
        mean = (each * there).sum(1) / there.sum(1)
        return mean, torch.where(there, each, mean.unsqueeze(1))


class SharedEnsemble(nn.Module):
    """Average the members of one network that share its weights, without interactions."""

    def __init__(self, data: MultimodalData, n_members: int) -> None:
        super().__init__()
        self.n_members = n_members
        self.network = Network(data)
        self.members = share(self.network, n_members)

    def forward(self, *modalities: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean (B, C) and the members' outputs (B, k, C)."""
        n_rows = self.n_members * len(modalities[0])
        with self.members.running(self.n_members, n_rows=n_rows):
            rows = self.network(*(x.repeat(self.n_members, *(1,) * (x.ndim - 1)) for x in modalities))
        each = rows.reshape(self.n_members, -1, rows.shape[-1]).movedim(0, 1)
        return each.mean(1), each


@dataclass(frozen=True)
class Contender:
    """A model and its training.

    Args:
        build: builds the model for data.
        loss_of: makes the loss of what the model returns of the task's criterion.
        dropout: the share of so many modalities that is dropped in training.
        taught: whether the model learns from teachers, with a share of the targets, or from the targets alone.
        decay: of the average of the parameters; 0 for the last ones.
    """

    build: Callable[[MultimodalData], Model]
    loss_of: Callable[[Loss], Loss] = lambda criterion: criterion
    dropout: Callable[[int], float] = lambda n_modalities: 0.0
    taught: bool = False
    decay: float = 0.99


def _dropout(n_modalities: int) -> float:
    return DROPOUT


def _loss_of_members(criterion: Loss) -> Loss:
    return lambda out, target: torch.stack([criterion(member, target) for member in out[1].unbind(1)]).mean()


def _ensemble(data: MultimodalData) -> Model:
    return Model(Ensemble(lambda: Network(data), _n_experts(data)))


def _paper(data: MultimodalData) -> Model:
    n_modalities = len(data.shapes)
    experts = InteractionMoE(
        lambda: _fusion(data),
        n_modalities,
        feature_dims=[WIDTH] * n_modalities,
        losses=InteractionLosses("regression" if data.task == "regression" else "classification"),
        fill="learned",
    )
    return Model(Network(data, experts), has_experts=True)


def _computed(data: MultimodalData, members: int) -> Model:
    reweighter = ComputedReweighter(data.task)
    experts = InteractionMoE(lambda: Network(data), len(data.shapes), reweighter=reweighter, members=members)
    return Model(experts, has_experts=True)


_UNTAUGHT = Contender(partial(_computed, members=MEMBERS), InteractionSupervision, dropout_of_three)

CONTENDERS = MappingProxyType(
    {
        "fusion": Contender(lambda data: Model(Network(data))),
        "fusion, dropout": Contender(lambda data: Model(Network(data)), dropout=_dropout),
        "ensemble": Contender(_ensemble, _loss_of_members),
        "ensemble, dropout": Contender(_ensemble, _loss_of_members, _dropout),
        "late fusion": Contender(lambda data: Model(LateFusion(data), takes_available=True), _loss_of_members),
        "shared ensemble, dropout": Contender(
            lambda data: Model(SharedEnsemble(data, _n_experts(data))), _loss_of_members, _dropout
        ),
        "paper": Contender(_paper, paper_objective),
        "computed, no teachers": _UNTAUGHT,
        "computed, one member": replace(_UNTAUGHT, build=partial(_computed, members=1), taught=True),
        "computed": replace(_UNTAUGHT, taught=True),
    }
)
"""By name. Ensembles have as many members as there are experts, M + 2."""


def _loss_of_mean(criterion: Loss) -> Loss:
    supervise = InteractionSupervision(criterion)
    return lambda out, target: supervise(replace(out, member_predictions=None, member_marginals=None), target)


def _loss_of_all_modalities(criterion: Loss) -> Loss:
    supervise = InteractionSupervision(criterion)
    return lambda out, target: supervise(replace(out, marginals=None), target)


ABLATIONS = MappingProxyType(
    {
        "no teachers, no dropout": replace(_UNTAUGHT, dropout=lambda n_modalities: 0.0),
        "no teachers, no average": replace(_UNTAUGHT, decay=0.0),
        "no teachers, loss of the mean": replace(_UNTAUGHT, loss_of=_loss_of_mean),
        "no teachers, no loss alone": replace(_UNTAUGHT, loss_of=_loss_of_all_modalities),
    }
)
"""By name: experts without teachers that lack one more part of the recipe; the last two change what has a loss: the
members' mean in place of each, and predictions from all modalities alone."""

BY_NAME = MappingProxyType({**CONTENDERS, **ABLATIONS})
"""All that a run can name."""


def train(data: MultimodalData, contender: Contender, seed: int, settings: Settings) -> Model:
    """Train a model by the recipe; it is returned in evaluation mode."""
    whole, held_out = (split[torch.arange(len(split))] for split in (data.train, data.validation))
    inputs: tuple[Tensor, ...] = (*whole.modalities, whole.available)
    targets: Tensor | SoftTargets = whole.targets
    n_teachers = settings.teachers if contender.taught else 0
    longer = LONGER if n_teachers else 1
    if n_teachers:
        specialist = partial(_specialist, data, settings)
        targets = soft_targets(specialist, inputs, whole.targets, data.task, seed=seed, n_teachers=n_teachers)
    torch.manual_seed(seed)
    model = contender.build(data)
    batches: Iterable[Batch] = Batches(inputs, targets, settings.batch_size, seed)
    if settings.augment:
        batches = Augmented(batches, whole.modalities)
    fit(
        model,
        Dropping(batches, contender.dropout(len(data.shapes))),
        [((*held_out.modalities, held_out.available), held_out.targets)],
        contender.loss_of(criterion_of(data)),
        ceil(settings.steps * longer * settings.batch_size / len(data.train)),
        patience=settings.patience * longer,
        decay=contender.decay,
    )
    return model


def _specialist(data: MultimodalData, settings: Settings, modality: int | None, seed: int) -> Model:
    contender = Contender(
        lambda data: Model(Specialist(lambda: Network(data), len(data.shapes), modality), takes_available=True)
    )
    return train(data, contender, seed, settings)


def criterion_of(data: MultimodalData) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the task's loss of outputs and targets."""
    return F.mse_loss if data.task == "regression" else F.cross_entropy


def _n_experts(data: MultimodalData) -> int:
    return len(data.shapes) + 2


def _fusion(data: MultimodalData) -> nn.Module:
    return PlainFusion(len(data.shapes) * WIDTH, len(data.output_names), dropout=0.2)


def _encoder(shape: Sequence[int]) -> nn.Module:
    """Embed signals (T, 3) as the quickstart does, vectors by one layer; both as vectors (B, 64) of unit scale."""
    if len(shape) == 2:
        return Encoder()
    return nn.Sequential(nn.Linear(shape[0], WIDTH), nn.ReLU(), nn.LayerNorm(WIDTH))
