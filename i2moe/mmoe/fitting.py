"""The stages of fitting an `MMoE`, each a small function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from i2moe._types import Modality, leaves
from i2moe.categorization import Categories
from i2moe.mmoe.folds import cross_predict
from i2moe.mmoe.predictors import Predictor, predict
from i2moe.mmoe.routing import train_router
from i2moe.mmoe.stages import Stage
from i2moe.mmoe.training import OnEpoch, Training, select

if TYPE_CHECKING:
    from i2moe.mmoe.model import MMoE

__all__ = ["Fitting", "Recipe", "check_categories", "stages_of"]


@dataclass(frozen=True)
class Recipe:
    """How an `MMoE` is fitted.

    Args:
        training: of the unimodal classifiers, the baseline, and experts that start from scratch.
        fine_tuning: of experts that start from the baseline.
        routing: of the router.
        n_folds: categories come from predictions on held-out folds, each by classifiers trained on the others: on
            the samples it was trained on a classifier is right too often, and all looks redundant. 1 predicts the
            training samples themselves, as published.
        min_samples: a category with fewer, or with samples of one class only, gets no expert but the baseline.
        gamma: of the router's focal loss.
        balance: of the router's `category_weights`: 0 as frequent as they are, 1 all categories alike.

    Raises:
        ValueError: if a number is out of range.
    """

    training: Training = field(default_factory=Training)
    fine_tuning: Training = field(default_factory=lambda: Training(n_epochs=10, learning_rate=3e-4))
    routing: Training = field(default_factory=Training)
    n_folds: int = 5
    min_samples: int = 20
    gamma: float = 2.0
    balance: float = 1.0

    def __post_init__(self) -> None:
        if self.n_folds < 1 or self.min_samples < 0 or not self.gamma >= 0 or not self.balance >= 0:
            raise ValueError(
                f"a Recipe must have n_folds >= 1, min_samples >= 0, gamma >= 0 and balance >= 0, however it is {self}"
            )


@dataclass(frozen=True)
class Fitting:
    """What the stages work on: the model and the training data, with what is already known about it."""

    model: MMoE
    modalities: tuple[Modality, ...]
    target: Tensor
    recipe: Recipe
    groups: Tensor | None = None
    unimodal: Tensor | None = None
    multimodal: Tensor | None = None
    categories: Categories | None = None
    found: dict[str, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the data is."""
        return leaves(self.modalities)[0].device


def stages_of(fitting: Fitting) -> list[Stage]:
    """List all stages: classifiers, baseline, categories, experts, router."""
    model = fitting.model
    unimodal = [_unimodal_stage(fitting, i) for i in range(len(model.unimodal))]
    experts = [_expert_stage(fitting, k) for k in range(len(model.expert_names))]
    return [*unimodal, _baseline_stage(fitting), _categories_stage(fitting), *experts, _router_stage(fitting)]


def _unimodal_stage(fitting: Fitting, i: int) -> Stage:
    model, name = fitting.model, f"unimodal/{fitting.model.modality_names[i]}"

    def install(predictor: nn.Module) -> None:
        model.unimodal[i] = predictor

    build = partial(model.build_unimodal, i)
    return _predictor_stage(fitting, name, build, (fitting.modalities[i],), install)


def _baseline_stage(fitting: Fitting) -> Stage:
    def install(predictor: nn.Module) -> None:
        fitting.model.baseline = predictor

    return _predictor_stage(fitting, "baseline", fitting.model.build_baseline, fitting.modalities, install)


def _predictor_stage(
    fitting: Fitting,
    name: str,
    build: Callable[[], Predictor],
    modalities: tuple[Modality, ...],
    install: Callable[[nn.Module], None],
) -> Stage:
    """Train a predictor on all samples; its predictions on held-out folds go to `fitting.found`."""

    def run(on_epoch: OnEpoch, generator: torch.Generator) -> dict[str, Any]:
        predictor, fitting.found[name] = cross_predict(
            lambda: build().to(fitting.device),
            modalities,
            fitting.target,
            fitting.recipe.training,
            n_folds=fitting.recipe.n_folds,
            groups=fitting.groups,
            generator=generator,
            on_epoch=on_epoch,
            name=name,
        )
        install(predictor)
        return {"state": predictor.state_dict(), "predictions": fitting.found[name]}

    def restore(result: dict[str, Any]) -> None:
        install(_load(build().to(fitting.device), result["state"], name))
        fitting.found[name] = result["predictions"].to(fitting.device)

    return Stage(name, run, restore)


