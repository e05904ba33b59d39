"""Calling a model that knows nothing of experts: how its inputs are arranged, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from i2moe._common.checks import TOLERANCE
from i2moe._common.modalities import as_tensor, map_leaves, sequence_like
from i2moe._common.names import check_modality_names
from i2moe._common.tasks import Task, probabilities
from i2moe.interpretation.existing.rows import n_rows
from i2moe.interpretation.observation.observe import call_by_signature, move
from i2moe.moe.names import check_order, order_in_call

__all__ = ["Form", "Predictor", "Returns", "function_of", "raw_outputs"]

Returns: TypeAlias = Literal["raw", "probabilities"]

_FLOOR = 1e-12  # a probability of 0 has no logit


@dataclass(frozen=True)
class Form:
    """How batches hold the M modalities: one for each entry of a tuple, list or dict, or some keys of a dict for each.

    Args:
        names: the M names.
        keys: the keys of each modality where batches are dicts, else None.
    """

    names: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...] | None

    @classmethod
    def of(cls, modalities: Any, names: Sequence[str] | Mapping[str, str | Sequence[str]] | None) -> Form:
        """Read the form off a batch.

        Raises:
            TypeError: if the batch is no tuple, list or dict of modalities.
            ValueError: if there are fewer than two, or the names do not fit.
        """
        if isinstance(modalities, Mapping):
            found: tuple[str, ...] = tuple(modalities)
            groups = (
                names if isinstance(names, Mapping) else {name: name for name in (found if names is None else names)}
            )
            keys = tuple((given,) if isinstance(given, str) else tuple(given) for given in groups.values())
            form = cls(tuple(groups), keys)
            used = [key for group in keys for key in group]
            if sorted(used) != sorted(found):
                raise ValueError(
                    f"modality_names must share the keys {found} of a batch out, each to one modality, however they "
                    f"are {dict(zip(form.names, keys, strict=True))}; leave what is no modality out of the batch"
                )
        elif isinstance(modalities, tuple | list):
            if isinstance(names, Mapping) or (names is not None and len(names) != len(modalities)):
                raise ValueError(
                    f"modality_names must be a name for each of {len(modalities)} modalities, however they are {names}"
                )
            form = cls(tuple(map(str, range(len(modalities)))) if names is None else tuple(names), None)
        else:
            raise TypeError(
                "a batch must hold a tuple, list or dict of modalities, however it holds a "
                f"{type(modalities).__name__}; a table is split by its columns: (X[:, :8], X[:, 8:])"
            )
        check_modality_names(len(form.names), form.names)
        return form

    def split(self, modalities: Any) -> list[Any]:
        """Return the M modalities of a batch.

        Raises:
            ValueError: if the batch is of another form.
        """
        if self.keys is None:
            fits = isinstance(modalities, tuple | list) and len(modalities) == len(self.names)
        else:
            wanted = sorted(key for group in self.keys for key in group)
            fits = isinstance(modalities, Mapping) and sorted(modalities) == wanted
        if not fits:
            found = tuple(modalities) if isinstance(modalities, Mapping) else f"{len(modalities)} of them"
            raise ValueError(
                f"every batch must hold the {len(self.names)} modalities {self.names}, however one holds {found}"
            )
        if self.keys is None:
            return list(modalities)
        return [
            modalities[group[0]] if len(group) == 1 else {key: modalities[key] for key in group} for group in self.keys
        ]

    def join(self, modalities: Sequence[Any], like: Any) -> Any:
        """Put M modalities together as the batch `like` held them."""
        if self.keys is None:
            return sequence_like(like, modalities)
        return {
            key: modality if len(group) == 1 else modality[key]
            for group, modality in zip(self.keys, modalities, strict=True)
            for key in group
        }


class Predictor:
    """Predicts from M modalities: probabilities (B, C), or the values of a regression, in float64 on the CPU.

    Args:
        function: the model as it is called.
        form: how it gets its modalities.
        like: a batch of its modalities.
        call: called with the function and the modalities in place of the rule of `explain`.
        task: what the outputs are of.
        returns: whether outputs are raw or probabilities; None to read it off the first outputs.
        device: where to; None leaves modalities where they are.
    """

    def __init__(
        self,
        function: Any,
        form: Form,
        like: Any,
        call: Callable[[Any, Any], object] | None,
        task: Task,
        returns: Returns | None,
        device: torch.device | None,
    ) -> None:
        if call is None and form.keys is None and not isinstance(function, MethodType):
            check_order(form.names, order_in_call(function, form.names), len(form.names))
        self.function = function
        self.form = form
        self.like = like
        self.call = call_by_signature if call is None else call
        self.task = task
        if returns is not None and returns not in get_args(Returns):
            raise ValueError(f"returns must be one of {get_args(Returns)} or None, however it is {returns!r}")
        self.returns = "raw" if task == "regression" else returns
        self.device = device

    def __call__(self, modalities: Sequence[Any]) -> Tensor:
        """Predict.

        Args:
            modalities: M modalities of B rows.

        Raises:
            TypeError: if the model returns no array.
            ValueError: if outputs are not (B, C), finite, or are no probabilities where they should be.
        """
        arrays = isinstance(self.function, nn.Module)
        joined = move(self.form.join(modalities, self.like), self.device, arrays=arrays)
        try:
            output = self.call(self.function, joined)
        except Exception as error:
            shapes = {name: _shape(x) for name, x in zip(self.form.names, modalities, strict=True)}
            if isinstance(self.function, MethodType) and isinstance(error, TypeError | ValueError):
                raise ValueError(
                    f"{self.function.__name__} of the model must take the {len(shapes)} modalities in one "
                    f"{type(joined).__name__}, however with those of shape {shapes} it failed ({error}); a model of a "
                    "table of all columns is called by lambda a, b: model.predict_proba(numpy.hstack([a, b]))"
                ) from error
            error.add_note(f"the model was called with modalities of shape {shapes}")
            raise
        outputs = self._read(output, n_rows(modalities[0]))
        if self.returns is None:
            self.returns = "probabilities" if self._are_probabilities(outputs) else "raw"
        if self.returns == "raw":
            return probabilities(self.task, outputs)
        if not self._are_probabilities(outputs):
            found = f"they lie in [{outputs.min():.3g}, {outputs.max():.3g}]"
            rows = outputs.sum(1)
            sums = (", rows summing to 1", f", rows summing to {rows.min():.3g} to {rows.max():.3g}")
            wanted, have = sums if self.task == "classification" else ("", "")
            raise ValueError(
                f"probabilities must lie in [0, 1]{wanted}, however {found}{have}; for logits say returns='raw'"
            )
        return outputs / outputs.sum(1, keepdim=True) if self.task == "classification" else outputs

    def _are_probabilities(self, outputs: Tensor) -> bool:
        inside = bool(((outputs >= 0) & (outputs <= 1)).all())
        return inside and (self.task == "multilabel" or bool(((outputs.sum(1) - 1).abs() <= TOLERANCE).all()))

    def _read(self, output: object, n_samples: int) -> Tensor:
        output = getattr(output, "logits", getattr(output, "prediction", output))
        outputs = as_tensor(output)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the model must return an array of outputs (B, C), however it returned a {type(output).__name__}; "
                "take them out: call=lambda model, modalities: model(*modalities)[0]"
            )
        outputs = outputs.detach().cpu().double()
        outputs = outputs.unsqueeze(1) if outputs.ndim == 1 else outputs
        if outputs.ndim != 2 or len(outputs) != n_samples:
            raise ValueError(
                f"the model must return outputs (B, C) for {n_samples} samples, however their shape is "
                f"{tuple(outputs.shape)}"
            )
        if self.task == "classification" and outputs.shape[1] < 2:
            raise ValueError(
                "classification must have the outputs of at least two classes, however the model returns one; give "
                "both probabilities (predict_proba), or use task='multilabel' with targets (B, 1), or 'regression'"
            )
        broken = int((~outputs.isfinite()).any(1).sum())
        if broken:
            raise ValueError(
                f"outputs must be finite, however they hold NaN or infinity for {broken} of {n_samples} samples; "
                "look for NaN in the inputs, or for a diverged training"
            )
        return outputs


def _shape(modality: Any) -> Any:
    return map_leaves(lambda x: tuple(getattr(x, "shape", ())), modality)


def function_of(model: object, task: Task) -> Any:
    """Return what is called of a model: a module itself, `predict_proba`, or `predict` for a regression.

    Raises:
        TypeError: if there is nothing to call.
    """
    if isinstance(model, nn.Module):
        return model
    method = getattr(model, "predict" if task == "regression" else "predict_proba", None)
    if isinstance(model, type) or (method is None and not callable(model)):
        found = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise TypeError(
            "model must be a module, a function of the modalities or an object with predict_proba (predict for a "
            f"regression), however it is {found}; for a table of all columns hand in "
            "lambda a, b: model.predict_proba(numpy.hstack([a, b]))"
        )
    return model if method is None else method


def raw_outputs(task: Task, predicted: Tensor) -> Tensor:
    """Turn probabilities (..., C) into the raw outputs that a report keeps; values stay."""
    if task == "regression":
        return predicted
    if task == "classification":
        return predicted.clamp(min=_FLOOR).log()
    return predicted.logit(eps=_FLOOR)
