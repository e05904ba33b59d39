"""InteractionRegressor: values from several modalities, in the manner of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import RegressorMixin
from torch import Tensor

from i2moe._common.tasks import Task
from i2moe.estimators.base import InteractionEstimator
from i2moe.estimators.inputs import ModalityArrays, moments
from i2moe.estimators.rows import SampleLoss
from i2moe.interpretation import InteractionReport

__all__ = ["InteractionRegressor"]


@dataclass(kw_only=True, eq=False, repr=False)
class InteractionRegressor(RegressorMixin, InteractionEstimator):
    """Predict values from several modalities, and say which interactions the prediction comes from.

    As `InteractionClassifier`, where all arguments but `class_weight` are described. The loss is the squared error of
    the standardized target; `model_` predicts standardized values.

    Attributes:
        expert_names_: E names, ("uniqueness/<name 0>", ..., "synergy", "redundancy").
        modality_names_: M names.
        model_: the `InteractionMoE`. Its input is what `to_tensors` returns.
        target_mean_: (C,), of the target; `target_scale_` is its deviation.
        held_out_losses_: after each epoch.
        n_iter_: number of epochs.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> image, text = generator.normal(size=(200, 8)), generator.normal(size=(200, 4))
        >>> y = 100 + 5 * image[:, 0]
        >>> reg = InteractionRegressor(n_teachers=2, random_state=0).fit([image, text], y)
        >>> reg.expert_names_[reg.interaction_weights([image, text]).mean(0).argmax()]
        'uniqueness/0'
    """

    _task: ClassVar[Task] = "regression"

    def predict(self, Xs: ModalityArrays) -> np.ndarray:
        """Return the values of each sample, (N,) or (N, C), as the target of `fit` was."""
        return self._in_units(self._predictions(Xs).numpy())

    def marginal_predict(self, Xs: ModalityArrays) -> np.ndarray:
        """Return the values predicted from each modality alone, (N, M) or (N, M, C); NaN where a sample lacks it."""
        return self._in_units(self._marginals(Xs).numpy())

    def _in_report(self, report: InteractionReport) -> InteractionReport:
        if self._n_outputs > 1:
            return report
        mean, scale = float(self.target_mean_[0]), float(self.target_scale_[0])
        values = (
            "expert_predictions",
            "prediction",
            "target",
            "marginals",
            "predictions_without",
            "predictions_retrained",
            "prior",
        )
        changed: dict[str, Any] = {name: _linear(getattr(report, name), scale, mean) for name in values}
        for name in ("comprehensiveness", "sufficiency"):
            changed[name] = _linear(getattr(report, name), scale**2, 0.0)
        return replace(report, **changed)

    @property
    def _n_outputs(self) -> int:
        return len(self.target_mean_)

    def _learn_target(self, y: np.ndarray, weight: np.ndarray) -> tuple[Tensor, np.ndarray]:
        values = _as_values(y)
        mean, deviation = moments(values)
        if not np.isfinite(deviation).all():
            raise ValueError(
                "y must have values whose deviation is finite, however they lie in "
                f"[{values.min():g}, {values.max():g}]; divide them"
            )
        if (values == values[0]).all():
            raise ValueError(f"y must have at least two values, however all are {values[0].tolist()}")
        self.target_mean_, self.target_scale_ = mean[0], deviation[0]
        self.target_ndim_ = y.ndim
        return self._code_target(y), weight

    def _code_target(self, y: np.ndarray) -> Tensor:
        values = _as_values(y)
        if values.shape[1] != self._n_outputs:
            raise ValueError(
                f"y must have {self._n_outputs} values for each sample as in fit, however its shape is {y.shape}"
            )
        return torch.from_numpy((values - self.target_mean_) / self.target_scale_).float()

    def _raw_predictions(self, other: InteractionEstimator, Xs: ModalityArrays) -> Tensor:
        assert isinstance(other, InteractionRegressor)
        return self._code_target(other.predict(Xs))

    def _loss(self) -> SampleLoss:
        return lambda prediction, target: (prediction - target).square().mean(-1)

    def _output_names(self) -> list[str] | None:
        # Errors are means over the values, which have units of their own.
        return None if self._n_outputs == 1 else [f"{i} (standardized)" for i in range(self._n_outputs)]

    def _in_units(self, outputs: np.ndarray) -> np.ndarray:
        values: np.ndarray = outputs * self.target_scale_ + self.target_mean_
        return values.squeeze(-1) if self.target_ndim_ == 1 else values


def _linear(x: Tensor | None, scale: float, mean: float) -> Tensor | None:
    """Scale what was measured, in float64: values may be large beside their deviation, as those of a clock."""
    return None if x is None else x.double() * scale + mean


def _as_values(y: np.ndarray) -> np.ndarray:
    """Return targets as (N, C) in float64."""
    try:
        values = y.astype(np.float64).reshape(len(y), -1)
    except ValueError as error:
        raise ValueError(
            f"y must be numbers for a regression, however it is of {y.dtype}; use InteractionClassifier"
        ) from error
    if y.ndim > 2 or not np.isfinite(values).all():
        raise ValueError(f"y must be finite values (N,) or (N, C), however its shape is {y.shape} or some are infinite")
    return values
