"""Every backbone as an expert of `InteractionMoE`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from i2moe import InteractionMoE, InteractionOutput
from i2moe.moe.experts import Execution
from tests.backbones.zoo import ALONE, BACKBONES, Case
from tests.covering import in_turn

every = pytest.mark.parametrize("case", BACKBONES, ids=str)
STACKED: list[Execution] = ["batched", "vmap"]
"""What "auto" is on a CPU is the first of these; `tests/test_zoo.py` compares it once."""
# torch has no batching rule for the CPU's attention kernel: it loops, and says so
loops_over_attention = pytest.mark.filterwarnings("ignore:There is a performance drop")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


def build(case: Case, execution: Execution = "auto", perturbation: str = "gaussian", **options: Any) -> InteractionMoE:
    torch.manual_seed(0)
    return InteractionMoE(
        case.make,
        len(case.shapes),
        feature_dims=[shape[-1] for shape in case.shapes],
        perturbation=perturbation,
        execution=execution,
        **options,
    )


def loss_of(out: InteractionOutput) -> Tensor:
    assert out.interaction_loss is not None
    return out.prediction.square().sum() + out.interaction_loss + 0.1 * out.aux_loss


@loops_over_attention
@pytest.mark.parametrize(("case", "execution"), in_turn(ALONE, ["auto", *STACKED]), ids=str)
def test_a_step_changes_every_parameter(case: Case, execution: Execution) -> None:
    model, modalities = build(case, execution).train(), case.batch(16)
    before = {name: p.detach().clone() for name, p in model.experts.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model(*modalities)).backward()
        optimizer.step()

    assert [name for name, p in model.experts.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("execution", ["auto", "sequential"])
@pytest.mark.parametrize("case", [case for case in BACKBONES if case.mixes], ids=str)
def test_backbones_whose_samples_compete_train_view_by_view(case: Case, execution: Execution) -> None:
    model, modalities = build(case, execution).train(), case.batch(16)

    loss_of(model(*modalities)).backward()

    assert [name for name, p in model.experts.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("execution", STACKED)
@pytest.mark.parametrize("case", [case for case in BACKBONES if case.mixes], ids=str)
def test_competing_samples_are_never_stacked_with_perturbed_ones(case: Case, execution: Execution) -> None:
    with pytest.raises((ValueError, RuntimeError), match="lets the samples of a batch influence each other"):
        build(case, execution)(*case.batch())


@loops_over_attention
@pytest.mark.parametrize("execution", STACKED)
@pytest.mark.parametrize("case", ALONE, ids=str)
def test_executions_give_the_same_outputs_and_gradients(case: Case, execution: Execution) -> None:
    modalities = case.batch(4)
    found = []
    for how in ("sequential", execution):
        model = build(case, how, perturbation="zero").eval()
        out = model.interaction_views(*modalities)
        loss_of(out).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found.append((out.prediction, out.views, out.aux_loss, out.interaction_loss, gradients))

    torch.testing.assert_close(found[1], found[0])


@every
def test_auxiliary_loss_reaches_the_gates_alone_of_what_comes_after(case: Case) -> None:
    model, modalities = build(case), case.batch()

    out = model(*modalities)

    if not case.name.startswith(("switch", "moepp")):
        assert out.aux_loss.item() == 0
        return
    out.aux_loss.backward()
    moved = {name for name, p in model.experts.named_parameters() if p.grad is not None and p.grad.any()}
    assert {f"{e}" for e in range(len(model.experts))} == {name.split(".")[0] for name in moved}
    assert any("router" in name for name in moved)
    assert not any("head" in name for name in moved)


@every
def test_a_copy_and_a_loaded_model_predict_the_same(case: Case) -> None:
    model, modalities = build(case).eval(), case.batch()
    expected = model(*modalities).prediction

    other = build(case, "sequential").eval()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(model.state_dict())

    assert torch.equal(copy.deepcopy(model)(*modalities).prediction, expected)
    torch.testing.assert_close(other(*modalities).prediction, expected)


# Every backbone compiles alone, and the model with any that keeps samples apart: tests/test_moe.py. Here, view by view.
def test_a_model_of_a_backbone_whose_samples_compete_compiles_without_a_graph_break() -> None:
    (case,) = (case for case in BACKBONES if case.name == "switch-batch")
    model, modalities = build(case, perturbation="zero", experts=("synergy",)), case.batch()
    compiled = torch.compile(model, fullgraph=True, backend="eager")

    out = compiled(*modalities)
    loss_of(out).backward()

    assert out.views.shape[1:] == (1, 1 + len(case.shapes), 3)
    assert all(p.grad is not None for p in model.experts.parameters())
