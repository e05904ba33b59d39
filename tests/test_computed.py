"""Weights computed from the model's own predictions: what they are, in every way a model runs."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch._dynamo.testing
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from i2moe import BackboneOutput, ComputedReweighter, InteractionMoE, InteractionSupervision, Reweighter, explain
from i2moe._common.tasks import Task
from i2moe.missing import ZeroFill
from i2moe.moe.experts import Execution
from i2moe.moe.pruning import TopExperts, prune
from i2moe.moe.weights.computed import mean_of_present
from i2moe.moe.weights.shares import interaction_shares
from i2moe.perturbations import as_perturbation
from tests.covering import every_pair
from tests.processes import needs_gloo, together

B, WIDTHS = 6, (3, 4, 2, 5)
EVERY_FORM: tuple[dict[str, Any], ...] = (
    {"execution": "batched"},
    {"execution": "sequential"},
    {"execution": "vmap"},
    {"checkpoint": True},
    {"members": 1},
    {"members": 3},
    {"members": 2, "checkpoint": True},
)
FORMS = pytest.mark.parametrize("form", EVERY_FORM, ids=lambda form: "-".join(f"{k}-{v}" for k, v in form.items()))
BOTH = pytest.mark.parametrize("members", [None, 2])


class Fusion(nn.Module):
    def __init__(self, widths: tuple[int, ...], n_outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(sum(widths), 8), nn.Tanh(), nn.Linear(8, n_outputs))

    def forward(self, *modalities: Tensor) -> Tensor:
        output: Tensor = self.body(torch.cat(modalities, dim=-1))
        return output


def make(n_modalities: int = 2, task: Task = "classification", **options: Any) -> InteractionMoE:
    torch.manual_seed(1)
    widths = WIDTHS[:n_modalities]
    return InteractionMoE(lambda: Fusion(widths), n_modalities, reweighter=ComputedReweighter(task), **options)


def batch(n_modalities: int = 2, n_samples: int = B) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(n_samples, width, generator=generator) for width in WIDTHS[:n_modalities]]


def prior_of(model: Any) -> Tensor:
    prior: Tensor = model.reweighter.prior
    return prior


def close(found: object, expected: object, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def scaled(model: InteractionMoE) -> InteractionMoE:
    """Give a model the factors of a calibration, one for each prediction."""
    reweighter = model.reweighter
    assert isinstance(reweighter, ComputedReweighter)
    reweighter.scale.resize_(model.n_modalities + 1).copy_(torch.linspace(0.3, 3, model.n_modalities + 1))
    return model


def spoil(modalities: list[Tensor], available: Tensor) -> list[Tensor]:
    """Put NaN where a modality is absent."""
    return [torch.where(available[:, i : i + 1], x, torch.nan) for i, x in enumerate(modalities)]


def supervised(model: Callable[..., Any], modalities: list[Tensor]) -> Tensor:
    torch.manual_seed(3)  # members divide the rows of one modality at random
    target = torch.arange(len(modalities[0])) % 3
    return InteractionSupervision(nn.functional.cross_entropy)(model(*modalities), target)


# --- What weights are ---


@pytest.mark.parametrize(
    ("form", "calibrated", "fill"), every_pair(EVERY_FORM, [False, True], ["zero", "mean", "learned", "shuffle"])
)
def test_a_marginal_is_the_prediction_with_one_modality_alone(
    form: dict[str, Any], calibrated: bool, fill: str
) -> None:
    n_modalities = 2 + EVERY_FORM.index(form) % 3
    model = make(n_modalities, fill=fill, **form)
    modalities = batch(n_modalities)
    model(*modalities)
    if calibrated:
        scaled(model)
    for training in (False, True):
        model.train(training)
        before = copy.deepcopy(model.fill)  # a mean that moves between two calls is another fill
        out = model(*modalities)
        for i in range(n_modalities):
            model.fill = copy.deepcopy(before)
            available = torch.zeros(B, n_modalities, dtype=torch.bool)
            available[:, i] = True
            alone = model(*spoil(modalities, available), available=available)
            if training and fill in ("mean", "shuffle"):
                continue  # others move the mean; donors are drawn anew
            of_one_member = training and form.get("members", 1) > 1
            if fill != "shuffle" and not of_one_member:  # where nobody has the modality, nobody gives it
                close(out.marginals[:, i], alone.prediction)
            assert torch.equal(alone.weights, torch.eye(n_modalities + 2)[i].expand(B, -1))


@settings(max_examples=25, deadline=None)
@given(
    n_modalities=st.integers(2, 4),
    members=st.sampled_from([None, 1, 3]),
    task=st.sampled_from(["classification", "multilabel", "regression"]),
    calibrated=st.booleans(),
    training=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_weights_are_the_shares_of_the_predictions(
    n_modalities: int, members: int | None, task: Task, calibrated: bool, training: bool, seed: int
) -> None:
    model = make(n_modalities, task, members=members)
    modalities = batch(n_modalities)
    model(*modalities)
    model = (scaled(model) if calibrated else model).train(training)
    available = torch.rand(B, n_modalities, generator=torch.Generator().manual_seed(seed)) < 0.6
    available[:, 0] |= ~available.any(1)

    out = model(*spoil(modalities, available), available=available)

    assert out.prediction.isfinite().all()
    assert (out.weights >= 0).all()
    close(out.weights.sum(1), torch.ones(B))
    assert (out.weights[:, :n_modalities][~available] == 0).all()
    single = available.sum(1) == 1
    assert torch.equal(out.weights[single][:, :n_modalities], available[single].float())

    assert isinstance(model.reweighter, ComputedReweighter)
    links: dict[Task, Callable[[Tensor], Tensor]] = {
        "classification": lambda y: y.softmax(-1),
        "multilabel": torch.sigmoid,
        "regression": lambda y: y,
    }
    link = links[task]
    joint = link(mean_of_present(out.expert_predictions, available, model.interactions))
    marginals = torch.where(available.unsqueeze(-1), link(out.marginals), model.reweighter.prior)
    shares, _ = interaction_shares(marginals, joint, model.reweighter.prior)
    shares[:, :n_modalities] *= available
    several = ~single
    expected = shares / shares.sum(1, keepdim=True)
    close(out.weights[several], expected[several].detach(), 1e-4)
    close(out.prediction, (out.weights.unsqueeze(-1) * out.expert_predictions).sum(1))


def test_weights_follow_modalities_to_other_places_and_names() -> None:
    n_modalities, order = 3, [2, 0, 1]
    modalities = batch(n_modalities)
    model = make(n_modalities).eval()

    class Reordered(nn.Module):
        def __init__(self, expert: nn.Module) -> None:
            super().__init__()
            self.expert = expert

        def forward(self, *, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
            output: Tensor = self.expert(a, b, c)
            return output

    experts = list(model.experts)
    others = iter([Reordered(experts[e]) for e in (*order, 3, 4)])
    twin = InteractionMoE(
        lambda: next(others), 3, modality_names=("c", "a", "b"), reweighter=ComputedReweighter()
    ).eval()
    weights = twin(b=modalities[1], c=modalities[2], a=modalities[0]).weights
    close(weights, model(*modalities).weights[:, [*order, 3, 4]])
    assert twin.expert_names[0] == "uniqueness/c"


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1e8])
def test_the_unit_of_a_regression_does_not_matter(unit: float) -> None:
    model = scaled(make(task="regression"))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for expert in twin.experts:
            expert.body[2].weight.mul_(unit)
            expert.body[2].bias.mul_(unit)
    for _ in range(3):
        out, found = model(*batch()), twin(*batch())
    torch.testing.assert_close(found.weights, out.weights, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.prediction, out.prediction * unit, rtol=1e-4, atol=1e-5 * unit)


def test_predictions_without_information_share_evenly() -> None:
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(model(*batch()).weights, torch.full((B, 4), 0.25))


@pytest.mark.parametrize("available", [None, torch.ones(B, 2, dtype=torch.bool)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_prediction_that_is_not_finite_has_no_weights(value: float, available: Tensor | None) -> None:
    model, modalities = make().eval(), batch()
    whole = model(*modalities, available=available).weights
    modalities[0][1] = value
    found = model(*modalities, available=available).weights
    assert found[1].isnan().all()
    assert torch.equal(found[2:], whole[2:])


def test_the_prior_is_the_running_mean_of_the_joint_predictions() -> None:
    model = make()
    reweighter = model.reweighter
    assert isinstance(reweighter, ComputedReweighter)
    assert reweighter.prior.numel() == 0
    expected = torch.zeros(3)
    for step in range(1, 4):
        mean = model(*batch()).expert_predictions.detach().mean(1).softmax(-1).mean(0)
        expected = expected + (mean - expected) / step
        close(reweighter.prior, expected)
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
    model.eval()(*batch())
    assert reweighter.n_batches == 3


# --- What it costs ---


@BOTH
def test_evaluation_draws_no_random_number_and_changes_nothing(members: int | None) -> None:
    model = make(members=members, fill="mean")
    model(*batch())
    before = (torch.get_rng_state(), {name: value.clone() for name, value in model.eval().state_dict().items()})
    first, second = model(*batch()), model(*batch())
    assert torch.equal(first.weights, second.weights)
    assert torch.equal(torch.get_rng_state(), before[0])
    close(dict(model.state_dict()), before[1], 0)


@FORMS
def test_gradient_flows_through_weights_in_evaluation_alone(form: dict[str, Any]) -> None:
    model = make(**form)
    modalities = [x.requires_grad_() for x in batch()]
    assert not model(*modalities).weights.requires_grad
    model.eval()
    (gradient,) = torch.autograd.grad(model(*modalities).weights.square().sum(), modalities[0])
    assert gradient.abs().sum() > 0


# --- Every way a model runs ---


@FORMS
def test_every_form_equals_the_plain_one(form: dict[str, Any]) -> None:
    """Gradients too, of two backward passes."""
    plain = {name: value for name, value in form.items() if name == "members"}
    model, twin = make(**form), make(**plain)
    for each in (model, twin):
        loss = supervised(each, batch())
        loss.backward(retain_graph=True)
        loss.backward()
    close(
        {name: parameter.grad for name, parameter in model.named_parameters()},
        {name: parameter.grad for name, parameter in twin.named_parameters()},
    )
    found = []
    for each in (model, twin):
        torch.manual_seed(3)
        found.append(each(*batch()).weights)
    close(*found)


@pytest.mark.parametrize(("n_samples", "members"), [(1, 2), (3, 2), (4, 2), (1, 3), (2, 3)])
@pytest.mark.parametrize("buffers", [False, True])
def test_members_divide_the_rows_of_one_modality_in_training(
    n_samples: int, members: int, buffers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row of a modality alone is one member's, and every member's as often: the mean over all orders is exact."""
    model, modalities = make(members=members), batch(n_samples=n_samples)
    for name, parameter in model.named_parameters():
        if "member_factors" in name:  # else the members have the same outputs
            parameter.data.add_(torch.randn_like(parameter) / 4)
    if buffers:
        model.example_backbone.register_buffer("unused", torch.zeros(1))
    orders = list(itertools.permutations(range(n_samples + -n_samples % members)))

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(model.parameters())))

    def loss_of(out: Any) -> Tensor:
        return InteractionSupervision(nn.functional.cross_entropy)(out, torch.arange(n_samples) % 3)

    whole = model.eval()(*modalities)
    assert whole.member_marginals is not None
    expected, found = [loss_of(whole), *gradients(loss_of(whole))], []
    model.train()
    for order in orders:
        monkeypatch.setattr(torch, "randperm", lambda n, device, order=order: torch.tensor(order)[:n])
        out = model(*modalities)
        assert out.member_marginals is None
        of_members = (out.marginals.unsqueeze(2) - whole.member_marginals).abs().amax(-1)  # (B, M, k)
        assert (of_members < 1e-6).sum(2).eq(1).all()
        found.append([loss_of(out), *gradients(loss_of(out))])
    close([torch.stack(each).mean(0) for each in zip(*found, strict=True)], expected)


