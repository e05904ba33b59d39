"""The model as its users meet it: calls, outputs, and the whole life of an object."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import permutations
from typing import Any, NamedTuple

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from i2moe import (
    BackboneOutput,
    InteractionLosses,
    InteractionMoE,
    InteractionOutput,
    Reweighter,
    Specialist,
    StaticReweighter,
)
from i2moe.interpretation.observation.observe import call_by_signature
from i2moe.losses import Interaction
from i2moe.moe.experts import Execution
from i2moe.moe.pruning import TopExperts
from i2moe.perturbations import Custom, Gaussian, Mean, Perturbation, Shuffle, Zero
from tests import oracle
from tests.covering import every_pair, in_turn
from tests.zoo import EXECUTIONS, EXECUTIONS_WITH_CHECKPOINTS, auxiliary_and_latent

pytestmark = pytest.mark.usefixtures("double")


class Fusion(nn.Module):
    """A fusion backbone that can be called in every way."""

    def __init__(self, *between: nn.Module, n_outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 6), *between, nn.Tanh(), nn.Linear(6, n_outputs))

    def forward(self, x: Any, y: Tensor | None = None) -> Tensor:
        if isinstance(x, Mapping):
            x, y = x["x"], x["y"]
        elif not isinstance(x, Tensor):
            x, y = x
        assert isinstance(y, Tensor)
        output: Tensor = self.body(torch.cat([x, y], dim=-1))
        return output


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def make(factory: Callable[[], nn.Module] = Fusion, **options: Any) -> InteractionMoE:
    torch.manual_seed(1)
    return InteractionMoE(factory, 2, **({"modality_names": ("x", "y"), "feature_dims": (3, 5)} | options))


def batch(n_samples: int = 6, **options: Any) -> tuple[Tensor, Tensor]:
    return torch.randn(n_samples, 3, **options), torch.randn(n_samples, 5, **options)


def total(out: InteractionOutput) -> Tensor:
    assert out.interaction_loss is not None
    return out.prediction.square().sum() + out.interaction_loss + out.aux_loss


def backward(loss: Tensor) -> None:
    loss.backward()


# --- calls ---


CALLS: dict[str, Callable[..., InteractionOutput]] = {
    "list": lambda model, x, y: model([x, y]),
    "tuple": lambda model, x, y: model((x, y)),
    "named tuple": lambda model, x, y: model(Pair(x, y)),
    "dict": lambda model, x, y: model({"x": x, "y": y}),
    "dict reversed": lambda model, x, y: model({"y": y, "x": x}),
    "keywords": lambda model, x, y: model(x=x, y=y),
    "keywords reversed": lambda model, x, y: model(y=y, x=x),
    "mixed": lambda model, x, y: model(x, y=y),
}


# A call is read before experts run: it cannot interact with the execution.
@pytest.mark.parametrize(("call", "execution"), in_turn([*CALLS.values()], EXECUTIONS), ids=CALLS)
def test_every_call_means_the_same(call: Callable[..., InteractionOutput], execution: Execution) -> None:
    model = make(execution=execution, perturbation="zero")
    model.reweighter.eval()  # type: ignore[attr-defined]
    x, y = batch()
    expected, found = model(x, y), call(model, x, y)
    for field in fields(InteractionOutput):
        torch.testing.assert_close(getattr(found, field.name), getattr(expected, field.name), rtol=0, atol=1e-12)


def test_a_named_tuple_stays_one() -> None:
    class Named(nn.Module):
        def forward(self, pair: Pair) -> Tensor:
            return pair.x * pair.y[:, :3]

    assert make(Named)(Pair(*batch())).prediction.shape == (6, 3)


def test_a_keyword_stays_one() -> None:
    class KeywordOnly(nn.Module):
        def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
            return x * y[:, :3]

    assert make(KeywordOnly)(torch.randn(6, 3), y=torch.randn(6, 5)).prediction.shape == (6, 3)


class Difference(nn.Module):
    def forward(self, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        return a - b if c is None else a - b + c


class WithMask(nn.Module):
    def forward(self, b: Tensor, mask: Tensor | None = None, a: Tensor | None = None) -> Tensor:
        assert a is not None
        return a - b


@pytest.mark.parametrize("of", [InteractionMoE, Specialist])
@pytest.mark.parametrize("backbone", [Difference, WithMask, lambda: nn.DataParallel(Difference())])
def test_names_in_another_order_than_the_arguments_exchange_nothing(of: Any, backbone: Any) -> None:
    options: Any = {} if of is Specialist else {"reweighter": StaticReweighter(4)}
    a, b = torch.randn(6, 3), torch.randn(6, 3)
    model = of(backbone, 2, modality_names=("b", "a"), **options).eval()
    for call in (lambda: model(b, a), lambda: call_by_signature(model, (b, a))):
        with pytest.raises(ValueError, match="must be in the order of the model's arguments"):
            call()
    by_name = model(a=a, b=b)
    torch.testing.assert_close(getattr(by_name, "prediction", by_name), a - b)


@pytest.mark.parametrize("n_modalities", [2, 3, 5])
def test_names_of_modalities_and_experts(n_modalities: int) -> None:
    class Sum(nn.Module):
        def forward(self, *modalities: Tensor) -> Tensor:
            return torch.stack(modalities).sum(0)

    model = InteractionMoE(Sum, n_modalities)
    numbers = tuple(str(i) for i in range(n_modalities))
    assert model.n_modalities == n_modalities
    assert model.modality_names == numbers
    assert model.expert_names == (*(f"uniqueness/{i}" for i in numbers), "synergy", "redundancy")
    assert model.interactions == (*range(n_modalities), "synergy", "redundancy")
    out = model(*(torch.randn(4, 2) for _ in range(n_modalities)))
    assert tuple(out.interaction_losses) == model.expert_names
    assert out.views.shape == (4, n_modalities + 2, n_modalities + 1, 2)


@pytest.mark.parametrize(
    ("experts", "names"),
    [
        (("synergy", "redundancy"), ("synergy", "redundancy")),
        (("redundancy", "synergy"), ("synergy", "redundancy")),
        ("synergy", ("synergy",)),
        (("uniqueness",), ("uniqueness/x", "uniqueness/y")),
        (["redundancy", "uniqueness/y"], ("uniqueness/y", "redundancy")),
    ],
)
def test_a_subset_of_experts_is_the_full_set_without_the_others(
    experts: str | Sequence[str], names: tuple[str, ...]
) -> None:
    full = make(perturbation="zero")
    model = make(perturbation="zero", experts=experts)
    kept = [full.expert_names.index(name) for name in names]
    for expert, e in zip(model.experts, kept, strict=True):
        expert.load_state_dict(full.experts[e].state_dict())
    x, y = batch()

    out, expected = model(x, y), full(x, y)

    assert model.expert_names == names
    assert model.interactions == tuple(full.interactions[e] for e in kept)
    torch.testing.assert_close(out.views, expected.views[:, kept])
    assert out.interaction_losses == {name: expected.interaction_losses[name] for name in names}
    torch.testing.assert_close(out.weights.sum(-1), torch.ones(6))


# --- outputs ---


def test_outputs_have_their_shapes_and_the_prediction_is_the_mixture() -> None:
    out = make(lambda: Fusion(n_outputs=4))(*batch())
    assert out.prediction.shape == (6, 4)
    assert out.weights.shape == (6, 4)
    assert out.expert_predictions.shape == (6, 4, 4)
    assert out.views.shape == (6, 4, 3, 4)
    torch.testing.assert_close(out.prediction, torch.einsum("be,bec->bc", out.weights, out.expert_predictions))
    torch.testing.assert_close(out.views[:, :, 0], out.expert_predictions, rtol=0, atol=0)
    torch.testing.assert_close(out.interaction_loss, torch.stack(list(out.interaction_losses.values())).mean())
    assert (out.weights > 0).all()
    torch.testing.assert_close(out.weights.sum(-1), torch.ones(6))


@pytest.mark.parametrize("shape", [(), (1,), (4, 3), (2, 4, 3)])
def test_outputs_of_any_shape(shape: tuple[int, ...]) -> None:
    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, torch.Size(shape).numel())

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            output: Tensor = self.layer(torch.cat([x, y], dim=-1))
            return output.reshape(-1, *shape)

    out = make(Shaped, losses=InteractionLosses("regression"))(*batch())
    assert out.prediction.shape == (6, *shape)
    assert out.expert_predictions.shape == (6, 4, *shape)
    assert out.views.shape == (6, 4, 3, *shape)
    flat, weights = out.expert_predictions.reshape(6, 4, -1), out.weights
    torch.testing.assert_close(out.prediction.reshape(6, -1), torch.einsum("be,bec->bc", weights, flat))


def test_an_output_names_its_tensors_and_its_losses() -> None:
    model = make(lambda: Returning(auxiliary_and_latent))
    out = model(*batch())
    computed = {"marginals", "available", "member_predictions", "member_marginals"}
    assert set(out.to_dict()) == {field.name for field in fields(InteractionOutput)} - computed
    assert all(out.to_dict()[name] is getattr(out, name) for name in out.to_dict())
    names = {"interaction", "aux", *(f"interaction/{name}" for name in model.expert_names)}
    assert set(out.losses) == names
    assert all(loss.ndim == 0 and not loss.requires_grad for loss in out.losses.values())

    out = model.eval()(*batch())
    assert set(out.to_dict()) == {"prediction", "weights", "expert_predictions", "aux_loss"}
    assert set(out.losses) == {"aux"}


class Returning(nn.Module):
    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.change = Fusion(), change

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.change(self.body(x, y))


def test_losses_on_the_latent_compare_latents_and_reach_them() -> None:
    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Linear(8, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor, y: Tensor) -> BackboneOutput:
            latent = torch.tanh(self.encoder(torch.cat([x, y], dim=-1)))
            return BackboneOutput(self.head(latent), latent=latent)

    model = make(Latent, losses=InteractionLosses(on="latent"), perturbation="zero")
    x, y = batch()

    out = model(x, y)
    backward(out.interaction_loss)

    inputs = torch.stack([torch.cat(p, -1) for p in ((x, y), (0 * x, y), (x, 0 * y))], 1)
    latents = torch.stack([torch.tanh(expert.encoder(inputs)) for expert in model.experts], 1)
    torch.testing.assert_close(torch.stack(list(out.interaction_losses.values())), InteractionLosses()(latents))
    for expert in model.experts:
        assert expert.encoder.weight.grad.abs().sum() > 0
        assert expert.head.weight.grad is None
    assert out.views.shape == (6, 4, 3, 3)


def test_losses_of_the_users_own_are_used() -> None:
    class Losses:
        on = "prediction"

        def __call__(
            self, views: Tensor, interactions: Sequence[Interaction] | None = None, replaced: Tensor | None = None
        ) -> Tensor:
            assert interactions == (0, 1, "synergy", "redundancy")
            assert replaced is None
            return views.abs().mean((0, 2, 3))

    out = make(losses=Losses())(*batch())
    torch.testing.assert_close(torch.stack(list(out.interaction_losses.values())), out.views.abs().mean((0, 2, 3)))


def test_without_perturbation_there_is_no_interaction_loss() -> None:
    model = make(perturbation=None)
    out = model(*batch())
    assert out.interaction_loss is None
    assert out.views is None
    with pytest.raises(ValueError, match="must have a perturbation, however perturbation=None; give"):
        model.interaction_views(*batch())


# --- training and evaluation ---


# Evaluation makes no views: the perturbation cannot interact with the execution.
@pytest.mark.parametrize(
    ("perturbation", "execution"),
    in_turn(["gaussian", "shuffle", Gaussian(fraction=0.5), Shuffle(per_step=2)], EXECUTIONS),
)
def test_evaluation_draws_nothing_and_changes_nothing(perturbation: str | Perturbation, execution: Execution) -> None:
    model = make(lambda: Fusion(nn.BatchNorm1d(6), nn.Dropout()), execution=execution, perturbation=perturbation)
    model.eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x, y = batch()
    random = torch.get_rng_state()
    first, second = model(x, y), model(x, y)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(first.prediction, second.prediction, rtol=0, atol=0)
    assert first.interaction_loss is None
    assert first.views is None
    assert first.interaction_losses == {}


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_views_on_demand_in_evaluation(execution: Execution) -> None:
    model = make(lambda: Fusion(nn.BatchNorm1d(6), nn.Dropout()), execution=execution, perturbation="zero").eval()
    before = copy.deepcopy(model.state_dict())
    x, y = batch()
    out = model.interaction_views(x, y)
    assert not model.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(out.prediction, model(x, y).prediction)
    assert out.views is not None
    for e, expert in enumerate(model.experts):
        torch.testing.assert_close(out.views[:, e, 1], expert(0 * x, y))
        torch.testing.assert_close(out.views[:, e, 2], expert(x, 0 * y))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_same_seed_same_result(execution: Execution) -> None:
    results = []
    for _ in range(2):
        model = make(lambda: Fusion(nn.Dropout()), execution=execution)
        x, y = batch()
        torch.manual_seed(11)
        results.append(model(x, y).to_dict())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("execution", "task", "fraction"),
    every_pair(EXECUTIONS, ["classification", "regression", "released_regression"], [1.0, 0.5]),
)
def test_gradient_reaches_every_parameter(execution: Execution, task: Any, fraction: float) -> None:
    perturbation = Custom(nn.Linear(1, 1), fraction=fraction)
    perturbation.function = Affine()
    model = make(execution=execution, losses=InteractionLosses(task), perturbation=perturbation)
    x, y = batch(16)
    x.requires_grad_()
    y.requires_grad_()

    backward(total(model(x, y)))

    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unreached == []
    assert x.grad is not None
    assert y.grad is not None


class Affine(nn.Module):
    """A learned perturbation."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1) * self.scale


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_every_expert_gets_gradient_from_the_interaction_loss_alone(execution: Execution) -> None:
    model = make(execution=execution)
    backward(model(*batch(16)).interaction_loss)
    for expert in model.experts:
        assert sum(p.grad.abs().sum().item() for p in expert.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize(
    ("n_modalities", "task", "execution"), every_pair([2, 3, 4, 5], list(oracle.TERMS), EXECUTIONS)
)
def test_a_model_equals_plain_loops(n_modalities: int, task: Any, execution: Execution) -> None:
    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4 * n_modalities, 6), nn.Tanh(), nn.Linear(6, 3))

        def forward(self, *modalities: Tensor) -> Tensor:
            output: Tensor = self.body(torch.cat(modalities, dim=-1))
            return output

    model = InteractionMoE(
        Mixes,
        n_modalities,
        perturbation=Gaussian(generator=torch.Generator().manual_seed(5)),
        losses=InteractionLosses(task),
        execution=execution,
    )
    modalities = [torch.randn(5, 4) for _ in range(n_modalities)]
    noise = torch.Generator().manual_seed(5)
    replacements = [torch.randn(5, 4, generator=noise) for _ in range(n_modalities)]

    out = model(*modalities)

    terms = oracle.TERMS[task]
    expected = oracle.run(list(model.experts), model.interactions, out.weights, modalities, replacements, terms)
    torch.testing.assert_close(out.prediction, expected.prediction, rtol=0, atol=1e-9)
    torch.testing.assert_close(out.expert_predictions, expected.expert_predictions, rtol=0, atol=1e-9)
    torch.testing.assert_close(out.views, expected.views, rtol=0, atol=1e-9)
    losses = torch.stack(list(out.interaction_losses.values()))
    torch.testing.assert_close(losses, torch.tensor(expected.losses), rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_relabelling_modalities_permutes_uniqueness_and_nothing_else(order: tuple[int, ...]) -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(9, 3)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            output: Tensor = self.body(torch.cat([batch[name] for name in "abc"], dim=-1))
            return output

    def model(names: str) -> InteractionMoE:
        return InteractionMoE(
            ByName,
            3,
            modality_names=tuple(names),
            reweighter=StaticReweighter(5),
            perturbation=Custom(lambda x: x.flip(-1)),
        )

    relabelled = "".join("abc"[i] for i in order)
    first, second = model("abc"), model(relabelled)
    for name in first.expert_names:
        of_first, of_second = first.expert_names.index(name), second.expert_names.index(name)
        second.experts[of_second].load_state_dict(first.experts[of_first].state_dict())
    batch = {name: torch.randn(4, 3) for name in "abc"}

    found, expected = second(batch), first(batch)

    for name in first.expert_names:
        torch.testing.assert_close(found.interaction_losses[name], expected.interaction_losses[name])
    torch.testing.assert_close(found.prediction, expected.prediction)
    torch.testing.assert_close(found.interaction_loss, expected.interaction_loss)


def test_training_lowers_the_interaction_loss() -> None:
    model = make(reweighter=StaticReweighter(4), feature_dims=None)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = batch(32)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(x, y).interaction_loss
        backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


# --- life of an object ---


def test_state_dict_keys_are_the_same_for_every_option() -> None:
    keys = set(make().state_dict())
    options: list[dict[str, Any]] = [
        *({"execution": execution} for execution in EXECUTIONS),
        *({"perturbation": p} for p in ("zero", "mean", "shuffle", Gaussian(fraction=0.5, per_step=2), None)),
        *({"losses": InteractionLosses(task)} for task in ("regression", "released_regression")),
        {"losses": InteractionLosses(on="latent")},
        {"checkpoint": True},
        {"modality_names": ("text", "image")},
    ]
    for option in options:
        assert set(make(**option).state_dict()) == keys, option


@pytest.mark.parametrize("lazy", [False, True])
def test_a_saved_state_makes_the_same_model(lazy: bool) -> None:
    dims = {"feature_dims": None if lazy else (3, 5)}
    model = make(lambda: Fusion(nn.BatchNorm1d(6)), **dims)
    model(*batch())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)

    twin = InteractionMoE(lambda: Fusion(nn.BatchNorm1d(6)), 2, **dims, execution="sequential", perturbation="zero")  # type: ignore[arg-type]
    twin.load_state_dict(torch.load(file, weights_only=True))

    x, y = batch()
    torch.testing.assert_close(twin.eval()(x, y).to_dict()["prediction"], model.eval()(x, y).prediction)


