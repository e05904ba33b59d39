"""What builds the parts of an `MMoE`, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from i2moe._types import Modality

__all__ = ["Factories", "RouterFactory", "category_names_of", "check_factories", "check_names"]

RouterFactory = Callable[[], Callable[[tuple[Modality, ...]], Tensor]]


@dataclass(frozen=True)
class Factories:
    """The functions given to `MMoE`."""

    baseline: Callable[[], object]
    unimodal: tuple[Callable[[], object], ...]
    experts: Callable[[str], object] | None
    router: RouterFactory | None


def check_names(n_modalities: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return M different names, numbers if none are given."""
    if n_modalities < 2:
        raise ValueError(f"n_modalities must be at least 2 for modalities to interact, however it is {n_modalities}")
    found = tuple(str(i) for i in range(n_modalities)) if names is None else tuple(names)
    if len(found) != n_modalities or len(set(found)) != n_modalities:
        raise ValueError(f"modality_names must be {n_modalities} different names, however they are {found}")
    return found


def category_names_of(modality_names: tuple[str, ...], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the categories, those of `categorize` if none are given."""
    if names is None:
        return (*(f"uniqueness/{name}" for name in modality_names), "synergy", "redundancy")
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"category_names must be at least two different names, however they are {tuple(names)}")
    return tuple(names)


def check_factories(
    baseline: Callable[[], object],
    unimodal: Sequence[Callable[[], object]] | None,
    experts: Callable[[str], object] | None,
    router: RouterFactory | None,
    n_modalities: int,
) -> Factories:
    """Refuse what is no function, or not one per modality."""
    if unimodal is not None and len(unimodal) != n_modalities:
        raise ValueError(
            f"unimodal must hold one function per modality, {n_modalities}, however it holds {len(unimodal)}"
        )
    named: dict[str, object] = {"baseline": baseline, "experts": experts, "router": router}
    named |= {f"unimodal[{i}]": factory for i, factory in enumerate(unimodal or ())}
    for name, factory in named.items():
        if factory is not None and (isinstance(factory, nn.Module) or not callable(factory)):
            raise TypeError(
                f"{name} must be a function that builds a new model, however it is a {type(factory).__name__}; "
                "pass `lambda: MyModel(...)`"
            )
    return Factories(baseline, tuple(unimodal or ()), experts, router)
