"""The stages of fitting an `MMoE`, each a small function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._common.modalities import Modality
from i2moe.categorization import Categories
from i2moe.mmoe.fitting.data import TrainingData, check_categories, check_some_unambiguous
from i2moe.mmoe.fitting.folds import cross_predict
from i2moe.mmoe.fitting.running import Stage
from i2moe.mmoe.parts.parts import Parts
from i2moe.mmoe.parts.predictors import Predictor, predict
from i2moe.mmoe.parts.routing import train_router
from i2moe.mmoe.parts.training import OnEpoch, select

__all__ = ["stages_of"]


def stages_of(parts: Parts, data: TrainingData) -> list[Stage]:
    """List all stages: classifiers, baseline, categories, experts, router."""
    unimodal = [
        _predictor_stage(
            data,
            f"unimodal/{parts.modality_names[i]}",
            partial(parts.factories.build_unimodal, i),
            (data.modalities[i],),
            partial(parts.unimodal.__setitem__, i),
        )
        for i in range(len(parts.unimodal))
    ]
    install_baseline = partial(setattr, parts, "baseline")
    experts = [_expert_stage(parts, data, k) for k in range(len(parts.expert_names))]
    return [
        *unimodal,
        _predictor_stage(data, "baseline", parts.factories.build_baseline, data.modalities, install_baseline),
        _categories_stage(parts, data),
        *experts,
        _router_stage(parts, data),
    ]


def _predictor_stage(
    data: TrainingData,
    name: str,
    build: Callable[[], Predictor],
    modalities: tuple[Modality, ...],
    install: Callable[[nn.Module], None],
) -> Stage:
    """Train a predictor on all samples; its predictions on held-out folds go to `data.held_out`."""

    def run(on_epoch: OnEpoch, generator: torch.Generator) -> dict[str, Any]:
        predictor, data.held_out[name] = cross_predict(
            lambda: build().to(data.device),
            modalities,
            data.target,
            data.recipe.training,
            n_folds=data.recipe.n_folds,
            groups=data.groups,
            generator=generator,
            on_epoch=on_epoch,
            name=name,
        )
        install(predictor)
        return {"state": predictor.state_dict(), "predictions": data.held_out[name]}

    def restore(result: dict[str, Any]) -> None:
        install(_load(build().to(data.device), result["state"], name))
        data.held_out[name] = result["predictions"].to(data.device)

    return Stage(name, run, restore)


def _categories_stage(parts: Parts, data: TrainingData) -> Stage:
    def run(on_epoch: OnEpoch, generator: torch.Generator) -> dict[str, Any]:
        categories = data.categories
        if categories is None:
            categories = _categorize(parts, data)
            check_categories(categories, len(data.target), parts.expert_names)
            check_some_unambiguous(categories)
        install(categories)
        return dict(vars(categories))

    def install(categories: Categories) -> None:
        categories = parts.categories = categories.to(data.device)
        parts.fallback = _too_rare(parts, data, categories)
        rare = [name for name, is_rare in zip(parts.expert_names, parts.fallback.tolist(), strict=True) if is_rare]
        if rare:
            counts = dict(zip(parts.expert_names, _unambiguous(categories).count().tolist(), strict=True))
            warnings.warn(
                f"every category should have {data.recipe.min_samples} samples and two classes for an expert, "
                f"however {rare} have not (samples: {counts}); the baseline predicts in their place",
                UserWarning,
                stacklevel=2,
            )

    return Stage("categories", run, lambda result: install(Categories(**{**result, "names": tuple(result["names"])})))


def _categorize(parts: Parts, data: TrainingData) -> Categories:
    unimodal = data.unimodal
    if unimodal is None:
        unimodal = torch.stack([data.held_out[f"unimodal/{name}"] for name in parts.modality_names], dim=1)
    multimodal = data.held_out["baseline"] if data.multimodal is None else data.multimodal
    return parts.categorize(unimodal, multimodal, data.target)


def _expert_stage(parts: Parts, data: TrainingData, k: int) -> Stage:
    recipe, name = data.recipe, f"expert/{parts.expert_names[k]}"

    def run(on_epoch: OnEpoch, generator: torch.Generator) -> dict[str, Any]:
        assert parts.categories is not None
        expert = parts.factories.build_expert(k, parts.baseline).to(data.device)
        parts.experts[k] = expert
        if bool(parts.fallback[k]):
            return {}
        own = ((parts.categories.category == k) & ~parts.categories.ambiguous).nonzero()[:, 0]
        training = recipe.fine_tuning if parts.factories.experts is None else recipe.training
        modalities, target = select(data.modalities, own), data.target[own]
        expert.fit(modalities, target, training, generator=generator, on_epoch=on_epoch)
        predict(expert, select(modalities, torch.arange(1)), name)  # refuses an expert that cannot answer
        return {"state": expert.state_dict()}

    def restore(result: dict[str, Any]) -> None:
        expert = parts.factories.build_expert(k, parts.baseline).to(data.device)
        parts.experts[k] = _load(expert, result["state"], name) if result else expert

    return Stage(name, run, restore)


def _router_stage(parts: Parts, data: TrainingData) -> Stage:
    def build() -> nn.Module | None:
        parts.router = parts.factories.build_router()
        return parts.router.to(data.device) if isinstance(parts.router, nn.Module) else None

    def run(on_epoch: OnEpoch, generator: torch.Generator) -> dict[str, Any]:
        router, categories = build(), parts.categories
        assert categories is not None
        if router is None:
            return {}
        unambiguous = (~categories.ambiguous).nonzero()[:, 0]
        train_router(
            router,
            select(data.modalities, unambiguous),
            categories.category[unambiguous],
            len(parts.expert_names),
            data.recipe.routing,
            gamma=data.recipe.gamma,
            balance=data.recipe.balance,
            generator=generator,
            on_epoch=on_epoch,
        )
        return {"state": router.state_dict()}

    def restore(result: dict[str, Any]) -> None:
        router = build()
        if router is not None:
            _load(router, result["state"], "router")

    return Stage("router", run, restore)


def _unambiguous(categories: Categories) -> Categories:
    return categories[~categories.ambiguous]


def _too_rare(parts: Parts, data: TrainingData, categories: Categories) -> Tensor:
    """Say of each category (K,) whether it cannot have an expert."""
    unambiguous = _unambiguous(categories)
    rare = unambiguous.count() < max(data.recipe.min_samples, 1)
    if parts.objective.task == "classification":
        target = data.target[~categories.ambiguous]
        rare |= (unambiguous.count(target, parts.objective.n_outputs) > 0).sum(1) < 2
    return rare


def _load(module: nn.Module, state: dict[str, Any], name: str) -> nn.Module:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint of {name!r} must fit what its factory builds, however it does not: {error}; "
            "use another folder for another model"
        ) from error
    return module.eval()