@pytest.mark.parametrize(
    ("perturbation", "duplicate", "used"),
    every_pair(
        ["gaussian", "shuffle", Gaussian(generator=torch.Generator().manual_seed(1))],
        [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
        [False, True],
    ),
)
def test_a_copy_is_the_same_and_apart(
    perturbation: Any, duplicate: Callable[[InteractionMoE], InteractionMoE], used: bool
) -> None:
    model = make(feature_dims=None, perturbation=perturbation)
    if used:
        model(*batch())
    twin = duplicate(model)
    x, y = batch()
    outs = []
    for each in (model, twin):
        torch.manual_seed(3)
        outs.append(each(x, y))
    torch.testing.assert_close(outs[0].to_dict(), outs[1].to_dict())

    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in model.experts.parameters())


def test_an_evaluated_output_is_pickled() -> None:
    with torch.no_grad():
        out = make().eval()(*batch())
    twin = pickle.loads(pickle.dumps(out))
    assert isinstance(twin, InteractionOutput)
    torch.testing.assert_close(twin.to_dict(), out.to_dict(), rtol=0, atol=0)


def test_an_output_is_a_tree_of_tensors() -> None:
    out = make()(*batch())
    doubled = torch.utils._pytree.tree_map(lambda x: 2 * x, out)
    assert isinstance(doubled, InteractionOutput)
    torch.testing.assert_close(doubled.prediction, 2 * out.prediction)


