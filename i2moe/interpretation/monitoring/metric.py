"""A metric for validation loops: how good the model is, its weights, and whether they are faithful."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._common.modalities import Array, as_tensor
from i2moe._common.tasks import Task
from i2moe.interpretation.explain import name_outputs
from i2moe.interpretation.observation.batches import checked_rows, marginal_rows
from i2moe.interpretation.observation.observe import find_moe, prior_of, task_of
from i2moe.interpretation.report import InteractionReport
from i2moe.moe import InteractionOutput

__all__ = ["InteractionMetric"]


class InteractionMetric:
    """Add up a model's outputs over a validation loop, in the manner of torchmetrics.

    `update` takes what the loop has anyway, so that no pass is made twice. Outputs are kept until `reset`: E + M + 1
    predictions a sample. Each process adds up its own samples.

    Args:
        model: an `InteractionMoE`, or a module that holds one: for the names.
        task: "classification", "multilabel" or "regression". None for that of computed weights, "classification" with
            other weights.
        class_names: the C outputs' names.

    Raises:
        TypeError: if the model is no module.
        ValueError: if it holds no `InteractionMoE`, or the task is unknown.

    Example:
        >>> from i2moe import InteractionMoE
        >>> _ = torch.manual_seed(0)
        >>> model = InteractionMoE(lambda: nn.Bilinear(8, 4, 3), 2, reweighter="computed").eval()
        >>> metric = InteractionMetric(model)
        >>> for _ in range(3):
        ...     metric.update(model(torch.randn(16, 8), torch.randn(16, 4)), torch.randint(3, (16,)))
        >>> sorted(metric.compute())[:4]
        ['entropy', 'faithfulness/redundancy', 'faithfulness/synergy', 'faithfulness/uniqueness/0']
        >>> metric.report()
        InteractionReport(48 samples, classification, experts ('uniqueness/0', ...))
        >>> metric.reset()
    """

    def __init__(self, model: nn.Module, *, task: Task | None = None, class_names: Sequence[str] | None = None) -> None:
        self.moe = find_moe(model)
        self.task: Task = task_of(self.moe, task)
        self.class_names = class_names
        self._rows: list[dict[str, Tensor]] = []

    def __repr__(self) -> str:
        return f"InteractionMetric({self.task}, {sum(len(rows['target']) for rows in self._rows)} samples)"

    def update(self, out: InteractionOutput, target: Array) -> None:
        """Add a batch.

        Args:
            out: what the model made of it.
            target: its targets, as for `explain`.

        Raises:
            ValueError: if outputs are not finite, or the target does not fit.
        """
        rows = checked_rows(out, slice(None), self.task, torch.as_tensor(as_tensor(target)))
        rows["available"] = torch.ones(len(rows["target"]), self.moe.n_modalities, dtype=torch.bool)
        if out.available is not None:
            rows["available"] = out.available.cpu()
        if out.marginals is not None:
            rows["marginals"] = marginal_rows(out.marginals, out.available, slice(None))
        self._rows.append(rows)

    def compute(self) -> dict[str, float]:
        """Return numbers by name, ready for a log.

        "score" is the accuracy, the share of labels right, or R². With computed weights "score/<modality>" is the same
        from one modality alone, and "faithfulness/<expert>" says whether the weight follows the model's predictions
        from sample to sample. "weight/<expert>" and "std/<expert>" are mean and deviation of the weights, "entropy"
        their mean entropy in nats. What is not known, faithfulness of constant weights say, is left out.

        Raises:
            RuntimeError: if there was no batch.
        """
        report = self.report()
        names = report.expert_names
        found = {"score": report.quality.score, "entropy": report.entropy.mean().item()}
        found |= {f"score/{name}": quality.score for name, quality in report.quality_alone.items()}
        found |= {f"weight/{name}": value for name, value in zip(names, report.overall.mean.tolist(), strict=True)}
        found |= {f"std/{name}": value for name, value in zip(names, report.overall.std.tolist(), strict=True)}
        if report.marginals is not None:
            values = report.faithfulness.tolist()
            found |= {f"faithfulness/{name}": value for name, value in zip(names, values, strict=True)}
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def report(self) -> InteractionReport:
        """Return the report of the samples so far; without what needs more passes than the loop made.

        It cannot be told whether two such reports are of the same samples: compare reports of `explain`.

        Raises:
            RuntimeError: if there was no batch.
        """
        if not self._rows:
            raise RuntimeError("a metric must have seen a batch, however there was none; call update(out, target)")
        rows: dict[str, Any] = {name: torch.cat([batch[name] for batch in self._rows]) for name in self._rows[0]}
        if rows["available"].all():
            del rows["available"]
        return InteractionReport(
            task=self.task,
            modality_names=self.moe.modality_names,
            expert_names=self.moe.expert_names,
            interactions=self.moe.interactions,
            output_names=name_outputs(self.class_names, rows["prediction"].shape[1]),
            checksums=torch.full((len(rows["target"]),), torch.nan, dtype=torch.float64),
            prior=prior_of(self.moe, rows["prediction"]),
            **rows,
        )

    def reset(self) -> None:
        """Forget all batches."""
        self._rows = []
