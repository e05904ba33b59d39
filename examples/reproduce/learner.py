"""The model that is trained: encoders, fusion or experts, and every loss inside its forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.common.modules import Ensemble
from examples.datasets._interface import MultimodalData, Task
from examples.reproduce.encoders import Encoders
from examples.reproduce.fusions import FusionName, fusion_factory
from examples.reproduce.methods import Method, interaction_moe
from examples.reproduce.settings import Settings
from i2moe import BackboneOutput, InteractionMoE, InteractionOutput, InteractionSupervision, Specialist
from i2moe.moe.teacher import SoftTargets

__all__ = ["Answer", "Learner", "build_learner", "build_specialist", "task_loss"]


class Answer(NamedTuple):
    """What a model makes of a batch: outputs (B, C), the loss (None without targets) and its named, detached parts."""

    prediction: Tensor
    loss: Tensor | None
    parts: dict[str, Tensor]


class Learner(nn.Module):
    """Encode, fuse, and compute the whole loss where wrappers for several processes expect it: in the forward pass.

    Args:
        encoders: from modalities to embeddings.
        fusion: a fusion, an `Ensemble` or an `InteractionMoE`, called with the embeddings.
        supervise: the loss of experts with computed weights, or None.
        task: what the outputs mean.
        settings: the factors of the losses.
    """

    def __init__(
        self,
        encoders: nn.Module,
        fusion: nn.Module,
        supervise: InteractionSupervision | None,
        task: Task,
        settings: Settings,
    ) -> None:
        super().__init__()
        self.encoders, self.fusion, self.supervise = encoders, fusion, supervise
        self.task, self.settings = task, settings

    def forward(
        self,
        modalities: Sequence[Tensor],
        targets: Tensor | SoftTargets | None = None,
        available: Tensor | None = None,
    ) -> Answer:
        """Predict, and say how wrong that is.

        Args:
            modalities: M tensors (B, ...).
            targets: (B,) classes or (B, C); for computed weights also what teachers predict.
            available: (B, M) bool, which modalities each sample has, for experts; None for all.
        """
        output = self.fuse(modalities, available)
        if isinstance(output, InteractionOutput):
            prediction, each, aux_loss = output.prediction, output.expert_predictions, output.aux_loss
        elif isinstance(output, tuple):
            prediction, each, aux_loss = output
        else:
            output = output if isinstance(output, BackboneOutput) else BackboneOutput(output)
            prediction, each = output.prediction, None
            aux_loss = prediction.new_zeros(()) if output.aux_loss is None else output.aux_loss
        if targets is None:
            return Answer(prediction, None, {})

        parts = {"gate": self.settings.gate_weight * aux_loss}
        if isinstance(output, InteractionOutput):
            parts |= self._losses_of_experts(output, targets)
        else:
            assert isinstance(targets, Tensor)
            parts["task"] = self._task_loss(prediction, targets) if each is None else self._each_loss(each, targets)
        loss = torch.stack(list(parts.values())).sum()
        return Answer(prediction, loss, {name: part.detach() for name, part in parts.items()})

    def fuse(self, modalities: Sequence[Tensor], available: Tensor | None = None) -> Any:
        """Return what the fusion makes of the embeddings."""
        embeddings = self.encoders(modalities)
        fills = isinstance(self.fusion, InteractionMoE | Specialist) and self.fusion.fill is not None
        if available is None or not fills:
            return self.fusion(*embeddings)
        return self.fusion(*embeddings, available=available)

    def _losses_of_experts(self, output: InteractionOutput, targets: Tensor | SoftTargets) -> dict[str, Tensor]:
        if self.supervise is not None:
            return {"supervision": self.supervise(output, targets)}
        assert isinstance(targets, Tensor)
        s, parts = self.settings, {"task": self._task_loss(output.prediction, targets)}
        if output.interaction_loss is not None:
            parts["interaction"] = s.interaction_weight * output.interaction_loss
        if s.experts_weight:
            parts["experts"] = s.experts_weight * self._each_loss(output.expert_predictions, targets)
        return parts

    def _task_loss(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return task_loss(self.task, prediction, targets, self.settings)

    def _each_loss(self, each: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([self._task_loss(prediction, targets) for prediction in each.unbind(1)]).mean()


def task_loss(task: Task, prediction: Tensor, targets: Tensor, settings: Settings) -> Tensor:
    """Return cross-entropy, binary cross-entropy, or the smooth L1 or squared error, in float32.

    Args:
        task: which task.
        prediction: (B, C).
        targets: (B,) classes, or (B, C): of classes, probabilities.
        settings: the class weights, and which loss a regression has.

    Example:
        >>> task_loss("regression", torch.tensor([[3.0]]), torch.tensor([[1.0]]), Settings())
        tensor(1.5000)
    """
    prediction = prediction.float()
    if task == "classification":
        weights = prediction.new_tensor(settings.class_weights) if settings.class_weights else None
        return F.cross_entropy(prediction, targets, weights)
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(prediction, targets)
    return (F.smooth_l1_loss if settings.criterion == "smooth_l1" else F.mse_loss)(prediction, targets)


def build_learner(
    dataset: str, data: MultimodalData, fusion: FusionName, method: Method, settings: Settings
) -> Learner:
    """Build the model of a run, its parameters drawn from torch's generator.

    Args:
        dataset: name of the data set.
        data: the data.
        fusion: name of the fusion.
        method: what is made of it.
        settings: the method's settings.
    """
    names, n_outputs = data.modality_names, len(data.output_names)

    def encoders() -> Encoders:
        return Encoders(dataset, data.shapes, settings)

    shared = encoders()
    fuse = fusion_factory(fusion, settings, n_modalities=len(names), n_tokens=shared.n_tokens, n_outputs=n_outputs)
    if method.kind == "vanilla":
        return Learner(shared, fuse(), None, data.task, settings)

    def encode_and_fuse() -> nn.Module:
        return _Encoded(encoders(), fuse())

    own = settings.own_encoders
    build, before = (encode_and_fuse, nn.Identity()) if own else (fuse, shared)
    widths = [shape[-1] if own else settings.hidden_dim for shape in data.shapes]
    if method.kind == "ensemble":
        return Learner(before, Ensemble(build, len(names) + 2), None, data.task, settings)
    gaps = not all(bool(split.available.all()) for split in data.splits.values())
    experts = interaction_moe(build, settings, data.task, modality_names=names, feature_dims=widths, gaps=gaps)
    supervise = None
    if settings.computed:
        supervise = InteractionSupervision(lambda outputs, targets: task_loss(data.task, outputs, targets, settings))
    return Learner(before, experts, supervise, data.task, settings)


def build_specialist(
    dataset: str, data: MultimodalData, fusion: FusionName, modality: int | None, settings: Settings
) -> Learner:
    """Build what a model with computed weights learns from: a network that predicts from one modality, None for all.

    Args:
        dataset: name of the data set.
        data: the data.
        fusion: name of the fusion.
        modality: number of the modality.
        settings: those of the model.
    """
    names, n_outputs = data.modality_names, len(data.output_names)
    encoders = Encoders(dataset, data.shapes, settings)
    fuse = fusion_factory(fusion, settings, n_modalities=len(names), n_tokens=encoders.n_tokens, n_outputs=n_outputs)
    specialist = Specialist(fuse, len(names), modality, modality_names=names)
    return Learner(encoders, specialist, None, data.task, replace(settings, computed=False))


class _Encoded(nn.Module):
    """A fusion with encoders of its own."""

    def __init__(self, encoders: Encoders, fusion: nn.Module) -> None:
        super().__init__()
        self.encoders, self.fusion = encoders, fusion

    def forward(self, *modalities: Tensor) -> Tensor | BackboneOutput:
        output: Tensor | BackboneOutput = self.fusion(*self.encoders(modalities))
        return output
