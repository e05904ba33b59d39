"""Random models and random calls: a correct result, or an error that says what must hold; no crash inside torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from i2moe import BackboneOutput, InteractionLosses, InteractionMoE, StaticReweighter
from i2moe._common.modalities import leaves
from i2moe.perturbations import Custom, Gaussian, Mean, Perturbation, Shuffle, Zero

SETTINGS = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


class Pool(nn.Module):
    """Takes any modalities, called in any style; masks and tokens are read as numbers."""

    def __init__(self, n_leaves: int, shape: tuple[int, ...], latent: bool) -> None:
        super().__init__()
        self.shape = shape
        self.hidden = nn.Linear(n_leaves, 5)
        self.head = nn.Linear(5, int(torch.Size(shape).numel()))
        self.latent = latent

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | BackboneOutput:
        found = leaves((args, kwargs))
        means = [leaf.to(self.head.weight).flatten(1).mean(1) for leaf in found]
        latent = self.hidden(torch.stack(means, dim=1)).tanh()
        prediction = self.head(latent).reshape(-1, *self.shape)
        return BackboneOutput(prediction, latent=latent) if self.latent else prediction


@dataclass(frozen=True)
class Case:
    """A model, and a call of it."""

    names: tuple[str, ...]
    modalities: tuple[Any, ...]
    style: str
    shape: tuple[int, ...]
    experts: Any
    perturbation: Perturbation | None
    execution: str
    on: str
    static: bool
    checkpoint: bool
    fill: str | None
    available: Tensor | None

    @property
    def n_samples(self) -> int:
        return leaves(self.modalities)[0].shape[0]

    def build(self) -> InteractionMoE:
        n_leaves = len(leaves(self.modalities))
        n_experts = len(self.names) + 2 if self.experts == "all" else len(self.experts)
        torch.manual_seed(0)
        return InteractionMoE(
            lambda: Pool(n_leaves, self.shape, self.on == "latent"),
            len(self.names),
            modality_names=self.names,
            reweighter=StaticReweighter(n_experts) if self.static else None,
            losses=InteractionLosses("regression" if self.shape in ((), (1,)) else "classification", on=self.on),  # type: ignore[arg-type]
            perturbation=self.perturbation,
            fill=self.fill,
            experts=self.experts,
            execution=self.execution,  # type: ignore[arg-type]
            checkpoint=self.checkpoint and self.execution != "vmap",
        )

    def call(self, model: InteractionMoE) -> Any:
        named = dict(zip(self.names, self.modalities, strict=True))
        mask: dict[str, Any] = {} if self.available is None else {"available": self.available}
        styles: dict[str, Callable[[], Any]] = {
            "positional": lambda: model(*self.modalities, **mask),
            "list": lambda: model(list(self.modalities), **mask),
            "tuple": lambda: model(self.modalities, **mask),
            "dict": lambda: model(dict(reversed(named.items())), **mask),
            "keyword": lambda: model(**named, **mask),
            "mixed": lambda: model(self.modalities[0], **dict(list(named.items())[1:]), **mask),
        }
        return styles[self.style]()


NAME = st.text("abcxyz_-./ é1", min_size=1, max_size=6)
FLOATING = (torch.float32, torch.float64, torch.bfloat16)
OTHER = (torch.int64, torch.bool, torch.uint8)


@st.composite
def tensors(draw: st.DrawFn, n_samples: int, *, floating: bool) -> Tensor:
    shape = (n_samples, *draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    dtype = draw(st.sampled_from(FLOATING if floating else OTHER))
    values = torch.randn(shape) if floating else torch.randint(0, 2, shape)
    return values.to(dtype)


@st.composite
def modalities(draw: st.DrawFn, n_samples: int) -> Any:
    features = draw(tensors(n_samples, floating=True))
    kind = draw(st.sampled_from(["tensor", "tensor", "tuple", "dict", "list", "nested", "optional"]))
    if kind == "tensor":
        return features
    mask = draw(tensors(n_samples, floating=False))
    return {
        "tuple": (features, mask),
        "dict": {"x": features, "mask": mask},
        "list": [features, mask],
        "nested": {"x": (features, features + 1), "mask": mask},
        "optional": (features, None),
    }[kind]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n_modalities, n_samples = draw(st.integers(2, 4)), draw(st.integers(1, 5))
    names = tuple(draw(st.lists(NAME, min_size=n_modalities, max_size=n_modalities, unique=True)))
    fraction, per_step = draw(st.sampled_from([1.0, 0.5, 0.01])), draw(st.sampled_from([None, 2, n_modalities]))
    kind = draw(st.sampled_from([Gaussian, Zero, Mean, Shuffle, Custom, None]))
    options: dict[str, Any] = {"fraction": fraction, "per_step": per_step}
    perturbation = (
        None if kind is None else kind(lambda x: x.flip(-1), **options) if kind is Custom else kind(**options)
    )
    fill = draw(st.sampled_from([None, "zero", "learned", "mean", "shuffle"]))
    available = torch.rand(n_samples, n_modalities) < draw(st.sampled_from([0.2, 0.7, 1.0]))
    available[:, draw(st.integers(0, n_modalities - 1))] = True  # each sample has something
    every = [*(f"uniqueness/{name}" for name in names), "synergy", "redundancy"]
    return Case(
        names=names,
        modalities=tuple(draw(modalities(n_samples)) for _ in names),
        style=draw(st.sampled_from(["positional", "list", "tuple", "dict", "keyword", "mixed"])),
        shape=draw(st.sampled_from([(), (1,), (2,), (4,), (3, 2), (2, 2, 2)])),
        experts=draw(st.one_of(st.just("all"), st.lists(st.sampled_from(every), min_size=1, unique=True))),
        perturbation=perturbation,
        execution=draw(st.sampled_from(["auto", "batched", "sequential", "vmap"])),
        on=draw(st.sampled_from(["prediction", "latent"])),
        static=draw(st.booleans()),
        checkpoint=draw(st.booleans()),
        fill=fill,
        available=None if fill is None else available,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* needs two samples")
@given(cases())
@SETTINGS
def test_what_fits_gives_a_correct_result(case: Case) -> None:
    model = case.build()
    torch.manual_seed(1)
    out = case.call(model)

    n_experts = len(model.expert_names)
    assert out.weights.shape == (case.n_samples, n_experts)
    assert torch.allclose(out.weights.sum(1), torch.ones(case.n_samples))
    if case.available is not None:
        for e, interaction in enumerate(model.interactions):
            if isinstance(interaction, int) and n_experts > len(case.names):
                assert (out.weights[~case.available[:, interaction], e] == 0).all()
    assert out.expert_predictions.shape == (case.n_samples, n_experts, *case.shape)
    mixed = torch.einsum("be,be...->b...", out.weights, out.expert_predictions)
    assert torch.allclose(out.prediction, mixed, atol=1e-6)
    assert set(out.interaction_losses) == (set() if case.perturbation is None else set(model.expert_names))

    loss = out.prediction.square().mean()
    (loss if out.interaction_loss is None else loss + out.interaction_loss).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)

    slow = replace(case, execution="sequential", style="positional", checkpoint=False).build()
    slow.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.manual_seed(1)
    expected = replace(case, style="positional").call(slow)
    assert torch.allclose(out.expert_predictions, expected.expert_predictions, atol=1e-5)
    if expected.views is not None:
        assert torch.allclose(out.views, expected.views, atol=1e-5)
        assert torch.allclose(out.interaction_loss, expected.interaction_loss, atol=1e-5)


def _with(case: Case, i: int, modality: Any) -> Case:
    changed = list(case.modalities)
    changed[i % len(changed)] = modality
    return replace(case, modalities=tuple(changed))


def _call(case: Case) -> None:
    case.call(case.build())


def _call_as_built_for(good: Case, bad: Case) -> None:
    bad.call(good.build())


FLAWS: dict[str, Callable[[Case, int], Any]] = {
    "longer batch": lambda case, i: _call_as_built_for(case, _with(case, i, torch.randn(case.n_samples + 1, 2))),
    "empty batch": lambda case, i: _call_as_built_for(
        case, replace(case, modalities=tuple(torch.randn(0, 2) for _ in case.names))
    ),
    "scalar": lambda case, i: _call_as_built_for(case, _with(case, i, torch.tensor(1.0))),
    "array": lambda case, i: _call_as_built_for(case, _with(case, i, torch.randn(case.n_samples, 2).numpy())),
    "text": lambda case, i: _call_as_built_for(case, _with(case, i, "a cat")),
    "numbers": lambda case, i: _call_as_built_for(case, _with(case, i, [1.0, 2.0])),
    "nothing inside": lambda case, i: _call_as_built_for(case, _with(case, i, ())),
    "one too few": lambda case, i: case.build()(list(case.modalities[1:])),
    "one too many": lambda case, i: case.build()(*case.modalities, case.modalities[0]),
    "unknown keyword": lambda case, i: case.build()(**dict(zip(case.names, case.modalities, strict=True)), other=1),
    "missing keyword": lambda case, i: case.build()(dict(zip(case.names[1:], case.modalities[1:], strict=True))),
    "twice": lambda case, i: case.build()(*case.modalities, **{case.names[0]: case.modalities[0]}),
    "same name": lambda case, i: replace(case, names=(case.names[0],) * len(case.names)).build(),
    "no name": lambda case, i: replace(case, names=("", *case.names[1:])).build(),
    "unknown expert": lambda case, i: replace(case, experts=["synergy", "harmony"]).build(),
    "no expert": lambda case, i: replace(case, experts=[]).build(),
    "unknown execution": lambda case, i: replace(case, execution="fast").build(),
    "fraction": lambda case, i: Gaussian(fraction=[0.0, -0.5, 1.5, float("nan")][i % 4]),
    "per_step": lambda case, i: replace(case, experts="all", perturbation=Zero(per_step=[1, 5, 9][i % 3])).build(),
    "mask without fill": lambda case, i: replace(
        case, fill=None, available=torch.ones(case.n_samples, len(case.names), dtype=torch.bool)
    ).call(replace(case, fill=None).build()),
    "numbers as mask": lambda case, i: _call(
        replace(case, fill="zero", available=torch.ones(case.n_samples, len(case.names)))
    ),
    "mask of another shape": lambda case, i: _call(
        replace(case, fill="zero", available=torch.ones(case.n_samples, len(case.names) + 1, dtype=torch.bool))
    ),
    "a sample without modalities": lambda case, i: _call(
        replace(case, fill="mean", available=torch.zeros(case.n_samples, len(case.names), dtype=torch.bool))
    ),
    "integers under noise": lambda case, i: _call_as_built_for(
        replace(case, perturbation=Gaussian()),
        _with(replace(case, perturbation=Gaussian()), i, torch.ones(case.n_samples, 2, dtype=torch.int64)),
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* needs two samples")
@given(cases(), st.sampled_from(sorted(FLAWS)), st.integers(0, 11))
@SETTINGS
def test_what_does_not_fit_is_refused_with_a_reason(case: Case, flaw: str, i: int) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        FLAWS[flaw](case, i)
    assert "must" in str(caught.value), caught.value
    assert "however" in str(caught.value), caught.value