@pytest.mark.parametrize("execution", ["auto", "sequential", "vmap"])
@pytest.mark.parametrize("perturbation", [None, "zero"])
def test_the_auxiliary_loss_is_the_mean_over_experts_and_over_the_rows_that_each_sees(
    execution: Execution, perturbation: str | None
) -> None:
    class Routed(Fusion):
        def forward(self, *modalities: Tensor) -> BackboneOutput:  # type: ignore[override]
            prediction = super().forward(*modalities)
            return BackboneOutput(prediction, aux_loss=prediction.square().mean())

    torch.manual_seed(1)
    model = InteractionMoE(
        lambda: Routed(WIDTHS[:2]), 2, reweighter="computed", execution=execution, perturbation=perturbation
    )
    out = model(*batch())
    rows = out.expert_predictions.unsqueeze(2) if out.views is None else out.views  # (B, E, V, C)
    of_experts = [torch.cat((rows[:, e], out.marginals[:, e : e + 1]), dim=1) for e in range(2)]
    of_experts += [rows[:, e] for e in (2, 3)]
    close(out.aux_loss, torch.stack([each.square().mean() for each in of_experts]).mean())


@BOTH
@pytest.mark.parametrize("sized", [False, True])
def test_a_state_is_loaded_before_and_after_sizing(members: int | None, sized: bool) -> None:
    model, twin, fresh = (make(members=members) for _ in range(3))
    model(*batch())
    scaled(model)
    if sized:
        twin(*batch())
    twin.load_state_dict(model.state_dict())
    close(twin.eval()(*batch()).weights, model.eval()(*batch()).weights, 0)
    twin.load_state_dict(fresh.state_dict())
    close(twin(*batch()).weights, fresh.eval()(*batch()).weights, 0)


