"""Fewer experts in evaluation: the same ones for a whole data set, or the highest-weighted of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from i2moe._common.checks import check_at_least_one
from i2moe._common.means import renormalized, weighted_sum
from i2moe._common.modalities import Modality, map_leaves
from i2moe._common.output import InteractionOutput
from i2moe._common.passes import sizes_parameters
from i2moe.moe.experts.bank import ExpertBank, mixing_layer
from i2moe.moe.model import InteractionMoE
from i2moe.moe.names import choose_experts
from i2moe.moe.weights.computed import ComputedReweighter

__all__ = ["TopExperts", "experts_above", "prune"]


class _Weighed(Protocol):
    """What an `InteractionReport` knows of the weights."""

    @property
    def expert_names(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> Tensor: ...


def experts_above(report: _Weighed, threshold: float) -> tuple[str, ...]:
    """Name the experts whose mean weight over a data set reaches a threshold.

    Args:
        report: of `explain`, on validation data.
        threshold: lowest mean weight, in [0, 1]; 1 / E is an even share.

    Raises:
        ValueError: if no expert reaches it.

    Example:
        >>> from i2moe.interpretation import InteractionReport
        >>> report = InteractionReport.example()
        >>> report.weights.mean(0)
        tensor([0.3500, 0.1500, 0.3500, 0.1500])
        >>> experts_above(report, 0.25)
        ('uniqueness/image', 'synergy')
    """
    means = report.weights.mean(0).tolist()
    names = tuple(name for name, mean in zip(report.expert_names, means, strict=True) if mean >= threshold)
    if not names:
        raise ValueError(
            f"threshold must be at most the largest mean weight {max(means):.3f}, however it is {threshold}"
        )
    return names


def prune(model: InteractionMoE, keep: Sequence[str]) -> InteractionMoE:
    """Keep some experts of a trained model, with their weights scaled to sum to 1.

    With all experts kept the predictions are the model's own, exactly. Where a dropped expert had all the weight, so
    that those kept have rounded to 0, they count alike.

    The smaller model is a model like any other, to evaluate, explain, export or train further. It shares the experts
    and the reweighter: to leave the model alone, prune a `copy.deepcopy` of it.

    Args:
        model: the model.
        keep: names of experts, such as those of `experts_above`; "uniqueness" means those of all modalities.

    Raises:
        ValueError: if a name is unknown or given twice, or there is none; if experts share their weights, which leaves
            nothing to save; if a uniqueness expert is dropped that computed weights need.

    Example:
        >>> model = InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, feature_dims=(8, 4)).eval()
        >>> smaller = prune(model, ("uniqueness/0", "synergy"))
        >>> smaller.expert_names
        ('uniqueness/0', 'synergy')
        >>> smaller(torch.randn(5, 8), torch.randn(5, 4)).weights.shape
        torch.Size([5, 2])
    """
    bank = _separate_experts(model)
    names = choose_experts("keep must list", () if isinstance(keep, str) else keep, model.expert_names)
    chosen = [model.expert_names.index(name) for name in names]
    remaining = iter([bank[e] for e in chosen])
    computed = isinstance(model.reweighter, ComputedReweighter)
    smaller = InteractionMoE(
        lambda: next(remaining),
        model.n_modalities,
        modality_names=model.arguments or model.modality_names,
        reweighter=model.reweighter if computed or len(chosen) == len(bank) else _Selected(model.reweighter, chosen),
        losses=model.losses,
        perturbation=model.perturbation,
        experts=names,
        execution=bank.execution,
        checkpoint=bank.checkpoint,
    )
    smaller.fill, smaller.process_group = model.fill, model.process_group
    shared = set(model.modules())  # these keep their own modes
    for module in smaller.modules():
        module.training = module.training if module in shared else model.training
    return smaller


class TopExperts(nn.Module):
    """Run for each sample only the experts that weigh most, in evaluation.

    The k largest weights of a sample are scaled to sum to 1, the others are 0 and their experts do not see the sample:
    k / E of the arithmetic. With k = E predictions are the model's own, exactly. Which rows an expert sees depends on
    the data: on a GPU this waits for the weights, and it cannot be exported; `prune` can. `explain` reads the model,
    not this: measure what it costs by your own metric.

    Args:
        model: the model, shared.
        k: experts per sample, from 1 to E.

    Raises:
        ValueError: if `k` is out of range; if the weights are computed, from predictions of all experts, or the experts
            share theirs.

    Example:
        >>> model = InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, feature_dims=(8, 4)).eval()
        >>> out = TopExperts(model, k=2).eval()(torch.randn(5, 8), torch.randn(5, 4))
        >>> (out.weights > 0).sum(1)
        tensor([2, 2, 2, 2, 2])
    """

    def __init__(self, model: InteractionMoE, k: int) -> None:
        super().__init__()
        _separate_experts(model)
        if isinstance(model.reweighter, ComputedReweighter):
            raise ValueError(
                "TopExperts must know the weights before the experts run, however computed weights come from their "
                "predictions; use prune"
            )
        n_experts = len(model.expert_names)
        if not 1 <= k <= n_experts:
            raise ValueError(f"k must lie between 1 and the number of experts {n_experts}, however it is {k}")
        check_at_least_one(k=k)
        self.model = model
        self.k = k

    @override
    @sizes_parameters
    def forward(self, *args: Any, available: Tensor | None = None, **kwargs: Any) -> InteractionOutput:
        """Predict; `expert_predictions` are 0 where an expert did not run.

        Args:
            *args: as for the model.
            available: as for the model.
            **kwargs: as for the model.

        Raises:
            ValueError: in training, and if an expert lets the samples of a batch influence each other.
        """
        self._check()
        model = self.model
        modalities, arrange, available = model._bind(args, kwargs, available)
        weights = self._highest_weighted(model._weigh(modalities, available))

        predictions: Tensor | None = None
        for e, weight in enumerate(weights.unbind(1)):
            rows = weight.nonzero().squeeze(1)
            if len(rows) > 0:
                seen = tuple(map_leaves(lambda leaf, rows=rows: leaf.index_select(0, rows), m) for m in modalities)
                prediction = _separate_experts(model).run_one(e, arrange, seen).prediction
                if predictions is None:
                    predictions = prediction.new_zeros(*weights.shape, *prediction.shape[1:])
                predictions[rows, e] = prediction
        assert predictions is not None  # each sample has an expert

        return InteractionOutput(
            prediction=weighted_sum(predictions, weights),
            weights=weights,
            expert_predictions=predictions,
            aux_loss=weights.new_zeros(()),
            available=model._present(modalities, available),
        )

    def extra_repr(self) -> str:
        """Show k."""
        return f"k={self.k}"

    def _highest_weighted(self, weights: Tensor) -> Tensor:
        if self.k == weights.shape[1]:
            return weights
        largest, experts = weights.topk(self.k, dim=1)
        return torch.zeros_like(weights).scatter(1, experts, largest / largest.sum(1, keepdim=True))

    def _check(self) -> None:
        if self.model.training:
            raise ValueError("TopExperts must run in evaluation, however the model is in training; call .eval() first")
        mixing = mixing_layer(self.model.experts)
        if mixing is not None:
            raise ValueError(
                f"TopExperts must be able to show an expert some samples alone, however {mixing} lets the samples of "
                "a batch influence each other; use prune"
            )


class _Selected(nn.Module):
    """The weights of some experts, scaled to sum to 1."""

    def __init__(self, reweighter: Any, chosen: Sequence[int]) -> None:
        super().__init__()
        self.reweighter = reweighter
        self.chosen = tuple(chosen)
        self.n_experts = len(self.chosen)

    @override
    def forward(self, *args: Modality, **kwargs: Any) -> Tensor:
        weights = self.reweighter(*args, **kwargs)
        remaining = torch.stack([weights.select(1, e) for e in self.chosen], dim=1)
        return renormalized(remaining, torch.ones_like(remaining, dtype=torch.bool))


def _separate_experts(model: object) -> ExpertBank:
    """Return the experts of a model, each a backbone of its own."""
    if not isinstance(model, InteractionMoE):
        raise TypeError(
            f"model must be an InteractionMoE, however it is a {type(model).__name__}; pass the part of it that is one"
        )
    if not isinstance(model.experts, ExpertBank):
        raise ValueError(
            "experts must have weights of their own for some to be left out, however they share those of one backbone "
            "(members=...); there is nothing to save"
        )
    return model.experts
