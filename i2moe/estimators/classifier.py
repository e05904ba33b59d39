"""InteractionClassifier: classes from several modalities, in the manner of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from i2moe._common.tasks import Task
from i2moe.estimators.base import InteractionEstimator
from i2moe.estimators.inputs import ModalityArrays
from i2moe.estimators.rows import SampleLoss

__all__ = ["InteractionClassifier"]


@dataclass(kw_only=True, eq=False, repr=False)
class InteractionClassifier(ClassifierMixin, InteractionEstimator):
    """Classify samples of several modalities, and say which interactions the prediction comes from.

    Inside is an `InteractionMoE` with computed weights. It is trained on standardized features by AdamW with averaged
    parameters. Part of the samples is held out: training stops by them, and predictions are calibrated on them.

    Args:
        backbone: called without arguments, returns the fusion module: it takes the M standardized modalities and
            returns logits (B, C). None for encoders and a perceptron.
        encoders: what encodes each modality in the default backbone: a list, or a dict by name, of modules
            (B, ...) -> (B, H) or functions that build one; None where the default is meant. The defaults are a linear
            layer for (N, D), and convolutions over time for (N, T, D). A module is copied, not changed.
        modality_names: M names; by default the keys of a dict, or "0", "1", ...
        hidden_dim: width of the default encoders and of the hidden layer.
        members: all experts share one backbone's weights, and each is the mean of so many members; None: each expert
            has a backbone of its own. See `i2moe.moe.experts.sharing.share`.
        n_teachers: networks of each modality alone, and of all, that are trained first. The model learns their mean
            predictions: it predicts better from each modality alone, and weights vary less between random states. 0
            learns the targets: several times faster.
        dropout: in the default backbone, in [0, 1).
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        batch_size: samples of a training step, at most.
        max_epochs: passes over the training samples, at most.
        patience: epochs without a held-out loss better by 0.001 after which training ends.
        validation_fraction: of the samples held out, of each class about the same.
        modality_dropout: probability by which modalities are left out of half of the samples in training, for more than
            two, in [0, 1).
        device: of the model, "cpu" or "cuda".
        progress: "rich" shows a bar while training.
        random_state: a number gives the same model again; None draws one from numpy.
        class_weight: "balanced" counts each class as often as any other; a dict has the weight of each class. They
            multiply the samples' own.

    Attributes:
        classes_: (C,), the classes in order.
        expert_names_: E names, ("uniqueness/<name 0>", ..., "synergy", "redundancy").
        modality_names_: M names.
        model_: the `InteractionMoE`. Its input is what `to_tensors` returns.
        held_out_losses_: after each epoch.
        n_iter_: number of epochs.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> image, text = generator.normal(size=(200, 8)), generator.normal(size=(200, 4))
        >>> y = np.where(image[:, 0] > 0, "cat", "dog")  # the image alone tells
        >>> clf = InteractionClassifier(n_teachers=0, random_state=0).fit({"image": image, "text": text}, y)
        >>> clf.expert_names_[clf.interaction_weights([image, text]).mean(0).argmax()]
        'uniqueness/image'
    """

    class_weight: Literal["balanced"] | Mapping[Any, float] | None = None

    _task: ClassVar[Task] = "classification"

    def predict(self, Xs: ModalityArrays) -> np.ndarray:
        """Return the class of each sample, (N,)."""
        best = self.predict_proba(Xs).argmax(1)
        classes: np.ndarray = self.classes_[best]
        return classes

    def predict_proba(self, Xs: ModalityArrays) -> np.ndarray:
        """Return the probability of each class, (N, C); the columns are `classes_`."""
        return self._predictions(Xs).softmax(-1).numpy()

    def marginal_proba(self, Xs: ModalityArrays) -> np.ndarray:
        """Return the probability of each class from each modality alone, (N, M, C); NaN where a sample lacks it."""
        return self._marginals(Xs).softmax(-1).numpy()

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    def _learn_target(self, y: np.ndarray, weight: np.ndarray) -> tuple[Tensor, np.ndarray]:
        try:
            check_classification_targets(y)
            y = column_or_1d(y, warn=True)
            self.classes_, codes = np.unique(y, return_inverse=True)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "y must be one class for each sample, (N,), all numbers or all strings, however its shape is "
                f"{y.shape} and its dtype {y.dtype} ({error}); for values use InteractionRegressor, for a one-hot "
                "coding y.argmax(1)"
            ) from error
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must have at least two classes, however all samples are of class {self.classes_.tolist()[0]!r}; "
                "give samples of the others too"
            )
        return torch.from_numpy(codes), weight * self._of_classes(y)

    def _of_classes(self, y: np.ndarray) -> np.ndarray:
        """Return how much the class of each sample counts, (N,)."""
        try:
            found: np.ndarray = compute_sample_weight(self.class_weight, y)
        except ValueError as error:
            raise ValueError(
                f"class_weight must be 'balanced', None or a dict of the classes {self.classes_.tolist()}, however it "
                f"is {self.class_weight!r} ({error})"
            ) from error
        if not np.isfinite(found).all() or (found < 0).any():
            raise ValueError(
                f"class_weight must have finite numbers of at least 0, however it is {self.class_weight!r}"
            )
        return found

    def _code_target(self, y: np.ndarray) -> Tensor:
        y = column_or_1d(y, warn=True)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y must be of the classes {self.classes_.tolist()} as in fit, however it holds {unknown.tolist()}; "
                "drop these samples"
            )
        return torch.from_numpy(np.searchsorted(self.classes_, y))

    def _raw_predictions(self, other: InteractionEstimator, Xs: ModalityArrays) -> Tensor:
        """Return the logits of this estimator's classes; those unknown to the other get no probability."""
        found = other._predictions(Xs)
        logits = found.new_full((len(found), len(self.classes_)), -1e9)
        logits[:, self._code_target(other.classes_)] = found
        return logits

    def _loss(self) -> SampleLoss:
        return lambda prediction, target: F.cross_entropy(prediction, target, reduction="none")

    def _output_names(self) -> list[str] | None:
        return [str(name) for name in self.classes_]
