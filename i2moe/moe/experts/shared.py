"""Running experts that share one backbone's weights: all members of all experts in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from i2moe._common.modalities import BackboneOutput, Modality, leaves, map_leaves, versions_of
from i2moe.moe.experts.bank import ExpertOutputs
from i2moe.moe.experts.buffers import borrowed_buffers, check_untouched, checkpointed
from i2moe.moe.experts.rows import check_output, join, shapes_of, split_last, split_views, stack_views
from i2moe.moe.experts.sharing import share
from i2moe.moe.inputs import Arrange
from i2moe.perturbations import Views

__all__ = ["SharedExperts", "mean_of_members"]

_T = TypeVar("_T")


class SharedExperts(nn.Module):
    """Run E experts of k members each, which share the weights of one backbone.

    An expert's prediction is the mean of its members'. The members of the uniqueness experts come first. All rows run
    in one pass, those of one modality alone too; these in a pass of their own where there are perturbed views, or
    buffers, which they must not change.

    Args:
        backbone: the module to share, see `share`.
        names: the E names.
        n_members: members k of each expert.
        checkpoint: recompute a pass in the backward pass instead of keeping its activations.

    Raises:
        ValueError: if a layer of the backbone cannot be shared.
    """

    tied = False
    """Whether all experts are one network, as `TiedExperts` are."""

    def __init__(self, backbone: nn.Module, names: Sequence[str], n_members: int, *, checkpoint: bool = False) -> None:
        super().__init__()
        self.names: tuple[str, ...] = tuple(names)
        self.n_members = n_members
        self.checkpoint = checkpoint
        self.backbone = backbone
        self.members = share(backbone, n_members, n_experts=1 if self.tied else len(self.names))

    def forward(self, arrange: Arrange, views: Views, alone: Sequence[tuple[Modality, ...]] = ()) -> ExpertOutputs:
        """Run every member on every view, and those of the uniqueness experts on one modality each.

        Args:
            arrange: turns modalities into the arguments of the backbone's call.
            views: the real batch and its perturbed views.
            alone: for each modality the batch in which all others are filled in; empty where not needed.
        """
        n_samples = leaves(views.real)[0].shape[0]
        everyone = [stack_views((views.real, *views.perturbed))] * len(self.names)
        passes = self._in_passes(
            partial(self._run_each, arrange), [everyone], [alone] if alone else [], together=not views.perturbed
        )
        output, last = split_last(join(passes), len(alone) * self.n_members * n_samples)

        members = self._by_input(output.prediction, len(self.names))  # (N, E, k, ...)
        predictions, prediction_views = split_views(mean_of_members(members), views)
        latent = None if output.latent is None else mean_of_members(self._by_input(output.latent, len(self.names)))
        marginals = self._by_input(last, len(alone)) if alone else None
        return ExpertOutputs(
            predictions,
            prediction_views,
            None if latent is None else split_views(latent, views)[1],
            predictions.new_zeros(()) if output.aux_loss is None else output.aux_loss,
            None if marginals is None else mean_of_members(marginals),
            members[:n_samples],
            marginals,
        )

    def _run_each(self, arrange: Arrange, groups: Sequence[Sequence[tuple[Modality, ...]]]) -> BackboneOutput:
        """Run the members on inputs: each group is for the first experts, an input for each."""
        rows = _repeat([each for group in groups for each in group], self.n_members)
        return self._run(arrange, rows, *(self.n_members * len(group) for group in groups))

    def _run(self, arrange: Arrange, rows: tuple[Modality, ...], *counts: int) -> BackboneOutput:
        """Run the backbone once on rows of members, see `Members.running` for the counts."""
        args, kwargs = arrange(rows)
        n_rows = leaves(rows)[0].shape[0]
        versions = versions_of(rows)

        def call(*args: object, **kwargs: object) -> object:
            with self.members.running(*counts, n_rows=n_rows):
                return self.backbone(*args, **kwargs)

        if self.checkpoint and torch.is_grad_enabled():
            output = checkpointed(call, self.backbone, args, kwargs)
        else:
            try:
                output = call(*args, **kwargs)
            except Exception as error:
                error.add_note(
                    f"in the backbone that experts share, called with {n_rows} rows, those of all members and "
                    f"modalities alone, inputs {shapes_of(rows)}"
                )
                raise
        check_untouched("shared", rows, versions)
        return check_output("shared", output, n_rows)

    def _in_passes(
        self,
        run: Callable[[Sequence[_T]], BackboneOutput],
        whole: Sequence[_T],
        alone: Sequence[_T],
        *,
        together: bool = True,
    ) -> list[BackboneOutput]:
        """Run inputs in one pass, or those of one modality alone in a second, where they must not change buffers."""
        if not alone:
            return [run(whole)]
        if together and not any(True for _ in self.backbone.buffers()):
            return [run([*whole, *alone])]
        first = run(whole)
        with borrowed_buffers(self.backbone):
            return [first, run(alone)]

    def _by_input(self, rows: Tensor, n_inputs: int) -> Tensor:
        """Turn (n * k * N, ...) into (N, n, k, ...)."""
        return rows.reshape(n_inputs, self.n_members, -1, *rows.shape[1:]).movedim(2, 0)


def mean_of_members(values: Tensor) -> Tensor:
    """Average (N, n, k, ...) over the k members."""
    return values.squeeze(2) if values.shape[2] == 1 else values.mean(2)


def _repeat(inputs: Sequence[tuple[Modality, ...]], n_members: int) -> tuple[Modality, ...]:
    """Order the rows by expert, then member: (E * k * N, ...) from E inputs (N, ...)."""

    def repeat(*each: Tensor) -> Tensor:
        runs: list[tuple[Tensor, int]] = []  # neighbors that see the same are copied once
        for x in each:
            same = bool(runs) and runs[-1][0] is x
            runs[len(runs) - same :] = [(x, n_members + (runs[-1][1] if same else 0))]
        copies = [x.expand(n, *x.shape) for x, n in runs]
        return (copies[0] if len(copies) == 1 else torch.cat(copies)).flatten(0, 1)

    return tuple(map_leaves(repeat, *same) for same in zip(*inputs, strict=True))
