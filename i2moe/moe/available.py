"""Which modalities each sample has: calls made complete, and weights without the experts of what is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._common.means import renormalized
from i2moe._common.modalities import Modality, leaves, map_leaves
from i2moe.losses import Interaction
from i2moe.missing import Fill, as_fill
from i2moe.moe.inputs import Arrange, bind, bind_groups, check_modalities

__all__ = ["Fills", "bind_and_fill", "make_fills", "mask_of", "weigh_available"]


class Fills(nn.ModuleList):
    """Fill in what the samples of a call lack, with a `Fill` for each of M modalities."""

    def __iter__(self) -> Iterator[Fill]:
        return iter(self._modules.values())  # type: ignore[arg-type]

    def forward(
        self,
        names: tuple[str, ...],
        modalities: tuple[Modality, ...],
        available: Tensor | None,
    ) -> tuple[tuple[Modality, ...], Tensor | None]:
        """Return the modalities, whole, and which of them are real, (B, M) bool; None for all.

        Args:
            names: the M names.
            modalities: M modalities, None where no sample of the batch has one.
            available: (B, M) bool; None for all that is given.

        Raises:
            TypeError: if `available` is no bool tensor.
            ValueError: if no modality is given, a sample has none, or shapes or devices do not fit.
        """
        if available is None and all(modality is not None for modality in modalities) and not self._learn():
            check_modalities(names, modalities)
            return modalities, None
        present = _check_call(names, modalities, available)
        tensors = leaves(modalities)
        n_samples = tensors[0].shape[0]
        floating = [x for x in tensors if x.is_floating_point()]
        reference = floating[0] if floating else torch.empty(0, device=tensors[0].device)

        def complete(fill: Fill, modality: Modality, column: Tensor) -> Modality:
            whole = fill.placeholder(n_samples, reference) if modality is None else modality
            filled: Modality = fill(whole, column)
            return filled

        return self._each(complete, names, modalities, present.unbind(1)), present

    def each_alone(self, names: tuple[str, ...], modalities: tuple[Modality, ...]) -> list[tuple[Modality, ...]]:
        """Return for each modality the batch in which all others are filled in.

        Args:
            names: the M names.
            modalities: M modalities, whole.
        """

        def take_away(fill: Fill, modality: Modality, column: Tensor) -> Modality:
            filled: Modality = map_leaves(_repeated, fill.fill_values(modality, column), modality)
            return filled

        absent = self._each(take_away, names, modalities, mask_of(modalities, False).unbind(1))
        return [(*absent[:i], modality, *absent[i + 1 :]) for i, modality in enumerate(modalities)]

    def _each(
        self,
        function: Callable[[Fill, Modality, Tensor], Modality],
        names: tuple[str, ...],
        modalities: tuple[Modality, ...],
        present: Sequence[Tensor],
    ) -> tuple[Modality, ...]:
        """Apply a function to each fill, its modality and which samples have it; errors name the modality."""
        found = []
        for name, fill, modality, column in zip(names, self, modalities, present, strict=True):
            try:
                found.append(function(fill, modality, column))
            except (TypeError, ValueError) as error:
                error.add_note(f"in modality {name!r}")
                raise
        return tuple(found)

    def _learn(self) -> bool:
        """Whether complete samples teach a fill something: a mean moves, and a parameter has a gradient each step."""
        return any(True for _ in chain(self.parameters(), self.buffers()))


def _repeated(values: Tensor, rows: Tensor) -> Tensor:
    """Return values in the shape and type of rows."""
    return values.to(rows.dtype).expand(rows.shape).contiguous()


def mask_of(modalities: tuple[Modality, ...], value: bool) -> Tensor:
    """Return a mask (B, M) of one value."""
    rows = leaves(modalities)[0]
    return torch.full((rows.shape[0], len(modalities)), value, device=rows.device)


def bind_and_fill(
    names: tuple[str, ...] | Mapping[str, tuple[str, ...]],
    order: tuple[str, ...],
    fills: Fills | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    available: Tensor | None,
) -> tuple[tuple[Modality, ...], Arrange, Tensor | None]:
    """Find the modalities in the arguments of a call, and fill in what samples lack.

    Args:
        names: the M names; a mapping where modalities are several arguments of the call, see `bind_groups`.
        order: the names in the order of the backbone's parameters.
        fills: of the model; None where every sample must have all modalities.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        available: (B, M) bool; None for all that is given.

    Returns:
        The M modalities, what arranges modalities as this call did, and which are real, (B, M) bool or None.

    Raises:
        TypeError: if a modality is not made of tensors, or the mask is not bool.
        ValueError: if modalities are missing, unknown or do not fit together, or a sample has none.
    """
    optional = fills is not None
    if isinstance(names, Mapping):
        modalities, arrange = bind_groups(names, args, kwargs, optional=optional)
    else:
        modalities, arrange = bind(names, args, kwargs, optional=optional, order=order)
    names = tuple(names)
    if fills is not None:
        modalities, available = fills(names, modalities, available)
        return modalities, arrange, available
    if available is not None or any(modality is None for modality in modalities):
        raise ValueError(
            "a model must have a fill to take samples that lack modalities, however fill=None; build it with "
            "InteractionMoE(..., fill='learned')"
        )
    check_modalities(names, modalities)
    return modalities, arrange, None


def _check_call(names: tuple[str, ...], modalities: tuple[Modality, ...], available: Tensor | None) -> Tensor:
    """Check a call, and say which modalities each sample has, (B, M) bool."""
    given = {name: modality for name, modality in zip(names, modalities, strict=True) if modality is not None}
    if not given:
        raise ValueError(f"a call must give at least one of the modalities {names}, however it gives none")
    check_modalities(tuple(given), tuple(given.values()))
    tensors = leaves(tuple(given.values()))
    n_samples, device = tensors[0].shape[0], tensors[0].device
    if available is not None:
        _check(available, n_samples, len(names), device)
    present = _combine(available, modalities, n_samples, device)
    if available is not None:
        _check_some(present)
    return present


def make_fills(
    fill: str | Sequence[str | Fill] | None, n_modalities: int, feature_dims: Sequence[int] | None
) -> Fills | None:
    """Make a `Fill` for each modality, of one name or of M names and objects; None stays None."""
    if fill is None:
        return None
    if isinstance(fill, Fill):
        raise TypeError(
            f"fill must be a name or one name or Fill for each of {n_modalities} modalities, however it is a single "
            f"{type(fill).__name__}; give a list"
        )
    each = [fill] * n_modalities if isinstance(fill, str) else list(fill)
    if len(each) != n_modalities:
        raise ValueError(f"fill must give one Fill for each of {n_modalities} modalities, however it is {each}")
    widths = [None] * n_modalities if feature_dims is None else feature_dims
    return Fills([as_fill(one, width) for one, width in zip(each, widths, strict=True)])


def weigh_available(weights: Tensor, available: Tensor, interactions: Sequence[Interaction]) -> Tensor:
    """Take the weight of absent modalities' uniqueness away, as masking the logits before the softmax does.

    Args:
        weights: (B, E), rows that sum to 1.
        available: (B, M) bool.
        interactions: the E experts' interactions.

    Returns:
        (B, E), rows that sum to 1; unchanged where nothing is absent, or where no expert would be left.
    """
    everyone = torch.ones_like(available.select(1, 0))
    counts = torch.stack([available.select(1, i) if isinstance(i, int) else everyone for i in interactions], dim=1)
    counts = counts | counts.any(1, keepdim=True).logical_not()
    return torch.where(counts.all(1, keepdim=True), weights, renormalized(weights, counts))


def _combine(
    available: Tensor | None, modalities: tuple[Modality, ...], n_samples: int, device: torch.device
) -> Tensor:
    """Which modalities are there (B, M): those that the mask says and the call gives."""
    everyone = torch.ones(n_samples, dtype=torch.bool, device=device)
    columns = [everyone] * len(modalities) if available is None else available.unbind(1)
    nobody = torch.zeros_like(everyone)
    given = [nobody if m is None else column for m, column in zip(modalities, columns, strict=True)]
    return torch.stack(given, dim=1)


def _check(available: Tensor, n_samples: int, n_modalities: int, device: torch.device) -> None:
    if not isinstance(available, Tensor) or available.dtype != torch.bool:
        found = available.dtype if isinstance(available, Tensor) else type(available).__name__
        raise TypeError(f"available must be a bool tensor (B, M), however it is {found}; compare it: `mask == 1`")
    if available.shape != (n_samples, n_modalities):
        raise ValueError(
            f"available must have shape (B, M) = {(n_samples, n_modalities)}, however its shape is "
            f"{tuple(available.shape)}"
        )
    if available.device != device:
        raise ValueError(
            f"available must be on the modalities' device {device}, however it is on {available.device}; "
            "move it with .to(device)"
        )


def _check_some(available: Tensor) -> None:
    """Refuse a sample without any modality: on the CPU at once, elsewhere by an assertion of the device."""
    cure = "drop these samples"
    some = available.any(1).all()
    if torch.compiler.is_compiling() or available.device.type != "cpu":
        torch._assert_async(some, f"every sample must have a modality, however some have none; {cure}")
        return
    try:
        torch._assert_async(some)
    except RuntimeError as error:
        rows = (~available.any(1)).nonzero().flatten().tolist()
        more = ", ..." if len(rows) > 10 else ""
        raise ValueError(
            f"every sample must have a modality, however {len(rows)} of {len(available)} have none "
            f"(rows {str(rows[:10])[1:-1]}{more}); {cure}"
        ) from error