@BOTH
def test_copies_are_equal_and_their_own(members: int | None) -> None:
    model = make(members=members)
    model(*batch())
    expected = model.eval()(*batch())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        close(twin(*batch()).weights, expected.weights, 0)
        with torch.no_grad():
            for tensor in (*twin.parameters(), prior_of(twin)):
                tensor.add_(1.0)
        close(model(*batch()).prediction, expected.prediction, 0)
        assert not torch.equal(twin(*batch()).prediction, expected.prediction)
    assert "task='classification'" in repr(model)


@BOTH
def test_an_average_of_parameters_follows_a_model_that_has_seen_a_batch(members: int | None) -> None:
    model = make(members=members)
    model(*batch())
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True
    )
    for _ in range(2):
        model(*batch())
        averaged.update_parameters(model)
    close(prior_of(averaged.module), prior_of(model))


@BOTH
@pytest.mark.parametrize("kind", ["float64", "bfloat16 model", "autocast"])
def test_weights_are_right_in_every_precision(members: int | None, kind: str) -> None:
    dtype = {"float64": torch.float64, "bfloat16 model": torch.bfloat16, "autocast": torch.float32}[kind]
    model = make(members=members).to(dtype)
    modalities = [x.to(dtype) for x in batch()]
    with torch.autocast("cpu", torch.bfloat16) if kind == "autocast" else nullcontext():
        loss = supervised(model, modalities)
        torch.manual_seed(3)
        out = model(*modalities)
    loss.backward()
    assert out.weights.dtype == (torch.float64 if kind == "float64" else torch.float32)
    expected = make(members=members)
    expected(*batch())
    torch.manual_seed(3)
    close(out.weights.float(), expected(*batch()).weights, 1e-4 if kind == "float64" else 0.2)


