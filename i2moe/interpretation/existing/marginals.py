"""Marginals of a model without experts: what it would predict from some of the modalities, one alone say."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from i2moe._common.checks import check_at_least_one
from i2moe._common.modalities import as_tensor
from i2moe.interpretation.existing.calling import Predictor, raw_outputs
from i2moe.interpretation.existing.heads import Head
from i2moe.interpretation.existing.rows import n_rows, take
from i2moe.interpretation.statistics import FEW_SAMPLES

__all__ = ["Apart", "Background", "Fitted", "Marginals", "Replaced"]


@dataclass(frozen=True, eq=False)
class Background:
    """What marginals are fitted to: held-out samples, and what the model predicts of them.

    Args:
        predict: the model.
        modalities: M modalities of N samples.
        joint: (N, C), the model's predictions: probabilities or values, in float64.
        target: (N,) classes, or (N, C) labels or values.
        kept: the positions of the modalities to predict from, K times: each one alone first.
        most_rows: how many rows the model gets at most, those of a batch.
    """

    predict: Predictor
    modalities: Sequence[Any]
    joint: Tensor
    target: Tensor
    kept: Sequence[Sequence[int]]
    most_rows: int


@runtime_checkable
class Marginals(Protocol):
    """What predicts from some of the modalities, and says what the prediction from all is to be compared with."""

    prior: Tensor
    """(C,), the prediction from no modality, known after `fit`."""

    def fit(self, background: Background) -> None:
        """Get ready."""
        ...

    def __call__(self, modalities: Sequence[Any], joint: Tensor) -> Tensor:
        """Predict from each of the K choices of modalities, and from all.

        Args:
            modalities: M modalities (B, ...).
            joint: (B, C), what the model predicts from all.

        Returns:
            (B, K + 1, C), probabilities or values in float64 on the CPU.
        """
        ...

    def basis(self) -> str:
        """Say what the predictions rest on, to be read after "computed from a model without experts; "."""
        ...


class Replaced:
    """Ask the model itself, with all other modalities replaced, and take the mean over the replacements.

    Others are replaced by those of the same background samples for all. A model that was never trained without a
    modality has not seen such combinations: its predictions are then not what the modality says.

    Args:
        n_references: number of background samples R that stand for the others.

    Raises:
        ValueError: if `n_references` is not positive.
    """

    prior: Tensor

    def __init__(self, n_references: int = 64) -> None:
        check_at_least_one(n_references=n_references)
        self.n_references = n_references
        self.prior = torch.empty(0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_references={self.n_references})"

    def fit(self, background: Background) -> None:
        """Choose the background samples, at random.

        Raises:
            ValueError: if the background is too small.
        """
        _check_size(background.target, 2)
        self._predict, self._kept = background.predict, background.kept
        chosen = torch.randperm(len(background.target))[: self.n_references]
        self._n_found = len(chosen)
        self._references = [take(modality, chosen) for modality in background.modalities]
        self.prior = background.joint.mean(0)

    def __call__(self, modalities: Sequence[Any], joint: Tensor) -> Tensor:
        """Predict (B, K + 1, C)."""
        return torch.cat((self.probe(modalities).mean(2), joint.unsqueeze(1)), dim=1)

    def basis(self) -> str:
        """Say what the predictions rest on."""
        return f"other modalities replaced by those of {self._n_found} background samples"

    def probe(self, modalities: Sequence[Any]) -> Tensor:
        """Predict from each choice of modalities next to each of R references: (B, K, R, C)."""
        n_samples = n_rows(modalities[0])
        found = []
        for k in range(self._n_found):
            rows = torch.full((n_samples,), k)
            others = [take(modality, rows) for modality in self._references]
            pairs = list(zip(modalities, others, strict=True))
            each = [self._predict([pair[i not in chosen] for i, pair in enumerate(pairs)]) for chosen in self._kept]
            found.append(torch.stack(each, dim=1))
        return torch.stack(found, dim=2)


class Fitted(Replaced):
    """Fit a small head for each modality, that reads what the model makes of it next to background samples.

    What the model says of a modality next to one background sample mixes the two. Next to R of them it is a fingerprint
    of the modality. A linear head learns from the background's targets what the fingerprint means. So it predicts as
    well as the model's own knowledge of this modality allows, also where the model was never trained without one.

    A head reads the model's prediction from all modalities as well. Heads are as sure as they are right on the
    background, and a model that is surer would look as if it knew more from all than from one.

    Args:
        n_references: as for `Replaced`.

    Raises:
        ValueError: if `n_references` is not positive.
    """

    def fit(self, background: Background) -> None:
        """Choose the background samples and fit the heads.

        Raises:
            ValueError: if the background is too small.
        """
        _check_size(background.target, FEW_SAMPLES)
        super().fit(background)
        joint, target = background.joint, background.target
        self._n_samples = len(target)
        parts = [
            self._features([take(modality, rows) for modality in background.modalities], joint[rows])
            for rows in torch.arange(len(target)).split(background.most_rows)
        ]
        features = [torch.cat(part) for part in zip(*parts, strict=True)]
        self._heads = [Head(background.predict.task, x, target, joint.shape[1]) for x in features]
        self.prior = self._heads[-1](features[-1]).mean(0)

    def __call__(self, modalities: Sequence[Any], joint: Tensor) -> Tensor:
        """Predict (B, K + 1, C)."""
        features = self._features(modalities, joint)
        return torch.stack([head(x) for head, x in zip(self._heads, features, strict=True)], dim=1)

    def basis(self) -> str:
        """Say what the predictions rest on."""
        return (
            f"a linear head for each modality, fitted on {self._n_samples} background samples, reads the model's "
            f"outputs with the other modalities replaced by those of {self._n_found} of them"
        )

    def _features(self, modalities: Sequence[Any], joint: Tensor) -> list[Tensor]:
        """Raw outputs next to each reference, K of (B, R * C), and those from all modalities (B, C)."""
        task = self._predict.task
        return [*raw_outputs(task, self.probe(modalities)).flatten(2).unbind(1), raw_outputs(task, joint)]


class Apart:
    """Fit a copy of an estimator to each choice of modalities, which knows nothing of the model.

    Args:
        estimator: in scikit-learn's manner: `fit`, and `predict_proba`, or for a regression `predict`. It gets a
            modality as it is, several side by side, arrays of more than two axes flattened.

    Raises:
        ValueError: when fitted, if the background is too small or the task is multilabel.
    """

    prior: Tensor

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self.prior = torch.empty(0)

    def fit(self, background: Background) -> None:
        """Fit a copy to each choice of modalities.

        Raises:
            ValueError: if the background is too small, or the task is multilabel.
        """
        _check_size(background.target, FEW_SAMPLES)
        self._task, self._kept = background.predict.task, background.kept
        if self._task == "multilabel":
            raise ValueError(
                "an estimator must have one target, however the task is multilabel; use marginals='fitted'"
            )
        target, raw = background.target, raw_outputs(self._task, background.joint)
        self._n_samples = len(target)
        y = (target.squeeze(1) if target.ndim == 2 and target.shape[1] == 1 else target).numpy()
        tables = [_table(background.modalities, chosen) for chosen in self._kept]
        self._fitted = [copy.deepcopy(self.estimator).fit(table, y) for table in tables]
        self._head = Head(self._task, raw, target, raw.shape[1])
        self.prior = self._head(raw).mean(0)

    def __call__(self, modalities: Sequence[Any], joint: Tensor) -> Tensor:
        """Predict (B, K + 1, C)."""
        calibrated = self._head(raw_outputs(self._task, joint))
        alone = [
            self._one(fitted, _table(modalities, chosen), calibrated)
            for fitted, chosen in zip(self._fitted, self._kept, strict=True)
        ]
        return torch.stack([*alone, calibrated], dim=1)

    def basis(self) -> str:
        """Say what the predictions rest on."""
        return f"a {type(self.estimator).__name__} for each modality, fitted on {self._n_samples} background samples"

    def _one(self, estimator: Any, table: Any, like: Tensor) -> Tensor:
        if self._task == "regression":
            values: Tensor = as_tensor(estimator.predict(table)).double().reshape(like.shape)
            return values
        all_classes = torch.zeros_like(like)  # a class may be absent from the background
        all_classes[:, as_tensor(estimator.classes_)] = as_tensor(estimator.predict_proba(table)).double()
        return all_classes


def _table(modalities: Sequence[Any], chosen: Sequence[int]) -> Any:
    """Some modalities as estimators take them, side by side: a data frame where all are, else an array (N, D)."""
    tables = [_as_table(modalities[i]) for i in chosen]
    if len(tables) == 1:
        return tables[0]
    if all(hasattr(table, "iloc") for table in tables):
        import pandas

        joined = pandas.concat([table.reset_index(drop=True) for table in tables], axis=1)
        joined.columns = [f"{i}/{name}" for i, table in zip(chosen, tables, strict=True) for name in table.columns]
        return joined
    import numpy

    return numpy.hstack([numpy.asarray(table) for table in tables])


def _as_table(modality: Any) -> Any:
    """A modality as estimators take it: a data frame as it is, else an array (N, D)."""
    if hasattr(modality, "iloc"):
        return modality
    if not hasattr(modality, "shape"):
        raise TypeError(
            "a modality must be one array to be read by an estimator, however it is a nested "
            f"{type(modality).__name__}; use marginals='fitted'"
        )
    array = modality.detach().cpu().numpy() if isinstance(modality, Tensor) else modality
    return array.reshape(len(array), -1) if array.ndim != 2 else array


def _check_size(target: Tensor, least: int) -> None:
    if len(target) < least:
        raise ValueError(
            f"the background must hold at least {least} samples, however it holds {len(target)}; "
            "give held-out samples, some hundreds if you have them"
        )
