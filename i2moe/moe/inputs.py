"""How a model is called: every way its backbone can be, checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from i2moe._common.modalities import Modality, leaves, sequence_like
from i2moe.moe.names import check_order

__all__ = ["Arrange", "bind", "bind_groups", "check_modalities"]

Arrange: TypeAlias = Callable[[Sequence[Modality]], tuple[tuple[Any, ...], dict[str, Any]]]
"""Turns modalities in order back into the arguments of the call they came from."""


def bind(
    names: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    optional: bool = False,
    order: tuple[str, ...] | None = None,
) -> tuple[tuple[Modality, ...], Arrange]:
    """Find the modalities, in the order of `names`, in the arguments of a call.

    The call may be positional, by keyword, both, or pass one list, tuple or dict. Where modalities are optional, those
    given by name may be left out and are None. `order` is that of the backbone's parameters, if it is known.

    Raises:
        ValueError: if modalities are missing, unknown or too many, or go by position in another order than `names`.
    """
    if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
        return _by_name(names, args[0], optional), lambda modalities: ((dict(zip(names, modalities, strict=True)),), {})
    if len(args) == 1 and not kwargs and isinstance(args[0], list | tuple):
        return _counted(names, tuple(args[0])), lambda modalities: ((sequence_like(args[0], modalities),), {})
    n = len(args)
    if order is not None:
        check_order(names, order, n)
    if not kwargs:
        return _counted(names, args), lambda modalities: (tuple(modalities), {})

    twice = [name for name in names[:n] if name in kwargs]
    if twice or n > len(names):
        raise ValueError(
            f"each of the modalities {names} must be given once, however the call has {n} positional ones and "
            f"the keywords {tuple(kwargs)}"
        )
    modalities = _by_name(names, dict(zip(names, args, strict=False)) | kwargs, optional)
    return modalities, lambda modalities: (
        tuple(modalities[:n]),
        dict(zip(names[n:], modalities[n:], strict=True)),
    )


def bind_groups(
    groups: Mapping[str, tuple[str, ...]], args: tuple[Any, ...], kwargs: dict[str, Any], *, optional: bool = False
) -> tuple[tuple[Modality, ...], Arrange]:
    """Find modalities that are several arguments of a call each, token ids and their mask say.

    The call is by keyword, or passes one dict; the backbone is called by keyword. Arguments that are None or left out
    are left to the backbone. A modality of several arguments is a dict, one of a single argument is its tensor.

    Raises:
        ValueError: if arguments go by position, are unknown, or a modality has none.
    """
    given = dict(args[0]) if len(args) == 1 and not kwargs and isinstance(args[0], Mapping) else kwargs
    known = {argument for group in groups.values() for argument in group}
    unknown = [argument for argument in given if argument not in known]
    if unknown or (args and given is kwargs):
        found = f"{unknown} are unknown" if unknown else f"{len(args)} go by position"
        raise ValueError(
            f"modalities of several arguments must go by the names {dict(groups)}, however {found}; "
            "add what is missing to modality_names, and leave targets out of the call"
        )
    parts = [{key: given[key] for key in group if given.get(key) is not None} for group in groups.values()]
    missing = [name for name, part in zip(groups, parts, strict=True) if not part]
    if missing and not optional:
        raise ValueError(f"a call must give the modalities {dict(groups)}, however it gives nothing of {missing}")
    modalities = tuple(
        (part[group[0]] if len(group) == 1 else part) if part else None
        for group, part in zip(groups.values(), parts, strict=True)
    )

    def arrange(modalities: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named: dict[str, Any] = {}
        for group, modality in zip(groups.values(), modalities, strict=True):
            named |= {group[0]: modality} if len(group) == 1 else modality
        return (), named

    return modalities, arrange


def check_modalities(names: tuple[str, ...], modalities: tuple[Modality, ...]) -> None:
    """Check that all tensors share one device and one, not empty, leading batch axis.

    Raises:
        TypeError: if a modality holds something other than tensors.
        ValueError: if batch sizes or devices differ, or the batch is empty.
    """
    tensors = [(name, leaf) for name, modality in zip(names, modalities, strict=True) for leaf in leaves(modality)]
    for name, leaf in tensors:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"modality {name!r} must be a tensor or a nested tuple, list or dict of tensors, "
                f"however it holds a {type(leaf).__name__}; torch.as_tensor makes arrays "
                "tensors, and tokenizers return them with return_tensors='pt'"
            )
        if leaf.ndim == 0:
            raise ValueError(f"modality {name!r} must have a leading batch axis, however it holds a scalar tensor")
    missing = [name for name, modality in zip(names, modalities, strict=True) if not leaves(modality)]
    if missing:
        raise ValueError(f"every modality must hold a tensor, however {missing} hold none")

    first = tensors[0][1]
    if any(leaf.shape[0] != first.shape[0] for _, leaf in tensors):
        sizes = ", ".join(f"{name!r} {tuple(leaf.shape)}" for name, leaf in tensors)
        raise ValueError(f"all modalities must have the same batch size on axis 0, however their shapes are {sizes}")
    if any(leaf.device != first.device for _, leaf in tensors):
        devices = ", ".join(f"{name!r} on {leaf.device}" for name, leaf in tensors)
        raise ValueError(
            f"all modalities must be on one device, however they are {devices}; move them with .to(device)"
        )
    if first.shape[0] == 0:
        raise ValueError("a batch must hold at least one sample, however axis 0 of the modalities is empty")


def _counted(names: tuple[str, ...], modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
    if len(modalities) != len(names):
        raise ValueError(
            f"the call must give the {len(names)} modalities {names}, however it gives {len(modalities)}; "
            "a modality of several tensors is a nested tuple or dict"
        )
    return modalities


def _by_name(names: tuple[str, ...], given: Mapping[str, Modality], optional: bool) -> tuple[Modality, ...]:
    missing = [name for name in names if name not in given and not optional]
    unknown = [name for name in given if name not in names]
    if missing or unknown:
        found = " and ".join(
            f"{some} are {what}" for some, what in ((missing, "missing"), (unknown, "unknown")) if some
        )
        raise ValueError(
            f"inputs by name must be the modalities {names}, however {found}; "
            "set modality_names to the names of the call"
        )
    return tuple(given.get(name) for name in names)
