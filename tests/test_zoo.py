"""Every awkward backbone x perturbation x execution equals one pass per expert and view, or refuses clearly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2moe import InteractionLosses, InteractionMoE, InteractionOutput, StaticReweighter
from i2moe._common.modalities import Modality, map_leaves
from i2moe.moe.experts import Execution
from i2moe.perturbations import Gaussian, Perturbation, Views, as_perturbation
from tests import oracle
from tests.loop import Loop, run_loop
from tests.zoo import EXECUTIONS, PERTURBATIONS, ZOO, Case, by_name, call

pytestmark = [
    pytest.mark.usefixtures("double"),
    # Tracing a compiled backbone looks at the gradient of its inputs, which are no leaves here.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    # Layers without a batching rule are slow under vmap, and right.
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]


def named(case: Case, perturbation: str, execution: Execution) -> Any:
    return pytest.param(case, perturbation, execution, id=f"{case.name}-{perturbation}-{execution}".replace(" ", "_"))


FORCED = EXECUTIONS[1:]
"""What "auto" is on a CPU is one of these."""
ALL_OF_ONE = [
    (by_name("mlp"), perturbation, execution) for perturbation, execution in product(PERTURBATIONS, EXECUTIONS)
]
IN_TRAINING = [
    named(case, perturbation, execution)
    for case, perturbation, execution in [
        *(
            (case, case.perturbations[(i + j) % len(case.perturbations)], execution)
            for (i, case), (j, execution) in product(enumerate(ZOO[1:]), enumerate(FORCED))
        ),
        *ALL_OF_ONE,
    ]
]
"""Every case in every execution, under perturbations in turn, and one case under all: the two do not interact."""
IN_EVALUATION = [
    named(case, case.perturbations[i % len(case.perturbations)], execution)
    for i, case in enumerate(ZOO)
    for execution in (FORCED if case.evaluation_refusals is not None else [FORCED[i % len(FORCED)]])
]
"""Every case in one execution, in turn, and in all where evaluation is allowed more than training."""


def make_perturbation(name: str) -> Perturbation:
    perturbation = Gaussian(fraction=0.5) if name == "half" else as_perturbation(name)
    perturbation.generator = torch.Generator().manual_seed(3)
    return perturbation


def make_model(case: Case, perturbation: str, execution: Execution) -> InteractionMoE:
    """Build the same model at each call, with weights that differ between experts."""
    torch.manual_seed(1)
    n_experts = len(case.names) + 2
    reweighter = StaticReweighter(n_experts)
    with torch.no_grad():
        reweighter.logits.copy_(torch.linspace(-1, 1, n_experts))
    return InteractionMoE(
        case.make(),
        len(case.names),
        modality_names=case.names,
        reweighter=reweighter,
        losses=InteractionLosses("regression" if case.scalar else "classification"),
        perturbation=make_perturbation(perturbation),
        execution=execution,
    )


def make_batch(case: Case) -> tuple[tuple[Modality, ...], Tensor]:
    """Make modalities that depend on a parameter, as the features of an encoder do."""
    torch.manual_seed(2)
    gain = torch.ones((), requires_grad=True)
    modalities = map_leaves(lambda x: x * gain if x.is_floating_point() else x, case.modalities())
    return modalities, gain


def without_dropout(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0


def objective(prediction: Tensor, views: Tensor, aux_loss: Tensor) -> Tensor:
    """Weigh every number of an output differently, so that no gradient hides behind another."""
    random = torch.Generator().manual_seed(4)
    total = aux_loss
    for tensor in (prediction, views):
        total = total + (tensor * torch.randn(tensor.shape, generator=random)).sum()
    return total


def mixture(model: InteractionMoE, loop: Loop) -> Tensor:
    weights = model.reweighter((loop.predictions,))
    total = torch.zeros_like(loop.predictions[:, 0])
    for e in range(loop.predictions.shape[1]):
        total = total + weights[:, e].reshape(-1, *(1,) * (total.ndim - 1)) * loop.predictions[:, e]
    return total


def oracle_losses(model: InteractionMoE, views: Tensor) -> Tensor:
    task = model.losses.task  # type: ignore[attr-defined]
    rows = views.detach().double()
    if rows.ndim == 3:
        rows = rows.unsqueeze(-1)
    rows = rows.movedim((1, 2), (0, -2)).flatten(1, -3)  # (E, rows, V, C)
    return torch.tensor(
        [
            oracle.interaction_loss(of_expert, interaction, oracle.TERMS[task])
            for of_expert, interaction in zip(rows, model.interactions, strict=True)
        ]
    )


def gradients(model: nn.Module, gain: Tensor) -> dict[str, Tensor]:
    """All gradients; one that no pass reached is zero."""
    named = {**dict(model.named_parameters()), "gain": gain}
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in named.items()
        if parameter.requires_grad
    }


def assert_same(found: object, expected: object, atol: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol, check_dtype=False)


def assert_refuses(refusal: tuple[type[Exception], str], run: Any) -> None:
    with pytest.raises(refusal[0], match=refusal[1]):
        run()


def assert_equals_loop(
    case: Case,
    models: Sequence[InteractionMoE],
    out: InteractionOutput,
    gains: Sequence[Tensor],
    views: Views,
) -> None:
    """Compare outputs, losses, gradients and buffers of a model with those of its twin run in a loop."""
    model, twin = models
    torch.manual_seed(5)
    loop = run_loop(list(twin.experts), case, views)
    expected = mixture(twin, loop)

    assert out.views is not None
    assert_same(out.expert_predictions, loop.predictions, case.atol)
    assert_same(out.views, loop.views, case.atol)
    assert_same(out.prediction, expected, case.atol)
    assert_same(out.aux_loss, loop.aux_loss, case.atol)
    assert_same(torch.stack(list(out.interaction_losses.values())), oracle_losses(twin, loop.views), case.atol)

    objective(out.prediction, out.views, out.aux_loss).backward()
    objective(expected, loop.views, loop.aux_loss).backward()
    scale = 1 if case.atol < 1e-6 else 50
    assert_same(gradients(model, gains[0]), gradients(twin, gains[1]), scale * case.atol)
    assert_same(dict(model.named_buffers()), dict(twin.named_buffers()), case.atol)


@pytest.mark.parametrize(("case", "perturbation", "execution"), IN_TRAINING)
def test_training_equals_one_pass_per_expert_and_view(case: Case, perturbation: str, execution: Execution) -> None:
    models = [make_model(case, perturbation, execution) for _ in range(2)]
    if case.random and execution != "sequential":
        for model in models:
            without_dropout(model)
    (modalities, gain), (same, twin_gain) = make_batch(case), make_batch(case)
    torch.manual_seed(5)

    refusal = case.refusal(execution, training=True)
    if refusal is not None:
        assert_refuses(refusal, lambda: call(models[0], case, modalities))
        return
    out = call(models[0], case, modalities)

    views = make_perturbation(perturbation).draw(same)
    assert_equals_loop(case, models, out, (gain, twin_gain), views)


@pytest.mark.parametrize(("case", "perturbation", "execution"), IN_EVALUATION)
def test_views_in_evaluation_equal_one_pass_per_expert_and_view(
    case: Case, perturbation: str, execution: Execution
) -> None:
    models = [make_model(case, perturbation, execution).eval() for _ in range(2)]
    (modalities, gain), (same, twin_gain) = make_batch(case), make_batch(case)
    torch.manual_seed(5)

    refusal = case.refusal(execution, training=False)
    if refusal is not None:
        assert_refuses(refusal, lambda: call(models[0].interaction_views, case, modalities))
        return
    out = call(models[0].interaction_views, case, modalities)

    views = make_perturbation(perturbation).draw(same)
    assert_equals_loop(case, models, out, (gain, twin_gain), views)


@pytest.mark.parametrize(
    ("case", "perturbation", "execution"),
    [row for row in IN_EVALUATION if row.values[0].refusal(row.values[2], training=False) is None],
)
def test_evaluation_is_one_pass_per_expert(case: Case, perturbation: str, execution: Execution) -> None:
    model, twin = (make_model(case, perturbation, execution).eval() for _ in range(2))
    (modalities, _), (same, _) = make_batch(case), make_batch(case)
    torch.manual_seed(5)
    with torch.no_grad():
        out = call(model, case, modalities)
        torch.manual_seed(5)
        loop = run_loop(list(twin.experts), case, Views(same))
        expected = mixture(twin, loop)

    assert_same(out.prediction, expected, case.atol)
    assert out.interaction_loss is None
    assert out.views is None
    assert out.interaction_losses == {}
