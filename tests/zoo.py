"""Awkward backbones that users bring, each with what it is called with and which executions must refuse it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops.layers.torch import EinMix, Rearrange, Reduce
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from i2moe import BackboneOutput
from i2moe._common.modalities import Modality
from i2moe.moe.experts import Execution

__all__ = ["EXECUTIONS", "EXECUTIONS_WITH_CHECKPOINTS", "PERTURBATIONS", "ZOO", "Case", "Refusal", "by_name", "call"]

EXECUTIONS: tuple[Execution, ...] = ("auto", "batched", "sequential", "vmap")
EXECUTIONS_WITH_CHECKPOINTS: tuple[tuple[Execution, bool], ...] = (
    *((execution, False) for execution in EXECUTIONS),
    *((execution, True) for execution in EXECUTIONS if execution != "vmap"),
)
"""Whether activations are made anew in the backward pass, where that is possible."""
PERTURBATIONS = ("gaussian", "zero", "mean", "shuffle", "half")

Factory = Callable[[], nn.Module]
Refusal = tuple[type[Exception], str]
"""The type of an error and a pattern that its message must match."""


@dataclass(frozen=True)
class Case:
    """A backbone and how it wants to be used.

    Args:
        name: of the case.
        make: returns a new factory of backbones, so that what they share is shared by one model alone.
        modalities: makes a batch of modalities.
        names: the modalities' names.
        style: how the backbone is called.
        refusals: executions that must raise in training, and how.
        evaluation_refusals: the same with `interaction_views` in evaluation; those of training where None.
        perturbations: those that fit.
        scalar: whether a sample's output is one number, for which cosines are meaningless.
        random: whether the backbone draws random numbers in training: executions but "sequential" draw others.
        atol: largest absolute difference from the loop.
    """

    name: str
    make: Callable[[], Factory]
    modalities: Callable[[], tuple[Modality, ...]]
    names: tuple[str, ...] = ("x", "y")
    style: Literal["positional", "keyword", "dict", "list", "tuple"] = "positional"
    refusals: Mapping[Execution, Refusal] = field(default_factory=dict)
    evaluation_refusals: Mapping[Execution, Refusal] | None = None
    perturbations: tuple[str, ...] = PERTURBATIONS
    scalar: bool = False
    random: bool = False
    atol: float = 1e-9

    def refusal(self, execution: Execution, *, training: bool) -> Refusal | None:
        """How an execution must refuse the case, None if it must run."""
        refusals = self.refusals
        if not training and self.evaluation_refusals is not None:
            refusals = self.evaluation_refusals
        return refusals.get(execution)


def call(module: Callable[..., Any], case: Case, modalities: Sequence[Modality]) -> Any:
    """Call a backbone, or a model of it, in the style of the case."""
    named = dict(zip(case.names, modalities, strict=True))
    if case.style == "keyword":
        return module(**named)
    if case.style == "dict":
        return module(named)
    if case.style == "list":
        return module(list(modalities))
    if case.style == "tuple":
        return module(tuple(modalities))
    return module(*modalities)


B = 6


def vectors() -> tuple[Modality, ...]:
    return torch.randn(B, 3), torch.randn(B, 5)


def three_vectors() -> tuple[Modality, ...]:
    return torch.randn(B, 2), torch.randn(B, 3), torch.randn(B, 3)


def tokens() -> tuple[Modality, ...]:
    return torch.randn(B, 4, 8), torch.randn(B, 2, 8)


def images() -> tuple[Modality, ...]:
    return torch.randn(B, 3, 5, 5), torch.randn(B, 3, 5, 5)


def vector_and_tokens() -> tuple[Modality, ...]:
    return torch.randn(B, 3), torch.randn(B, 4, 8)


def integer_tokens() -> tuple[Modality, ...]:
    return torch.randint(0, 11, (B, 4)), torch.randint(0, 11, (B, 2))


def masked_tokens() -> tuple[Modality, ...]:
    mask = torch.arange(4) < torch.randint(1, 5, (B, 1))
    return (torch.randn(B, 4, 8), mask), torch.randn(B, 2, 8)


def nested_dicts() -> tuple[Modality, ...]:
    text: Modality = {"features": torch.randn(B, 3), "mask": None, "more": [torch.randn(B, 2), {"z": torch.randn(B)}]}
    return text, torch.randn(B, 5)


class Signal(NamedTuple):
    values: Tensor
    length: Tensor


def named_tuples() -> tuple[Modality, ...]:
    return Signal(torch.randn(B, 5), torch.randint(1, 6, (B,))), torch.randn(B, 5)


def half_precision() -> tuple[Modality, ...]:
    return torch.randn(B, 3, dtype=torch.bfloat16), torch.randn(B, 5, dtype=torch.bfloat16)


class Fusion(nn.Module):
    """Concatenate vectors and apply layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, *modalities: Tensor) -> Tensor:
        output: Tensor = self.body(torch.cat(modalities, dim=-1))
        return output