def test_repr_shows_experts_perturbation_and_losses() -> None:
    text = repr(make(perturbation=Shuffle(fraction=0.5)))
    for words in ("uniqueness/x", "redundancy", "Shuffle(fraction=0.5, per_step=None)", "classification", "Fusion"):
        assert words in text


def test_a_lazy_model_learns_with_an_optimizer_made_before() -> None:
    model = make(feature_dims=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    backward(total(model(*batch())))
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    unchanged = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert unchanged == []


@pytest.mark.parametrize("execution", ["auto", "sequential"])
@pytest.mark.parametrize("fill", [None, "learned", "mean"])
def test_a_dry_run_in_inference_mode_builds_a_model_that_learns(fill: str | None, execution: Execution) -> None:
    dry_runs: list[Callable[..., object]] = [
        lambda model, x, y: model.eval()(x, y),
        lambda model, x, y: model.interaction_views(x, y),
        lambda model, x, y: TopExperts(model.eval(), 4).eval()(x, y),
    ]
    for dry_run in dry_runs:
        model = make(lambda: Fusion(nn.LazyLinear(6)), feature_dims=None, fill=fill, execution=execution)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.inference_mode():
            dry_run(model, *batch())
            assert model.eval()(*batch()).prediction.is_inference()
        assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
        before = copy.deepcopy(model.state_dict())
        mask = {} if fill is None else {"available": torch.tensor([[1, 1], [1, 0], [0, 1]] * 2).bool()}
        backward(total(model.train()(*batch(), **mask)))
        optimizer.step()
        trained = {name for name, _ in model.named_parameters()}
        assert all(
            not torch.equal(value, before[name]) for name, value in model.state_dict().items() if name in trained
        )


# --- precision ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_losses_are_single_precision_under_autocast(dtype: torch.dtype, execution: Execution) -> None:
    torch.set_default_dtype(torch.float32)
    model = make(execution=execution)
    with torch.autocast("cpu", dtype=dtype):
        out = model(*batch())
    # Under vmap torch adds a linear layer's bias apart, in single precision.
    assert out.views.dtype == (torch.float32 if execution == "vmap" else dtype)
    assert out.interaction_loss.dtype == torch.float32
    backward(total(out))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_half_precision_model_computes_losses_in_single() -> None:
    model = make().to(torch.bfloat16)
    out = model(*batch(dtype=torch.bfloat16))
    assert out.prediction.dtype == torch.bfloat16
    assert out.interaction_loss.dtype == torch.float32
    backward(total(out))


# --- without synchronization, compiled, exported, elsewhere ---


class Synchronizations(TorchDispatchMode):
    """Counts operations that wait for a device: those whose result Python needs to go on."""

    waiting = ("_local_scalar_dense", "item", "nonzero", "equal.default", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in self.waiting):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


# Views are drawn before experts run, here and on other devices: what draws them cannot interact with the execution.
@pytest.mark.parametrize(
    ("perturbation", "execution"),
    in_turn(
        ["gaussian", "zero", "mean", "shuffle", Shuffle(fraction=0.5), Gaussian(fraction=0.5, per_step=2)], EXECUTIONS
    ),
)
def test_a_step_never_waits_for_the_device(perturbation: str | Perturbation, execution: Execution) -> None:
    model = make(perturbation=perturbation, execution=execution)
    x, y = batch()
    with Synchronizations() as count:
        backward(total(model(x, y)))
        model.eval()(x, y)
    assert count.found == []
    with Synchronizations() as count:
        x.sum().item()
    assert len(count.found) == 1


def test_a_step_with_a_drawn_modality_never_waits() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            output: Tensor = self.layer(x * y * z)
            return output

    model = InteractionMoE(Three, 3, perturbation=Shuffle(per_step=2), feature_dims=(3, 3, 3))
    modalities = [torch.randn(4, 3) for _ in range(3)]
    with Synchronizations() as count:
        backward(total(model(*modalities)))
    assert count.found == []


# Options that do not meet in the code are compiled together: a break of the graph by any of them fails.
TRAINED: dict[str, dict[str, Any]] = {
    "checkpoint, some rows": {"checkpoint": True, "perturbation": Gaussian(fraction=0.5)},
    "shuffle, regression": {
        "perturbation": "shuffle",
        "losses": InteractionLosses("regression"),
        "execution": "sequential",
    },
    "mean, batch norm": {"perturbation": "mean", "factory": lambda: Fusion(nn.BatchNorm1d(6))},
    "one view, auxiliary loss and latent": {
        "perturbation": Zero(per_step=1),
        "experts": ("synergy", "redundancy"),
        "factory": lambda: Returning(auxiliary_and_latent),
        "losses": InteractionLosses(on="latent"),
    },
}
EVALUATED: dict[str, dict[str, Any]] = {
    "vmap": {"execution": "vmap"},
    "batch norm": {"factory": lambda: Fusion(nn.BatchNorm1d(6))},
    "auxiliary loss and latent": {"factory": lambda: Returning(auxiliary_and_latent)},
}


@pytest.mark.parametrize("options", TRAINED.values(), ids=TRAINED)
def test_training_compiles_into_one_graph_once(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model = make(**options)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        backward(total(compiled(*batch())))
        optimizer.step()
    assert counter.frame_count == 1


@pytest.mark.parametrize("options", EVALUATED.values(), ids=EVALUATED)
def test_evaluation_compiles_into_one_graph_once(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(make(**options).eval(), fullgraph=True, backend=counter)
    for _ in range(2):
        compiled(*batch())
    assert counter.frame_count == 1


# By vmap; one pass after the other, where modalities are missing: tests/test_missing.py.
def test_a_model_compiled_once_equals_the_eager_one() -> None:
    torch._dynamo.reset()
    models = [make(perturbation="zero", execution="vmap") for _ in range(2)]
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    runs: list[Any] = [models[0], torch.compile(models[1], fullgraph=True, backend=counter)]
    for _ in range(2):
        x, y = batch()
        found = []
        for model, run in zip(models, runs, strict=True):
            model.reweighter.eval()  # type: ignore[attr-defined]
            out = run(x, y)
            model.zero_grad()
            backward(total(out))
            found.append((out.to_dict(), {name: p.grad for name, p in model.named_parameters()}))
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-9)
    assert counter.frame_count == 1


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_evaluation_is_exported_for_any_batch(execution: Execution) -> None:
    model = make(execution=execution).eval()
    size = {0: torch.export.Dim("batch", min=2)}
    exported = torch.export.export(model, batch(4), dynamic_shapes=((size, size),))
    x, y = batch(9)
    found, expected = exported.module()(x, y), model(x, y)
    assert isinstance(found, InteractionOutput)
    torch.testing.assert_close(found.prediction, expected.prediction)
    torch.testing.assert_close(found.weights, expected.weights)


def test_an_exported_program_is_saved_and_loaded() -> None:
    model = make().eval()
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (dict(zip("xy", batch(), strict=True)),)), file)
    file.seek(0)
    x, y = batch()
    found = torch.export.load(file).module()({"x": x, "y": y})
    torch.testing.assert_close(found.prediction, model(x, y).prediction)


