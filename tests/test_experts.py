"""How often, on what and in which state experts run."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2moe import BackboneOutput, InteractionMoE, StaticReweighter
from i2moe.moe.experts import Execution, ExpertBank
from i2moe.moe.experts import bank as experts_module
from i2moe.perturbations import Gaussian, Zero
from tests.covering import in_turn
from tests.test_zoo import gradients, make_batch, make_model, objective
from tests.zoo import EXECUTIONS, ZOO, Case, MovingScale, SharedLayer, by_name, call, mlp

BUFFERED = (
    "batch norm",
    "instance norm with running statistics",
    "counts its calls",
    "spectral norm",
    "lazy batch norm",
)

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
]


class Spy(nn.Module):
    """Notes the batch size of every pass."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_rows: list[int] = []

    def forward(self, x: Tensor, y: Tensor) -> Any:
        self.n_rows.append(x.shape[0])
        return self.backbone(x, y)


def spied(make: Callable[[], nn.Module], **options: Any) -> tuple[InteractionMoE, list[Spy]]:
    spies: list[Spy] = []

    def factory() -> Spy:
        spies.append(Spy(make()))
        return spies[-1]

    return InteractionMoE(factory, 2, **options), spies


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, under each of their names."""
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}


def batch(n_samples: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(n_samples, 3), torch.randn(n_samples, 5)


@pytest.fixture
def launch_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let "auto" choose as it does on a CUDA device."""
    monkeypatch.setattr(experts_module, "_is_launch_bound", lambda device: True)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize(
    ("make", "execution", "passes"),
    [
        (mlp, "batched", [24]),
        (mlp, "auto", [24]),
        (mlp, "sequential", [8, 8, 8]),
        (lambda: mlp(nn.BatchNorm1d(6)), "auto", [8, 8, 8]),
        (MovingScale, "auto", [8, 16]),
        (MovingScale, "batched", [8, 16]),
    ],
)
def test_an_expert_makes_this_many_passes(
    make: Callable[[], nn.Module], execution: Execution, passes: list[int], checkpoint: bool
) -> None:
    model, spies = spied(make, execution=execution, checkpoint=checkpoint)

    out = model(*batch())
    assert [spy.n_rows for spy in spies] == [passes] * 4

    out.prediction.sum().backward()
    recomputed = passes if checkpoint else []
    assert [sorted(spy.n_rows[len(passes) :]) for spy in spies] == [sorted(recomputed)] * 4


@pytest.mark.parametrize("execution", ["auto", "batched", "sequential"])
def test_evaluation_makes_one_pass_per_expert(execution: Execution) -> None:
    model, spies = spied(lambda: mlp(nn.BatchNorm1d(6)), execution=execution)
    model.eval()(*batch())
    assert [spy.n_rows for spy in spies] == [[8]] * 4


def test_fewer_rows_and_views_make_smaller_passes() -> None:
    perturbation = Gaussian(fraction=0.25, per_step=1)
    model, spies = spied(mlp, perturbation=perturbation, experts=("synergy", "redundancy"))
    model(*batch())
    assert [spy.n_rows for spy in spies] == [[8 + 2]] * 2


