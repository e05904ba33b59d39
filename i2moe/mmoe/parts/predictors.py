"""Predictors: modules, estimators and functions behind one call, modalities in and predictions (B, C) out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Protocol, TypedDict, Unpack

import torch
from torch import Tensor, nn

from i2moe._common.modalities import BackboneOutput, Modality, as_backbone_output, leaves
from i2moe._common.passes import evaluating
from i2moe.mmoe.parts.objectives import Objective
from i2moe.mmoe.parts.training import OnEpoch, Training, in_batches, n_samples_of, train

__all__ = ["Expert", "Predictor", "as_predictor", "predict"]


class Expert(Protocol):
    """What an expert of any kind has to do; a `Predictor` for experts that are not modules or estimators.

    Methods that are there are used, and need not be: `fit(modalities, target)` learns from the samples of the expert's
    category; `state_dict()` and `load_state_dict(state)` let stages be resumed.
    """

    def __call__(self, modalities: tuple[Modality, ...], /) -> Tensor:
        """Return predictions (B, C), probabilities in classification, of M modalities."""


class Run(TypedDict, total=False):
    """How samples are drawn, and what is called after each epoch: as for `train`."""

    generator: torch.Generator | None
    on_epoch: OnEpoch | None


class Predictor(nn.Module):
    """The base of all predictors: predicts, and can learn.

    Args:
        objective: what is predicted.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, modalities: tuple[Modality, ...]) -> Tensor:
        """Return predictions (B, C)."""
        raise NotImplementedError

    def fit(self, modalities: tuple[Modality, ...], target: Tensor, training: Training, **run: Unpack[Run]) -> None:
        """Learn from samples; a module goes on from where it is."""
        raise NotImplementedError


class ModulePredictor(Predictor):
    """A module called with the modalities, its outputs activated."""

    def __init__(self, module: nn.Module, objective: Objective) -> None:
        super().__init__(objective)
        self.module = module

    def forward(self, modalities: tuple[Modality, ...]) -> Tensor:
        return self.objective.activate(self._run(modalities).prediction)

    def fit(self, modalities: tuple[Modality, ...], target: Tensor, training: Training, **run: Unpack[Run]) -> None:
        train(self, self._loss, modalities, target, training, **run)

    def _loss(self, modalities: tuple[Modality, ...], target: Tensor) -> Tensor:
        output = self._run(modalities)
        loss = self.objective.loss(output.prediction, target)
        return loss if output.aux_loss is None else loss + 0.01 * output.aux_loss

    def _run(self, modalities: tuple[Modality, ...]) -> BackboneOutput:
        return as_backbone_output(self.module(*modalities), f"a {type(self.module).__name__}")


class EstimatorPredictor(Predictor):
    """An estimator with scikit-learn's `fit` and `predict_proba` (or `predict`, in regression), on flat features.

    The floating-point tensors of all modalities are flattened and concatenated to an array (B, D).
    """

    def __init__(self, estimator: Any, objective: Objective) -> None:
        super().__init__(objective)
        self.estimator: Any = estimator

    def forward(self, modalities: tuple[Modality, ...]) -> Tensor:
        features = _features(modalities)
        if not hasattr(self.estimator, "predict_proba"):
            return _like(self.estimator.predict(features.cpu().numpy()), features).reshape(len(features), -1)
        found = _like(self.estimator.predict_proba(features.cpu().numpy()), features)
        probabilities = features.new_zeros(len(features), self.objective.n_outputs)
        probabilities[:, torch.as_tensor(self.estimator.classes_, device=features.device).long()] = found
        return probabilities

    def fit(self, modalities: tuple[Modality, ...], target: Tensor, training: Training, **run: Unpack[Run]) -> None:
        self.estimator.fit(_features(modalities).cpu().numpy(), target.cpu().numpy())

    def get_extra_state(self) -> Tensor:
        return _pickled(self.estimator)

    def set_extra_state(self, state: Tensor) -> None:
        self.estimator = _unpickled(state)


class FunctionPredictor(Predictor):
    """Anything called with the modalities that returns predictions; see `Expert`."""

    def __init__(self, function: Callable[[tuple[Modality, ...]], Tensor], objective: Objective) -> None:
        super().__init__(objective)
        self.function: Callable[[tuple[Modality, ...]], Tensor] = function

    def forward(self, modalities: tuple[Modality, ...]) -> Tensor:
        return self.function(modalities)

    def fit(self, modalities: tuple[Modality, ...], target: Tensor, training: Training, **run: Unpack[Run]) -> None:
        if hasattr(self.function, "fit"):
            self.function.fit(modalities, target)

    def get_extra_state(self) -> Any:
        if hasattr(self.function, "state_dict"):
            return self.function.state_dict()
        return _pickled(self.function) if hasattr(self.function, "fit") else None

    def set_extra_state(self, state: Any) -> None:
        if hasattr(self.function, "load_state_dict"):
            self.function.load_state_dict(state)
        elif isinstance(state, Tensor):
            self.function = _unpickled(state)


def as_predictor(candidate: object, objective: Objective, name: str) -> Predictor:
    """Wrap a module, an estimator or a function.

    Args:
        candidate: a `torch.nn.Module` called with the modalities; an estimator with `fit` and `predict_proba`
            (`predict` in regression); or an `Expert`, called with the tuple of modalities.
        objective: what is predicted.
        name: for the error.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(candidate, Predictor):
        return candidate
    if isinstance(candidate, nn.Module):
        return ModulePredictor(candidate, objective)
    if not isinstance(candidate, type):
        if hasattr(candidate, "fit") and (hasattr(candidate, "predict_proba") or hasattr(candidate, "predict")):
            return EstimatorPredictor(candidate, objective)
        if callable(candidate):
            return FunctionPredictor(candidate, objective)
    raise TypeError(
        f"{name} must be a torch.nn.Module, an estimator with fit and predict_proba, or a callable, "
        f"however it is {candidate!r}"
    )


def predict(predictor: Predictor, modalities: tuple[Modality, ...], name: str, *, batch_size: int = 1024) -> Tensor:
    """Predict without gradient, some samples at a time, and check what comes back.

    Returns:
        (B, C).

    Raises:
        TypeError: if no tensor comes back.
        ValueError: if the predictions do not fit the task.
    """
    with evaluating(predictor):
        batches = [predictor(batch) for batch in in_batches(modalities, batch_size)]
    for batch in batches:
        if not isinstance(batch, Tensor):
            raise TypeError(f"{name} must return a tensor (B, C), however it returned a {type(batch).__name__}")
    predictions = torch.cat(batches)
    predictor.objective.check_predictions(predictions, n_samples_of(modalities), f"predictions of {name}")
    return predictions


def _features(modalities: tuple[Modality, ...]) -> Tensor:
    floating = [leaf.flatten(1) for leaf in leaves(modalities) if leaf.is_floating_point()]
    if not floating:
        raise TypeError("an estimator must have a floating-point modality, however there is none; embed them first")
    return torch.cat(floating, dim=1).detach()


def _like(array: Any, features: Tensor) -> Tensor:
    return torch.as_tensor(array).to(features)


def _pickled(value: object) -> Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


def _unpickled(state: Tensor) -> Any:
    return pickle.loads(state.cpu().numpy().tobytes())
