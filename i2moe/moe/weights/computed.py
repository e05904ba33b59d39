"""Computed weights: how much each expert counts follows from the model's own predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one
from i2moe._common.means import renormalized, update_running_mean, weighted_sum
from i2moe._common.tasks import Task, check_task, probabilities
from i2moe.losses import Interaction
from i2moe.moe.experts.bank import ExpertOutputs
from i2moe.moe.weights.shares import columns, interaction_shares

__all__ = ["ComputedReweighter", "mean_of_present"]

_MOMENTUM = 0.01


class ComputedReweighter(nn.Module):
    r"""Weigh the experts by what the model itself predicts from each modality alone and from all.

    The uniqueness expert of modality i also predicts from modality i alone. The mean of the experts is the prediction
    from all modalities. The weights are the `interaction_shares` of these predictions. No parameter is learned for
    them: they are as right as the predictions are. So train with `InteractionSupervision`, and `calibrate` on data that
    the model was not trained on.

    Args:
        task: what the model predicts: "classification" (logits of classes), "multilabel" (logits of labels) or
            "regression" (values).
        n_outputs: number of outputs C, which is otherwise that of the first batch. Give it where the model is copied or
            wrapped before: for `AveragedModel(..., use_buffers=True)`, several processes, or a compiled first step.

    Attributes:
        prior: (C,), what is predicted from nothing: a running mean of the predictions in training, and from `calibrate`
            on the mean of the held-out targets. Empty before the first batch where C is not known.
        scale: (M + 1,), factors of the predictions from each modality alone, and from several. Empty before
            `calibrate`.

    Raises:
        ValueError: if the task is unknown.

    Note:
        The first batch in training sizes `prior`. Copies of a model that follow it, such as
        `torch.optim.swa_utils.AveragedModel`, must be made after it.

    Example:
        >>> from i2moe import InteractionMoE
        >>> model = InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, reweighter=ComputedReweighter()).eval()
        >>> out = model(torch.randn(5, 8), torch.randn(5, 4))
        >>> out.weights.shape, out.marginals.shape
        (torch.Size([5, 4]), torch.Size([5, 2, 3]))
    """

    prior: Tensor
    scale: Tensor
    n_batches: Tensor

    def __init__(self, task: Task = "classification", n_outputs: int | None = None) -> None:
        super().__init__()
        check_task(task)
        if n_outputs is not None:
            check_at_least_one(n_outputs=n_outputs)
        self.task: Task = task
        prior = torch.zeros(0) if n_outputs is None else self._uninformed(torch.zeros(n_outputs))
        self.register_buffer("prior", prior)
        self.register_buffer("scale", torch.ones(0))
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.long))

    def forward(self, outputs: ExpertOutputs, available: Tensor | None, interactions: Sequence[Interaction]) -> Tensor:
        """Return the weights.

        Args:
            outputs: predictions (B, E, ...) of all experts, and marginals (B, M, ...).
            available: (B, M) bool, which modalities are there; None for all.
            interactions: the E experts' interactions.

        Returns:
            (B, E), rows on the probability simplex. In training no gradient flows through them.

        Raises:
            ValueError: if the experts have another number of outputs than `n_outputs`.
        """
        assert outputs.marginals is not None
        # A gradient would change predictions so that the weights suit the loss. Attributions, in evaluation, need it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            n_modalities = outputs.marginals.shape[1]
            joint = mean_of_present(outputs.predictions, available, interactions).unsqueeze(1)
            each = self._comparable(torch.cat((outputs.marginals, joint), dim=1))
            marginals, joint = each[:, :-1], each[:, -1]  # (B, M, C), (B, C)
            if self.prior.numel() > 0 and self.prior.numel() != joint.shape[1]:
                raise ValueError(
                    f"n_outputs must be the number of outputs of the backbone, however it is {self.prior.numel()} and "
                    f"the backbone returned {joint.shape[1]}; give both the same"
                )
            if self.training and self.scale.numel() == 0:
                self._update(joint)
            prior = self._prior(joint)
            if available is not None:  # an absent modality predicts the prior
                marginals = torch.where(available.unsqueeze(-1), marginals, prior)
            shares, _ = interaction_shares(marginals, joint, prior)
            if len(interactions) < shares.shape[1]:
                shares = shares[:, columns(interactions, n_modalities)]
            elif available is None:
                return shares
            counts = (
                torch.ones_like(shares, dtype=torch.bool) if available is None else _counts(available, interactions)
            )
            return renormalized(shares, counts)

    def calibrated(self, outputs: ExpertOutputs, available: Tensor | None) -> ExpertOutputs:
        """Scale all predictions by the factors that `calibrate` found.

        Args:
            outputs: what the experts made of a batch.
            available: (B, M) bool, which modalities are there; None for all.
        """
        if self.scale.numel() == 0:
            return outputs
        alone, several = self.scale[:-1], self.scale[-1]
        joint_scale = several.expand(outputs.predictions.shape[0], 1)
        if available is not None:
            single = available.sum(1, keepdim=True) == 1
            joint_scale = torch.where(single, (available * alone).sum(1, keepdim=True), several)
        return replace(
            outputs,
            predictions=self._scaled(outputs.predictions, joint_scale),
            member_predictions=_map(self._scaled, outputs.member_predictions, joint_scale.unsqueeze(-1)),
            marginals=_map(self._scaled, outputs.marginals, alone.unsqueeze(0)),
            member_marginals=_map(self._scaled, outputs.member_marginals, alone.view(1, -1, 1)),
        )

    def extra_repr(self) -> str:
        """Show the task."""
        return f"task={self.task!r}"

    def _comparable(self, outputs: Tensor) -> Tensor:
        """Turn outputs (B, X, ...) into probabilities, or the values themselves, (B, X, C), in float32 at least."""
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        if self.task == "classification" and (outputs.ndim < 3 or outputs.shape[2] < 2):
            raise ValueError(
                "classification must have the logits (B, C) of at least two classes, however an expert returned "
                f"shape {('B', *outputs.shape[2:])}; use ComputedReweighter('multilabel') or 'regression'"
            )
        outputs = probabilities(self.task, outputs, dim=2)
        return outputs.flatten(2) if outputs.ndim > 2 else outputs.unsqueeze(-1)

    @torch.no_grad()
    def _update(self, joint: Tensor) -> None:
        if self.prior.numel() == 0 and torch.compiler.is_compiling():  # a trace cannot resize
            self.prior = self.prior.new_zeros(joint.shape[1])
        elif self.prior.numel() == 0:  # in place, for those who hold the buffer, as DistributedDataParallel does
            self.prior.resize_(joint.shape[1]).zero_()
        update_running_mean(self.prior, self.n_batches, joint.mean(0), momentum=_MOMENTUM)

    def _prior(self, joint: Tensor) -> Tensor:
        return self.prior.to(joint.dtype) if self.prior.numel() else self._uninformed(joint[0])

    def _uninformed(self, outputs: Tensor) -> Tensor:
        """Return the prediction (C,) before any target is seen: uniform, or 0."""
        return self._comparable(torch.zeros_like(outputs).view(1, 1, -1))[0, 0]

    def _scaled(self, outputs: Tensor, scale: Tensor) -> Tensor:
        """Scale outputs (B, X, ...) by factors (B, X), or with one more axis each; a regression's about the prior."""
        center = torch.zeros((), dtype=outputs.dtype, device=outputs.device)
        if self.task == "regression" and self.prior.numel():
            center = self.prior.reshape(outputs.shape[scale.ndim :]).to(outputs.dtype)
        scale = scale.reshape(*scale.shape, *(1,) * (outputs.ndim - scale.ndim)).to(outputs.dtype)
        return center + (outputs - center) * scale

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("prior", "scale"):
            if prefix + name in state_dict:
                getattr(self, name).resize_(state_dict[prefix + name].shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def mean_of_present(predictions: Tensor, available: Tensor | None, interactions: Sequence[Interaction]) -> Tensor:
    """Average the predictions of the experts that count for a sample.

    Args:
        predictions: (B, E, ...).
        available: (B, M) bool, which modalities are there; None for all.
        interactions: the E experts' interactions.

    Returns:
        (B, ...).
    """
    if available is None:
        return predictions.mean(1)
    counts = _counts(available, interactions).to(predictions.dtype)
    return weighted_sum(predictions, counts / counts.sum(1, keepdim=True))


def _counts(available: Tensor, interactions: Sequence[Interaction]) -> Tensor:
    """Say which experts count for a sample, (B, E) bool.

    That of an absent modality does not. Where a single modality is there, no interaction is left but its uniqueness.
    """
    several = available.sum(1) > 1
    return torch.stack([available[:, i] if isinstance(i, int) else several for i in interactions], dim=1)


def _map(function: Any, tensor: Tensor | None, *args: Any) -> Tensor | None:
    return None if tensor is None else function(tensor, *args)