def _categories_stage(fitting: Fitting) -> Stage:
    model = fitting.model

    def run(on_epoch: OnEpoch, generator: torch.Generator) -> dict[str, Any]:
        categories = fitting.categories
        if categories is None:
            names = [f"unimodal/{name}" for name in model.modality_names]
            unimodal = fitting.unimodal
            if unimodal is None:
                unimodal = torch.stack([fitting.found[name] for name in names], dim=1)
            multimodal = fitting.found["baseline"] if fitting.multimodal is None else fitting.multimodal
            categories = model.categorize(unimodal, multimodal, fitting.target)
        check_categories(categories, len(fitting.target), model.expert_names)
        install(categories)
        return dict(vars(categories))

    def install(categories: Categories) -> None:
        model.categories = categories
        model.fallback = _too_rare(fitting, categories)
        rare = [name for name, missing in zip(model.expert_names, model.fallback.tolist(), strict=True) if missing]
        if rare:
            counts = dict(zip(model.expert_names, _kept(categories).count().tolist(), strict=True))
            warnings.warn(
                f"every category should have {fitting.recipe.min_samples} samples and two classes for an expert, "
                f"however {rare} have not (samples: {counts}); the baseline stands in for them",
                UserWarning,
                stacklevel=2,
            )

    return Stage("categories", run, lambda result: install(Categories(**{**result, "names": tuple(result["names"])})))


def _expert_stage(fitting: Fitting, k: int) -> Stage:
    model, recipe = fitting.model, fitting.recipe
    name = f"expert/{model.expert_names[k]}"

    def run(on_epoch: OnEpoch, generator: torch.Generator) -> dict[str, Any]:
        assert model.categories is not None
        expert = model.build_expert(k).to(fitting.device)
        model.experts[k] = expert
        if bool(model.fallback[k]):
            return {}
        mine = ((model.categories.category == k) & ~model.categories.ambiguous).nonzero()[:, 0]
        training = recipe.fine_tuning if model.fine_tunes else recipe.training
        modalities, target = select(fitting.modalities, mine), fitting.target[mine.to(fitting.target.device)]
        expert.fit(modalities, target, training, generator=generator, on_epoch=on_epoch)
        predict(expert, select(modalities, torch.arange(1)), name)  # refuses an expert that cannot answer
        return {"state": expert.state_dict()}

    def restore(result: dict[str, Any]) -> None:
        expert = model.build_expert(k).to(fitting.device)
        model.experts[k] = _load(expert, result["state"], name) if result else expert

    return Stage(name, run, restore)


def _router_stage(fitting: Fitting) -> Stage:
    model, recipe = fitting.model, fitting.recipe

    def build() -> nn.Module | None:
        model.router = model.build_router()
        return model.router.to(fitting.device) if isinstance(model.router, nn.Module) else None

    def run(on_epoch: OnEpoch, generator: torch.Generator) -> dict[str, Any]:
        router, categories = build(), model.categories
        assert categories is not None
        if router is None:
            return {}
        kept = (~categories.ambiguous).nonzero()[:, 0]
        train_router(
            router,
            select(fitting.modalities, kept),
            categories.category[kept.to(categories.category.device)],
            len(model.expert_names),
            recipe.routing,
            gamma=recipe.gamma,
            balance=recipe.balance,
            generator=generator,
            on_epoch=on_epoch,
        )
        return {"state": router.state_dict()}

    def restore(result: dict[str, Any]) -> None:
        router = build()
        if router is not None:
            _load(router, result["state"], "router")

    return Stage("router", run, restore)


def check_categories(categories: Categories, n_samples: int, names: tuple[str, ...]) -> None:
    """Check that categories are those of the experts and of the samples."""
    if tuple(categories.names) != names:
        raise ValueError(
            f"categories must be called {names}, like the experts, however they are {tuple(categories.names)}; "
            "give MMoE the categorizer's names with category_names"
        )
    if len(categories) != n_samples:
        raise ValueError(f"there must be one category per sample, however {n_samples} samples have {len(categories)}")


def _kept(categories: Categories) -> Categories:
    return categories[~categories.ambiguous]


def _too_rare(fitting: Fitting, categories: Categories) -> Tensor:
    """Say of each category (K,) whether it cannot have an expert."""
    kept = _kept(categories)
    rare = kept.count() < max(fitting.recipe.min_samples, 1)
    if not fitting.target.is_floating_point():
        target = fitting.target.to(categories.category.device)[~categories.ambiguous]
        rare |= (kept.count(target, fitting.model.task.n_outputs) > 0).sum(1) < 2
    return rare.to(fitting.device)


def _load(module: nn.Module, state: dict[str, Any], name: str) -> nn.Module:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint of {name!r} must fit what its factory builds, however it does not: {error}; "
            "use another folder for another model"
        ) from error
    return module.eval()
