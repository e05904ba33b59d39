"""InteractionLosses: the loss of every expert, from the views of all.

An expert predicts every sample under V = 1 + M views: view 0 sees all modalities, view j sees modality j - 1 replaced.

Source: I2MoE (ICML 2025), section 3, for classification; the regression forms are ours, see `InteractionLosses`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from i2moe._common.checks import check_positive
from i2moe._common.means import view_weights
from i2moe._common.names import Interaction
from i2moe._common.tasks import Task, check_task
from i2moe.losses.formulas import (
    cosine_redundancy,
    cosine_synergy,
    difference_uniqueness,
    hinge_synergy,
    squared_redundancy,
    triplet_uniqueness,
)

__all__ = ["Interaction", "InteractionLosses", "Losses"]

Row: TypeAlias = Task | Literal["released_regression"]
"""A row of the table of losses: a task, or the formula that was published for one."""


class Losses(Protocol):
    """What `InteractionMoE(losses=...)` takes: one scalar per expert from the views of all experts.

    An attribute `on` with the value `"latent"` asks for the views of the latents instead of the predictions.
    """

    def __call__(
        self, views: Tensor, interactions: Sequence[Interaction] | None = None, replaced: Tensor | None = None
    ) -> Tensor:
        """Return the losses (E,) of views (B, E, V, ...); see `InteractionLosses.__call__`.

        A model with a `fill` calls them with `available` (B, M) by keyword, too. They then return means over the terms
        that exist. Where these are of a share of the rows, or of one of several processes, the model scales them.
        """


class InteractionLosses:
    r"""Compute the interaction loss of every expert from its views.

    =====================  =====================  ====================  ====================
    task                   uniqueness             synergy               redundancy
    =====================  =====================  ====================  ====================
    "classification"       triplet_uniqueness     cosine_synergy        cosine_redundancy
    "multilabel"           triplet_uniqueness     cosine_synergy        cosine_redundancy
    "regression"           triplet_uniqueness     hinge_synergy         squared_redundancy
    "released_regression"  difference_uniqueness  squared_redundancy    squared_redundancy
    =====================  =====================  ====================  ====================

    Classification is the paper's. For regression the paper gives no formula, and the released code minimizes a
    uniqueness loss without lower bound and a synergy loss identical to redundancy. Our regression form keeps the
    triplet, which needs no direction and so works for one output; pushes synergy apart up to a margin; and pulls
    redundancy together. All three are >= 0. Their margin is in units of the target: standardize the target, or scale
    the margin with it.

    Args:
        task: which row of the table fills the losses not given explicitly.
        on: compare the experts' `"prediction"` or their `"latent"` (which the backbone must then return).
        margin: of the triplet and the hinge.
        dim: the axis of a prediction (B, ...) that holds the outputs to compare: 1 for dense maps (B, C, H, W). The
            other axes are more samples.
        uniqueness: replaces the table's; called with views (B, V, C) and `negative`, see `triplet_uniqueness`.
        synergy: replaces the table's; called with views (B, V, C).
        redundancy: replaces the table's; called with views (B, V, C). Where modalities are missing, the three are
            called with `weights` too.

    Raises:
        ValueError: if `task` or `on` is unknown, `margin` is not positive, or `dim` is the batch's.

    Example:
        >>> views = torch.randn(8, 4, 3, 5)  # 8 samples, 4 experts of 2 modalities, 3 views, 5 classes
        >>> InteractionLosses()(views).shape
        torch.Size([4])
    """

    def __init__(
        self,
        task: Row = "classification",
        *,
        on: Literal["prediction", "latent"] = "prediction",
        margin: float = 1.0,
        dim: int = -1,
        uniqueness: Callable[..., Tensor] | None = None,
        synergy: Callable[..., Tensor] | None = None,
        redundancy: Callable[..., Tensor] | None = None,
    ) -> None:
        if on not in ("prediction", "latent"):
            raise ValueError(f"on must be 'prediction' or 'latent', however it is {on!r}")
        check_positive(margin=margin)
        if dim == 0:
            raise ValueError("dim must be an axis of outputs, however it is 0, the batch's")

        defaults = _defaults(task, margin)
        self.task = task
        self.on = on
        self.margin = margin
        self.dim = dim
        self.uniqueness: Callable[..., Tensor] = uniqueness or defaults[0]
        self.synergy: Callable[..., Tensor] = synergy or defaults[1]
        self.redundancy: Callable[..., Tensor] = redundancy or defaults[2]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task={self.task!r}, on={self.on!r}, margin={self.margin})"

    def __call__(
        self,
        views: Tensor,
        interactions: Sequence[Interaction] | None = None,
        replaced: Tensor | None = None,
        available: Tensor | None = None,
    ) -> Tensor:
        """Return one loss per expert.

        Args:
            views: (B, E, V, C), (B, E, V) or (B, E, V, ..., C): each expert's output under each view. Half precision
                is computed in float32.
            interactions: the E experts' interactions; the uniqueness of each modality in turn, synergy and redundancy
                if not given.
            replaced: (V - 1, M) bool, the modality replaced in each view, where fewer views than modalities were
                drawn. The expected losses are then those of all views.
            available: (B, M) bool, which modalities each sample has; None for all. Interactions are between
                modalities, so samples with a single one are left out, and so are views that replace nothing. A
                modality's uniqueness is about the samples that have it.

        Returns:
            (E,), the losses, each a mean over the samples and views that exist; 0 where none does.

        Raises:
            ValueError: if experts and interactions differ in number, an interaction is unknown, or a loss cannot be
                computed on these views.
        """
        if views.ndim < 3 or views.shape[2] < 2:
            raise ValueError(
                "views must be (B, E, V, ...) with view 0 and at least one replaced view, "
                f"however their shape is {tuple(views.shape)}"
            )
        n_modalities = views.shape[2] - 1 if replaced is None else replaced.shape[1]
        if interactions is None:
            interactions = (*range(n_modalities), "synergy", "redundancy")
        if len(interactions) != views.shape[1]:
            raise ValueError(
                f"views must be (B, E, V, ...) with one expert per interaction {tuple(interactions)}, "
                f"however their shape is {tuple(views.shape)}"
            )
        if any(i not in ("synergy", "redundancy", *range(n_modalities)) for i in interactions):
            raise ValueError(
                f"interactions must be 'synergy', 'redundancy' or the index of a modality below {n_modalities}, "
                f"however they are {tuple(interactions)}"
            )
        views = views.unsqueeze(-1) if views.ndim == 3 else self._outputs_last(views)
        pairs = zip(views.unbind(1), interactions, strict=True)
        return torch.stack([self._one(of_expert, interaction, replaced, available) for of_expert, interaction in pairs])

    def _outputs_last(self, views: Tensor) -> Tensor:
        return views if self.dim == -1 else views.movedim(self.dim + 2 if self.dim > 0 else self.dim, -1)

    def _one(
        self, views: Tensor, interaction: Interaction, replaced: Tensor | None, available: Tensor | None
    ) -> Tensor:
        weights = {}
        if available is not None:
            precision = torch.promote_types(views.dtype, torch.float32)
            weights["weights"] = view_weights(interaction, replaced, available, precision)
        if interaction == "synergy":
            return self.synergy(views, **weights)
        if interaction == "redundancy":
            return self.redundancy(views, **weights)
        if replaced is None:
            return self.uniqueness(views, interaction, **weights)
        # Modality i is among k of M replaced ones with probability k / M.
        negative = replaced.select(1, interaction) * (replaced.shape[1] / replaced.shape[0])
        return self.uniqueness(views, negative, **weights)


def _defaults(task: Row, margin: float) -> tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]:
    check_task(task, (*get_args(Task), "released_regression"))
    triplet = partial(triplet_uniqueness, margin=margin)
    if task in ("classification", "multilabel"):
        return triplet, cosine_synergy, cosine_redundancy
    if task == "regression":  # NOTE[DIFF] see the class's docstring
        return triplet, partial(hinge_synergy, margin=margin), squared_redundancy
    return difference_uniqueness, squared_redundancy, squared_redundancy
