"""Factories: what builds the parts of an `MMoE`, and what the parts are called."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from torch import Tensor, nn

from i2moe._common.modalities import Modality
from i2moe.mmoe.parts.objectives import Objective
from i2moe.mmoe.parts.predictors import Predictor, as_predictor
from i2moe.moe.weights.learned import Reweighter

__all__ = ["Factories", "Router", "check_factories"]

Router: TypeAlias = Callable[[tuple[Modality, ...]], Tensor]
"""Maps M modalities to weights (B, K); usually a module."""


@dataclass(frozen=True)
class Factories:
    """The functions given to `MMoE`, and what they are called with."""

    objective: Objective
    expert_names: tuple[str, ...]
    baseline: Callable[[], object]
    unimodal: tuple[Callable[[], object], ...]
    experts: Callable[[str], object] | None
    router: Callable[[], Router] | None

    def build_unimodal(self, i: int) -> Predictor:
        """Build an untrained classifier of modality i."""
        return as_predictor(self.unimodal[i](), self.objective, f"what unimodal[{i}] builds")

    def build_baseline(self) -> Predictor:
        """Build an untrained baseline."""
        return as_predictor(self.baseline(), self.objective, "what baseline builds")

    def build_expert(self, k: int, baseline: nn.Module) -> Predictor:
        """Build an expert of category k: a copy of the baseline as it is now, or what the factory builds."""
        if self.experts is None:
            return cast("Predictor", copy.deepcopy(baseline))
        return as_predictor(self.experts(self.expert_names[k]), self.objective, "what experts builds")

    def build_router(self) -> Router:
        """Build an untrained router."""
        return Reweighter(len(self.expert_names)) if self.router is None else self.router()


def check_factories(factories: Factories, n_modalities: int) -> Factories:
    """Refuse what is no function, or not one per modality."""
    unimodal = factories.unimodal
    if unimodal and len(unimodal) != n_modalities:
        raise ValueError(
            f"unimodal must hold one function per modality, {n_modalities}, however it holds {len(unimodal)}"
        )
    named: dict[str, object] = {
        "baseline": factories.baseline,
        "experts": factories.experts,
        "router": factories.router,
    }
    named |= {f"unimodal[{i}]": factory for i, factory in enumerate(unimodal)}
    for name, factory in named.items():
        if factory is not None and (isinstance(factory, nn.Module) or not callable(factory)):
            raise TypeError(
                f"{name} must be a function that builds a new model, however it is a {type(factory).__name__}; "
                "pass `lambda: MyModel(...)`"
            )
    return factories