# Experts are compiled with and without members, weights before and after the first batch has sized them.
@pytest.mark.parametrize(("members", "sized"), [(None, False), (2, True)])
def test_compiled_training_and_evaluation_equal_eager(members: int | None, sized: bool) -> None:
    torch.compiler.reset()
    model, twin = make(members=members), make(members=members)
    if sized:
        model(*batch()), twin(*batch())
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for _ in range(3):
        found, expected = supervised(compiled, batch()), supervised(twin, batch())
        close(found, expected)
    assert counter.frame_count == (1 if sized else 2)  # the first batch sizes the weights
    found.backward()
    close(prior_of(model), prior_of(twin))
    model.eval(), twin.eval()
    close(compiled(*batch()).weights, twin(*batch()).weights)


def test_compiled_members_take_batches_of_any_size() -> None:
    torch.compiler.reset()
    model, twin = (make(members=4) for _ in range(2))
    model(*batch()), twin(*batch())
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for n_samples in (6, 8, 5, 3):
        modalities = batch(n_samples=n_samples)
        close(supervised(compiled, modalities), supervised(twin, modalities))


@BOTH
def test_evaluation_is_exported(members: int | None) -> None:
    model = make(members=members)
    model(*batch())
    scaled(model).eval()
    rows = {0: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(model, tuple(batch()), dynamic_shapes=((rows, rows),)).module()
    fewer = [x[:3] for x in batch()]
    close(exported(*fewer).weights, model(*fewer).weights)
    close(exported(*fewer).marginals, model(*fewer).marginals)


def test_modalities_of_token_ids_and_a_mask() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 5), nn.Linear(7, 3)

        def forward(self, text: dict[str, Tensor], table: Tensor) -> Tensor:
            valid = text["mask"].unsqueeze(-1)
            pooled = (self.embed(text["ids"]) * valid).sum(1) / valid.sum(1)
            output: Tensor = self.head(torch.cat([pooled, table], dim=-1))
            return output

    text = {"ids": torch.randint(9, (B, 4)), "mask": torch.arange(4) <= torch.arange(B).unsqueeze(1)}
    table = torch.randn(B, 2)
    for members in (None, 2):
        model = InteractionMoE(
            Tokens,
            2,
            modality_names=("text", "table"),
            reweighter="computed",
            fill=[ZeroFill(example=text), ZeroFill(example=table)],
            members=members,
        ).eval()
        out = model(text, table)
        close(model(text=text).prediction, out.marginals[:, 0])
        close(model(table=table).prediction, out.marginals[:, 1])


# --- Several processes ---


