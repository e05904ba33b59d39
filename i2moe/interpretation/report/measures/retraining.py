"""Models that are trained anew without some modalities, beside the one that has to do without."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from i2moe._common.modalities import Array, as_tensor
from i2moe.interpretation.report.record import ReportRecord, dropped_subsets

__all__ = ["Refit", "with_retraining"]

Refit: TypeAlias = Callable[[tuple[str, ...]], Array]
"""Trains on the modalities of these names alone, and returns its predictions for the report's samples (N, C)."""

Record = TypeVar("Record", bound=ReportRecord)


def with_retraining(report: Record, refit: Refit) -> Record:
    """Return the report with predictions of models that were trained without one or two of the modalities.

    The cost of dropping then has both: for this model, and for one trained anew (in `summary`, `to_dict`, `to_html`).

    Args:
        report: the report.
        refit: called with the names of the modalities to keep, once for each modality that is dropped and once for each
            pair where others are left. It trains on them, on other samples than the report's, and returns predictions
            for the report's samples, in their order: (N, C) logits or class probabilities, logits of labels, or values.
            A row of NaN: a sample with nothing left, which does not count. Where all rows are, there is no cost.

    Returns:
        A new report.

    Raises:
        TypeError: if `refit` is no function.
        ValueError: if predictions are not (N, C), or some are infinite.

    Warns:
        UserWarning: if all predictions without some modalities are NaN.

    Example:
        >>> import torch
        >>> from i2moe import InteractionMoE, explain
        >>> model = InteractionMoE(lambda: torch.nn.Bilinear(8, 4, 3), 2, reweighter="computed")
        >>> batches = [((torch.randn(16, 8), torch.randn(16, 4)), torch.randint(3, (16,)))]
        >>> report = explain(model, batches, n_draws=0)
        >>> def refit(kept):  # train on these modalities, predict the 16 samples
        ...     return torch.randn(16, 3)
        >>> report.with_retraining(refit).cost_of_dropping()["0"].retrained.n_samples
        16
    """
    if not callable(refit):
        raise TypeError(
            f"refit must be a function of the names of the modalities to keep, however it is a {type(refit).__name__}"
        )
    names = report.modality_names
    predictions = []
    for subset in dropped_subsets(len(names)):
        kept = tuple(name for i, name in enumerate(names) if i not in subset)
        predictions.append(_checked(refit(kept), kept, report))
    return replace(report, predictions_retrained=torch.stack(predictions, dim=1))


def _checked(predicted: object, kept: tuple[str, ...], report: ReportRecord) -> Tensor:
    """Return predictions as the report keeps them, (N, C)."""
    shape = report.prediction.shape
    found = as_tensor(predicted)
    if isinstance(found, Tensor) and shape[1] == 1 and found.ndim == 1:
        found = found.unsqueeze(1)
    if not isinstance(found, Tensor) or found.shape != shape or not found.is_floating_point():
        what = (
            f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else f"a {type(predicted).__name__}"
        )
        raise ValueError(
            f"refit{kept} must return floating-point predictions (N, C) = {tuple(shape)} for the report's samples, "
            f"however it returned {what}; return predict_proba or logits, not classes"
        )
    found = found.detach().cpu()
    if found.isinf().any():
        raise ValueError(
            f"refit{kept} must return finite predictions, or rows of NaN for samples with nothing left, however some "
            "hold infinity; look at the training"
        )
    if found.isnan().any(1).all():
        warnings.warn(
            f"refit{kept} must predict some samples to tell what is lost, however it returned NaN for each; what this "
            "model loses is left out",
            stacklevel=3,
        )
    return found if found.dtype == torch.float64 else found.float()
