"""Names: of modalities, and of the interactions between them; the colors of these in all figures and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from i2moe._common.checks import check_at_least_one

__all__ = [
    "INK",
    "REDUNDANCY",
    "SYNERGY",
    "Interaction",
    "check_modality_names",
    "check_names",
    "expert_colors",
    "interaction_names",
]

Interaction: TypeAlias = int | Literal["synergy", "redundancy"]
"""The interaction of an expert: the index of a modality (its uniqueness), synergy or redundancy."""

# Okabe and Ito's colors, told apart also without seeing red and green.
_UNIQUENESS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#004D40", "#8C6BB1")
SYNERGY, REDUNDANCY, INK = "#D55E00", "#CC79A7", "#333333"


def interaction_names(modality_names: Sequence[str]) -> tuple[str, ...]:
    """Name all interactions between M modalities: ("uniqueness/<name 0>", ..., "synergy", "redundancy")."""
    return (*(f"uniqueness/{name}" for name in modality_names), "synergy", "redundancy")


def check_names(what: str, names: Sequence[str], n: int) -> tuple[str, ...]:
    """Return n names.

    Args:
        what: the argument they were given as.
        names: the names.
        n: number of names.

    Raises:
        ValueError: if there are more or fewer, two are the same, or one is no string or empty.
    """
    if isinstance(names, str | Mapping | set | frozenset):  # of what order?
        raise ValueError(f"{what} must be a list of names, however it is {names!r}")
    found = tuple(str(name) if isinstance(name, str) else name for name in names)  # numpy's strings cannot be loaded
    if len(found) != n or len(set(found)) != n or not all(isinstance(name, str) and name for name in found):
        raise ValueError(f"{what} must be {n} different, not empty strings, however they are {found}")
    return found


def check_modality_names(n_modalities: int, names: Sequence[str] | Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names of M modalities, a mapping's keys; their numbers where none are given.

    Raises:
        TypeError: if `n_modalities` is no integer.
        ValueError: if there are fewer than two modalities, or the names do not fit.
    """
    check_at_least_one(n_modalities=n_modalities)
    if n_modalities < 2:
        raise ValueError(f"n_modalities must be at least 2 for modalities to interact, however it is {n_modalities}")
    if names is None:
        return tuple(str(i) for i in range(n_modalities))
    if "available" in names:
        raise ValueError("modality_names must not be 'available', the keyword for the mask, however one is; rename it")
    found = check_names("modality_names", tuple(names) if isinstance(names, Mapping) else names, n_modalities)
    joined = [name for name in found if "+" in name]
    if joined:
        raise ValueError(
            f"modality_names must not contain '+', which joins names in reports ('image+text'), however {joined} do; "
            "rename them"
        )
    return found


def expert_colors(expert_names: Sequence[str], interactions: Sequence[Interaction] | None = None) -> dict[str, str]:
    """A color per expert: warm for the two joint interactions, the others for uniqueness.

    Args:
        expert_names: the E names.
        interactions: the E interactions, so that a modality keeps its color where the experts of others were pruned;
            None where the uniqueness experts of all modalities are among the names, in order.

    Example:
        >>> expert_colors(("uniqueness/b", "synergy"), (1, "synergy"))
        {'uniqueness/b': '#56B4E9', 'synergy': '#D55E00'}
    """
    joint = {"synergy": SYNERGY, "redundancy": REDUNDANCY}
    if interactions is None:
        unique = [name for name in expert_names if name not in joint]
        interactions = [unique.index(name) if name not in joint else name for name in expert_names]  # type: ignore[misc]
    return {
        name: joint[interaction] if isinstance(interaction, str) else _UNIQUENESS[interaction % len(_UNIQUENESS)]
        for name, interaction in zip(expert_names, interactions, strict=True)
    }