def mlp(*between: nn.Module) -> Fusion:
    return Fusion(nn.Linear(8, 6), *between, nn.Tanh(), nn.Linear(6, 3))


class TokenFusion(nn.Module):
    """Concatenate tokens, apply a layer, average."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self.layer(torch.cat([x, y], dim=1))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        output: Tensor = self.head(hidden.mean(1))
        return output


class SignalNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.InstanceNorm1d(8, track_running_stats=True, affine=True), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self.norm(torch.cat([x, y], dim=1).transpose(1, 2))  # (B, 8, T)
        output: Tensor = self.head(hidden.square().amax(-1))
        return output


class MaskedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, text: tuple[Tensor, Tensor], image: Tensor) -> Tensor:
        features, mask = text
        hidden, _ = self.attention(image, features, features, key_padding_mask=~mask, need_weights=False)
        output: Tensor = self.head(hidden.mean(1))
        return output


class InPlace(nn.Module):
    """Works in place, but on tensors of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y, self.head = nn.Linear(3, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self.x(x)
        hidden += self.y(y)
        hidden.mul_(2.0)
        output: Tensor = self.head(F.relu(hidden, inplace=True))
        return output


class FillsInPlace(nn.Module):
    """Writes into a tensor of zeros, which vmap cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Linear(3, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output = x.new_zeros(x.shape[0], 4)
        output[:, :2] = self.x(x)
        output[:, 2:] += self.y(y)
        return output


class ChangesInput(nn.Module):
    """Overwrites the caller's batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x += 1.0
        output: Tensor = self.body(x, y)
        return output


class SharedLayer(nn.Module):
    """One layer used twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = self.first
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(torch.cat([x, y], dim=-1)))
        output: Tensor = self.head(torch.tanh(self.second(hidden)))
        return output


class TiedWeights(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(torch.cat([x, y], dim=-1)))
        output: Tensor = self.head(torch.tanh(self.second(hidden)))
        return output


class WithEncoder(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.head(torch.tanh(self.encoder(torch.cat([x, y], dim=-1))))
        return output


def sharing(make_encoder: Callable[[], nn.Module]) -> Factory:
    encoder = make_encoder()
    return lambda: WithEncoder(encoder)


def frozen() -> nn.Module:
    backbone = mlp()
    backbone.body[0].requires_grad_(False)
    return backbone


class CountsCalls(nn.Module):
    """A buffer changed in place."""

    n_calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.n_calls += 1
        output: Tensor = self.body(x, y)
        return output


class ReassignsBuffer(nn.Module):
    """A buffer replaced by a new tensor."""

    n_calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.register_buffer("n_calls", torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.n_calls = self.n_calls + 1
        output: Tensor = self.body(x, y)
        return output


class FillsEmptyBuffer(nn.Module):
    """A buffer that is None until the first pass, and new for each size of batch."""

    cache: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.register_buffer("cache", None)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.cache = x.new_ones(x.shape[0], 1)
        output: Tensor = self.body(x * self.cache, y)
        return output


class MovingScale(nn.Module):
    """A buffer that changes with every call in training and that the output depends on."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.body(x, y) * self.scale.clone()
        if self.training:
            self.scale.mul_(0.5)
        return output


class DictIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        output: Tensor = self.x(batch["x"]) * self.y(batch["y"])
        return output


class SequenceIn(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.body, self.kind = mlp(), kind

    def forward(self, batch: Sequence[Tensor]) -> Tensor:
        assert type(batch) is self.kind
        output: Tensor = self.body(*batch)
        return output


class KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, *, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.body(x, y)
        return output


class Returns(nn.Module):
    """Returns what a function makes of its output."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.change = mlp(), change

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.change(self.body(x, y))


def auxiliary_and_latent(output: Tensor) -> BackboneOutput:
    return BackboneOutput(output, aux_loss=output.square().mean(), latent=output.tanh())


def auxiliary(output: Tensor) -> BackboneOutput:
    return BackboneOutput(output, aux_loss=output.exp().mean())


def fails(output: Tensor) -> Tensor:
    raise KeyError("of the user's own")


def hooked() -> nn.Module:
    backbone = mlp()
    backbone.body[0].register_forward_hook(lambda layer, args, output: 2 * output)
    return backbone


def pre_hooked() -> nn.Module:
    backbone = mlp()
    backbone.body[2].register_forward_pre_hook(lambda layer, args: (args[0] + 1,))
    return backbone


def backward_pre_hooked() -> nn.Module:
    backbone = mlp()

    def doubled(layer: nn.Module, gradients: Any) -> tuple[Tensor, ...]:
        return tuple(2 * gradient for gradient in gradients)

    backbone.body[0].register_full_backward_pre_hook(doubled)
    return backbone


class KeepsHidden(nn.Module):
    """Keeps what it computed last, as users do to look at attention."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.last: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.last = self.body(x, y)
        return self.last


def old_weight_norm() -> nn.Module:
    backbone = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(backbone.body[0])
    return backbone


def weight_norm() -> nn.Module:
    backbone = mlp()
    parametrizations.weight_norm(backbone.body[0])
    return backbone


def old_spectral_norm() -> nn.Module:
    backbone = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.spectral_norm(backbone.body[0])
    return backbone


def spectral_norm() -> nn.Module:
    backbone = mlp()
    parametrizations.spectral_norm(backbone.body[0])
    return backbone


def compiled() -> nn.Module:
    module: nn.Module = torch.compile(mlp(), backend="eager")  # type: ignore[assignment]
    return module


class TokenEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.head(torch.cat([self.embed(x).mean(1), self.embed(y).amax(1)], dim=-1))
        return output


class ImageFusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(6, 4, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.convolution(torch.cat([x, y], dim=1))))
        output: Tensor = self.head(hidden.square().mean((-2, -1)))
        return output


class MixedRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.y(torch.tanh(self.x(x).unsqueeze(1) * y).sum(1))
        return output


class PerToken(nn.Module):
    """Outputs (B, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.head(torch.cat([x, y.mean(1, keepdim=True).expand_as(x)], dim=-1))
        return output


class NoParameters(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(x * y[:, :3])


class ReturnsInput(nn.Module):
    """Hands its input through, so that outputs share memory with inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x


class RowByRow(nn.Module):
    """Decides by each sample's output which layer it goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        rows = torch.cat([x, y], dim=-1)
        return torch.stack([self.right(row) if (y := self.left(row)).sum() > 0 else y for row in rows])


class CentersBatch(nn.Module):
    """Normalizes over the batch without a layer that says so, so it says so itself."""

    mixes_samples = True

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.body(x - x.mean(0), y)
        return output


class AnyDepth(nn.Module):
    """Experts of different architecture."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        layers = [layer for _ in range(depth) for layer in (nn.Linear(8, 8), nn.Tanh())]
        self.body = Fusion(*layers, nn.Linear(8, 3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.body(x, y)
        return output


def growing() -> Factory:
    depth = count()
    return lambda: AnyDepth(next(depth))


class PlainAttribute(nn.Module):
    """Experts that differ in a number that is neither parameter nor buffer."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body, self.scale = mlp(), scale

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.scale * self.body(x, y)
        return output


def differently_scaled() -> Factory:
    scale = count(1)
    return lambda: PlainAttribute(float(next(scale)))


def widening() -> Factory:
    width = count(2)
    return lambda: Fusion(nn.Linear(8, next(width)))


class NestedDicts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(11, 3)

    def forward(self, text: dict[str, Any], image: Tensor) -> Tensor:
        assert text["mask"] is None
        more, rest = text["more"]
        output: Tensor = self.head(torch.cat([text["features"], more, rest["z"].unsqueeze(-1), image], dim=-1))
        return output


class NamedTuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(10, 3)

    def forward(self, x: Signal, y: Tensor) -> Tensor:
        valid = torch.arange(5) < x.length.unsqueeze(-1)
        output: Tensor = self.head(torch.cat([x.values * valid, y], dim=-1))
        return output


class Einops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = EinMix("b t d -> b t (h c)", weight_shape="d h c", bias_shape="h c", d=8, h=2, c=3)
        self.split = Rearrange("b t (h c) -> b h t c", h=2)
        self.pool = Reduce("b h t c -> b c", "mean")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.pool(torch.tanh(self.split(self.mix(torch.cat([x, y], dim=1)))))
        return output


class ParameterContainers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({"x": torch.randn(3, 3), "y": torch.randn(5, 3)})
        self.biases = nn.ParameterList([torch.randn(3), torch.randn(3)])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = torch.tanh(x @ self.weights["x"] + self.biases[0]) * (y @ self.weights["y"] + self.biases[1])
        return output


class Double(torch.autograd.Function):
    """A function of the user's own that knows nothing of vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0]


def double(x: Tensor) -> Tensor:
    output: Tensor = Double.apply(x)  # type: ignore[no-untyped-call]
    return output


def fourier(x: Tensor) -> Tensor:
    output: Tensor = torch.fft.rfft(x, n=8).abs()
    return output


def transposed(x: Tensor) -> Tensor:
    return x.unsqueeze(-1).expand(-1, -1, 4).transpose(1, 2)


class DetachesOne(nn.Module):
    """Lets no gradient into one modality."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            z = x * 2
        output: Tensor = self.body(z, y)
        return output


def always(refusal: Refusal) -> dict[Execution, Refusal]:
    return dict.fromkeys(EXECUTIONS, refusal)


def vmap_refuses(words: str) -> dict[Execution, Refusal]:
    return {"vmap": (RuntimeError, f"(?s)execution='vmap' must .*{words}.*use execution='auto'")}


def stacking_refused(layer: str) -> dict[Execution, Refusal]:
    return {
        "batched": (ValueError, f"execution='batched' must .*{layer}.*use execution='auto'"),
        "vmap": (RuntimeError, f"execution='vmap' must .*{layer}.*use execution='auto'"),
    }


BATCH_NORM = stacking_refused("BatchNorm1d")

ZOO: tuple[Case, ...] = (
    Case("mlp", lambda: mlp, vectors),
    Case("three modalities", lambda: lambda: mlp(), three_vectors, names=("a", "b", "c")),
    Case(
        "batch norm",
        lambda: lambda: mlp(nn.BatchNorm1d(6)),
        vectors,
        refusals=BATCH_NORM,
        evaluation_refusals={},
    ),
    Case(
        "cumulative batch norm",
        lambda: lambda: mlp(nn.BatchNorm1d(6, momentum=None)),
        vectors,
        refusals=BATCH_NORM,
        evaluation_refusals={},
    ),
    Case(
        "batch norm without running statistics",
        lambda: lambda: mlp(nn.BatchNorm1d(6, track_running_stats=False)),
        vectors,
        refusals=BATCH_NORM,
    ),
    Case(
        "lazy batch norm",
        lambda: lambda: mlp(nn.LazyBatchNorm1d()),
        vectors,
        refusals=stacking_refused("BatchNorm1d"),
        evaluation_refusals=vmap_refuses("lazy"),
    ),
    Case(
        "instance norm with running statistics",
        lambda: SignalNorm,
        tokens,
        refusals=vmap_refuses("InstanceNorm1d"),
        evaluation_refusals={},
    ),
    Case("layer norm", lambda: lambda: mlp(nn.LayerNorm(6), nn.RMSNorm(6)), vectors),
    Case("dropout", lambda: lambda: mlp(nn.Dropout(0.5)), vectors, random=True),
    Case("gru", lambda: lambda: TokenFusion(nn.GRU(8, 5, batch_first=True), 5), tokens, refusals=vmap_refuses("")),
    Case(
        "lstm",
        lambda: lambda: TokenFusion(nn.LSTM(8, 5, batch_first=True, bidirectional=True), 10),
        tokens,
        refusals=vmap_refuses(""),
    ),
    Case("attention with a mask", lambda: MaskedAttention, masked_tokens),
    Case(
        "transformer layer",
        lambda: lambda: TokenFusion(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 8),
        tokens,
    ),
    Case("in place", lambda: InPlace, vectors),
    Case("in-place relu", lambda: lambda: mlp(nn.ReLU(inplace=True)), vectors),
    Case("fills in place", lambda: FillsInPlace, vectors, refusals=vmap_refuses("")),
    Case("changes its input", lambda: ChangesInput, vectors, refusals=always((ValueError, "in place"))),
    Case("shared layer", lambda: SharedLayer, vectors),
    Case("tied weights", lambda: TiedWeights, vectors),
    Case("encoder shared by the experts", lambda: sharing(lambda: nn.Linear(8, 6)), vectors),
    Case(
        "batch norm shared by the experts",
        lambda: sharing(lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6))),
        vectors,
        refusals=BATCH_NORM,
        evaluation_refusals={},
    ),
    Case("frozen layer", lambda: frozen, vectors),
    Case("counts its calls", lambda: CountsCalls, vectors, refusals=vmap_refuses("buffer")),
    Case("reassigns a buffer", lambda: ReassignsBuffer, vectors, refusals=vmap_refuses("buffer")),
    Case("fills an empty buffer", lambda: FillsEmptyBuffer, vectors, refusals=vmap_refuses("buffer")),
    Case(
        "output depends on a moving buffer",
        lambda: MovingScale,
        vectors,
        refusals=vmap_refuses("buffer"),
        evaluation_refusals={},
    ),
    Case("dict in", lambda: DictIn, vectors, style="dict"),
    Case("list in", lambda: lambda: SequenceIn(list), vectors, style="list"),
    Case("tuple in", lambda: lambda: SequenceIn(tuple), vectors, style="tuple"),
    Case("keyword-only", lambda: KeywordOnly, vectors, style="keyword"),
    Case(
        "tuple out",
        lambda: lambda: Returns(lambda y: (y, y)),
        vectors,
        refusals=always((TypeError, "a tensor or a BackboneOutput, however .*tuple; wrap")),
    ),
    Case(
        "nothing out",
        lambda: lambda: Returns(lambda y: None),
        vectors,
        refusals=always((TypeError, "a tensor or a BackboneOutput, however .*NoneType; wrap")),
    ),
    Case(
        "wrong batch out",
        lambda: lambda: Returns(lambda y: y[1:]),
        vectors,
        refusals=always((ValueError, "must keep the batch of .* on axis 0, however .* returned shape")),
    ),
    Case(
        "scalar out",
        lambda: lambda: Returns(lambda y: y.mean()),
        vectors,
        refusals=always((ValueError, "must keep the batch of .* on axis 0, however .* returned shape")),
    ),
    Case(
        "auxiliary loss that is no scalar",
        lambda: lambda: Returns(lambda y: BackboneOutput(y, aux_loss=y)),
        vectors,
        refusals=always((ValueError, "aux_loss must be a scalar")),
    ),
    Case(
        "auxiliary loss that is no tensor",
        lambda: lambda: Returns(lambda y: BackboneOutput(y, aux_loss=0.5)),  # type: ignore[arg-type]
        vectors,
        refusals=always((TypeError, "aux_loss must be a scalar tensor")),
    ),
    Case("raises", lambda: lambda: Returns(fails), vectors, refusals=always((Exception, "of the user's own"))),
    Case("auxiliary loss and latent", lambda: lambda: Returns(auxiliary_and_latent), vectors),
    Case("auxiliary loss", lambda: lambda: Returns(auxiliary), vectors),
    Case("forward hook", lambda: hooked, vectors, refusals=vmap_refuses("hooks")),
    Case("forward pre-hook", lambda: pre_hooked, vectors, refusals=vmap_refuses("hooks")),
    Case("backward pre-hook", lambda: backward_pre_hooked, vectors, refusals=vmap_refuses("hooks")),
    Case("keeps its output", lambda: KeepsHidden, vectors, refusals=vmap_refuses("attribute 'last'")),
    Case("old weight norm", lambda: old_weight_norm, vectors, refusals=vmap_refuses("hooks")),
    Case("weight norm", lambda: weight_norm, vectors),
    Case("old spectral norm", lambda: old_spectral_norm, vectors, refusals=vmap_refuses("hooks")),
    Case("spectral norm", lambda: spectral_norm, vectors, refusals=vmap_refuses(""), evaluation_refusals={}),
    Case("compiled", lambda: compiled, vectors, refusals=vmap_refuses("OptimizedModule")),
    Case("lazy linear", lambda: lambda: mlp(nn.LazyLinear(6)), vectors, refusals=vmap_refuses("lazy")),
    Case("embedding of tokens", lambda: TokenEmbedding, integer_tokens, perturbations=("shuffle",)),
    Case("images", lambda: ImageFusion, images),
    Case("different ranks", lambda: MixedRank, vector_and_tokens),
    Case("one number per sample", lambda: lambda: Returns(lambda y: y[:, 0]), vectors, scalar=True),
    Case("one output", lambda: lambda: Returns(lambda y: y[:, :1]), vectors, scalar=True),
    Case("per token", lambda: PerToken, tokens),
    Case("transposed output", lambda: lambda: Returns(transposed), vectors),
    Case("no parameters", lambda: NoParameters, vectors, refusals=vmap_refuses("")),
    Case("returns its input", lambda: ReturnsInput, vectors),
    Case("decides row by row", lambda: RowByRow, vectors, refusals=vmap_refuses("")),
    Case("mixes samples", lambda: CentersBatch, vectors, refusals=stacking_refused("CentersBatch")),
    Case("experts of different depth", growing, vectors, refusals=vmap_refuses("differ in more than")),
    Case("experts of different scale", differently_scaled, vectors, refusals=vmap_refuses("differ in more than")),
    Case(
        "experts of different width",
        widening,
        vectors,
        refusals={
            **always((ValueError, "all experts must return the same shape, however")),
            **vmap_refuses("differ in more than"),
        },
    ),
    Case("nested dicts", lambda: NestedDicts, nested_dicts),
    Case("named tuples", lambda: NamedTuples, named_tuples),
    Case("bfloat16", lambda: lambda: mlp().to(torch.bfloat16), half_precision, atol=3e-2),
    Case("einops", lambda: Einops, tokens),
    Case("parameter containers", lambda: ParameterContainers, vectors),
    Case("own autograd function", lambda: lambda: Returns(double), vectors, refusals=vmap_refuses("")),
    Case("complex numbers inside", lambda: lambda: Returns(fourier), vectors),
    Case("detaches a modality", lambda: DetachesOne, vectors),
)


def by_name(name: str) -> Case:
    """Find a case."""
    return next(case for case in ZOO if case.name == name)
