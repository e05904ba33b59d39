"""Reading a batch: from what a loader gives to rows of a report, with the batch named in errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from i2moe._common.checks import check_distribution
from i2moe._common.modalities import Modality, as_tensor
from i2moe._common.tasks import Task, check_target, score
from i2moe.interpretation.observation.observe import Observation, checksum, move, observe
from i2moe.interpretation.observation.reduced import reduced_predictions, spread_of_members
from i2moe.interpretation.report.measures.faithfulness import score_drops
from i2moe.moe import InteractionMoE, InteractionOutput
from i2moe.perturbations import Perturbation

__all__ = [
    "BatchReader",
    "check_batch",
    "check_batches",
    "check_not_empty",
    "checked_rows",
    "in_batch",
    "marginal_rows",
    "noted",
    "shuffles",
    "split_batch",
    "warn_of_order",
]


@dataclass(frozen=True)
class BatchReader:
    """Turns each batch into rows of the report.

    Args:
        model: what is explained.
        moe: the `InteractionMoE` in it.
        call: how to call the model with a batch's modalities.
        device: where to; None leaves batches where they are.
        task: what the outputs are of.
        perturbation: what replaces a modality.
        n_draws: number of replacements; 0 measures no faithfulness.
        outputs: which of the prediction's outputs.
        drop_modalities: whether to predict without some of the modalities too, where the model can.
    """

    model: nn.Module
    moe: InteractionMoE
    call: Callable[[nn.Module, Any], object]
    device: torch.device | None
    task: Task
    perturbation: Perturbation
    n_draws: int
    outputs: slice
    drop_modalities: bool

    def read(self, index: int, batch: Any) -> dict[str, Tensor]:
        """Return the rows of batch number `index`, on the CPU."""
        with in_batch(index):
            modalities, target = split_batch(batch)
        with noted(index):
            inputs = move(modalities, self.device, arrays=True)
            seen = observe(self.moe, lambda: self.call(self.model, inputs))
        with in_batch(index):
            rows = checked_rows(seen.output, self.outputs, self.task, target)
        with noted(index):
            rows["checksums"] = checksum(inputs, len(target))
            if seen.available is not None:
                rows["available"] = seen.available.cpu()
            rows |= self._reduce(seen)
            return rows | (self._measure(seen, rows) if self.n_draws > 0 else {})

    def _reduce(self, seen: Observation) -> dict[str, Tensor]:
        found = {"marginals": seen.output.marginals, "weight_spread": spread_of_members(self.moe, seen.output)}
        if self.drop_modalities and self.moe.fill is not None:
            found["marginals"], found["predictions_without"] = reduced_predictions(self.moe, seen)
        rows = {name: _to_cpu(tensor) for name, tensor in found.items() if tensor is not None}
        if "marginals" in rows:
            rows["marginals"] = marginal_rows(rows["marginals"], seen.available, self.outputs)
        if "predictions_without" in rows:
            rows["predictions_without"] = _as_rows(rows["predictions_without"], n_leading=2)[..., self.outputs]
        return rows

    def _measure(self, seen: Observation, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        def score_of(modalities: tuple[Modality, ...]) -> Tensor:
            args, kwargs = seen.arrange(modalities)
            mask = {} if seen.available is None else {"available": seen.available}
            prediction = _as_rows(_to_cpu(self.moe.predict(*args, **kwargs, **mask)))[:, self.outputs]
            return score(self.task, prediction, rows["target"])

        full = score(self.task, rows["prediction"], rows["target"])
        comprehensiveness, sufficiency = score_drops(
            score_of, full, seen.modalities, self.perturbation, self.n_draws, seen.available
        )
        return {"comprehensiveness": comprehensiveness, "sufficiency": sufficiency}


def check_batches(data: Any, source: str = "data") -> None:
    """Raise a TypeError if data are no batches, or a single one that is not in a list."""
    single = isinstance(data, tuple) and len(data) == 2 and hasattr(data[1], "shape")
    if single or not hasattr(data, "__iter__"):
        found = "it is one batch" if single else f"it is a {type(data).__name__}"
        raise TypeError(f"{source} must be batches (modalities, target), however {found}; give a list: [((a, b), y)]")


def check_not_empty(batches: Sized, source: str = "data") -> None:
    """Raise a ValueError if a loader has given no batches."""
    if not len(batches):
        raise ValueError(
            f"{source} must yield at least one batch, however it is empty; a generator can be run through only once"
        )


def shuffles(loader: Any) -> bool:
    """Whether a loader, or a sampler in it, is known to give the samples in an order of its own."""
    random = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
    if isinstance(loader, random) or getattr(loader, "shuffle", False) is True:
        return True
    samplers = (getattr(loader, name, None) for name in ("sampler", "batch_sampler"))
    return any(shuffles(sampler) for sampler in samplers if sampler is not None)


def warn_of_order(data: Any) -> None:
    """Warn where the rows of a report will be in no known order."""
    if shuffles(data):
        warnings.warn(
            "batches should come in the order of your samples, however the loader shuffles them: rows of the report "
            "are in another one; give shuffle=False, and no sampler that draws",
            stacklevel=3,
        )


def check_batch(batch: Any, cure: str = "regroup the batches: `(((a, b), y) for a, b, y in loader)`") -> None:
    """Raise a ValueError unless a batch is a pair."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        found = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
        keys = f" with the keys {tuple(batch)}" if isinstance(batch, Mapping) else ""
        raise ValueError(f"a batch must be (modalities, target), however it is a {found}{keys}; {cure}")


