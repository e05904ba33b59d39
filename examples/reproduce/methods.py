"""The methods by name: the fusion alone, ensembles of it, and I2MoE with every ablation, all as arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from examples.datasets._interface import Task
from examples.reproduce.settings import Settings
from i2moe import ComputedReweighter, InteractionLosses, InteractionMoE, Reweighter, StaticReweighter
from i2moe.perturbations import Perturbation, as_perturbation

__all__ = ["METHODS", "Method", "find", "interaction_moe"]


@dataclass(frozen=True)
class Method:
    """What is made of a fusion.

    Args:
        kind: the fusion alone, the mean of E of them, or I2MoE.
        what: the method in a few words.
        changes: the settings it changes.
    """

    kind: Literal["vanilla", "ensemble", "i2moe"]
    what: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, settings: Settings) -> Settings:
        """Return the settings with what the method changes."""
        return replace(settings, **self.changes)


_GENTLE = {"experts_weight": 1.0, "interaction_weight": 0.02, "perturbation": "shuffle", "temperature": 5.0}
_COMPUTED = {"computed": True, "members": 4, "average": True, "routing": "sample"}

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "vanilla": Method("vanilla", "the fusion alone"),
        "shared-ensemble": Method("ensemble", "mean of E fusions on the same encoders: I2MoE's parameters"),
        "ensemble": Method("ensemble", "mean of E models, each with its own encoders", {"own_encoders": True}),
        "i2moe": Method("i2moe", "the paper's"),
        "i2moe+experts": Method(
            "i2moe", "each expert learns the task; gentle interaction losses, even weights", _GENTLE
        ),
        "i2moe+encoders": Method("i2moe", "the same, each with its own encoders", {**_GENTLE, "own_encoders": True}),
        "i2moe-computed": Method("i2moe", "experts that share one fusion, with computed weights", _COMPUTED),
        "no-interaction": Method("i2moe", "no interaction loss", {"perturbation": "none"}),
        "latent": Method("i2moe", "losses on the latent", {"compare": "latent"}),
        "global-weight": Method("i2moe", "one learned weight an expert", {"global_weight": True}),
        "two-passes": Method("i2moe", "two modalities replaced a step", {"per_step": 2}),
        "few-rows": Method("i2moe", "perturbed views of a quarter of the batch", {"fraction": 0.25}),
        "synergy-redundancy": Method("i2moe", "no uniqueness experts", {"experts": ("synergy", "redundancy")}),
        "zero": Method("i2moe", "zeros replace a modality", {"perturbation": "zero"}),
        "mean": Method("i2moe", "the batch's mean replaces a modality", {"perturbation": "mean"}),
        "shuffle": Method("i2moe", "another sample's replaces a modality", {"perturbation": "shuffle"}),
        "same-start": Method("i2moe", "experts start as copies of one", {"same_start": True}),
        "no-gate-loss": Method("i2moe", "without the fusion's own loss", {"gate_weight": 0.0}),
        "released-losses": Method("i2moe", "the released code's losses for regression", {"released_losses": True}),
    }
)
"""The methods in the order of the tables; the last twelve are the ablations."""


def find(name: str) -> Method:
    """Return a method.

    Args:
        name: a key of `METHODS`.

    Raises:
        ValueError: if there is no such method.

    Example:
        >>> find("zero").settings(Settings()).perturbation
        'zero'
    """
    if name not in METHODS:
        raise ValueError(f"a method must be one of {', '.join(METHODS)}, however it is {name!r}")
    return METHODS[name]


def interaction_moe(
    build: Callable[[], nn.Module],
    settings: Settings,
    task: Task,
    *,
    modality_names: Sequence[str],
    feature_dims: Sequence[int],
    gaps: bool = False,
) -> InteractionMoE:
    """Return interaction experts of a fusion as the settings say.

    Args:
        build: builds the fusion.
        settings: the method's.
        task: what the outputs mean.
        modality_names: M names.
        feature_dims: widths of what the experts are called with.
        gaps: whether samples lack modalities, for which the settings' fill then stands.
    """
    s, n_modalities = settings, len(modality_names)
    if s.same_start:
        template = build()

        def build_expert() -> nn.Module:
            return copy.deepcopy(template)
    else:
        build_expert = build
    n_experts = n_modalities + 2
    if s.experts:
        n_experts = sum(n_modalities if name == "uniqueness" else 1 for name in s.experts)
    form: Literal["classification", "regression", "released_regression"] = "classification"
    if task == "regression":
        form = "released_regression" if s.released_losses else "regression"
    return InteractionMoE(
        build_expert,
        n_modalities,
        modality_names=modality_names,
        feature_dims=feature_dims if gaps else None,
        reweighter=ComputedReweighter(task) if s.computed else _reweighter(n_experts, feature_dims, s),
        losses=InteractionLosses(form, on=s.compare),
        perturbation=None if s.computed else _perturbation(s),
        members=s.members or None,
        experts=s.experts or "all",
        fill=s.fill if gaps else None,
    )


def _reweighter(n_experts: int, feature_dims: Sequence[int], s: Settings) -> nn.Module:
    if s.global_weight:
        return StaticReweighter(n_experts, temperature=s.temperature)
    return Reweighter(
        n_experts,
        feature_dims,
        hidden_dim=s.reweighter_dim,
        n_layers=s.reweighter_layers,
        dropout=s.reweighter_dropout,
        temperature=s.temperature,
    )


def _perturbation(s: Settings) -> Perturbation | None:
    if s.perturbation == "none":
        return None
    kind = type(as_perturbation(s.perturbation))
    return kind(fraction=s.fraction, per_step=s.per_step)
