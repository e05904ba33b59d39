"""Perturbations: what a modality is replaced by in the views that lack it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from i2moe._common.checks import check_at_least_one, check_callable, look_up
from i2moe._common.modalities import Modality, leaves, map_leaves, versions_of, where_present

__all__ = ["Custom", "Gaussian", "Mean", "Perturbation", "Shuffle", "Views", "Zero", "as_perturbation"]


@dataclass(frozen=True, eq=False)
class Views:
    """The real batch and its perturbed copies.

    Args:
        real: the M modalities, B rows.
        perturbed: per perturbed view the M modalities, B' rows; what was not replaced is the real tensor itself
            where possible.
        rows: (B',) the rows that have perturbed views, None for all.
        replaced: (V - 1, M) bool, the modality replaced in each perturbed view, None for all in turn.
        available: (B', M) bool, which modalities the rows with perturbed views have; None for all.
    """

    real: tuple[Modality, ...]
    perturbed: tuple[tuple[Modality, ...], ...] = ()
    rows: Tensor | None = None
    replaced: Tensor | None = None
    available: Tensor | None = None


class Perturbation(nn.Module):
    """Replace modalities one by one by values without information about the sample.

    Subclasses say what by `replace`. The floating-point tensors of a modality are replaced, others (masks, lengths)
    kept.

    Args:
        fraction: share of the batch's rows, drawn anew each step, that get perturbed views; in (0, 1].
        per_step: number of modalities replaced each step, drawn anew; None for all M.
        generator: source of the random numbers; None for torch's global one, the only one that `torch.compile` takes
            without a graph break.

    With `fraction` or `per_step` the expected losses and gradients are those of all rows and all modalities, at a
    fraction of the cost, also where samples lack modalities.

    Raises:
        ValueError: if `fraction` or `per_step` is out of range.
    """

    def __init__(
        self, *, fraction: float = 1.0, per_step: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], however it is {fraction}")
        if per_step is not None:
            check_at_least_one(per_step=per_step)
        self.fraction = fraction
        self.per_step = per_step
        self.generator = generator

    def replace(self, x: Tensor) -> Tensor:
        """Return the replacement of a floating-point tensor (B, ...), of the same shape."""
        raise NotImplementedError

    def forward(self, modality: Modality) -> Modality:
        """Return the replacement of a whole modality, B rows, nested as it is.

        Raises:
            TypeError: if the modality has no floating-point tensor.
            ValueError: if `replace` changes the shape.
        """
        if not any(leaf.is_floating_point() for leaf in leaves(modality)):
            raise TypeError(
                f"a modality must have a floating-point tensor to be replaced by {type(self).__name__}, however it has "
                f"{[str(leaf.dtype) for leaf in leaves(modality)]}; embed it first, or use perturbation='shuffle'"
            )
        replaced: Modality = map_leaves(self._replace_leaf, modality)
        return replaced

    def draw(self, modalities: Sequence[Modality], available: Tensor | None = None) -> Views:
        """Return the views of a batch of M modalities, each with B rows.

        Args:
            modalities: the M modalities, filled in where a sample lacks one.
            available: (B, M) bool, which modalities each sample has; None for all. One it lacks is never replaced.

        Raises:
            ValueError: if `per_step` exceeds M, or `replace` changes the batch in place.
        """
        real = tuple(modalities)
        if self.per_step is not None and self.per_step > len(real):
            raise ValueError(
                f"per_step must be at most the number of modalities {len(real)}, however it is {self.per_step}"
            )
        # NOTE[DIFF] all experts share one draw: each loss needs its own expert's views only, its expectation stays.
        versions = versions_of(real)
        replacements = tuple(self(modality) for modality in real)
        if versions_of(real) != versions:
            raise ValueError(
                "a perturbation must leave the batch as it is, which the real view shows, however "
                f"{type(self).__name__} changed it in place; use operations that return a new tensor (0 * x)"
            )
        if available is not None:
            replacements = replace_where(available.unbind(1), replacements, real)
        rows, originals = None, real
        if self.fraction < 1:
            rows = self._draw_rows(leaves(real)[0])
            originals, replacements, available = (
                map_leaves(lambda leaf: leaf.index_select(0, rows), m) for m in (originals, replacements, available)
            )

        if self.per_step is None or self.per_step == len(real):
            perturbed = tuple((*originals[:i], replacements[i], *originals[i + 1 :]) for i in range(len(real)))
            return Views(real, perturbed, rows, None, available)
        replaced = self._draw_modalities(self.per_step, len(real), leaves(real)[0].device)
        perturbed = tuple(replace_where(view, replacements, originals) for view in replaced)
        return Views(real, perturbed, rows, replaced, available)

    def extra_repr(self) -> str:
        """Show what is perturbed each step."""
        return f"fraction={self.fraction}, per_step={self.per_step}"

    def _replace_leaf(self, leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        replacement = self.replace(leaf)
        if replacement.shape != leaf.shape:
            raise ValueError(
                f"a perturbation must keep the shape {tuple(leaf.shape)}, however {type(self).__name__} "
                f"returned {tuple(replacement.shape)}"
            )
        return replacement

    def _draw_rows(self, leaf: Tensor) -> Tensor:
        n_rows = max(1, round(self.fraction * leaf.shape[0]))
        return torch.randperm(leaf.shape[0], device=leaf.device, generator=self.generator).narrow(0, 0, n_rows)

    def _draw_modalities(self, n_drawn: int, n_modalities: int, device: torch.device) -> Tensor:
        drawn = torch.randperm(n_modalities, device=device, generator=self.generator).narrow(0, 0, n_drawn)
        return drawn.unsqueeze(1) == torch.arange(n_modalities, device=device)


class Gaussian(Perturbation):
    """Replace by standard normal noise, the paper's choice: N(0, 1) per element of the embedding.

    Arguments as for `Perturbation`.

    Example:
        >>> noise = Gaussian(generator=torch.Generator().manual_seed(0))
        >>> noise(torch.zeros(2, 2))
        tensor([[ 1.5410, -0.2934],
                [-2.1788,  0.5684]])
    """

    @override
    def replace(self, x: Tensor) -> Tensor:
        """Return noise of the shape, type and device of `x`."""
        return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=self.generator)


class Zero(Perturbation):
    """Replace by zeros (an ablation of the paper). Arguments as for `Perturbation`.

    Example:
        >>> Zero()((torch.ones(1, 2), torch.tensor([[True, False]])))  # the mask is kept
        (tensor([[0., 0.]]), tensor([[ True, False]]))
    """

    @override
    def replace(self, x: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x)


class Mean(Perturbation):
    """Replace by the batch's mean (an ablation of the paper). Arguments as for `Perturbation`.

    The mean carries no gradient: a replacement is not something to learn.

    Warns:
        UserWarning: on a batch of one, which is its own mean.

    Example:
        >>> Mean()(torch.tensor([[1.0], [3.0]]))
        tensor([[2.],
                [2.]])
    """

    @override
    def forward(self, modality: Modality) -> Modality:
        """Return the replacement of a whole modality, B rows, nested as it is."""
        _warn_of_one(leaves(modality)[0].shape[0], "mean")
        return super().forward(modality)

    @override
    def replace(self, x: Tensor) -> Tensor:
        """Return the mean over the batch for every sample."""
        # NOTE[DIFF] without gradient, unlike a mean that encoders could learn to move.
        return x.detach().mean(0, keepdim=True).expand_as(x)


class Shuffle(Perturbation):
    """Replace by the same modality of another sample, so that it stays on the data's own distribution.

    The tensors of a nested modality move together, so a mask stays with its features, and integer tensors move too.
    No sample is its own replacement, and no gradient reaches the donors. Arguments as for `Perturbation`.

    Warns:
        UserWarning: on a batch of one, which has no other sample.

    Example:
        >>> Shuffle()(torch.tensor([1, 2])).tolist()
        [2, 1]
    """

    @override
    def forward(self, modality: Modality) -> Modality:
        """Return the replacement of a whole modality, B rows, nested as it is."""
        first = leaves(modality)[0]
        _warn_of_one(first.shape[0], "shuffle")
        # A uniformly random cycle: every other sample is equally likely, the sample itself impossible.
        order = torch.randperm(first.shape[0], device=first.device, generator=self.generator)
        donors = torch.empty_like(order).scatter(0, order, order.roll(1))
        shuffled: Modality = map_leaves(lambda leaf: leaf.detach().index_select(0, donors), modality)
        return shuffled


class Custom(Perturbation):
    """Replace by the result of any function of a tensor (B, ...), of the same shape.

    Args:
        function: the function; a module's parameters are trained with the model.
        fraction: as for `Perturbation`.
        per_step: as for `Perturbation`.
        generator: as for `Perturbation`.

    Example:
        >>> backwards = Custom(lambda x: x.flip(-1), fraction=0.5)
        >>> views = backwards.draw((torch.randn(4, 3), torch.randn(4, 3)))
        >>> len(views.perturbed), views.perturbed[0][0].shape
        (2, torch.Size([2, 3]))
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        fraction: float = 1.0,
        per_step: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(fraction=fraction, per_step=per_step, generator=generator)
        self.function = function

    @override
    def replace(self, x: Tensor) -> Tensor:
        """Return what the function makes of `x`."""
        return self.function(x)


_BY_NAME = {"gaussian": Gaussian, "zero": Zero, "mean": Mean, "shuffle": Shuffle}


def as_perturbation(perturbation: str | Perturbation | Callable[[Tensor], Tensor]) -> Perturbation:
    """Make a `Perturbation` of a name, of itself, or of any function of a tensor.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if it is nothing of these.

    Example:
        >>> as_perturbation("shuffle")
        Shuffle(fraction=1.0, per_step=None)
    """
    if isinstance(perturbation, Perturbation):
        return perturbation
    if isinstance(perturbation, str):
        return look_up("perturbation", perturbation, _BY_NAME)()
    what = "a name, a Perturbation object such as Gaussian(fraction=0.25), or a function of a tensor"
    check_callable(f"perturbation must be {what}", perturbation)
    return Custom(perturbation)


def replace_where(
    marks: Iterable[Tensor], replacements: tuple[Modality, ...], originals: tuple[Modality, ...]
) -> tuple[Modality, ...]:
    """Replace what a mark per modality, () or (B,) bool, says, without asking the device which one it is."""
    return tuple(
        map_leaves(partial(where_present, marked), new, old)
        for marked, new, old in zip(marks, replacements, originals, strict=True)
    )


def _warn_of_one(n_samples: int, perturbation: str) -> None:
    if n_samples == 1:
        warnings.warn(
            f"{perturbation} needs two samples to differ from the original, however the batch has 1; its views replace "
            "nothing: use larger batches, or another perturbation",
            stacklevel=3,
        )
