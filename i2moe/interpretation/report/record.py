"""ReportRecord: the tensors of a report and the names of their axes."""

from __future__ import annotations

import operator
from dataclasses import dataclass, fields
from itertools import combinations

import torch
from torch import Tensor

from i2moe._common.tasks import Task, check_target, check_task
from i2moe.interpretation.statistics import check_confidence
from i2moe.losses import Interaction

__all__ = ["ReportRecord", "dropped_subsets", "position"]


def dropped_subsets(n_modalities: int) -> tuple[tuple[int, ...], ...]:
    """The S subsets of modalities that are dropped: each one, then each pair, where others are left.

    Example:
        >>> dropped_subsets(2), dropped_subsets(3)
        (((0,), (1,)), ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)))
    """
    return tuple(subset for size in (1, 2) if size < n_modalities for subset in combinations(range(n_modalities), size))


@dataclass(frozen=True, eq=False)
class ReportRecord:
    """What `explain` measured: tensors with one row per sample, on the CPU.

    N samples, E experts, M modalities, C outputs.

    Args:
        task: "classification", "multilabel" or "regression".
        modality_names: the M names.
        expert_names: the E names.
        interactions: the E interactions, a number being a modality's uniqueness.
        output_names: the C classes, labels or values.
        weights: (N, E), rows sum to 1.
        expert_predictions: (N, E, C), the experts' raw outputs (logits, or values in regression).
        prediction: (N, C), the model's raw output, the experts' contributions summed.
        target: (N,) classes, or (N, C) labels or values.
        checksums: (N,), of the inputs, by which `compare` and `stability` recognize the data.
        comprehensiveness: (N, M), how much the score drops when a modality is replaced; None if not measured.
        sufficiency: (N, M), how much the score drops when a modality alone is kept; None if not measured. The score
            is the probability of the true class, the mean log-likelihood per label in nats, or the negative mean
            squared error: drops are positive where the modality is missed.
        confidence: of the intervals.
        available: (N, M) bool, which modalities each sample has; None where all have all. Drops are NaN for others.
        marginals: (N, M, C), raw outputs from each modality alone, NaN where it is absent; None where the model has no
            fill for the others.
        weight_spread: (N, E), standard deviation over the members of the weights computed from each member's own
            predictions; None without members.
        predictions_without: (N, S, C), raw outputs without the modalities of each of the S `dropped_subsets`, NaN where
            nothing would be left; None if not measured.
        predictions_retrained: (N, S, C), the same of models that were trained without these modalities; None without
            such models. See `with_retraining`.
        prior: (C,), what predictions are compared with in computed weights, in probabilities or values: the prediction
            from nothing. None for learned weights.
        clusters: (N,) int64, what samples belong to, see `clustered`; None for samples on their own.
        basis: what the weights rest on where the model has no experts, in words; empty for experts.

    Raises:
        ValueError: if names, tensors and the task do not fit together.
    """

    task: Task
    modality_names: tuple[str, ...]
    expert_names: tuple[str, ...]
    interactions: tuple[Interaction, ...]
    output_names: tuple[str, ...]
    weights: Tensor
    expert_predictions: Tensor
    prediction: Tensor
    target: Tensor
    checksums: Tensor
    comprehensiveness: Tensor | None = None
    sufficiency: Tensor | None = None
    confidence: float = 0.95
    available: Tensor | None = None
    marginals: Tensor | None = None
    weight_spread: Tensor | None = None
    predictions_without: Tensor | None = None
    predictions_retrained: Tensor | None = None
    prior: Tensor | None = None
    clusters: Tensor | None = None
    basis: str = ""

    def __post_init__(self) -> None:
        check_task(self.task)
        check_confidence(self.confidence)
        for name in ("modality_names", "expert_names", "output_names"):
            names = getattr(self, name)
            if not isinstance(names, tuple) or not all(isinstance(item, str) for item in names):
                raise ValueError(f"{name} must be a tuple of names, however it is {names!r}")
        n, e, m, c = len(self), len(self.expert_names), len(self.modality_names), len(self.output_names)
        if n == 0 or len(self.interactions) != e or not {*self.interactions} <= {*range(m), "synergy", "redundancy"}:
            raise ValueError(
                f"a report must have samples and an interaction for each of {e} experts, "
                f"however it has {n} samples and the interactions {self.interactions}"
            )
        shapes = {
            "weights": (n, e),
            "expert_predictions": (n, e, c),
            "prediction": (n, c),
            "target": (n,) if self.task == "classification" else (n, c),
            "comprehensiveness": (n, m),
            "sufficiency": (n, m),
            "checksums": (n,),
            "available": (n, m),
            "marginals": (n, m, c),
            "weight_spread": (n, e),
            "predictions_without": (n, len(dropped_subsets(m)), c),
            "predictions_retrained": (n, len(dropped_subsets(m)), c),
            "prior": (c,),
            "clusters": (n,),
        }
        may_be_none = {field.name for field in fields(ReportRecord) if str(field.type).endswith("| None")}
        for name, shape in shapes.items():
            if getattr(self, name) is not None or name not in may_be_none:
                _check_tensor(name, getattr(self, name), shape)
        check_target(self.task, self.target, self.prediction.shape)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def computed(self) -> bool:
        """Whether the weights are computed from the predictions, and not learned."""
        return self.prior is not None

    @property
    def n_clusters(self) -> int | None:
        """How many groups the samples belong to; None for samples on their own."""
        return None if self.clusters is None else len(self.clusters.unique())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples, {self.task}, experts {self.expert_names})"


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
        raise ValueError(f"{name} must be a dense tensor, however it is {type(tensor).__name__}")
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, however its shape is {tuple(tensor.shape)}")
    special = {"available": torch.bool, "clusters": torch.int64}.get(name)
    right = tensor.dtype == special if special else tensor.is_floating_point() or name == "target"
    if not right:
        raise ValueError(f"{name} must be {special or 'floating-point'}, however it is {tensor.dtype}")


def position(report: ReportRecord, index: int) -> int:
    """Return a sample's position, counted from the start.

    Raises:
        IndexError: if there is no such sample.
    """
    index = operator.index(index)
    if not -len(report) <= index < len(report):
        raise IndexError(f"index must be one of {len(report)} samples, however it is {index}")
    return index % len(report)
