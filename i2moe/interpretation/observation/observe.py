"""Observing a model without changing it: how it is called, and what its InteractionMoE gets and returns."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from i2moe._common.modalities import Modality, as_tensor
from i2moe._common.passes import call_parameters, evaluating, unwrap
from i2moe._common.randomness import seeded
from i2moe._common.tasks import Task, check_task, probabilities
from i2moe.moe import InteractionMoE, InteractionOutput
from i2moe.moe.experts.buffers import borrowed_buffers
from i2moe.moe.inputs import Arrange
from i2moe.moe.teacher import Specialist
from i2moe.moe.weights.computed import ComputedReweighter

__all__ = [
    "Observation",
    "call_by_signature",
    "checksum",
    "device_of",
    "find_moe",
    "generators_of",
    "move",
    "observe",
    "preserve_state",
    "prior_of",
    "task_of",
]


@dataclass(frozen=True)
class Observation:
    """What passed through an `InteractionMoE`: its modalities, how it was called with them, and its output.

    Modalities are filled in where `available` (B, M) says that a sample lacks them; None where all are there.
    """

    modalities: tuple[Modality, ...]
    arrange: Arrange
    available: Tensor | None
    output: InteractionOutput


def find_moe(model: nn.Module) -> InteractionMoE:
    """Return the one `InteractionMoE` that a model is or holds.

    Raises:
        TypeError: if `model` is no module.
        ValueError: if there is none or several, or it has not been built yet.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, however it is a {type(model).__name__}")
    found = {name: module for name, module in model.named_modules() if isinstance(module, InteractionMoE)}
    if len(found) != 1:
        raise ValueError(
            f"model must be or hold one InteractionMoE, however {type(model).__name__} holds {len(found)} "
            f"{tuple(found)}; explain the part of it that holds one, or use interactions for a model without experts"
        )
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "model must be trained before it is explained, however some parameters wait for a first batch to be sized; "
            "train it, or load its weights"
        )
    return next(iter(found.values()))


def task_of(moe: InteractionMoE, task: Task | None) -> Task:
    """Return that of computed weights, else the task that was asked for, else classification.

    Raises:
        ValueError: if the task is unknown, or not that of computed weights.
    """
    if task is not None:
        check_task(task)
    computed = moe.reweighter.task if isinstance(moe.reweighter, ComputedReweighter) else None
    if None not in (task, computed) and task != computed:
        raise ValueError(
            f"task must be {computed!r}, for which the weights are computed, however it is {task!r}; "
            f"build the model with reweighter=ComputedReweighter({task!r})"
        )
    return task or computed or "classification"


def prior_of(moe: InteractionMoE, prediction: Tensor, outputs: slice = slice(None)) -> Tensor | None:
    """Return what computed weights compare predictions (N, C) with, (C,); None for learned weights.

    Args:
        moe: the model.
        prediction: raw outputs.
        outputs: which of the model's outputs they are.
    """
    if not isinstance(moe.reweighter, ComputedReweighter):
        return None
    if moe.reweighter.prior.numel() == 0:  # of a new model
        return probabilities(moe.reweighter.task, torch.zeros_like(prediction[0]))
    return moe.reweighter.prior.detach().cpu().clone()[outputs]


