"""Experts by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from i2moe._common.names import Interaction, interaction_names
from i2moe._common.passes import call_parameters, unwrap

__all__ = ["check_order", "choose_experts", "group_arguments", "order_in_call", "select_experts"]


def group_arguments(
    names: Sequence[str] | Mapping[str, str | Sequence[str]] | None,
) -> dict[str, tuple[str, ...]] | None:
    """Return which arguments of the backbone's call each modality is, where the caller says so; else None.

    Raises:
        ValueError: if a modality has no argument, or an argument is given to two.
    """
    if not isinstance(names, Mapping):
        return None
    groups = {name: (given,) if isinstance(given, str) else tuple(given) for name, given in names.items()}
    arguments = [argument for group in groups.values() for argument in group]
    if not all(groups.values()) or len(set(arguments)) < len(arguments) or "available" in arguments:
        raise ValueError(
            "modality_names must give each modality arguments of its own, none of them 'available', however they are "
            f"{groups}"
        )
    return groups


def order_in_call(called: nn.Module | Callable[..., Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first M positional parameters of a call; the modalities' names where its parameters have others."""
    try:
        parameters = call_parameters(unwrap(called) if isinstance(called, nn.Module) else called)
    except (TypeError, ValueError):  # not written in Python
        return names
    by_position = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(by_position[: len(names)]) if set(names) <= set(parameters) else names


def check_order(names: tuple[str, ...], order: tuple[str, ...], n: int) -> None:
    """Raise a ValueError if some of n modalities by position would get the name of another argument."""
    if order[:n] != names[:n]:
        raise ValueError(
            f"modality_names must be in the order of the model's arguments {order} for modalities by position, however "
            f"they are {names}; name and give them in that order, or give modalities by name"
        )


def select_experts(
    modality_names: tuple[str, ...], experts: str | Sequence[str]
) -> tuple[tuple[str, ...], tuple[Interaction, ...]]:
    """Return the names and interactions of the experts asked for, "all" or some."""
    names = interaction_names(modality_names)
    interactions: tuple[Interaction, ...] = (*range(len(modality_names)), "synergy", "redundancy")
    chosen = names if experts == "all" else choose_experts("experts must be 'all' or", experts, names)
    return chosen, tuple(interactions[names.index(name)] for name in chosen)


def choose_experts(what: str, wanted: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the names of some experts, in the order of those known; "uniqueness" means those of all modalities.

    Args:
        what: start of the error: the argument that they were given as, and what it must be.
        wanted: names, or one.
        known: names to choose from.

    Raises:
        ValueError: if there is none, or one is unknown or given twice.
    """
    uniqueness = [name for name in known if name.startswith("uniqueness/")]
    names: list[str] = []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        names += uniqueness if name == "uniqueness" else [name]
    if not names or len(set(names)) < len(names) or not set(known).issuperset(names):
        raise ValueError(
            f"{what} some of the experts {(*known, 'uniqueness')}, each once, however they are {wanted!r}; "
            "'uniqueness' means those of all modalities"
        )
    return tuple(name for name in known if name in names)