ELSEWHERE: tuple[Any, ...] = (
    "gaussian",
    "zero",
    "mean",
    "shuffle",
    Gaussian(fraction=0.5),
    Shuffle(fraction=0.5, per_step=2),
    None,
)


@pytest.mark.parametrize(("perturbation", "execution"), in_turn(ELSEWHERE, EXECUTIONS))
def test_views_are_made_on_a_cuda_device(
    perturbation: Any, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors without data and without gradient: torch for CPUs cannot differentiate on a device it lacks."""
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: None)
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            model = make(perturbation=perturbation, execution=execution)
        out = model(*batch(device="cuda"))
        evaluated = model.eval()(*batch(device="cuda"))
    assert model.experts.vmap_refusals == {}
    assert out.prediction.device.type == evaluated.prediction.device.type == "cuda"
    assert all(loss.device.type == "cuda" for loss in out.losses.values())


@pytest.mark.parametrize(
    ("perturbation", "execution", "checkpoint"),
    [(perturbation, *how) for perturbation, how in in_turn(ELSEWHERE, EXECUTIONS_WITH_CHECKPOINTS)],
)
def test_a_step_is_made_on_another_device(perturbation: Any, execution: Execution, checkpoint: bool) -> None:
    with torch.device("meta"):
        model = make(
            lambda: Fusion(nn.BatchNorm1d(6)) if execution == "auto" else Fusion(),
            perturbation=perturbation,
            execution=execution,
            checkpoint=checkpoint,
        )
    optimizer = torch.optim.Adam(model.parameters())
    out = model(*batch(device="meta"))
    backward(out.prediction.sum() + out.aux_loss + sum(out.interaction_losses.values()))
    optimizer.step()
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in model.parameters())


def test_the_default_parts_are_those_of_the_paper() -> None:
    model = InteractionMoE(Fusion, 2)
    assert isinstance(model.reweighter, Reweighter)
    assert isinstance(model.perturbation, Gaussian)
    assert isinstance(model.losses, InteractionLosses)
    assert isinstance(make(perturbation="mean").perturbation, Mean)
    first, second = (torch.cat([p.flatten() for p in model.experts[e].parameters()]) for e in (0, 1))
    assert not torch.isclose(first, second).any()  # experts start different


def test_an_output_shows_shapes() -> None:
    out = make().eval()(*batch())
    assert repr(out).startswith("InteractionOutput(prediction (")
    assert "views" not in repr(out)


def test_outputs_equal_themselves_alone() -> None:
    model = make()
    x, y = batch()
    out, again = model(x, y), model(x, y)
    assert [again, out].index(out) == 1
    assert out != again
    assert BackboneOutput(x) != BackboneOutput(x.clone())
