"""Teacher: the mean of several trained models, which one model learns to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from i2moe._common.checks import check_finite
from i2moe._common.output import InteractionOutput, SoftTargets
from i2moe._common.tasks import Task, probabilities
from i2moe.moe.weights.computed import ComputedReweighter

__all__ = ["SoftTargets", "Teacher"]


class Teacher(nn.Module):
    """Average the predictions of several models with computed weights, as targets for another model.

    Two models trained on the same data differ by their random start, by the order of the samples and by dropout.
    Weights computed from their predictions differ more. The mean of several models has less of this noise. A model that
    learns the mean's predictions, from all modalities and from each alone, keeps most of that, at the size of one. Four
    are enough if each has four `members`.

    Args:
        models: trained models, an `InteractionMoE` with computed weights each, or modules that hold one and return its
            output. They are called in evaluation mode and without gradient.

    Raises:
        TypeError: if they are no list.
        ValueError: if there is no model, or one has no computed weights, or their tasks or modalities differ.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.

    Example:
        >>> from i2moe import InteractionMoE, InteractionSupervision
        >>> def make():
        ...     return InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, reweighter="computed")
        >>> image, text = torch.randn(16, 8), torch.randn(16, 4)
        >>> teacher = Teacher([make(), make()])  # trained, in earnest
        >>> student, supervise = make(), InteractionSupervision(nn.functional.cross_entropy)
        >>> loss = supervise(student(image, text), teacher(image, text))
        >>> loss.backward()
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not isinstance(models, list | tuple | nn.ModuleList):
            raise TypeError(f"models must be a list of models, however they are of type {type(models).__name__}")
        models = list(models)
        kinds = [_kind_of(model) for model in models]
        if len(set(kinds)) != 1:
            raise ValueError(
                f"models must be at least one, all of one task and of the same modalities, however they are {kinds}; "
                "give those with the student's modality_names, in its order"
            )
        self.task: Task = kinds[0][0]
        self.models: nn.ModuleList = nn.ModuleList(models)

    @torch.no_grad()
    def forward(self, *modalities: Any, **options: Any) -> SoftTargets:
        """Return the mean predictions. The arguments are those of each model, `available=` too where samples lack one.

        They can be computed once, before the student is trained, and kept: `torch.save(tuple(soft), path)`, then
        `SoftTargets(*torch.load(path))`. Those from all modalities are right too for a student that has some of them
        left out in training, as a label is.

        Raises:
            ValueError: if the models differ in what they predict from how many modalities, or a prediction is not
                finite.
        """
        self.eval()
        outputs: list[InteractionOutput] = [model(*modalities, **options) for model in self.models]
        marginals = [out.marginals for out in outputs if out.marginals is not None]
        shapes = {tuple(each.shape) for each in marginals}
        if len(shapes) > 1:
            raise ValueError(
                f"models must all predict (B, M, ...) from each modality alone, however their shapes are {shapes}"
            )
        joint = torch.stack([out.prediction for out in outputs])  # (T, B, ...)
        alone = torch.stack(marginals)  # (T, B, M, ...)
        soft = SoftTargets(
            probabilities(self.task, joint, dim=2).mean(0), probabilities(self.task, alone, dim=3).mean(0)
        )
        check_finite("the models' predictions", *soft)
        return soft


def _kind_of(model: nn.Module) -> tuple[Task, tuple[str, ...]]:
    """Return the task and the modalities' names of the `InteractionMoE` that a model is or holds."""
    for module in model.modules():
        reweighter = getattr(module, "reweighter", None)
        if isinstance(reweighter, ComputedReweighter):
            names: Any = module.modality_names
            return reweighter.task, names
    raise ValueError(
        "models must hold an InteractionMoE with computed weights each, however one is of type "
        f"{type(model).__name__} and does not; build it with reweighter='computed'"
    )
