"""Fills: what stands for a modality that a sample lacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy
from typing_extensions import override

from i2moe._common.checks import look_up
from i2moe._common.means import pool_tokens, update_running_mean
from i2moe._common.modalities import Modality, leaves, map_leaves, where_present

__all__ = ["Fill", "LearnedFill", "MeanFill", "ShuffleFill", "ZeroFill", "as_fill"]


class Fill(nn.Module):
    """Fill one modality in for the samples that lack it.

    Subclasses implement `fill_values`. What a modality holds for a sample that lacks it, NaN included, reaches
    neither outputs nor gradients.

    Args:
        example: any batch of the modality, for calls that leave it out altogether. Its shape, nesting and types are
            noted.

    Raises:
        ValueError: when called, if the modality is left out and `example` was not given, or its width is another one.
    """

    def __init__(self, example: Modality | None = None) -> None:
        super().__init__()
        self._example = None if example is None else map_leaves(_shape, example)

    def fill_values(self, modality: Modality, present: Tensor) -> Modality:
        """Return what fills the modality, nested as it is, of tensors that broadcast to its own.

        Args:
            modality: B rows; those that are not present may hold anything.
            present: (B,) bool, which samples have the modality.
        """
        raise NotImplementedError

    def integer_value(self, x: Tensor) -> Tensor:
        """Return what fills a tensor that is not floating-point: 1 or True, "valid" in most masks and lengths."""
        return x.new_ones(())

    def forward(self, modality: Modality, present: Tensor) -> Modality:
        """Return the modality with absent rows filled.

        Args:
            modality: B rows, nested or not.
            present: (B,) bool, which samples have the modality.
        """
        filled: Modality = map_leaves(partial(where_present, present), modality, self.fill_values(modality, present))
        return filled

    def placeholder(self, n_samples: int, reference: Tensor) -> Modality:
        """Return a modality that a call left out: rows of no meaning, all to be filled.

        Args:
            n_samples: number of rows B.
            reference: a floating-point tensor of the batch, whose device and precision are taken.

        Raises:
            ValueError: if the modality's shape is not known.
        """
        if self._example is None:
            raise ValueError(
                "a modality that a call leaves out must have a known shape, however its fill has seen no example; "
                f"give its fill an example, {type(self).__name__}(example=x), or an InteractionMoE feature_dims"
            )
        rows: Modality = map_leaves(
            lambda x: reference.new_zeros(
                (n_samples, *x.shape[1:]), dtype=reference.dtype if x.is_floating_point() else x.dtype
            ),
            self._example,
        )
        return rows

    def _each(self, floating: Callable[[Tensor], Tensor], modality: Modality) -> Modality:
        """Map a modality's floating-point tensors; `integer_value` says what fills the others."""
        filled: Modality = map_leaves(
            lambda x: floating(x) if x.is_floating_point() else self.integer_value(x), modality
        )
        return filled


class _VectorFill(Fill):
    """Fill by one vector, of which each floating-point tensor of a nested modality has a part."""

    vector: Tensor

    @override
    def fill_values(self, modality: Modality, present: Tensor) -> Modality:
        parts = iter(_split(self.vector, modality))
        return self._each(lambda x: next(parts).to(x.dtype), modality)

    @override
    def placeholder(self, n_samples: int, reference: Tensor) -> Modality:
        if self._example is None and not is_lazy(self.vector):
            return reference.new_zeros(n_samples, len(self.vector))
        return super().placeholder(n_samples, reference)


class LearnedFill(_VectorFill):
    """Fill by a learned vector, the same for all tokens; zero at the start.

    The floating-point tensors of a nested modality have a part of the vector each.

    Args:
        example: any batch of the modality; its last axes are the vector's width.

    Example:
        >>> fill = LearnedFill(example=torch.zeros(1, 2))
        >>> fill(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), torch.tensor([True, False]))
        tensor([[1., 2.], [0., 0.]], grad_fn=<WhereBackward0>)
    """

    def __init__(self, example: Modality) -> None:
        super().__init__(example)
        self.vector: nn.Parameter = nn.Parameter(torch.zeros(_width(example)))


class MeanFill(_VectorFill):
    """Fill by the mean over training batches, the same for all tokens: an exponential average, zero at the start.

    Padded tokens leave the mean by a boolean mask beside the tokens, as in `Reweighter`. A sample of padding alone
    counts as zeros: say by `available` that it lacks the modality.

    Args:
        example: any batch of the modality; its last axes are the mean's width.
        momentum: the newest batch's share of the average.

    Example:
        >>> fill, x = MeanFill(example=torch.zeros(1, 1)), torch.tensor([[1.0], [3.0], [float("nan")]])
        >>> fill(x, torch.tensor([True, True, False])).flatten()
        tensor([1., 3., 2.])
    """

    vector: Tensor
    n_batches: Tensor

    def __init__(self, example: Modality, *, momentum: float = 0.1) -> None:
        super().__init__(example)
        self.momentum = momentum
        self.register_buffer("vector", torch.zeros(_width(example)))
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.long))

    @override
    def fill_values(self, modality: Modality, present: Tensor) -> Modality:
        """Return the mean; in training after this batch."""
        if self.training:
            self._update(modality, present)
        return super().fill_values(modality, present)

    @torch.no_grad()
    def _update(self, modality: Modality, present: Tensor) -> None:
        _split(self.vector, modality)  # checks the width
        rows = [where_present(present, x, x.new_zeros(())) for x in pool_tokens(modality)]
        sums = [x.sum(0, dtype=torch.promote_types(x.dtype, torch.float32)) for x in rows]  # float16 ends at 65,504
        means = torch.cat(sums) / present.sum().clamp(min=1)
        update_running_mean(self.vector, self.n_batches, means, momentum=self.momentum, counts=present.any())


