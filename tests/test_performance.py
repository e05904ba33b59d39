"""What a step costs, counted and not timed; and that models leave Python: for ONNX, for a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from examples.benchmarks._counting import Count, count_step
from i2moe import InteractionMoE, InteractionSupervision
from i2moe.backbones import FusionTransformer
from i2moe.moe.experts import Execution
from i2moe.perturbations import Gaussian
from tests.zoo import EXECUTIONS

N_MODALITIES, N_EXPERTS = 3, 5


def transformer() -> nn.Module:
    return FusionTransformer((32,) * N_MODALITIES, 4, n_tokens=8, n_layers=2)


def make(factory: Callable[[], nn.Module] = transformer, **options: Any) -> InteractionMoE:
    torch.manual_seed(1)
    return InteractionMoE(factory, N_MODALITIES, feature_dims=(32,) * N_MODALITIES, **options)


def batch(n_samples: int = 32, **options: Any) -> tuple[Tensor, ...]:
    return tuple(torch.randn(n_samples, 8, 32, **options) for _ in range(N_MODALITIES))


def counted(model: InteractionMoE) -> tuple[Count, int]:
    modalities = batch()

    def loss() -> Tensor:
        out = model(*modalities)
        total: Tensor = out.prediction.square().sum() + out.interaction_loss
        return total

    torch.autograd.backward(loss())  # gradients are there from now on
    return count_step(loss)


# --- memory ---


def test_the_counter_counts_operators_and_bytes() -> None:
    x = torch.ones(1000, requires_grad=True)
    count, kept = count_step(lambda: x.exp().exp().view(10, 100).sum())
    assert kept == 2 * 4000 + 4
    assert count.peak >= kept + 4000  # a gradient
    assert count.operators > count.kernels >= 6
    before = count.live
    x.grad = None
    assert count.live == before - 4000


@pytest.mark.parametrize("execution", ["auto", "sequential"])
def test_checkpoint_keeps_little_of_what_the_backward_pass_needs(execution: Execution) -> None:
    plain, kept = counted(make(execution=execution))
    lean, kept_lean = counted(make(execution=execution, checkpoint=True))
    assert kept_lean < 0.05 * kept
    assert lean.peak < 0.3 * plain.peak  # with what one expert recomputes


def test_fewer_rows_and_modalities_keep_less() -> None:
    _, kept = counted(make())
    for options, share in (({"fraction": 0.25}, (4 + 3) / 16), ({"per_step": 2}, 3 / 4)):
        _, kept_less = counted(make(perturbation=Gaussian(**options)))
        assert kept_less < 1.05 * share * kept


def test_evaluation_keeps_nothing() -> None:
    model, modalities = make().eval(), batch()
    with torch.no_grad(), Count() as count:
        out = model(*modalities)
        expert = sum(p.numel() for p in model.experts[0].parameters())
        assert count.live < 4 * expert
        result = sum(4 * tensor.numel() for tensor in (out.prediction, out.weights, out.expert_predictions))
        assert count.live <= result + 64


@pytest.mark.parametrize("perturbation", ["zero", "mean"])
def test_views_share_what_does_not_change(perturbation: str) -> None:
    model, modalities = make(perturbation=perturbation), batch()
    assert model.perturbation is not None
    with Count() as count:
        views = model.perturbation.draw(modalities)
        assert len(views.perturbed) == N_MODALITIES
        of_a_batch = sum(4 * modality.numel() for modality in modalities)
        assert count.live <= of_a_batch


# --- passes ---


class Spy(nn.Module):
    """Notes how many rows each of its passes has."""

    rows: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(32, 4)

    def forward(self, *modalities: Tensor) -> Tensor:
        Spy.rows.append(len(modalities[0]))
        output: Tensor = self.body(torch.stack(modalities).mean((0, 2)))
        return output


class BufferedSpy(Spy):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unused", torch.zeros(1))


@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize(
    ("options", "training", "evaluation"),
    [
        # (calls of the backbone, passes over the batch), M = 3 and E = 5
        ({"fill": "zero"}, (5, (3 + 1) * (3 + 2)), (5, 5)),
        ({"fill": "zero", "perturbation": Gaussian(fraction=0.25)}, (5, 5 * (1 + 3 / 4)), (5, 5)),
        ({"fill": "zero", "perturbation": Gaussian(per_step=2)}, (5, 5 * (1 + 2)), (5, 5)),
        ({"fill": "zero", "members": 1}, (1, 20), (1, 5)),
        ({"reweighter": "computed"}, (5, 5 + 3), (5, 5 + 3)),
        ({"reweighter": "computed", "execution": "sequential"}, (8, 8), (8, 8)),
        ({"reweighter": "computed", "factory": BufferedSpy}, (8, 8), (8, 8)),
        ({"reweighter": "computed", "perturbation": "zero"}, (5, 20 + 3), (5, 8)),
        ({"reweighter": "computed", "members": 1}, (1, 4), (1, 4)),
        ({"reweighter": "computed", "members": 4}, (1, 4 + 3), (1, 4 * (3 + 1))),
        ({"reweighter": "computed", "members": 4, "factory": BufferedSpy}, (2, 4 + 3), (2, 4 * (3 + 1))),
    ],
    ids=str,
)
def test_a_step_makes_so_many_passes(
    options: dict[str, Any], training: tuple[int, float], evaluation: tuple[int, float], lacking: bool
) -> None:
    options = dict(options)
    model = InteractionMoE(options.pop("factory", Spy), N_MODALITIES, **options)
    available = torch.arange(8 * N_MODALITIES).reshape(8, N_MODALITIES) % 5 > 0 if lacking else None
    model(*batch(8), available=available)
    for mode, (n_calls, n_passes) in ((True, training), (False, evaluation)):
        model.train(mode)
        Spy.rows = []
        model(*batch(8), available=available)
        assert (len(Spy.rows), sum(Spy.rows) / 8) == (n_calls, n_passes)


# --- operators ---


@pytest.mark.parametrize(
    ("options", "most", "most_in_evaluation"),
    [({}, 100, 65), ({"members": 1}, 135, 80), ({"members": 4}, 215, 105)],
    ids=str,
)
def test_computed_weights_cost_few_operators_beside_those_of_the_backbones(
    options: dict[str, Any], most: int, most_in_evaluation: int
) -> None:
    """Operators beside those of E backbones, each called once, or of the one that is shared."""
    model = InteractionMoE(Perceptron, N_MODALITIES, reweighter="computed", **options)
    modalities, target = batch(), torch.arange(32) % 4
    backbones = [Perceptron() for _ in range(1 if options else N_EXPERTS)]
    supervise = InteractionSupervision(nn.functional.cross_entropy)

    def bare() -> Tensor:
        return torch.stack([nn.functional.cross_entropy(each(*modalities), target) for each in backbones]).sum()

    def full() -> Tensor:
        return supervise(model(*modalities), target)

    for loss in (bare, full):
        torch.autograd.backward(loss())  # gradients are there from now on
    assert count_step(full)[0].operators - count_step(bare)[0].operators <= most

    model.eval()
    with torch.no_grad():
        with Count() as plain:
            bare()
        with Count() as whole:
            model(*modalities)
    assert whole.operators - plain.operators <= most_in_evaluation


def test_a_mask_costs_nothing_where_samples_have_everything() -> None:
    model, modalities = InteractionMoE(Perceptron, N_MODALITIES, reweighter="computed").eval(), batch()
    counts = []
    for available in (None, torch.ones(32, N_MODALITIES, dtype=torch.bool)):
        with torch.no_grad(), Count() as count:
            model(*modalities, available=available)
        counts.append(count.operators)
    assert counts[0] <= counts[1] - 40


def test_vmap_starts_the_same_kernels_for_any_number_of_experts() -> None:
    counts = []
    for experts in (("synergy",), "all"):
        model = make(Perceptron, experts=experts, execution="vmap").eval()
        modalities = batch()
        with torch.no_grad(), Count() as count:
            model(*modalities)
        counts.append(count.kernels)
    assert counts[0] == counts[1]


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, *modalities: Tensor) -> Tensor:
        output: Tensor = self.body(torch.stack(modalities).mean((0, 2)))
        return output


def test_a_step_starts_fewer_operators_batched_and_fewer_still_by_vmap() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # of attention, on the CPU alone
        n = {execution: counted(make(execution=execution))[0].operators for execution in EXECUTIONS}
    assert n["auto"] == n["batched"] < n["sequential"] / 2.5
    assert n["vmap"] < n["sequential"] / 3.5


# --- away from Python ---


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*axis name:UserWarning", "ignore:.*LeafSpec:FutureWarning")
def test_onnx_predicts_the_same_for_any_batch(tmp_path: Path) -> None:
    model = make(
        lambda: FusionTransformer((32,) * N_MODALITIES, 4, n_tokens=8, n_layers=1), experts=("synergy", "redundancy")
    ).eval()
    size = {0: torch.export.Dim("batch", min=2)}
    torch.onnx.export(
        model, batch(4), tmp_path / "model.onnx", dynamo=True, dynamic_shapes=((size,) * N_MODALITIES,), verbose=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    modalities = batch(9)
    names = [given.name for given in session.get_inputs()]

    found = session.run(None, {name: x.numpy() for name, x in zip(names, modalities, strict=True)})

    out = model(*modalities)
    for array, expected in zip(found, (out.prediction, out.weights, out.expert_predictions), strict=False):
        torch.testing.assert_close(torch.from_numpy(np.array(array)), expected.detach(), rtol=1e-4, atol=1e-5)


on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@on_cuda
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_step_on_cuda_equals_that_on_the_cpu(execution: Execution) -> None:
    modalities, found = batch(), []
    for device in ("cpu", "cuda"):
        model = make(execution=execution, perturbation="zero").to(device).eval()
        out = model.interaction_views(*(modality.to(device) for modality in modalities))
        assert out.interaction_loss is not None
        torch.autograd.backward(out.prediction.square().sum() + out.interaction_loss)
        found.append([out.prediction.cpu(), *(p.grad.cpu() for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


@on_cuda
def test_auto_on_cuda_runs_all_experts_at_once_and_never_waits() -> None:
    model, modalities = make().cuda(), batch(device="cuda")
    model(*modalities)
    assert model.experts.vmap_refusals == {}
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = model(*modalities)
        torch.autograd.backward(out.prediction.sum() + out.interaction_loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_on_cuda_gives_finite_gradients(dtype: torch.dtype) -> None:
    model, modalities = make().cuda(), batch(device="cuda")
    with torch.autocast("cuda", dtype=dtype):
        out = model(*modalities)
    assert out.interaction_loss is not None
    assert out.interaction_loss.dtype == torch.float32
    torch.autograd.backward(out.prediction.float().sum() + out.interaction_loss)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
