"""Supervision: every expert, and each modality alone, learns to predict the target.

The paper's objective trains the mixture alone, which any expert that predicts well satisfies. Computed weights compare
predictions from each modality alone and from all, so each of these predictions must be as good as the data allows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2moe._common.checks import check_callable
from i2moe._common.modalities import leaves, map_leaves
from i2moe._common.output import InteractionOutput, SoftTargets

__all__ = ["InteractionSupervision"]

_BY_ELEMENT = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits)
_BY_ELEMENT_MODULES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss)


class InteractionSupervision:
    r"""Compute the task loss of all experts, and of the predictions from each modality alone.

    $$L = \frac{1}{E} \sum_e \ell(y_e, y) + \frac{1}{M} \sum_i \ell(m_i, y)$$

    with the experts' predictions $y_e$ and the marginals $m_i$. If an expert is the mean of k members, its loss is the
    mean of theirs; experts that are one network count once. This is the whole loss of a model with computed weights:
    the mixture needs none of its own. A modality that a sample lacks has no loss: the model's prediction, without
    gradient, replaces its marginal.

    With a learned `Reweighter` there are no marginals, and the first term is left. Weights known from elsewhere
    (`target_weights`) teach its weights by a third term, their cross-entropy.

    Args:
        criterion: `criterion(prediction, target)` returns a scalar: the task loss of any predictions of the model,
            such as `torch.nn.functional.cross_entropy`. The target of `mse_loss` and the like has the predictions'
            shape, (B, C).
        per_sample: the criterion is a mean over samples, so that it can be called once on the rows of all experts.
            False calls it for each expert and member: for losses that compare samples, as a Cox loss does.

    Attributes:
        losses: the terms of the last call as detached scalars by name, for a log.

    Raises:
        TypeError: if the criterion is no callable.

    Example:
        >>> from i2moe import InteractionMoE
        >>> from torch import nn
        >>> model = InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, reweighter="computed")
        >>> supervise = InteractionSupervision(nn.functional.cross_entropy)
        >>> image, text, y = torch.randn(16, 8), torch.randn(16, 4), torch.randint(3, (16,))
        >>> loss = supervise(model(image, text), y)
        >>> loss.backward()
        >>> sorted(supervise.losses)
        ['experts', 'marginals', 'supervision']
    """

    def __init__(self, criterion: Callable[[Tensor, Any], Tensor], *, per_sample: bool = True) -> None:
        what = "a function of predictions and targets, such as torch.nn.functional.cross_entropy"
        check_callable(f"criterion must be {what}", criterion)
        self.criterion = criterion
        self.per_sample = per_sample
        self.losses: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self.criterion, '__name__', self.criterion)})"

    def __call__(
        self,
        out: InteractionOutput,
        target: Any,
        marginal_target: Any = None,
        *,
        target_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            out: what the model made of the batch.
            target: what the criterion takes as target: a tensor of B rows, or a tuple, list or dict of such; or what a
                `Teacher` returned.
            marginal_target: the targets (B, M, ...) of the modalities alone, nested as `target` is, where each has its
                own. None for the same target.
            target_weights: (B, E), weights that a learned reweighter should give, `categorize(...).degrees` say. What a
                row sums to, at most 1, is how much it counts.

        Raises:
            TypeError: if `out` is no output of an `InteractionMoE`.
            ValueError: if the targets have not B rows, or not the predictions' shape where the criterion needs it, or
                labels of a cross-entropy are neither classes nor probabilities. Also if those of the marginals have not
                M columns, there are no marginals for them, the criterion returns no scalar, or the target weights do
                not fit the weights.
        """
        if not isinstance(out, InteractionOutput):
            raise TypeError(f"out must be what the InteractionMoE returned, however it is a {type(out).__name__}")
        if isinstance(target, SoftTargets):
            target, marginal_target = target
        n_samples = out.prediction.shape[0]
        _check_target("target", target, (n_samples,), "(B, ...)")
        if self._function in _BY_ELEMENT or isinstance(self._function, _BY_ELEMENT_MODULES):
            _check_values(target, out.prediction)
        if self._is_cross_entropy:
            _check_labels(target, out.prediction)
        experts = _members(out.expert_predictions, out.member_predictions)
        if experts.stride(1) == 0:  # all experts are one network
            experts = experts[:, :1]
        terms = {"experts": self._mean_loss(experts, target)}
        if out.marginals is not None:
            marginals = _members(out.marginals, out.member_marginals)
            if out.available is not None:
                absent = out.available.logical_not().reshape(*out.available.shape, *(1,) * (marginals.ndim - 2))
                instead = out.prediction.detach().reshape(len(marginals), 1, 1, *out.prediction.shape[1:])
                marginals = torch.where(absent, instead, marginals)
            if marginal_target is None:
                terms["marginals"] = self._mean_loss(marginals, target)
            else:
                _check_target("marginal_target", marginal_target, tuple(marginals.shape[:2]), "(B, M, ...)")
                terms["marginals"] = self._mean_loss(marginals, marginal_target, of_each=True)
        elif marginal_target is not None:
            raise ValueError(
                "marginal_target must come with predictions from each modality alone, however the model makes none; "
                "build it with reweighter='computed'"
            )
        if target_weights is not None:
            terms["weights"] = _cross_entropy(out.weights, target_weights)
        total = functools.reduce(torch.add, terms.values())
        self.losses = {name: term.detach() for name, term in (terms | {"supervision": total}).items()}
        return total

    @property
    def _function(self) -> Callable[..., Tensor]:
        return self.criterion.func if isinstance(self.criterion, functools.partial) else self.criterion

    @property
    def _is_cross_entropy(self) -> bool:
        return self._function is F.cross_entropy or isinstance(self._function, nn.CrossEntropyLoss)

    def _mean_loss(self, predictions: Tensor, target: Any, *, of_each: bool = False) -> Tensor:
        """Average the losses of predictions (B, X, k, ...) over X and k.

        Args:
            predictions: (B, X, k, ...).
            target: B rows, for all of them.
            of_each: each of the X has its own target, (B, X, ...).
        """
        n_members = predictions.shape[2]
        each = predictions.flatten(1, 2)  # (B, X * k, ...)
        if self.per_sample:
            rows = map_leaves(lambda y: y.flatten(0, 1), target) if of_each else target
            n_repeats = n_members if of_each else each.shape[1]
            if n_repeats > 1:
                rows = map_leaves(lambda y: y.repeat_interleave(n_repeats, dim=0), rows)
            return self._loss(each.flatten(0, 1), rows)
        losses = [
            self._loss(one, map_leaves(lambda y, i=i: y[:, i // n_members], target) if of_each else target)
            for i, one in enumerate(each.unbind(1))
        ]
        return torch.stack(losses).mean()

    def _loss(self, predictions: Tensor, target: Any) -> Tensor:
        try:
            loss = self.criterion(predictions, target)
        except IndexError as error:  # on the CPU
            if self._is_cross_entropy:
                shape = ("B", *predictions.shape[1:])
                error.add_note(f"predictions have shape {shape}; labels must count classes from 0")
            raise
        if loss.ndim:
            raise ValueError(
                f"the criterion must return a scalar, however it returned shape {tuple(loss.shape)}; take its mean"
            )
        return loss


def _members(predictions: Tensor, members: Tensor | None) -> Tensor:
    """Return what to compare with the target, (B, X, k, ...)."""
    return predictions.unsqueeze(2) if members is None else members


def _check_target(name: str, target: Any, shape: tuple[int, ...], axes: str) -> None:
    for y in leaves(target):
        if not isinstance(y, Tensor) or y.shape[: len(shape)] != shape:
            found, cure = f"a value of type {type(y).__name__}", "convert lists and arrays by torch.as_tensor"
            if isinstance(y, Tensor):
                found = f"one of shape {tuple(y.shape)}"
                cure = "give those of the samples that the model was called on"
                cure += ", one for each modality" if len(shape) > 1 else ""
            raise ValueError(
                f"{name} must hold tensors {axes} = ({', '.join(map(str, shape))}, ...) of the batch, however it holds "
                f"{found}; {cure}"
            )


def _check_values(target: Any, prediction: Tensor) -> None:
    """Check what torch would repeat, (B,) against (B, 1) to (B, B), and the type, which it refuses without a cure."""
    if isinstance(target, Tensor) and not target.is_floating_point():
        raise ValueError(
            f"the target must be floating-point, as the predictions are, however its type is {target.dtype}; convert "
            "it: y.float()"
        )
    if isinstance(target, Tensor) and target.shape != prediction.shape:
        raise ValueError(
            f"the target must have the prediction's shape {tuple(prediction.shape)}, however its shape is "
            f"{tuple(target.shape)}; reshape it: y.view_as(prediction), or y.unsqueeze(1)"
        )


def _check_labels(target: Any, prediction: Tensor) -> None:
    """Check what torch refuses without a cure; targets of the prediction's shape may be probabilities."""
    if not isinstance(target, Tensor) or (target.is_floating_point() and target.shape == prediction.shape):
        return
    shape = (len(prediction), *prediction.shape[2:])
    if target.shape != shape:
        raise ValueError(
            f"labels must be classes of shape {shape}, or probabilities of shape {tuple(prediction.shape)} and a "
            f"floating type, however their shape is {tuple(target.shape)} and their type {target.dtype}; use "
            "y.squeeze(1), or y.argmax(1) for labels that are one-hot"
        )
    if target.dtype not in (torch.int64, torch.uint8):
        raise ValueError(
            f"labels must be integers of type torch.int64, however their type is {target.dtype}; convert them: y.long()"
        )


def _cross_entropy(weights: Tensor, target_weights: Tensor) -> Tensor:
    if target_weights.shape != weights.shape:
        raise ValueError(
            f"target_weights must be (B, E) = {tuple(weights.shape)} as the weights, however their shape is "
            f"{tuple(target_weights.shape)}"
        )
    if not weights.requires_grad:
        raise ValueError(
            "target_weights must have weights to teach, however the model's weights have no gradient; use a learned "
            "Reweighter"
        )
    floor = torch.finfo(weights.dtype).tiny
    return -(target_weights.detach().to(weights.dtype) * weights.clamp_min(floor).log()).sum(1).mean()
