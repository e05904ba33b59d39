"""Shared weights: many members in one module, which differ by rank-one factors of its layers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Members", "share"]

_ONE_AT_A_TIME = threading.RLock()
"""Threads take turns: which members run is noted beside the layers."""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LAST_AXIS = (nn.Linear, nn.Embedding, nn.MultiheadAttention, nn.LSTM, nn.GRU, nn.RNN)


class Members:
    """Which members the rows of a pass belong to, each to as many consecutive rows.

    Args:
        n_members: number of members of an expert.
        n_experts: number of experts.
    """

    def __init__(self, n_members: int, n_experts: int) -> None:
        self.n_members = n_members
        self.n_experts = n_experts
        self.counts: tuple[int, ...] = (n_experts * n_members,)
        self.n_rows = n_experts * n_members
        self.is_running = False
        self.all_ran = True

    @property
    def block_shape(self) -> tuple[int, int]:
        """Equal blocks that the rows fall into: how often all members run, and how many run each time."""
        if min(self.counts) == self.n_experts * self.n_members:
            return len(self.counts), self.counts[0]
        return 1, sum(self.counts)

    @contextmanager
    def running(self, *counts: int, n_rows: int) -> Iterator[None]:
        """Say which members the rows of a pass belong to.

        Args:
            *counts: how many of the first members run; with several counts, those of the first, then those of the next.
            n_rows: rows of the pass.
        """
        self.all_ran &= counts == (self.n_experts * self.n_members,)
        with nullcontext() if torch.compiler.is_compiling() else _ONE_AT_A_TIME:
            before = self.counts, self.n_rows, self.is_running
            self.counts, self.n_rows, self.is_running = counts, n_rows, True
            try:
                yield
            finally:
                self.counts, self.n_rows, self.is_running = before

    def of_blocks(self, values: Tensor) -> Tensor:
        """Turn what each of n members has, (n, D), into what those have that run each time."""
        if min(self.counts) == len(values):
            return values
        parts = [values.narrow(0, 0, count) for count in self.counts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def share(module: nn.Module, n_members: int, *, n_experts: int = 1) -> Members:
    r"""Make a module serve the members of one or more experts at once, in place.

    With weights W of a layer, member k computes

    $$y_k = s_k \odot W (r_k \odot x_k) + b_k$$

    The factors r start as random signs, so that members start different, s as ones and b as zeros. Member k of all
    experts starts with the same signs: it is one network until training tells the experts apart. Linear layers,
    convolutions, embeddings, attention and recurrent layers get factors; all other parameters are common to all
    members. Rows of the input are ordered by expert, then member. A single member needs no factors, and gets none.

    Args:
        module: any module that treats the rows of a batch (the first axis) independently of each other. Parts of it
            with an attribute `common_to_experts = True` get no factors, so that they stay as they were trained before.
        n_members: number of members of each expert.
        n_experts: number of experts.

    Returns:
        What says which members run, to be entered around each pass.

    Raises:
        ValueError: if a layer cannot be shared, or none can; the message names it.

    Source: Wen et al., BatchEnsemble, ICLR 2020; Gorishniy et al., TabM, ICLR 2025.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> members = share(network, n_members=4)
        >>> x = torch.randn(5, 3)
        >>> with members.running(4, n_rows=20):
        ...     network(x.repeat(4, 1)).shape  # (members * B, C)
        torch.Size([20, 2])
    """
    members = Members(n_members, n_experts)
    layers = {layer: path for path, layer in _layers(module)}  # a layer may have several paths
    for layer, path in layers.items():
        _share_layer(path, layer, members)
    if not layers:
        raise ValueError(
            "a backbone must have a linear, convolution, embedding, attention or recurrent layer to share its weights "
            f"between experts, however {type(module).__name__} has none; use members=None"
        )
    return members


class _Factors(nn.Module):
    """The factors of one layer, applied by hooks before and after it.

    Args:
        path: the layer's name, for errors.
        members: says which members run.
        n_inputs: features of the input; 0 if the input is not scaled.
        n_outputs: features of the output.
        axis: of the features, in input and output: 1 or -1.
    """

    def __init__(self, path: str, members: Members, n_inputs: int, n_outputs: int, axis: int, weight: Tensor) -> None:
        super().__init__()
        self.path = path
        self.members = members
        self.axis = axis
        n = members.n_experts * members.n_members
        options: Any = {"dtype": weight.dtype, "device": weight.device}
        signs = 2 * torch.randint(2, (members.n_members, n_inputs), device=weight.device).to(weight.dtype) - 1
        self.inputs = nn.Parameter(signs.repeat(members.n_experts, 1)) if n_inputs else None
        self.outputs: nn.Parameter = nn.Parameter(torch.ones(n, n_outputs, **options))
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(n, n_outputs, **options))

    def before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Scale what goes into the layer: its floating-point tensors as wide as the layer's input."""
        n_scaled = 3 if isinstance(layer, nn.MultiheadAttention) else 1  # query, key and value; else the input
        names = ("query", "key", "value") if n_scaled == 3 else ("input",)
        scale = {name: self._scaled(self._blocks_of_inputs(x)) for name, x in kwargs.items() if name in names}
        args = tuple(self._scaled(self._blocks_of_inputs(x)) if i < n_scaled else x for i, x in enumerate(args))
        return args, kwargs | scale

    def linear(self, layer: nn.Linear, input: Tensor) -> Tensor:
        """Run a linear layer; where a member's rows are many, on weights that carry its factors."""
        blocks = self._blocks_of_inputs(input)
        if self._few(blocks, min(layer.weight.shape) * layer.in_features):
            return self._rescaled(nn.functional.linear(self._scaled(blocks), layer.weight, layer.bias))
        r, s, bias = self._carried(layer)
        weights = layer.weight.mT * (r.unsqueeze(2) * s.unsqueeze(1))  # (n, D, D')
        output = torch.baddbmm(bias.unsqueeze(1), blocks.reshape(len(r), -1, layer.in_features), weights)
        return output.view(-1, *input.shape[1:-1], layer.out_features)

    def convolution(self, layer: Any, input: Tensor) -> Tensor:
        """Run a convolution; where a member's rows are many, one member after the other, as for a linear layer."""
        blocks = self._blocks_of_inputs(input)
        if self._few(blocks, layer.weight.numel()):
            return self._rescaled(layer._conv_forward(self._scaled(blocks), layer.weight, layer.bias))
        r, s, bias = self._carried(layer)
        r = r.view(len(r), layer.groups, 1, -1)  # of the inputs that each group of outputs sees
        scale = (r * s.view(len(s), layer.groups, -1, 1)).flatten(1, 2)  # (n, D', D / groups)
        weights = layer.weight * scale.view(*scale.shape, *(1,) * (layer.weight.ndim - 2))
        each = zip(blocks.squeeze(0), weights, bias, strict=True)
        return torch.cat([layer._conv_forward(*one) for one in each])

    def _few(self, blocks: Tensor, n_weights: int) -> bool:
        """Whether scaling the rows takes less time than scaling the weights for each member."""
        # A trace is for any number of rows.
        return torch.compiler.is_compiling() or len(blocks) > 1 or blocks.numel() <= 2 * blocks.shape[1] * n_weights

    def _carried(self, layer: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return factors of inputs (n, D) and outputs (n, D'), and biases (n, D'), of the members that run."""
        assert self.inputs is not None
        r, s, b = (self.members.of_blocks(values) for values in (self.inputs, self.outputs, self.bias))
        return r, s, b if layer.bias is None else torch.addcmul(b, s, layer.bias)

    def after(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Scale and shift what comes out."""
        if isinstance(output, tuple):  # attention and recurrent layers return more beside it
            return (self._rescaled(output[0]), *output[1:])
        return self._rescaled(output)

    def _rescaled(self, output: Tensor) -> Tensor:
        """Scale and shift the rows of an output by the members' factors and biases."""
        blocks = self._blocks(output)
        bias, factors = (self._of_blocks(values, blocks) for values in (self.bias, self.outputs))
        return torch.addcmul(bias, blocks, factors).flatten(0, 2)

    def _scaled(self, blocks: Tensor) -> Tensor:
        """Scale the blocks of an input by the members' factors, and return its rows."""
        assert self.inputs is not None
        return (blocks * self._of_blocks(self.inputs, blocks)).flatten(0, 2)

    def _blocks_of_inputs(self, x: Tensor) -> Tensor:
        assert self.inputs is not None
        blocks = self._blocks(x)
        n_features = blocks.shape[3 if self.axis == 1 else -1]
        if n_features != self.inputs.shape[1]:
            raise ValueError(
                f"layer {self.path!r} must get inputs with {self.inputs.shape[1]} features, however they have "
                f"{n_features}; look at the widths of the modalities"
            )
        return blocks

    def _blocks(self, x: Tensor) -> Tensor:
        """Split the rows by member, (G, n, R, ...)."""
        n_rows = self.members.n_rows
        if not (self.members.is_running or torch.compiler.is_compiling()):
            self._check_recomputed()
        if isinstance(x, Tensor) and x.ndim > 1 and x.shape[0] == 1:  # one row for all: the embedding of positions, say
            x = x.expand(n_rows, *x.shape[1:])
        if not isinstance(x, Tensor) or x.shape[0] % n_rows:
            found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(
                f"a layer that experts share must keep the rows of the batch on its first axis, {n_rows} times n, "
                f"however layer {self.path!r} got {found}; use members=None"
            )
        return x.reshape(*self.members.block_shape, -1, *x.shape[1:])

    def _check_recomputed(self) -> None:
        """Refuse to run outside of the model, but in a backward pass that runs again what checkpointing dropped."""
        if torch._C._current_graph_task_id() == -1:
            raise RuntimeError(
                f"a layer that experts share must run within their model, however layer {self.path!r} ran outside of "
                "it; give the model a copy: copy.deepcopy(layer) in the factory, or use members=1"
            )
        if not self.members.all_ran:
            raise RuntimeError(
                "a backbone that experts share must leave checkpointing to the model, however "
                f"layer {self.path!r} runs again in the backward pass; use InteractionMoE(..., checkpoint=True)"
            )

    def _of_blocks(self, values: Tensor, blocks: Tensor) -> Tensor:
        """Give the members' values (n, D) the axes of the blocks."""
        shape = [1, blocks.shape[1], *(1,) * (blocks.ndim - 2)]
        shape[3 if self.axis == 1 else -1] = values.shape[1]
        return self.members.of_blocks(values).view(shape)


def _layers(module: nn.Module, path: str = "", common: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """Find the layers to share; attention counts as one. Those of parts that are common to all experts stay as is."""
    common = common or getattr(module, "common_to_experts", False)
    if isinstance(module, (*_CONVOLUTIONS, *_LAST_AXIS)):
        if not common:
            yield path, module
        return
    if isinstance(module, _BatchNorm) or getattr(module, "mixes_samples", False):
        raise ValueError(
            "a backbone that experts share must treat the samples of a batch independently of each other, however "
            f"layer {path!r} ({type(module).__name__}) does not; use layer normalization, or members=None"
        )
    for name, child in module.named_children():
        yield from _layers(child, f"{path}.{name}" if path else name, common)


def _share_layer(path: str, layer: nn.Module, members: Members) -> None:
    if getattr(layer, "batch_first", True) is False:
        raise ValueError(
            "a backbone that experts share must have the batch on the first axis, however layer "
            f"{path!r} ({type(layer).__name__}) has batch_first=False"
        )
    if nn.parameter.is_lazy(next(layer.parameters())):
        raise ValueError(
            f"a backbone that experts share must know its sizes, however layer {path!r} ({type(layer).__name__}) waits "
            "for its first batch; give the layer its number of inputs"
        )
    if hasattr(layer, "member_factors"):
        raise ValueError(
            f"a layer must be shared between the experts of one model, however layer {path!r} ({type(layer).__name__}) "
            "has members already; build a new one in the factory"
        )
    if members.n_experts * members.n_members == 1:
        return
    n_inputs, n_outputs = _sizes(layer)
    axis = 1 if isinstance(layer, _CONVOLUTIONS) else -1
    factors = _Factors(path, members, n_inputs, n_outputs, axis, next(layer.parameters()))
    layer.add_module("member_factors", factors)
    for kind, forward in ((nn.Linear, factors.linear), *((kind, factors.convolution) for kind in _CONVOLUTIONS)):
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            layer.forward = partial(forward, layer)  # type: ignore[method-assign]
            layer.register_forward_hook(_unchanged)  # without a hook, fast paths of torch take the weights alone
            return
    if n_inputs:
        layer.register_forward_pre_hook(factors.before, with_kwargs=True)
    layer.register_forward_hook(factors.after)


def _unchanged(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if not hasattr(layer, "member_factors"):
        raise RuntimeError(
            f"a layer that experts share must keep the members' factors, however a {type(layer).__name__} took its "
            "place without them, by quantization say; use members=1"
        )
    return output


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Number of inputs to scale and of outputs."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, _CONVOLUTIONS):
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.Embedding):
        return 0, layer.embedding_dim  # inputs are numbers of tokens
    if isinstance(layer, nn.MultiheadAttention):
        same = layer.kdim == layer.vdim == layer.embed_dim
        return layer.embed_dim if same else 0, layer.embed_dim
    assert isinstance(layer, nn.RNNBase)
    directions = 2 if layer.bidirectional else 1
    return layer.input_size, directions * (getattr(layer, "proj_size", 0) or layer.hidden_size)