def step(rank: int, folder: Path) -> None:
    every: tuple[dict[str, Any], ...] = ({}, {"members": 1}, {"members": 2}, {"members": 2, "checkpoint": True})
    modalities, target = batch(n_samples=8), (torch.arange(4) % 3).repeat(2)
    # Members have the same samples of a modality alone, in two processes and in one.
    in_two, in_one = torch.arange(4), torch.tensor([0, 1, 4, 5, 2, 3, 6, 7])
    for options in every:
        model = DistributedDataParallel(make(**options))
        for _ in range(2):
            model.zero_grad()
            with mock.patch.object(torch, "randperm", return_value=in_two):
                supervised(model, [x.chunk(2)[rank] for x in modalities]).backward()
        twin = make(**options)
        with mock.patch.object(torch, "randperm", return_value=in_one):
            InteractionSupervision(nn.functional.cross_entropy)(twin(*modalities), target).backward()
        found = {name: parameter.grad for name, parameter in model.module.named_parameters()}
        close(found, {name: parameter.grad for name, parameter in twin.named_parameters()})
        priors = [torch.zeros(3) for _ in range(2)]
        model.eval()(*batch())
        model.train()(*batch())  # the first process's buffers are everybody's
        dist.all_gather(priors, prior_of(model.module))
        close(priors[0], priors[1], 1e-6)


@pytest.mark.slow
@needs_gloo
def test_replicas_with_computed_weights_make_the_step_of_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    together(step, tmp_path)


# --- Pruning and errors ---


def test_pruned_models_keep_the_uniqueness_experts() -> None:
    model = scaled(make(3))
    model(*batch(3))
    model.eval()
    assert torch.equal(prune(model, model.expert_names)(*batch(3)).prediction, model(*batch(3)).prediction)
    smaller = prune(model, ("uniqueness", "synergy"))(*batch(3))
    assert smaller.weights.shape == (B, 4)
    close(smaller.weights.sum(1), torch.ones(B))
    with pytest.raises(ValueError, match="must have the uniqueness expert of every modality"):
        prune(model, ("synergy", "redundancy"))
    with pytest.raises(ValueError, match="must know the weights before the experts run"):
        TopExperts(model, 2)
    for cut in (lambda: prune(make(members=2), ("synergy",)), lambda: TopExperts(make(members=2), 2)):
        with pytest.raises(ValueError, match="must have weights of their own"):
            cut()


@pytest.mark.parametrize("members", [None, 2])
def test_the_prediction_alone_is_that_of_the_model(members: int | None) -> None:
    available = torch.tensor([[True, True], [True, False], [False, True]] * 2)
    for model in (make(members=members).eval(), scaled(make(members=members)).eval()):
        for mask in (None, available):
            close(model.predict(*batch(), available=mask), model(*batch(), available=mask).prediction)


def test_the_prediction_alone_needs_no_row_of_one_modality() -> None:
    model, rows = make(members=2).eval(), []
    model.example_backbone.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    model.predict(*batch())
    model(*batch())
    assert rows == [2 * B, 2 * 3 * B]


def test_experts_that_are_one_network_stay_so() -> None:
    """Weights or views given later would need experts that differ."""
    changed = make(members=2)
    changed.perturbation = as_perturbation("zero")
    with pytest.raises(ValueError, match="experts that are one network must have computed weights and no perturb"):
        changed.train()(*batch())
    changed = make(members=np.int64(2))
    changed.reweighter = Reweighter(4)
    with pytest.raises(ValueError, match="experts that are one network must have computed weights and no perturb"):
        changed.eval()(*batch())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ComputedReweighter("ranking"), "task must be one of"),  # type: ignore[arg-type]
        (lambda: InteractionMoE(nn.Identity, 2, reweighter="learned"), "reweighter must be 'computed'"),  # type: ignore[arg-type]
        (lambda: make(experts=["synergy"]), "must have the uniqueness expert of every modality"),
        (lambda: make(members=0), "members must be an integer of at least 1"),
        (lambda: make(members=2, execution="vmap"), "members must be an integer of at least 1, with execution='auto'"),
        (
            lambda: InteractionMoE(lambda: Fusion((3, 4), 1), 2, reweighter="computed")(*batch()),
            r"at least two classes, however an expert returned shape \('B', 1\)",
        ),
    ],
)
def test_a_mistake_in_the_options_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_a_report_is_of_the_task_that_the_weights_are_computed_for() -> None:
    model = InteractionMoE(lambda: nn.Bilinear(3, 3, 2), 2, reweighter="computed")
    data = [((torch.randn(4, 3), torch.randn(4, 3)), torch.randn(4, 2))]
    with pytest.raises(ValueError, match=r"task must be 'classification', .* reweighter=ComputedReweighter\('regr"):
        explain(model, data, task="regression")