@pytest.mark.parametrize("execution", ["auto", "sequential"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_come_from_the_real_batch(execution: Execution, momentum: float | None) -> None:
    model = InteractionMoE(
        lambda: mlp(nn.BatchNorm1d(6, momentum=momentum)), 2, reweighter=StaticReweighter(4), execution=execution
    )
    batches = [batch() for _ in range(3)]
    expected = []
    for expert in model.experts:
        alone = mlp(nn.BatchNorm1d(6, momentum=momentum))
        alone.load_state_dict(expert.state_dict())
        for x, y in batches:
            alone(x, y)
        expected.append(alone)

    for x, y in batches:
        model(x, y)

    for expert, alone in zip(model.experts, expected, strict=True):
        torch.testing.assert_close(dict(expert.named_buffers()), dict(alone.named_buffers()), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "execution"),
    [
        pytest.param(case, execution, id=f"{case.name}-{execution}".replace(" ", "_"))
        for case, execution in product(map(by_name, BUFFERED), EXECUTIONS)
        if case.refusal(execution, training=True) is None
    ],
)
def test_views_leave_the_buffers_themselves_in_place(case: Case, execution: Execution) -> None:
    model = make_model(case, "gaussian", execution)
    call(model, case, make_batch(case)[0])
    before = dict(model.named_buffers())
    call(model, case, make_batch(case)[0])
    after = dict(model.named_buffers())
    assert all(after[name] is before[name] for name in before)


RUNNING = [case for case in ZOO if case.refusal("auto", training=True) is None]


# Which tensors an execution stacks changes nothing about what is computed anew, but for the state that passes change.
@pytest.mark.parametrize(
    ("case", "execution"),
    [
        *in_turn([case for case in RUNNING if case.name not in BUFFERED], ["auto", "sequential"]),
        *product([case for case in RUNNING if case.name in BUFFERED], ["auto", "sequential"]),
    ],
    ids=lambda value: str(getattr(value, "name", value)).replace(" ", "_"),
)
def test_checkpoint_changes_nothing_but_memory(case: Case, execution: Execution) -> None:
    found = []
    for checkpoint in (False, True):
        model = make_model(case, "shuffle", execution)
        model.experts.checkpoint = checkpoint
        modalities, gain = make_batch(case)
        torch.manual_seed(5)
        first, second = call(model, case, modalities), call(model, case, modalities)  # two passes before a backward
        for out in (first, second, first):  # and one again
            objective(out.prediction, out.views, out.aux_loss).backward(retain_graph=True)
        found.append((first.prediction, second.views, gradients(model, gain), dict(model.named_buffers())))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=case.atol)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_auxiliary_loss_is_the_mean_over_experts_and_rows(execution: Execution) -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(()))

        def forward(self, x: Tensor, y: Tensor) -> BackboneOutput:
            return BackboneOutput(x, aux_loss=self.scale * (x.sum(-1) + y.sum(-1)).mean())

    model = InteractionMoE(Routed, 2, perturbation=Zero(), reweighter=StaticReweighter(4), execution=execution)
    x, y = batch()

    out = model(x, y)
    out.aux_loss.backward()

    rows = torch.cat([x.sum(-1) + y.sum(-1), y.sum(-1), x.sum(-1)])  # nothing, x, y replaced by zero
    scales: list[Tensor] = list(model.experts.parameters())
    torch.testing.assert_close(out.aux_loss, rows.mean() * torch.stack(scales).mean())
    for scale in scales:
        torch.testing.assert_close(scale.grad, rows.mean() / 4)


def test_auxiliary_loss_of_one_expert_is_shared_by_all() -> None:
    first: list[bool] = []

    def factory() -> nn.Module:
        first.append(not first)
        return Sometimes(first[-1])

    class Sometimes(nn.Module):
        def __init__(self, has_loss: bool) -> None:
            super().__init__()
            self.has_loss = has_loss

        def forward(self, x: Tensor, y: Tensor) -> BackboneOutput:
            return BackboneOutput(x, aux_loss=torch.tensor(4.0) if self.has_loss else None)

    out = InteractionMoE(factory, 2, reweighter=StaticReweighter(4))(*batch())
    assert out.aux_loss.item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("batch norm", r"layer 'body.1' \(BatchNorm1d\)"),
        ("instance norm with running statistics", r"layer 'norm' \(InstanceNorm1d\)"),
        ("gru", r"layer 'layer' \(GRU\)"),
        ("lstm", r"layer 'layer' \(LSTM\)"),
        ("fills in place", r"layer '' \(FillsInPlace\)"),
        ("decides row by row", r"layer '' \(RowByRow\)"),
        ("forward hook", r"layer 'body.0' \(Linear\) has hooks"),
        ("lazy linear", r"layer 'body.1' \(LazyLinear\) is lazy"),
        ("counts its calls", "buffer 'n_calls'"),
        ("reassigns a buffer", "buffer 'n_calls'"),
        ("fills an empty buffer", "buffer 'cache'"),
        ("experts of different scale", r"layer '' \(PlainAttribute\) has another 'scale'"),
        ("experts of different depth", "layers are"),
        ("mixes samples", r"layer '' \(CentersBatch\)"),
        ("raises", "raised KeyError: .of the user.s own."),
    ],
)
def test_vmap_refusal_names_what_is_in_the_way(name: str, words: str) -> None:
    case = by_name(name)
    with pytest.raises(RuntimeError, match=f"(?s)execution='vmap' must .*{words}.*use execution='auto'"):
        call(make_model(case, "zero", "vmap"), case, make_batch(case)[0])


