"""Teachers: networks that predict from one modality or from all, and their mean, which one model learns to predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._common.checks import check_finite
from i2moe._common.modalities import BackboneOutput, as_backbone_output, where_present
from i2moe._common.names import check_modality_names
from i2moe._common.output import SoftTargets
from i2moe._common.passes import evaluating, sizes_parameters
from i2moe._common.tasks import Task, check_task, probabilities
from i2moe.missing import Fill
from i2moe.moe.available import Fills, bind_and_fill, make_fills
from i2moe.moe.experts.building import build_backbones
from i2moe.moe.names import group_arguments, order_in_call

__all__ = ["SoftTargets", "Specialist", "Teacher"]


class Specialist(nn.Module):
    """A backbone that predicts from one modality, or from all; what it does not look at is filled.

    It is called as an `InteractionMoE` of the same backbone, and trained like any network, by the task's loss.

    Args:
        backbone_factory: makes the backbone.
        n_modalities: number of modalities M, at least 2.
        modality: number of the one that it predicts from, 0 to M - 1; None for all.
        modality_names: as for `InteractionMoE`.
        fill: what fills the others, and what a sample lacks: as for `InteractionMoE`.

    Raises:
        TypeError: if the factory is no callable or returns no module.
        ValueError: if an argument is out of range or unknown.

    Example:
        >>> alone = Specialist(lambda: nn.Bilinear(8, 4, 3), 2, modality=0)
        >>> image = torch.randn(16, 8)
        >>> bool((alone(image, torch.randn(16, 4)) == alone(image, torch.randn(16, 4))).all())
        True
    """

    def __init__(
        self,
        backbone_factory: Callable[[], nn.Module],
        n_modalities: int,
        modality: int | None = None,
        *,
        modality_names: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        fill: str | Sequence[str | Fill] = "zero",
    ) -> None:
        super().__init__()
        self.modality_names = check_modality_names(n_modalities, modality_names)
        if modality is not None and modality not in range(n_modalities):
            raise ValueError(
                f"modality must be a number from 0 to {n_modalities - 1}, or None, however it is {modality!r}"
            )
        self.arguments = group_arguments(modality_names)
        self.modality = modality
        (self.backbone,) = build_backbones(backbone_factory, ("the specialist",))
        self._order = order_in_call(self.backbone, self.modality_names)
        fills = make_fills(fill, n_modalities, None)
        assert fills is not None
        self.fill: Fills = fills

    @sizes_parameters
    def forward(self, *args: Any, available: Tensor | None = None, **kwargs: Any) -> Tensor | BackboneOutput:
        """Return what the backbone predicts, (B, ...); 0 for a sample that lacks the one modality: it teaches nothing.

        Args:
            *args: as for an `InteractionMoE`.
            available: as for an `InteractionMoE`.
            **kwargs: as for an `InteractionMoE`.

        Returns:
            The prediction, or a `BackboneOutput` with it where the backbone returns one.
        """
        modalities, arrange, present = bind_and_fill(
            self.arguments or self.modality_names, self._order, self.fill, args, kwargs, available
        )
        if self.modality is not None:
            modalities = self.fill.each_alone(self.modality_names, modalities)[self.modality]
        args, kwargs = arrange(modalities)
        output = as_backbone_output(returned := self.backbone(*args, **kwargs), "the backbone")
        prediction = output.prediction
        if self.modality is not None and present is not None:
            prediction = where_present(present[:, self.modality], prediction, prediction.new_zeros(()))
        return replace(output, prediction=prediction) if isinstance(returned, BackboneOutput) else prediction

    def extra_repr(self) -> str:
        """Show what it predicts from."""
        return "from all" if self.modality is None else f"from {self.modality_names[self.modality]!r}"


class Teacher(nn.Module):
    """Average the predictions of specialists, as targets for one model.

    Two models trained on the same data differ by their random start, by the order of the samples and by dropout.
    Weights computed from their predictions differ more. The mean of several networks has less of this noise. And a
    network that learns one thing, to predict from one modality or from all, does that better than one that learns both.
    A model that learns these means keeps most of it, at the size of one. Eight of each kind are enough.

    Args:
        specialists: each a trained `Specialist`, or a module that holds one and returns its output: at least one of
            each modality alone, and one of all. They are called in evaluation mode and without gradient.
        task: what they predict: "classification" (logits of classes), "multilabel" (logits of labels) or "regression".

    Raises:
        TypeError: if they are no list.
        ValueError: if one holds no `Specialist`, their modalities differ, or one kind is missing.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.

    Example:
        >>> from i2moe import InteractionMoE, InteractionSupervision
        >>> def make():
        ...     return nn.Bilinear(8, 4, 3)
        >>> teacher = Teacher([Specialist(make, 2, modality) for modality in (0, 1, None)], "classification")
        >>> image, text = torch.randn(16, 8), torch.randn(16, 4)  # and specialists that were trained, in earnest
        >>> student = InteractionMoE(make, 2, reweighter="computed")
        >>> supervise = InteractionSupervision(nn.functional.cross_entropy)
        >>> loss = supervise(student(image, text), teacher(image, text))
        >>> loss.backward()
    """

    def __init__(self, specialists: Sequence[nn.Module], task: Task) -> None:
        super().__init__()
        check_task(task)
        if not isinstance(specialists, list | tuple | nn.ModuleList):
            raise TypeError(f"specialists must be a list of modules, however they are a {type(specialists).__name__}")
        found = [_specialist_in(model) for model in specialists]
        names = {each.modality_names for each in found}
        if len(names) > 1:
            raise ValueError(f"specialists must have the same modalities, in one order, however they have {names}")
        self.task: Task = task
        self.specialists = nn.ModuleList(specialists)
        self._kinds = [each.modality for each in found]
        self._modalities = range(len(found[0].modality_names) if found else 0)
        missing = [kind for kind in (*self._modalities, None) if kind not in self._kinds]
        if missing:
            raise ValueError(
                "specialists must hold one of each modality alone, and one of all (None), however there is none of "
                f"{missing}; train Specialist(backbone_factory, n_modalities, modality) of these too"
            )

    def forward(self, *modalities: Any, **options: Any) -> SoftTargets:
        """Return the mean predictions. The arguments are those of each model, `available=` too where samples lack one.

        They can be computed once, before the student is trained, and kept: `torch.save(tuple(soft), path)`, then
        `SoftTargets(*torch.load(path))`. Those from all modalities are right too for a student that has some of them
        left out in training, as a label is.

        Raises:
            ValueError: if the specialists' predictions differ in shape, are not of the task, or one is not finite.
        """
        with evaluating(self):
            outputs = [as_backbone_output(model(*modalities, **options), "a specialist") for model in self.specialists]
        shapes = {tuple(output.prediction.shape) for output in outputs}
        if len(shapes) > 1:
            raise ValueError(f"specialists must predict the same shape (B, ...), however their shapes are {shapes}")
        shape = outputs[0].prediction.shape
        if self.task == "classification" and (len(shape) < 2 or shape[1] < 2):
            raise ValueError(
                "specialists of a classification must predict (B, C), logits of at least two classes, however they "
                f"predict {tuple(shape)}; give the teacher the task 'multilabel' or 'regression'"
            )
        each = probabilities(self.task, torch.stack([output.prediction for output in outputs]), dim=2)  # (S, B, ...)

        def mean_of(kind: int | None) -> Tensor:
            return each[[other == kind for other in self._kinds]].mean(0)

        soft = SoftTargets(mean_of(None), torch.stack([mean_of(modality) for modality in self._modalities], dim=1))
        check_finite("the specialists' predictions", *soft)
        return soft


def _specialist_in(model: nn.Module) -> Specialist:
    for module in model.modules():
        if isinstance(module, Specialist):
            return module
    raise ValueError(
        f"specialists must each be or hold a Specialist, however one is of type {type(model).__name__}; "
        "wrap the backbone: Specialist(backbone_factory, n_modalities, modality)"
    )