class ZeroFill(Fill):
    """Fill by zeros; integers and booleans by 1. Arguments as for `Fill`.

    Example:
        >>> ZeroFill()(torch.tensor([[1.0], [2.0]]), torch.tensor([False, True])).flatten()
        tensor([0., 2.])
    """

    @override
    def fill_values(self, modality: Modality, present: Tensor) -> Modality:
        """Return zeros."""
        return self._each(lambda x: x.new_zeros(()), modality)


class ShuffleFill(Fill):
    """Fill by the same modality of another sample of the batch that has it; zeros if none has.

    The tensors of a nested modality come from one donor, integer tensors too, and no gradient reaches it. Donors are
    drawn at random in training, and taken in turn in evaluation, where the prediction of a sample that lacks something
    so depends on its batch.

    Args:
        example: as for `Fill`.
        generator: source of the random numbers; None for torch's global one.

    Example:
        >>> x, present = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([False, True, False])
        >>> ShuffleFill()(x, present).flatten()
        tensor([2., 2., 2.])
    """

    def __init__(self, example: Modality | None = None, *, generator: torch.Generator | None = None) -> None:
        super().__init__(example)
        self.generator = generator

    @override
    def fill_values(self, modality: Modality, present: Tensor) -> Modality:
        """Return the donors' rows."""
        n_samples, n_donors = len(present), present.sum()
        if self.training:
            order = torch.randperm(n_samples, device=present.device, generator=self.generator)
        else:
            order = torch.arange(n_samples, device=present.device)
        donors_first = (order + n_samples * present.logical_not()).argsort()
        donors = donors_first.index_select(0, present.logical_not().cumsum(0) % n_donors.clamp(min=1))

        def give(x: Tensor) -> Tensor:
            nothing = x.new_zeros(()) if x.is_floating_point() else self.integer_value(x)
            return torch.where(n_donors > 0, x.detach().index_select(0, donors), nothing)

        rows_of_donors: Modality = map_leaves(give, modality)
        return rows_of_donors


class _Lazy(LazyModuleMixin, _VectorFill):
    """Sizes its vector at the first forward pass, or when a state is loaded."""

    has_uninitialized_params: Callable[[], bool]

    def initialize_parameters(self, modality: Modality, present: Tensor) -> None:
        """Make the vector as wide as the modality."""
        if self.has_uninitialized_params():
            with torch.no_grad():
                self.vector.materialize((_width(modality),))  # type: ignore[attr-defined]
                self.vector.zero_()


class _UnsizedBuffer(UninitializedBuffer):
    """One that can be copied, as an `UninitializedParameter` can."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _UnsizedBuffer:
        make: Any = type(self)
        copied: _UnsizedBuffer = make(self.requires_grad, self.data.device, self.data.dtype)
        return copied


class _LazyLearnedFill(_Lazy, LearnedFill):
    cls_to_become = LearnedFill

    def __init__(self) -> None:
        super().__init__(torch.empty(0, 0))
        self._example = None
        self.vector = UninitializedParameter()  # type: ignore[assignment]


class _LazyMeanFill(_Lazy, MeanFill):
    cls_to_become = MeanFill

    def __init__(self) -> None:
        super().__init__(torch.empty(0, 0))
        self._example = None
        self.vector = _UnsizedBuffer()


_BY_NAME: dict[str, tuple[Callable[[], Fill], Callable[[Modality], Fill]]] = {
    "learned": (_LazyLearnedFill, LearnedFill),
    "mean": (_LazyMeanFill, MeanFill),
    "shuffle": (ShuffleFill, ShuffleFill),
    "zero": (ZeroFill, ZeroFill),
}


def as_fill(fill: str | Fill, width: int | None = None) -> Fill:
    """Make a `Fill` of a name or of itself.

    Args:
        fill: "learned", "mean", "shuffle", "zero" or a `Fill`.
        width: the modality's width; without it the first forward pass decides.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if it is neither.

    Example:
        >>> as_fill("learned", 8).vector.shape
        torch.Size([8])
    """
    if isinstance(fill, Fill):
        return fill
    if not isinstance(fill, str):
        raise TypeError(
            f"a fill must be a name or a Fill object such as LearnedFill(example=x), however it is {fill!r}"
        )
    lazy, sized = look_up("fill", fill, _BY_NAME)
    return lazy() if width is None else sized(torch.empty(0, width))


def _shape(x: Tensor) -> Tensor:
    """Note a tensor's shape and type, without rows."""
    return torch.empty(0, *x.shape[1:], dtype=x.dtype, device="meta")


def _widths(modality: Modality) -> list[int]:
    """The widths of a modality's floating-point tensors, of which there must be one; a number per sample is 1 wide."""
    floating = [x for x in leaves(modality) if x.is_floating_point()]
    if not floating:
        raise TypeError(
            "a modality must have a floating-point tensor to be filled by a vector, however it has "
            f"{[str(leaf.dtype) for leaf in leaves(modality)]}; embed it first, or use fill='shuffle'"
        )
    return [1 if x.ndim == 1 else x.shape[-1] for x in floating]


def _width(modality: Modality) -> int:
    return sum(_widths(modality))


def _split(vector: Tensor, modality: Modality) -> Any:
    """Split a vector between a modality's floating-point tensors."""
    widths = _widths(modality)
    if sum(widths) != len(vector):
        raise ValueError(
            f"a modality must be {len(vector)} wide (feature_dims, the fill's example, or the first batch) to be "
            f"filled, however its floating-point tensors are {widths} wide"
        )
    return vector.split(widths)
