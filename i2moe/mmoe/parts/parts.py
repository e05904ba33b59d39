"""Parts: the trainable pieces of an `MMoE`, and how data reaches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from i2moe._common.modalities import Modality, Nested, as_tensor, map_leaves
from i2moe._common.names import interaction_names
from i2moe.categorization import Categories, categorize
from i2moe.mmoe.parts.factories import Factories, Router
from i2moe.mmoe.parts.objectives import Objective
from i2moe.mmoe.parts.predictors import Predictor, predict
from i2moe.moe.inputs import bind, check_modalities

__all__ = ["Categorizer", "Modalities", "Parts"]

Categorizer: TypeAlias = Callable[[Tensor, Tensor, Tensor], Categories]
"""Called with unimodal (B, M, C) and multimodal (B, C) predictions and the target."""

Modalities: TypeAlias = Sequence[Nested] | Mapping[str, Nested]
"""The M modalities in order or by name; arrays and data frames are taken wherever tensors are."""


class Parts(nn.Module):
    """The unimodal classifiers, the baseline, an expert per category and the router.

    Args:
        factories: what builds them.
        modality_names: M names.
        categorizer: see `MMoE`.
    """

    fallback: Tensor
    fitted: Tensor

    def __init__(
        self, factories: Factories, modality_names: tuple[str, ...], categorizer: Categorizer | None = None
    ) -> None:
        super().__init__()
        self.factories = factories
        self.objective: Objective = factories.objective
        self.modality_names = modality_names
        self.expert_names: tuple[str, ...] = factories.expert_names
        self.categorizer = categorizer
        self.categories: Categories | None = None

        self.unimodal: nn.ModuleList = nn.ModuleList(
            factories.build_unimodal(i) for i in range(len(factories.unimodal))
        )
        self.baseline: nn.Module = factories.build_baseline()
        self.experts: nn.ModuleList = nn.ModuleList(
            factories.build_expert(k, self.baseline) for k in range(len(self.expert_names))
        )
        self.router: Router = factories.build_router()
        self.register_buffer("fallback", torch.zeros(len(self.expert_names), dtype=torch.bool))
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def n_modalities(self) -> int:
        """Number of modalities M."""
        return len(self.modality_names)

    def categorize(self, unimodal: Tensor, multimodal: Tensor, target: Tensor) -> Categories:
        """Categorize samples from predictions (B, M, C) and (B, C), as `MMoE.fit` does."""
        if self.categorizer is not None:
            found = self.categorizer(unimodal, multimodal, target)
        else:
            found = categorize(unimodal, multimodal, target, task=self.objective.task)
        numbered = interaction_names([str(i) for i in range(self.n_modalities)])
        return replace(found, names=interaction_names(self.modality_names)) if found.names == numbered else found

    def predict_unimodal(self, modalities: Modalities, *, batch_size: int = 1024) -> Tensor:
        """Return the predictions (B, M, C) of the unimodal classifiers.

        Args:
            modalities: the M modalities of B samples.
            batch_size: samples predicted at a time.

        Raises:
            ValueError: if there are none.
        """
        if not len(self.unimodal):
            raise ValueError(
                "there must be unimodal classifiers, their predictions or categories, however MMoE was built with "
                "unimodal=None; pass unimodal_predictions or categories"
            )
        bound = self.bind((modalities,))
        return torch.stack(
            [
                predict(
                    cast("Predictor", classifier),
                    (bound[i],),
                    f"unimodal/{self.modality_names[i]}",
                    batch_size=batch_size,
                )
                for i, classifier in enumerate(self.unimodal)
            ],
            dim=1,
        )

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> tuple[Modality, ...]:
        """Find the M modalities in the arguments of a call, and check them."""
        modalities, _ = bind(self.modality_names, args, kwargs or {})
        found: tuple[Modality, ...] = tuple(map_leaves(self.to_tensor, modality) for modality in modalities)
        check_modalities(self.modality_names, found)
        return found

    def to_tensor(self, value: Any) -> Any:
        """Turn an array into a tensor on the model's device, in the dtype of layers; leave anything else as it is."""
        found = as_tensor(value)
        if found is value:
            return value
        return found.to(self.fallback.device, torch.get_default_dtype() if found.is_floating_point() else None)
