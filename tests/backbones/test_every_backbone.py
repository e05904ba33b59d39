"""What holds for every backbone."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from i2moe import BackboneOutput
from i2moe.backbones import FusionTransformer, InterpretCC, LowRankTensorFusion, MoEPlusPlus, SwitchTransformer
from tests.backbones.zoo import ALONE, BACKBONES, N_OUTPUTS, Case

every = pytest.mark.parametrize("case", BACKBONES, ids=str)
# torch has no batching rule for the CPU's attention kernel: it loops, and says so
loops_over_attention = pytest.mark.filterwarnings("ignore:There is a performance drop")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


def loss_of(output: BackboneOutput) -> Tensor:
    """A scalar that depends on everything a backbone returns."""
    total = output.prediction.square().sum()
    return total if output.aux_loss is None else total + output.aux_loss


@every
def test_returns_one_row_per_sample(case: Case) -> None:
    output = case.make()(*case.batch(6))

    assert output.prediction.shape == (6, N_OUTPUTS)
    assert output.latent.shape[0] == 6
    assert output.aux_loss is None or output.aux_loss.shape == ()


@every
def test_takes_a_single_sample(case: Case) -> None:
    assert case.make()(*case.batch(1)).prediction.isfinite().all()


@every
def test_gradient_reaches_every_parameter(case: Case) -> None:
    backbone = case.make()

    loss_of(backbone(*case.batch(32))).backward()

    idle = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@every
def test_gradient_reaches_every_modality(case: Case) -> None:
    modalities = [modality.requires_grad_() for modality in case.batch(16)]

    case.make()(*modalities).prediction.square().sum().backward()

    assert all(modality.grad is not None and modality.grad.any() for modality in modalities)


@every
def test_latent_has_the_gradient_of_the_modalities(case: Case) -> None:
    modalities = [modality.requires_grad_() for modality in case.batch(16)]

    case.make()(*modalities).latent.square().sum().backward()

    assert all(modality.grad is not None and modality.grad.any() for modality in modalities)


@every
def test_evaluation_draws_no_random_number(case: Case) -> None:
    backbone, modalities = case.make().eval(), case.batch()
    state = torch.get_rng_state()

    first, second = backbone(*modalities), backbone(*modalities)

    assert torch.equal(first.prediction, second.prediction)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_prediction_does_not_depend_on_the_rest_of_the_batch(case: Case) -> None:
    backbone, modalities = case.make().eval(), case.batch(5)

    together = backbone(*modalities).prediction
    alone = [backbone(*[modality[b : b + 1] for modality in modalities]).prediction for b in range(5)]

    torch.testing.assert_close(together, torch.cat(alone))


@every
def test_says_whether_samples_influence_one_another(case: Case) -> None:
    assert any(getattr(layer, "mixes_samples", False) for layer in case.make().modules()) == case.mixes


@every
def test_survives_copy_save_and_load(case: Case) -> None:
    backbone, modalities, file = case.make().eval(), case.batch(), io.BytesIO()
    expected = backbone(*modalities).prediction
    torch.save(backbone.state_dict(), file)
    file.seek(0)

    copied, loaded = copy.deepcopy(backbone), case.make().eval()
    assert not torch.equal(loaded(*modalities).prediction, expected)  # starts different
    loaded.load_state_dict(torch.load(file))

    assert torch.equal(copied(*modalities).prediction, expected)
    assert torch.equal(loaded(*modalities).prediction, expected)
    assert list(loaded.state_dict()) == [name for name, _ in loaded.named_parameters()]
    assert type(backbone).__name__ in repr(backbone)


# Widths and tokens of several sizes are the same code as those of one: the cases left out differ in nothing else.
COMPILED = [case for case in BACKBONES if case.name not in ("transformer", "tensor-fusion")]


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_compiles_without_a_graph_break(case: Case) -> None:
    backbone, modalities = case.make(), case.batch()
    noisy = isinstance(backbone, InterpretCC)  # the only one here with noise left in training
    backbone.train(not noisy)
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")

    loss_of(backbone(*modalities)).backward()
    expected = {name: p.grad for name, p in backbone.named_parameters()}
    backbone.zero_grad()
    output = compiled(*modalities)
    loss_of(output).backward()

    torch.testing.assert_close(output.prediction, backbone(*modalities).prediction)
    torch.testing.assert_close({name: p.grad for name, p in backbone.named_parameters()}, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: InterpretCC((8, 8), 3, dropout=0.5),
        lambda: SwitchTransformer((8, 8), 3, n_experts=2, dropout=0.5),
    ],
)
def test_noise_compiles_without_a_graph_break(make: Callable[[], nn.Module]) -> None:
    compiled = torch.compile(make(), fullgraph=True, backend="eager")

    loss_of(compiled(torch.randn(4, 8), torch.randn(4, 8))).backward()


@loops_over_attention
@every
def test_vmap_over_copies_equals_the_loop(case: Case) -> None:
    backbones, modalities = [case.make().eval() for _ in range(3)], case.batch()
    parameters, _ = stack_module_state(backbones)

    def run(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = functional_call(backbones[0], parameters, tuple(modalities))
        return output.prediction, loss_of(output)

    prediction, loss = vmap(run, randomness="different")(parameters)
    loss.sum().backward()

    for e, backbone in enumerate(backbones):
        output = backbone(*modalities)
        loss_of(output).backward()
        torch.testing.assert_close(prediction[e], output.prediction)
        torch.testing.assert_close(loss[e], loss_of(output))
        for name, parameter in backbone.named_parameters():
            torch.testing.assert_close(parameters[name].grad[e], parameter.grad)


@loops_over_attention
@pytest.mark.parametrize(
    "make",
    [
        lambda: FusionTransformer((8, 8), 3, dropout=0.5),
        lambda: SwitchTransformer((8, 8), 3, n_experts=2, jitter=0.1, capacity_factor=None, dropout=0),
        lambda: MoEPlusPlus((8, 8), 3, n_experts=2, dropout=0.5),
        lambda: InterpretCC((8, 8), 3, hard=False),
    ],
)
def test_vmap_draws_noise_apart_for_each_copy(make: Callable[[], nn.Module]) -> None:
    backbone, modalities = make(), (torch.randn(16, 8), torch.randn(16, 8))
    parameters, _ = stack_module_state([backbone, backbone])

    def run(parameters: dict[str, Tensor]) -> Tensor:
        output: BackboneOutput = functional_call(backbone, parameters, modalities)
        return output.prediction

    first, second = vmap(run, randomness="different")(parameters)

    assert not torch.equal(first, second)


@every
def test_runs_in_half_precision(case: Case) -> None:
    backbone, modalities = case.make().to(torch.bfloat16), [m.to(torch.bfloat16) for m in case.batch()]

    output = backbone(*modalities)
    loss_of(output).backward()

    assert output.prediction.dtype == torch.bfloat16
    assert output.prediction.isfinite().all()


@every
def test_runs_under_autocast(case: Case) -> None:
    backbone, modalities = case.make().float(), [m.float() for m in case.batch()]

    with torch.autocast("cpu", torch.bfloat16):
        output = backbone(*modalities)
    loss_of(output).backward()

    assert output.prediction.isfinite().all()


@every
def test_refuses_a_wrong_number_of_modalities(case: Case) -> None:
    modalities = case.batch()

    with pytest.raises(ValueError, match=f"must bring {len(modalities)} modalities, however it brings 1"):
        case.make()(modalities[0])


@every
def test_refuses_a_wrong_rank(case: Case) -> None:
    first, *rest = case.batch()

    with pytest.raises(ValueError, match=r"modality 0 must be \(B, D\) or \(B, T, D\), however its shape is"):
        case.make()(first.reshape(2, 3, -1, first.shape[-1]), *rest)


@every
def test_refuses_a_wrong_width(case: Case) -> None:
    *rest, last = case.batch()

    with pytest.raises(ValueError, match=r"must be \d wide.* put \d+ at position"):
        case.make()(*rest, torch.cat([last, last], dim=-1))


def test_refuses_a_wrong_number_of_tokens() -> None:
    fusion = FusionTransformer((8, 8), 3, n_tokens=(5, 1))

    with pytest.raises(ValueError, match=r"modality 0 must have 5 tokens.* set n_tokens to 4 there"):
        fusion(torch.randn(2, 4, 8), torch.randn(2, 8))
    with pytest.raises(ValueError, match=r"modality 0 must have 5 tokens.* set n_tokens to 1 there"):
        fusion(torch.randn(2, 8), torch.randn(2, 8))


@pytest.mark.parametrize(
    ("dims", "cure"),
    [
        (8, r"write feature_dims=\(8, 8\)"),
        ((), "give the size of the last axis"),
        ((8, 0), "give the size of the last axis"),
    ],
)
def test_refuses_bad_widths(dims: int | tuple[int, ...], cure: str) -> None:
    with pytest.raises((TypeError, ValueError), match=cure):
        LowRankTensorFusion(dims, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_tokens", [0, (4,), (4, 4, 4), (4, 0)])
def test_refuses_bad_token_counts(n_tokens: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="n_tokens must be positive, one number or one per modality"):
        FusionTransformer((8, 8), 3, n_tokens=n_tokens)


@pytest.mark.parametrize("name", ["n_outputs", "n_layers", "hidden_dim"])
def test_refuses_sizes_below_one(name: str) -> None:
    sizes = {"n_outputs": 3} | {name: 0}

    with pytest.raises(ValueError, match=f"{name} must be at least 1, however it is 0"):
        FusionTransformer((8, 8), **sizes)


def test_refuses_dropout_of_everything() -> None:
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), however it is 1"):
        FusionTransformer((8, 8), 3, dropout=1)
