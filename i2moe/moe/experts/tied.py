"""Running experts that are one network: its members on all modalities, and on each alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from i2moe._common.modalities import BackboneOutput, Modality, leaves, map_leaves
from i2moe.moe.experts.bank import ExpertOutputs
from i2moe.moe.experts.rows import mean_aux_loss, stack_views
from i2moe.moe.experts.shared import SharedExperts, mean_of_members
from i2moe.moe.inputs import Arrange
from i2moe.perturbations import Views

__all__ = ["TiedExperts"]


class TiedExperts(SharedExperts):
    """Run E experts that are one network of k members.

    From all modalities all experts predict the same, the mean of the members. In evaluation each member predicts from
    each modality alone too. In training the members divide these rows among them, anew at each step: k + M passes over
    the batch in place of k (M + 1). A loss that is a mean over samples keeps its expectation, and so its gradient. The
    auxiliary loss is that of the rows that run.
    """

    tied = True

    def forward(self, arrange: Arrange, views: Views, alone: Sequence[tuple[Modality, ...]] = ()) -> ExpertOutputs:
        """Run every member on the batch, and on each modality alone.

        Args:
            arrange: turns modalities into the arguments of the backbone's call.
            views: the real batch, without perturbed views.
            alone: for each modality the batch in which all others are filled in; empty where not needed.
        """
        batch = leaves(views.real)[0]
        n_samples, order, part = batch.shape[0], None, None
        if alone and self.training and self.n_members > 1:
            n_rows = n_samples + -n_samples % self.n_members  # as many for each; what fills up is not used
            order = torch.randperm(n_rows, device=batch.device)
            part = order % n_samples
        passes = self._in_passes(
            partial(self._run_members, arrange), [(views.real, None)], [(each, part) for each in alone]
        )
        each = [output.prediction.unflatten(0, (self.n_members, -1)) for output in passes]
        rows = each[0] if len(each) == 1 else torch.cat(each, dim=1)  # (k, N + M * N', ...)

        whole, last = rows.split([n_samples, rows.shape[1] - n_samples], dim=1)
        members = whole.transpose(0, 1).unsqueeze(1)  # (N, 1, k, ...)
        predictions = self._of_experts(mean_of_members(members))
        marginals = member_marginals = None
        if alone:
            last = last.unflatten(1, (len(alone), -1))  # (k, M, N', ...)
            if order is None:
                member_marginals = last.transpose(0, 2)  # (N, M, k, ...)
                marginals = mean_of_members(member_marginals)
            else:
                marginals = last.transpose(1, 2).flatten(0, 1).index_select(0, order.argsort()[:n_samples])
        aux_loss = mean_aux_loss(passes)
        return ExpertOutputs(
            predictions,
            views=None,
            latent_views=None,
            aux_loss=predictions.new_zeros(()) if aux_loss is None else aux_loss,
            marginals=marginals,
            member_predictions=self._of_experts(members),
            member_marginals=member_marginals,
        )

    def _run_members(
        self, arrange: Arrange, inputs: Sequence[tuple[tuple[Modality, ...], Tensor | None]]
    ) -> BackboneOutput:
        """Run each member on its rows of inputs: all, or those that it has by number when each has as many."""
        batches, numbers = zip(*inputs, strict=True)
        if self.n_members == 1:
            return self._run(arrange, stack_views(batches), 1)

        def of_members(*each: Tensor) -> Tensor:
            seen = [
                x.expand(self.n_members, *x.shape)
                if rows is None
                else x.index_select(0, rows).unflatten(0, (self.n_members, -1))
                for x, rows in zip(each, numbers, strict=True)
            ]
            return torch.cat(seen, dim=1).flatten(0, 1)

        rows = tuple(map_leaves(of_members, *same) for same in zip(*batches, strict=True))
        return self._run(arrange, rows, self.n_members)

    def _of_experts(self, values: Tensor) -> Tensor:
        """Give each expert (N, E, ...) what the one network has."""
        return values.expand(-1, len(self.names), *values.shape[2:])
