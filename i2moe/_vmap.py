"""One pass for all experts, over their stacked parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase

from i2moe._types import BackboneOutput

__all__ = ["run_vmapped"]


def run_vmapped(
    experts: Sequence[nn.Module],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    checked: Callable[[object], BackboneOutput],
) -> BackboneOutput:
    """Run alike experts on the same arguments in one pass.

    The parameters are stacked here, in the forward pass: a stacked copy kept elsewhere would take the gradients.

    Args:
        experts: E modules that differ in nothing but their parameters and buffers.
        args: positional arguments of each expert.
        kwargs: keyword arguments of each expert.
        checked: turns what an expert returned into a `BackboneOutput`, or raises.

    Returns:
        Prediction and latent (B, E, ...), and the mean auxiliary loss.

    Raises:
        RuntimeError: if the experts cannot run in one pass; names the layer that is in the way.
    """
    template = experts[0]
    if not torch.compiler.is_compiling():
        _check_alike(experts)
    parameters = _stacked([dict(expert.named_parameters()) for expert in experts])
    buffers = _stacked([dict(expert.named_buffers()) for expert in experts])
    versions = {name: buffer._version for name, buffer in buffers.items()}

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> dict[str, Tensor]:
        output = checked(functional_call(template, (parameters, buffers), args, kwargs))
        return {
            name: value for name in ("prediction", "aux_loss", "latent") if (value := getattr(output, name)) is not None
        }

    try:
        results: dict[str, Tensor] = vmap(one, randomness="different")(parameters, buffers)
    except Exception as error:
        raise _refusal(f"{_failing_layer(template, error)} raised {type(error).__name__}: {error}") from error
    for name, buffer in buffers.items():
        if buffer._version != versions[name]:
            raise _refusal(f"the buffer {name!r} changed, which a pass on stacked copies cannot keep")
    aux_loss = results.get("aux_loss")
    latent = results.get("latent")
    return BackboneOutput(
        results["prediction"].movedim(0, 1),
        None if aux_loss is None else aux_loss.mean(),
        None if latent is None else latent.movedim(0, 1),
    )


def _stacked(tensors: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([tensor[name] for tensor in tensors]) for name in tensors[0]}


def _check_alike(experts: Sequence[nn.Module]) -> None:
    layouts = [_layout(expert) for expert in experts]
    for layout in layouts[1:]:
        if layout != layouts[0]:
            raise _refusal("the experts differ in more than their parameters")
    for path, layer in experts[0].named_modules():
        name = f"layer {path!r} ({type(layer).__name__})"
        if isinstance(layer, _NormBase) and layer.training and layer.running_mean is not None:
            raise _refusal(f"{name} changes its running statistics, which a pass on stacked copies cannot keep")
    for expert in experts:
        for path, layer in expert.named_modules():
            if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
                raise _refusal(
                    f"layer {path!r} ({type(layer).__name__}) has hooks, which would run once for all experts"
                )


def _layout(expert: nn.Module) -> list[tuple[object, ...]]:
    layers = [(path, type(layer), layer.training, layer.extra_repr()) for path, layer in expert.named_modules()]
    return [*layers, *((name, p.shape, p.dtype) for name, p in expert.named_parameters())]


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


def _refusal(reason: str) -> RuntimeError:
    return RuntimeError(
        f"execution='vmap' must be able to run all experts in one pass, however {reason}; "
        "use execution='auto' or 'batched'"
    )
