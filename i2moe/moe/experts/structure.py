"""Whether experts have the same structure: they differ in nothing but the values of parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import is_
from types import FunctionType, NoneType

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["find_obstacle", "unchanged", "watched"]

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = frozenset({bool, int, float, str, NoneType})


def find_obstacle(experts: nn.ModuleList) -> str | None:
    """Say why the experts cannot run as one with stacked parameters, if they cannot."""
    for expert in experts:
        for path, layer in expert.named_modules():
            name = f"layer {path!r} ({type(layer).__name__})"
            if any(is_lazy(tensor) for tensor in (*layer._parameters.values(), *layer._buffers.values())):
                return f"{name} is lazy, without a size before its first pass"
            if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
                return f"{name} has hooks, which would run once for all experts"
    differences = (_difference(experts[0], expert) for expert in experts[1:])
    found = next((difference for difference in differences if difference is not None), None)
    return None if found is None else f"the experts differ in more than their parameters: {found}"


# So that a trace calls it. torch.compiler.assume_constant_result does no more, but imports the compiler.
find_obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]


def watched(experts: nn.ModuleList) -> list[object]:
    """List, at little cost, what a change of would call for another look: the objects that layers and attributes are.

    Lists, dicts and objects of the user's are looked into one level deep.
    """
    found: list[object] = []
    for expert in experts:
        for layer in expert.modules():
            attributes = vars(layer).values()
            found += (layer, type(layer), *attributes)
            for value in attributes:
                if type(value) in _PLAIN:
                    continue
                if isinstance(value, dict):
                    found += value and value.values()
                elif isinstance(value, list | set):
                    found += value
                elif hasattr(value, "__dict__"):
                    found += vars(value).values()
    return found


def unchanged(before: Sequence[object], now: Sequence[object]) -> bool:
    """Whether two lists hold the same objects."""
    return len(before) == len(now) and all(map(is_, before, now))


def _difference(expert: nn.Module, other: nn.Module) -> str | None:
    """Say what two experts differ in, beyond the values of parameters and buffers."""
    layers, others = dict(expert.named_modules()), dict(other.named_modules())
    if list(layers) != list(others):
        return f"their layers are {list(layers)} and {list(others)}"
    if [layer.training for layer in layers.values()] != [layer.training for layer in others.values()]:
        return "some layers are in training and others not"
    for path, layer in layers.items():
        name, counterpart = f"layer {path!r} ({type(layer).__name__})", others[path]
        # Not the classes themselves: a parametrized layer has one of its own.
        if (
            type(layer).__qualname__ != type(counterpart).__qualname__
            or type(layer).forward != type(counterpart).forward
        ):
            return f"{name} is a {type(counterpart).__name__} in another"
        if _shapes(layer) != _shapes(counterpart):
            return f"{name} has tensors of other shapes in another"
        attributes, others_attributes = _own_attributes(layer), _own_attributes(counterpart)
        for attribute in {**attributes, **others_attributes}:
            if not _same(attributes.get(attribute), others_attributes.get(attribute)):
                return f"{name} has another {attribute!r} in another"
    return None


def _shapes(layer: nn.Module) -> dict[str, object]:
    tensors = {**layer._parameters, **layer._buffers}
    return {name: None if tensor is None else (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _own_attributes(layer: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(layer).items() if name not in _OF_EVERY_MODULE}


def _same(a: object, b: object) -> bool:
    """Whether two attributes are certain to mean the same."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, Tensor):
        return False
    if isinstance(a, FunctionType) and isinstance(b, FunctionType):
        return a.__code__ is b.__code__ and a.__closure__ is None and _same(a.__defaults__, b.__defaults__)
    if isinstance(a, partial) and isinstance(b, partial):
        return _same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    try:
        return bool(a == b)
    except Exception:  # an object of the user's own that cannot be compared
        return False