def test_a_refused_pass_leaves_nothing_behind() -> None:
    for name in ("fills an empty buffer", "reassigns a buffer", "shared layer"):
        case = by_name(name)
        model = make_model(case, "zero", "vmap")
        before = tensors(model)
        if case.refusal("vmap", training=True) is None:
            call(model, case, make_batch(case)[0])
        else:
            with pytest.raises(RuntimeError):
                call(model, case, make_batch(case)[0])
        after = tensors(model)
        assert before.keys() == after.keys()
        assert all(before[name] is after[name] for name in before)


def test_vmap_draws_other_dropout_for_each_expert() -> None:
    class Masks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.dropout(torch.ones_like(x), 0.5, self.training) * self.scale

    out = InteractionMoE(Masks, 2, execution="vmap", reweighter=StaticReweighter(4))(*batch(64))
    masks = out.expert_predictions.unbind(1)
    assert all(not torch.equal(masks[0], mask) for mask in masks[1:])


@pytest.mark.usefixtures("launch_bound")
def test_auto_runs_all_experts_at_once_where_it_can() -> None:
    model = InteractionMoE(SharedLayer, 2, reweighter=StaticReweighter(4))
    x, y = batch()
    model(x, y)
    assert model.experts._vmap_proven.keys() == {"training"}
    assert model.experts.vmap_refusals == {}
    model.eval()(x, y)
    assert model.experts._vmap_proven.keys() == {"training", "evaluation"}


@pytest.mark.usefixtures("launch_bound")
@pytest.mark.parametrize(
    "case", [case for case in RUNNING if not case.random], ids=lambda case: case.name.replace(" ", "_")
)
def test_auto_falls_back_by_itself(case: Case) -> None:
    """What "auto" makes on a CUDA device equals what it makes elsewhere, whether vmap can run or not."""
    outs = []
    executions: tuple[Execution, ...] = ("auto", "sequential")
    for execution in executions:
        model = make_model(case, "shuffle", execution)
        modalities, gain = make_batch(case)
        torch.manual_seed(5)
        for _ in range(2):
            out = call(model, case, modalities)
        objective(out.prediction, out.views, out.aux_loss).backward()
        outs.append((out.prediction, out.views, gradients(model, gain), dict(model.named_buffers())))
    scale = 1 if case.atol < 1e-6 else 50
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=scale * case.atol)


@pytest.mark.usefixtures("launch_bound")
def test_auto_tries_once_and_remembers() -> None:
    model, spies = spied(mlp)
    for spy in spies:
        spy.register_forward_hook(lambda *_: None)  # hooks would run once for all experts
    model(*batch())
    n_first = [len(spy.n_rows) for spy in spies]
    model(*batch())
    assert n_first == [1] * len(spies)
    assert [len(spy.n_rows) for spy in spies] == [2] * len(spies)
    assert "hooks" in model.experts.vmap_refusals["training"]
    assert model.experts._vmap_proven == {}