def observe(moe: InteractionMoE, run: Callable[[], object]) -> Observation:
    """Return what passes through `moe` while `run` runs the model around it.

    Raises:
        ValueError: if `moe` is not called exactly once.
    """
    calls: list[Observation] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: InteractionOutput) -> None:
        named = {name: value for name, value in kwargs.items() if name != "available"}
        modalities, arrange, _ = moe._bind(args, named, kwargs.get("available"))
        calls.append(Observation(modalities, arrange, output.available, output))

    handle = moe.register_forward_hook(note, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    if len(calls) != 1:
        raise ValueError(
            f"the model must call its InteractionMoE once per batch, however it did {len(calls)} times; "
            "call the module itself, not its forward or interaction_views"
        )
    return calls[0]


@contextmanager
def preserve_state(
    model: nn.Module, device: torch.device | None, generators: Iterable[torch.Generator], seed: int
) -> Iterator[None]:
    """Evaluate without gradient on a seeded random state, then put back modes, buffers and random states."""
    states = [(generator, generator.get_state()) for generator in generators]
    # Eager, as compiled modules may ignore the hook that observes them; asking for it imports the compiler (seconds),
    # so only where it has been imported already.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with seeded(seed, device), eager, borrowed_buffers(model), evaluating(model):
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


def call_by_signature(model: Any, modalities: Any) -> object:
    """Call a module or a function with what a batch holds: spread over its arguments, or whole.

    A tuple is spread if the forward takes as many arguments, `*args`, or as many with those that follow whose default
    is None. A list is too, unless a single argument is required, which may be the list. A dict is spread if its keys
    are the arguments' names. All else is handed over whole. For an `InteractionMoE` a dict may hold `available`, and
    leave modalities out.
    """
    mask = {}
    if isinstance(model, InteractionMoE | Specialist) and isinstance(modalities, Mapping) and "available" in modalities:
        modalities = dict(modalities)
        mask["available"] = modalities.pop("available")
    parameters = _parameters(model)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if isinstance(modalities, Mapping):
        named = {p.name for p in parameters}
        optional = isinstance(model, InteractionMoE | Specialist) and model.fill is not None
        fits = (optional or set(required) <= set(modalities)) and set(modalities) <= named
        spread = fits or any(p.kind is p.VAR_KEYWORD for p in parameters)
        return model(**modalities, **mask) if spread else model(modalities, **mask)
    if isinstance(modalities, tuple | list):
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        given_later = [p for p in positional if p.default is not p.empty]
        most = len(required) + len(list(takewhile(lambda p: p.default is None, given_later)))
        may_be_whole = len(required) == 1 and isinstance(modalities, list)
        fits = len(required) == len(modalities) or (len(required) <= len(modalities) <= most and not may_be_whole)
        spread = fits or any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return model(*modalities) if spread else model(modalities)
    return model(modalities)


def device_of(model: nn.Module) -> torch.device | None:
    """Return where a model is, by its first parameter or buffer; None if it has neither."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)


def move(value: Any, device: torch.device | None, *, arrays: bool = False) -> Any:
    """Move everything that can be moved to a device; None leaves it where it is.

    With `arrays`, arrays and data frames of numbers become tensors, floating ones of torch's default dtype.
    """
    if arrays:
        value = _as_input(value)
    if device is None and not arrays:
        return value
    if hasattr(value, "to"):
        if isinstance(value, Mapping):
            value = copy.copy(value)  # a `BatchEncoding` of Hugging Face is moved in place: the caller's stays
            given = {key: item for key, item in value.items() if arrays and not isinstance(item, Tensor)}
            for key, item in given.items():
                value[key] = move(item, None, arrays=True)
        return value if device is None else value.to(device)
    if isinstance(value, Mapping):
        return {key: move(item, device, arrays=arrays) for key, item in value.items()}
    if isinstance(value, tuple | list):
        moved = [move(item, device, arrays=arrays) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value


def _as_input(value: Any) -> Any:
    """Turn an array or data frame of numbers into a tensor; return anything else, texts in an array say, as it is."""
    if isinstance(value, Tensor) or not hasattr(value, "__array__"):
        return value
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        return value
    tensor: Tensor = as_tensor(array)
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def checksum(modalities: Any, n_samples: int) -> Tensor:
    """Sum each sample's numbers, (B,) in float64, to recognize it in another report.

    They are rounded to float32 first: data in double precision is the same when a model gets it in single precision.
    """
    total = torch.zeros(n_samples, dtype=torch.float64)
    for tensor in _tensors(modalities):
        if tensor.ndim > 0 and tensor.shape[0] == n_samples:
            total += tensor.detach().cpu().float().double().reshape(n_samples, -1).nan_to_num().sum(1)
    return total


def generators_of(*owners: object) -> Sequence[torch.Generator]:
    """The random generators that objects hold, a loader's samplers among them, each once."""
    found: dict[int, torch.Generator] = {}
    for owner in owners:
        held = [value for value in getattr(owner, "__dict__", {}).values() if isinstance(value, torch.Generator)]
        samplers = (getattr(owner, name, None) for name in ("sampler", "batch_sampler"))
        held += generators_of(*(sampler for sampler in samplers if sampler is not None))
        found |= {id(generator): generator for generator in held}
    return list(found.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what a loader gives, which may hold anything else beside them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _parameters(model: Any) -> Sequence[inspect.Parameter]:
    """The parameters that say how modalities are handed over: these modules are called as their backbones."""
    if isinstance(model, InteractionMoE | Specialist):
        model = unwrap(model.example_backbone if isinstance(model, InteractionMoE) else model.backbone)
    return tuple(call_parameters(model).values())