def split_batch(batch: Any) -> tuple[Any, Tensor]:
    """Take a batch apart, or say how to regroup it."""
    check_batch(batch)
    modalities, target = batch
    try:
        return modalities, torch.as_tensor(as_tensor(target))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"a batch must be (modalities, target) with a tensor as target, however the target is a "
            f"{type(target).__name__} that torch cannot read ({error}); number classes: "
            "numpy.unique(y, return_inverse=True)[1]; regroup the batches: `(((a, b), y) for a, (b, y) in loader)`"
        ) from error


def checked_rows(output: InteractionOutput, outputs: slice, task: Task, target: Tensor) -> dict[str, Tensor]:
    """Return what the report keeps of an output and its target, at least float32 and on the CPU.

    Raises:
        ValueError: if something is not finite, the weights are no distribution, or the target does not fit.
    """
    rows = {
        "weights": _to_cpu(output.weights),
        "expert_predictions": _as_rows(_to_cpu(output.expert_predictions), n_leading=2)[..., outputs],
        "prediction": _as_rows(_to_cpu(output.prediction))[..., outputs],
    }
    for name, tensor in rows.items():
        broken = (~tensor.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if broken:
            more = ", ..." if len(broken) > 10 else ""
            raise ValueError(
                f"{name} must be finite, however they hold NaN or infinity for {len(broken)} of {len(tensor)} samples "
                f"(rows {str(broken[:10])[1:-1]}{more}); look for NaN in these inputs, and say by "
                "`available` which samples lack a modality; or for a diverged training"
            )
    check_distribution("weights", rows["weights"], "end the reweighter with a softmax")
    prediction = rows["prediction"]
    return rows | {"target": check_target(task, target.detach().cpu(), prediction.shape, prediction.dtype)}


def marginal_rows(marginals: Tensor, available: Tensor | None, outputs: slice) -> Tensor:
    """Return marginals as the report keeps them, (B, M, C): NaN where a modality is absent."""
    rows = _as_rows(_to_cpu(marginals), n_leading=2)[..., outputs]
    return rows if available is None else rows.masked_fill(~available.cpu().unsqueeze(-1), torch.nan)


def _to_cpu(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _as_rows(prediction: Tensor, n_leading: int = 1) -> Tensor:
    """Give predictions one output axis: (B,) becomes (B, 1)."""
    if prediction.ndim == n_leading:
        return prediction.unsqueeze(-1)
    if prediction.ndim > n_leading + 1:
        raise ValueError(
            "predictions must be (B,) or (B, C) to be explained, however a sample's shape is "
            f"{tuple(prediction.shape[n_leading:])}; flatten it in the backbone"
        )
    return prediction


@contextmanager
def in_batch(index: int, source: str = "data") -> Iterator[None]:
    """Put the batch into the message of our own errors."""
    try:
        yield
    except ValueError as error:
        located = ValueError(f"in batch {index} of {source}: {error}")
        raise located.with_traceback(error.__traceback__) from error.__cause__


@contextmanager
def noted(index: int, source: str = "data") -> Iterator[None]:
    """Note the batch on errors of the model, whose type and message are not ours to change."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in batch {index} of {source}, which must yield (modalities, target)")
        raise