@pytest.mark.usefixtures("launch_bound")
def test_auto_falls_back_when_another_batch_takes_another_path() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            hidden: Tensor = self.layer(torch.cat([x, y], dim=-1))
            if x.shape[0] > 20 and hidden.sum() > 0:
                return hidden * 2
            return hidden

    model = InteractionMoE(Picky, 2, reweighter=StaticReweighter(4))
    model(*batch(4))
    assert model.experts._vmap_proven.keys() == {"training"}
    model(*batch(16))
    assert model.experts._vmap_proven == {}
    assert "Picky" in model.experts.vmap_refusals["training"]


class Configured(nn.Module):
    """Holds numbers in all ways that a pass may read."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
        self.scale, self.scales, self.options, self.config = 1.0, [1.0], {"scale": 1.0}, SimpleNamespace(scale=1.0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scale = self.scale * self.scales[0] * self.options["scale"] * self.config.scale
        output: Tensor = scale * self.layers(torch.cat([x, y], dim=-1))
        return output


def change(expert: Any, how: str) -> None:
    match how:
        case "hook":
            expert.register_forward_hook(lambda layer, args, output: 0 * output)
        case "mode":
            expert.eval()
        case "mode of a layer":
            expert.layers[1].eval()
        case "attribute":
            expert.scale = 2.0
        case "list":
            expert.scales[0] = 2.0
        case "dict":
            expert.options["scale"] = 2.0
        case "object":
            expert.config.scale = 2.0
        case "forward":
            expert.forward = lambda x, y: x
        case "another layer":
            expert.layers[1] = nn.ReLU()
        case "a deeper layer":
            expert.layers[0] = nn.Sequential(expert.layers[0], nn.Tanh())
        case "a wider layer":
            expert.layers[0], expert.layers[2] = nn.Linear(8, 7), nn.Linear(7, 3)
        case "new parameters":
            expert.layers[0] = nn.Linear(8, 6)
        case _:
            raise AssertionError(how)


ALONE = ("hook", "mode", "mode of a layer", "attribute", "list", "dict", "object", "forward")
LAYERS = ("another layer", "a deeper layer", "a wider layer")


@pytest.mark.usefixtures("launch_bound")
@pytest.mark.parametrize("how", [*ALONE, *LAYERS])
def test_a_later_change_of_one_expert_counts(how: str) -> None:
    executions: tuple[Execution, ...] = ("auto", "vmap")
    models = [InteractionMoE(Configured, 2, execution=execution) for execution in executions]
    x, y = batch()
    for model in models:
        for _ in range(2):
            model(x, y)
        change(model.experts[2], how)
    with pytest.raises(RuntimeError, match=r"execution='vmap' must .*however .*use execution='auto'"):
        models[1](x, y)
    found = models[0](x, y).expert_predictions.unbind(1)
    for expert, prediction in zip(models[0].experts, found, strict=True):
        torch.testing.assert_close(prediction, expert(x, y))


@pytest.mark.parametrize("how", ["attribute", "list", "dict", "object", *LAYERS, "new parameters"])
def test_a_later_change_of_all_experts_counts(how: str) -> None:
    model = InteractionMoE(Configured, 2, execution="vmap")
    x, y = batch()
    model(x, y)
    for expert in model.experts:
        change(expert, how)
    for expert, prediction in zip(model.experts, model(x, y).expert_predictions.unbind(1), strict=True):
        torch.testing.assert_close(prediction, expert(x, y))


def test_compiled_vmap_looks_at_the_experts_first() -> None:
    torch._dynamo.reset()
    case = by_name("experts of different scale")
    compiled = torch.compile(make_model(case, "zero", "vmap"), backend="eager")
    with pytest.raises(RuntimeError, match=r"(?s)execution='vmap' must .*has another 'scale' in another"):
        call(compiled, case, make_batch(case)[0])


def test_a_copy_leaves_behind_what_was_found_of_the_experts() -> None:
    model = InteractionMoE(Configured, 2, execution="vmap", feature_dims=(3, 5))
    model(*batch())
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.experts._vmap_proven == {}
        assert again(*batch()).prediction.shape == (8, 3)


@pytest.mark.usefixtures("launch_bound")
def test_the_trial_of_auto_draws_no_random_number() -> None:
    predictions = []
    executions: tuple[Execution, ...] = ("auto", "vmap")
    for execution in executions:
        torch.manual_seed(1)
        model = InteractionMoE(
            lambda: mlp(nn.Dropout(0.5)),
            2,
            reweighter=StaticReweighter(4),
            execution=execution,
        )
        predictions.append(model(*batch()).views)
    torch.testing.assert_close(predictions[0], predictions[1], rtol=0, atol=0)


@pytest.mark.usefixtures("launch_bound")
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_auto_evaluates_a_transformer_with_and_without_gradient(context: Callable[[], Any]) -> None:
    case = by_name("transformer layer")
    model, twin = make_model(case, "zero", "auto").eval(), make_model(case, "zero", "sequential").eval()
    modalities = case.modalities()
    with context():
        torch.testing.assert_close(call(model, case, modalities).prediction, call(twin, case, modalities).prediction)
    torch.testing.assert_close(call(model, case, modalities).prediction, call(twin, case, modalities).prediction)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["mlp", "batch norm", "output depends on a moving buffer", "shared layer"])
def test_inference_mode_runs(name: str, execution: Execution) -> None:
    case = by_name(name)
    model = make_model(case, "zero", execution).eval()
    modalities, _ = make_batch(case)
    expected = call(model, case, modalities).prediction
    with torch.inference_mode():
        torch.testing.assert_close(call(model, case, modalities).prediction, expected)
        inside = case.modalities()
        assert call(model.interaction_views, case, inside).views is not None


@pytest.mark.parametrize("execution", ["batched", "sequential"])
def test_a_failure_names_expert_view_and_shapes_and_keeps_its_traceback(execution: Execution) -> None:
    class FailsOnZeros(nn.Module):
        def forward(self, x: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
            if (y == 0).all(-1).any():
                raise KeyError("of the user's own")
            return y

    model = InteractionMoE(
        FailsOnZeros,
        2,
        modality_names=("text", "image"),
        perturbation="zero",
        reweighter=StaticReweighter(4),
        execution=execution,
    )
    mask = torch.ones(4, 3, dtype=torch.bool)
    with pytest.raises(KeyError, match="of the user's own") as caught:
        model((torch.randn(4, 3, 2), mask), torch.randn(4, 5))

    views, rows = ("(2,)", 4) if execution == "sequential" else ("(0, 1, 2)", 12)
    note = "\n".join(caught.value.__notes__)
    assert "'uniqueness/text'" in note
    assert views in note
    assert f"(({rows}, 3, 2), ({rows}, 3))" in note
    assert f"({rows}, 5)" in note
    assert "FailsOnZeros" not in note
    assert any(frame.name == "forward" and __file__ == frame.filename for frame in traceback.extract_tb(caught.tb))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_latents_of_different_shape_are_refused(execution: Execution) -> None:
    widths = iter(range(2, 20))

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("latent", torch.zeros(next(widths)))

        def forward(self, x: Tensor, y: Tensor) -> BackboneOutput:
            assert isinstance(self.latent, Tensor)
            return BackboneOutput(x, latent=self.latent.expand(x.shape[0], -1))

    model = InteractionMoE(Wide, 2, reweighter=StaticReweighter(4), execution=execution)
    error = (RuntimeError, "differ") if execution == "vmap" else (ValueError, "all experts must return the same shape")
    with pytest.raises(error[0], match=error[1]):
        model(*batch())


def test_a_bank_is_a_list_of_modules() -> None:
    bank = InteractionMoE(mlp, 2, reweighter=StaticReweighter(4)).experts
    assert isinstance(bank, ExpertBank)
    assert len(bank) == 4
    assert [expert is bank[e] for e, expert in enumerate(bank)] == [True] * 4
    assert list(bank[1:]) == list(bank)[1:]
