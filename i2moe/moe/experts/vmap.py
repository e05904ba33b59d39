"""One pass for all experts, over their stacked parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase

from i2moe._common.modalities import BackboneOutput
from i2moe.moe.experts.structure import find_obstacle

__all__ = ["run_vmapped"]


def run_vmapped(
    experts: nn.ModuleList,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    checked: Callable[[object], BackboneOutput],
    *,
    trusted: bool = False,
) -> BackboneOutput:
    """Run experts of the same structure on the same arguments in one pass.

    The parameters are stacked here, in the forward pass: a stacked copy kept elsewhere would take the gradients.

    Args:
        experts: E modules that differ in nothing but their parameters and buffers.
        args: positional arguments of each expert.
        kwargs: keyword arguments of each expert.
        checked: turns what an expert returned into a `BackboneOutput`, or raises.
        trusted: they have not changed since an earlier pass, in which they had the same structure and changed nothing.

    Returns:
        Prediction and latent (B, E, ...), and the auxiliary losses (E,).

    Raises:
        RuntimeError: if the experts cannot run in one pass; names the layer that is in the way.
    """
    template = experts[0]
    _check_statistics(template)
    if not trusted and (obstacle := find_obstacle(experts)) is not None:
        raise _refusal(obstacle)
    # Errors of `checked` are the user's, with their own message; all others mean that vmap cannot run the expert.
    mistakes: list[Exception] = []

    def one(state: dict[str, Tensor]) -> dict[str, Tensor]:
        given = dict(state)
        # Tied weights are in the state under each of their names; tying by torch loses those of a shared layer.
        returned = functional_call(template, state, args, kwargs, tie_weights=False)
        for name, tensor in given.items():
            if state[name] is not tensor:
                raise _refusal(f"the buffer {name!r} is assigned anew, which a pass on stacked copies cannot keep")
        try:
            output = checked(returned)
        except Exception as error:
            mistakes.append(error)
            raise
        found = {name: getattr(output, name) for name in ("prediction", "aux_loss", "latent")}
        return {name: value for name, value in found.items() if value is not None}

    state = _stacked([_state(expert) for expert in experts])
    try:
        # A trace cannot look at versions.
        with nullcontext() if trusted or torch.compiler.is_compiling() else _unchanged(template, state):
            # "different": each expert draws its own dropout, as in passes one by one.
            results: dict[str, Tensor] = vmap(one, randomness="different")(state)
    except _VmapRefusedError:
        raise
    except Exception as error:
        if error in mistakes:
            raise
        raise _refusal(f"{_failing_layer(template, error)} raised {type(error).__name__}: {error}") from error
    aux_loss = results.get("aux_loss")
    latent = results.get("latent")
    return BackboneOutput(
        results["prediction"].movedim(0, 1),
        aux_loss,
        None if latent is None else latent.movedim(0, 1),
    )


def _state(expert: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers: tied ones under each of their names, those of a shared layer once."""
    return {
        f"{path}.{name}".removeprefix("."): tensor
        for path, layer in expert.named_modules()
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items())
        if tensor is not None
    }


def _stacked(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    # Tied tensors are stacked once: one copy for all of their names.
    stacked: dict[tuple[int, ...], Tensor] = {}
    for name in states[0]:
        tensors = [state[name] for state in states]
        key = tuple(map(id, tensors))
        if key not in stacked:
            stacked[key] = _stack(tensors)
    return {name: stacked[tuple(id(state[name]) for state in states)] for name in states[0]}


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    if torch.compiler.is_compiling():  # fuses what follows; warns of functions like ours
        return torch.stack(tuple(tensors))
    stacked: Tensor = _Stack.apply(*tensors)  # type: ignore[no-untyped-call]
    return stacked


class _Stack(torch.autograd.Function):
    """`torch.stack` whose backward pass takes the gradient apart at once; torch's own selects part after part."""

    @staticmethod
    def forward(*tensors: Tensor) -> Tensor:
        return torch.stack(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads[0].unbind()


@contextmanager
def _unchanged(template: nn.Module, state: dict[str, Tensor]) -> Iterator[None]:
    """Refuse a pass that leaves something behind: it would belong to all experts and land in one, or nowhere."""
    layers = [(path, layer, dict(vars(layer)), dict(layer._buffers)) for path, layer in template.named_modules()]
    versions = {name: tensor._version for name, tensor in state.items() if not tensor.is_inference()}
    changed: list[str] = []
    try:
        yield
    finally:
        for path, layer, attributes, buffers in layers:
            changed += [f"attribute {name!r} of layer {path!r}" for name in _differing(attributes, vars(layer))]
            changed += [f"buffer {name!r} of layer {path!r}" for name in _differing(buffers, layer._buffers)]
            # The pass has set attributes to tensors of vmap, which mean nothing outside.
            vars(layer).clear()
            vars(layer).update(attributes)
            layer._buffers.clear()
            layer._buffers.update(buffers)
    changed += [f"buffer {name!r}" for name, version in versions.items() if state[name]._version != version]
    if changed:
        raise _refusal(f"the {changed[0]} changed, which a pass on stacked copies cannot keep")


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    return [name for name in {**before, **after} if before.get(name) is not after.get(name)]


def _check_statistics(template: nn.Module) -> None:
    for path, layer in template.named_modules():
        if isinstance(layer, _NormBase) and layer.training and layer.running_mean is not None:
            raise _refusal(
                f"layer {path!r} ({type(layer).__name__}) changes its running statistics, "
                "which a pass on stacked copies cannot keep"
            )


def _failing_layer(expert: nn.Module, error: BaseException) -> str:
    """Name the innermost layer of an expert that an error passed through."""
    paths = {id(layer): path for path, layer in expert.named_modules()}
    found = "an expert"
    trace = error.__traceback__
    while trace is not None:
        layer = trace.tb_frame.f_locals.get("self")
        if id(layer) in paths and isinstance(layer, nn.Module):
            found = f"layer {paths[id(layer)]!r} ({type(layer).__name__})"
        trace = trace.tb_next
    return found


class _VmapRefusedError(RuntimeError):
    """The experts cannot run in one pass."""


def _refusal(reason: str) -> _VmapRefusedError:
    return _VmapRefusedError(
        f"execution='vmap' must be able to run all experts in one pass, however {reason}; "
        "use execution='auto' or 'batched'"
    )
