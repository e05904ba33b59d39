"""Building the experts from the caller's factory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from numbers import Integral

from torch import nn
from torch.nn.parameter import is_lazy

from i2moe.moe.experts.bank import Execution, ExpertBank
from i2moe.moe.experts.shared import SharedExperts
from i2moe.moe.experts.tied import TiedExperts

__all__ = ["build_backbones", "make_experts"]

_LARGE = 5_000_000
"""Parameters that a fusion seldom has, and encoders do."""


def make_experts(
    backbone_factory: Callable[[], nn.Module],
    names: tuple[str, ...],
    members: int | None,
    *,
    tied: bool,
    execution: Execution,
    checkpoint: bool,
) -> ExpertBank | SharedExperts:
    """Build the experts, each a backbone of its own, or all sharing one.

    Args:
        backbone_factory: builds a backbone.
        names: the E names.
        members: members of each expert, which then share one backbone's weights; None for backbones of their own.
        tied: whether all have the same members, see `TiedExperts`.
        execution: as for `ExpertBank`.
        checkpoint: as for `ExpertBank`.

    Raises:
        TypeError: if the factory is no function, or returns no module.
        ValueError: if it returns the same module twice, or `members` is out of range.
    """
    what = [f"expert {name!r}" for name in names]
    if members is None:
        bank = ExpertBank(build_backbones(backbone_factory, what), names, execution=execution, checkpoint=checkpoint)
        _warn_of_copies(bank)
        return bank
    if not isinstance(members, int | Integral) or members < 1 or execution != "auto":
        raise ValueError(
            f"members must be an integer of at least 1, with execution='auto', however they are {members!r} with "
            f"{execution!r}"
        )
    (backbone,) = build_backbones(backbone_factory, what[:1])
    kind = TiedExperts if tied else SharedExperts
    return kind(backbone, names, int(members), checkpoint=checkpoint)


def _warn_of_copies(bank: ExpertBank) -> None:
    """Warn where experts carry so much each that it must be encoders; what they share counts once."""
    sizes = [
        sum(parameter.numel() for parameter in each.parameters() if not is_lazy(parameter)) for each in (bank, bank[0])
    ]
    copied = (sizes[0] - sizes[1]) / max(len(bank) - 1, 1)
    if copied > _LARGE:
        warnings.warn(
            f"experts should hold the fusion alone, however each of the {len(bank)} has {copied / 1e6:.0f} million "
            "parameters of its own, which looks like whole encoders; share them with members=1, or put the encoders "
            "before the InteractionMoE, where they run once a sample",
            stacklevel=4,
        )


def build_backbones(backbone_factory: Callable[[], nn.Module], what: Sequence[str]) -> list[nn.Module]:
    """Call the factory once for each module that is wanted, named in words for errors.

    Raises:
        TypeError: if the factory is no function, or returns no module.
        ValueError: if it returns the same module twice.
    """
    if isinstance(backbone_factory, nn.Module) or not callable(backbone_factory):
        raise TypeError(
            "backbone_factory must be a function that builds a backbone, however it is a "
            f"{type(backbone_factory).__name__}; pass `lambda: MyFusion(...)`, called once per expert"
        )
    # NOTE[DIFF] experts start different; in the released code they start as copies of one module.
    backbones = [backbone_factory() for _ in what]
    for each, backbone in zip(what, backbones, strict=True):
        if not isinstance(backbone, nn.Module):
            raise TypeError(
                f"backbone_factory must return a torch.nn.Module, however for {each} it returned a "
                f"{type(backbone).__name__}"
            )
    if len({id(backbone) for backbone in backbones}) < len(backbones):
        raise ValueError(
            "backbone_factory must return a new module at each call, however it returned the same one twice; "
            "build the module inside: `lambda: MyFusion(...)`"
        )
    return backbones
