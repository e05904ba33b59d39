"""Training data: what an `MMoE` is fitted to, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from i2moe._common.modalities import Modality, leaves
from i2moe.categorization import Categories
from i2moe.mmoe.fitting.recipe import Recipe
from i2moe.mmoe.fitting.running import fingerprint_of
from i2moe.mmoe.parts.objectives import Objective
from i2moe.mmoe.parts.parts import Modalities, Parts

__all__ = ["TrainingData", "check_categories", "check_some_unambiguous", "read_data"]


@dataclass(frozen=True)
class TrainingData:
    """The samples, what is already known about them, and what the stages find out.

    Args:
        modalities: M modalities of N samples.
        target: (N,) classes or (N, C) values.
        recipe: how each part is trained.
        unimodal: (N, M, C) predictions, where given.
        multimodal: (N, C) predictions, where given.
        groups: (N,), where given.
        categories: where given.
        held_out: (N, C) predictions on held-out folds, by the stage that made them.
    """

    modalities: tuple[Modality, ...]
    target: Tensor
    recipe: Recipe
    unimodal: Tensor | None = None
    multimodal: Tensor | None = None
    groups: Tensor | None = None
    categories: Categories | None = None
    held_out: dict[str, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the data is."""
        return leaves(self.modalities)[0].device

    def fingerprint(self, objective: Objective) -> dict[str, str]:
        """Hash the data and the settings, to recognize a checkpoint."""
        known = {"unimodal": self.unimodal, "multimodal": self.multimodal, "groups": self.groups}
        tensors: dict[str, list[Tensor]] = {"modalities": leaves(self.modalities), "target": [self.target]}
        tensors |= {name: [values] for name, values in known.items() if values is not None}
        if self.categories is not None:
            tensors["categories"] = [self.categories.category, self.categories.ambiguous]
        return fingerprint_of(tensors) | {"recipe": repr(self.recipe), "objective": repr(objective)}


def read_data(
    parts: Parts,
    modalities: Modalities,
    target: Any,
    recipe: Recipe | None,
    known: Mapping[str, Any],
    categories: Categories | None,
) -> TrainingData:
    """Turn the arguments of `MMoE.fit` into training data.

    Args:
        parts: what will be trained.
        modalities: see `MMoE.fit`, as `target`, `recipe` and `categories`.
        target: see there.
        recipe: see there.
        known: what is given of "unimodal" and "multimodal" predictions and "groups".
        categories: see there.

    Raises:
        TypeError: if the target or the recipe is of another type.
        ValueError: if something does not fit the samples or the task.
    """
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, however it is {recipe!r}; Recipe(Training(n_epochs=...))")
    bound = parts.bind((modalities,))
    target = parts.to_tensor(target)
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor or an array, however it is a {type(target).__name__}")
    target = parts.objective.check_target(target, leaves(bound)[0].shape[0])
    given: dict[str, Any] = {name: parts.to_tensor(values) for name, values in known.items()}
    data = TrainingData(bound, target, recipe, **given, categories=categories)
    _check_sources(parts, data)
    _check_known(parts, data)
    return data


def _check_sources(parts: Parts, data: TrainingData) -> None:
    sources = {
        "unimodal classifiers": len(parts.unimodal) > 0,
        "unimodal_predictions": data.unimodal is not None,
        "categories": data.categories is not None,
    }
    if sum(sources.values()) != 1:
        given = [name for name, there in sources.items() if there]
        raise ValueError(
            "categories must come from one source, unimodal classifiers (MMoE(unimodal=...)), "
            f"unimodal_predictions or categories, however {given or 'none'} are given"
        )


def _check_known(parts: Parts, data: TrainingData) -> None:
    n_samples = len(data.target)
    if data.unimodal is not None:
        if data.unimodal.ndim != 3 or data.unimodal.shape[1] != parts.n_modalities:
            raise ValueError(
                f"unimodal_predictions must be (N, M, C) with M = {parts.n_modalities}, "
                f"however they are {tuple(data.unimodal.shape)}"
            )
        for i, predictions in enumerate(data.unimodal.unbind(1)):
            parts.objective.check_predictions(predictions, n_samples, f"unimodal_predictions of modality {i}")
    if data.multimodal is not None:
        parts.objective.check_predictions(data.multimodal, n_samples, "multimodal_predictions")
    if data.categories is not None:
        check_categories(data.categories, n_samples, parts.expert_names)
        check_some_unambiguous(data.categories)
    if data.groups is not None and tuple(data.groups.shape) != (n_samples,):
        raise ValueError(
            f"groups must be ({n_samples},), one integer per sample, however they are {tuple(data.groups.shape)}"
        )


def check_categories(categories: Categories, n_samples: int, names: tuple[str, ...]) -> None:
    """Check that categories are those of the experts and of the samples."""
    if tuple(categories.names) != names:
        raise ValueError(
            f"categories must be called {names}, like the experts, however they are {tuple(categories.names)}; "
            "give MMoE the categorizer's names with category_names"
        )
    if len(categories) != n_samples:
        raise ValueError(f"there must be one category per sample, however {n_samples} samples have {len(categories)}")


def check_some_unambiguous(categories: Categories) -> None:
    """Check that there are samples to train experts and router on."""
    if bool(categories.ambiguous.all()):
        raise ValueError(
            f"at least one sample must not be ambiguous, however all {len(categories)} are; "
            "lower the categorizer's margin"
        )
