"""What the model returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from i2moe._common.checks import TOLERANCE, check_fraction
from i2moe._common.modalities import as_tensor
from i2moe._common.tasks import Task

__all__ = ["InteractionOutput", "SoftTargets"]


@dataclass(frozen=True, repr=False, eq=False)
class InteractionOutput:
    """What `InteractionMoE` returns.

    Args:
        prediction: (B, ...), the experts' predictions summed by weight.
        weights: (B, E), how much each expert counts for each sample; rows sum to 1.
        expert_predictions: (B, E, ...), each expert's own.
        aux_loss: scalar, mean over the experts of the backbones' own losses; 0 without.
        interaction_loss: scalar, mean over the experts; None where no perturbed views were made (evaluation).
        interaction_losses: expert name -> scalar; empty where no perturbed views were made.
        views: (B', E, V, ...), each expert's prediction with all modalities (view 0) and with modality j - 1
            replaced (view j); None where no perturbed views were made.
        marginals: (B, M, ...), what the model predicts from each modality alone; None without computed weights. Of an
            absent modality: from what fills it.
        available: (B, M) bool, which modalities each sample had; None where the model has no fill.
        member_predictions: (B, E, k, ...), of the members of each expert, whose mean it is; None without members.
            Experts that are one network have the same ones.
        member_marginals: (B, M, k, ...), the same of the marginals; None in training where experts are one network,
            as each marginal is that of one member then.
    """

    prediction: Tensor
    weights: Tensor
    expert_predictions: Tensor
    aux_loss: Tensor
    interaction_loss: Tensor | None = None
    interaction_losses: dict[str, Tensor] = field(default_factory=dict)
    views: Tensor | None = None
    marginals: Tensor | None = None
    available: Tensor | None = None
    member_predictions: Tensor | None = None
    member_marginals: Tensor | None = None

    def __repr__(self) -> str:
        """Show shapes, not numbers."""
        shapes = [f"{name} {tuple(x.shape)}" for name, x in self.to_dict().items() if isinstance(x, Tensor)]
        return f"InteractionOutput({', '.join(shapes)})"

    @property
    def losses(self) -> dict[str, Tensor]:
        """All losses as detached scalars by name, for a log."""
        losses = {f"interaction/{name}": loss.detach() for name, loss in self.interaction_losses.items()}
        if self.interaction_loss is not None:
            losses["interaction"] = self.interaction_loss.detach()
        return losses | {"aux": self.aux_loss.detach()}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are there as a dict, which some trainers need."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor) or value}


torch.export.register_dataclass(InteractionOutput, serialized_type_name="i2moe.InteractionOutput")


class SoftTargets(NamedTuple):
    """What a teacher predicts: probabilities, or the values of a regression.

    Args:
        target: (B, ...), from all modalities that a sample has.
        marginal_target: (B, M, ...), from each modality alone.

    Raises:
        ValueError: by `mixed_with`, if labels do not fit.

    Example:
        >>> soft = SoftTargets(torch.tensor([[0.5, 0.5]]), torch.tensor([[[0.8, 0.2], [0.4, 0.6]]]))
        >>> soft.mixed_with(torch.tensor([0])).target
        tensor([[0.5500, 0.4500]])
    """

    target: Tensor
    marginal_target: Tensor

    def take(self, rows: Tensor | int) -> SoftTargets:
        """Return the targets of some rows, for a batch, or of one, for a data set."""
        return SoftTargets(self.target[rows], self.marginal_target[rows])

    @classmethod
    def cat(cls, parts: Iterable[SoftTargets]) -> SoftTargets:
        """Join the targets of batches."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def mixed_with(self, labels: Tensor, share: float = 0.1) -> SoftTargets:
        """Return the targets moved towards the labels, those of each modality alone too.

        A model that learns a teacher's predictions alone is smoother than the teacher, and predicts a little worse
        where the labels are hard to predict. A share of the labels prevents that.

        Args:
            labels: (B,) classes, or (B, ...) labels or values, as the criterion takes them; a tensor or array.
            share: how far, from 0 for the teacher's predictions to 1 for the labels.

        Raises:
            ValueError: if the labels do not fit the targets or are not finite, or the share is not in [0, 1].

        Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
        """
        target, alone = self
        check_fraction(share=share)
        labels = torch.as_tensor(as_tensor(labels), device=target.device)
        n_classes = target.shape[1] if target.ndim > 1 else 1
        of_classes = (target.shape[0], *target.shape[2:])
        are_classes = n_classes > 1 and labels.shape == of_classes and not labels.is_floating_point()
        if are_classes:
            if not ((labels >= 0) & (labels < n_classes)).all():
                raise ValueError(
                    f"labels that are classes must be from 0 to {n_classes - 1}, however they are from {labels.min()} "
                    f"to {labels.max()}"
                )
            labels = nn.functional.one_hot(labels.long(), n_classes).movedim(-1, 1)
        if labels.shape != target.shape:
            classes = f"classes {of_classes} of an integer type, or " if n_classes > 1 else ""
            raise ValueError(
                f"labels must be {classes}{tuple(target.shape)} as the teacher's predictions are, however they are "
                f"{labels.dtype} {tuple(labels.shape)}"
            )
        labels = labels.to(target.dtype)
        if not labels.isfinite().all():
            raise ValueError("labels must be finite, however some are NaN or infinity; drop these samples")
        if (_sum_to_one(target) and not _sum_to_one(labels)) or (are_classes and not _sum_to_one(target)):
            raise ValueError(
                "the teacher's predictions must be of the labels' task, where classes sum to 1, however predictions "
                f"sum to {target.sum(1).mean():.3g} and labels to {labels.sum(1).mean():.3g}; build the teacher with "
                "the task of the labels"
            )
        return SoftTargets(target.lerp(labels, share), alone.lerp(labels.unsqueeze(1).expand_as(alone), share))

    def check(self, task: Task) -> None:
        """Refuse what cannot be the predictions of a teacher of this task.

        Raises:
            ValueError: if classes do not sum to 1, or probabilities are not in [0, 1].
        """
        low, high = self.target.min(), self.target.max()
        if task != "regression" and (low < 0 or high > 1):
            found = f"are from {low:.3g} to {high:.3g}"
        elif task == "classification" and not _sum_to_one(self.target):
            found = f"sum to {self.target.sum(1).mean():.3g}"
        else:
            return
        raise ValueError(
            f"soft targets must be of the model's task, {task}, however they {found}; build the teacher with this task"
        )


def _sum_to_one(target: Tensor) -> bool:
    return target.ndim > 1 and target.shape[1] > 1 and bool((target.sum(1) - 1).abs().le(TOLERANCE).all())
