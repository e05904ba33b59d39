"""Names of modalities and experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from i2moe.losses import Interaction

__all__ = ["check_names", "group_arguments", "select_experts"]


def check_names(n_modalities: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the modalities' names, checked; their numbers where none are given."""
    if not isinstance(n_modalities, int):
        raise TypeError(f"n_modalities must be an int, however it is {n_modalities!r}")
    if n_modalities < 2:
        raise ValueError(f"n_modalities must be at least 2 for modalities to interact, however it is {n_modalities}")
    if names is None:
        return tuple(str(i) for i in range(n_modalities))
    names = tuple(names)
    if "available" in names:
        raise ValueError("modality_names must not be 'available', the keyword for the mask, however one is; rename it")
    if (
        len(names) != n_modalities
        or len(set(names)) != n_modalities
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise ValueError(
            f"modality_names must be {n_modalities} different, not empty strings (n_modalities={n_modalities}), "
            f"however they are {names}"
        )
    return names


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


def select_experts(
    modality_names: tuple[str, ...], experts: Literal["all"] | Sequence[str]
) -> tuple[tuple[str, ...], tuple[Interaction, ...]]:
    """Return the names and interactions of the experts asked for."""
    uniqueness = [f"uniqueness/{name}" for name in modality_names]
    known: dict[str, Interaction] = {name: i for i, name in enumerate(uniqueness)}
    known |= {"synergy": "synergy", "redundancy": "redundancy"}
    if experts == "all":
        return tuple(known), tuple(known.values())

    wanted: list[str] = []
    for name in [experts] if isinstance(experts, str) else experts:
        wanted += uniqueness if name == "uniqueness" else [name]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted or len(set(wanted)) != len(wanted):
        raise ValueError(
            f"experts must be 'all' or some of {(*known, 'uniqueness')}, each once, however they are {experts!r}"
        )
    selected = {name: interaction for name, interaction in known.items() if name in wanted}
    return tuple(selected), tuple(selected.values())
