"""Two processes: what they compute together is what one computes alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from i2moe import InteractionMoE
from i2moe.moe.experts import Execution
from i2moe.moe.pruning import prune
from tests.processes import N_PROCESSES, needs_gloo, together

pytestmark = [pytest.mark.slow, needs_gloo]

N_SAMPLES = 8
AVAILABLE = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 0], [1, 1], [1, 1], [1, 1], [0, 1]]).bool()


class Fusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.body(torch.cat([x, y], dim=-1))
        return output


def make(**options: Any) -> InteractionMoE:
    torch.manual_seed(1)
    model = InteractionMoE(Fusion, 2, feature_dims=(4, 4), perturbation="zero", **options).double()
    model.reweighter.eval()  # type: ignore[attr-defined]
    return model


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x, y, target = (torch.randn(N_SAMPLES, n, generator=generator, dtype=torch.float64) for n in (4, 4, 3))
    return x, y, target


def loss_of(model: Callable[..., Any], x: Tensor, y: Tensor, target: Tensor, **missing: Tensor) -> Tensor:
    out = model(x, y, **missing)
    loss: Tensor = (out.prediction - target).square().mean() + 0.5 * out.interaction_loss
    return loss


def part(rank: int) -> tuple[Tensor, ...]:
    """The share of the batch of one process."""
    return tuple(tensor.chunk(N_PROCESSES)[rank] for tensor in batch())


def assert_same_step(
    rank: int, loss: Tensor, gradients: dict[str, Tensor], fill: str | None = None, **missing: Tensor
) -> None:
    model = make(fill=fill).eval()  # on its own
    expected_loss = loss_of(model.interaction_views, *batch(), **missing)
    torch.autograd.backward(expected_loss)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    total = loss.detach().clone()
    dist.all_reduce(total)
    torch.testing.assert_close(total / N_PROCESSES, expected_loss, rtol=0, atol=1e-9)
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-9)


# --- DDP ---


def train_replicated(rank: int, folder: Path) -> None:
    for options in ({"execution": "auto"}, {"execution": "sequential"}, {"execution": "vmap"}, {"checkpoint": True}):
        model = DistributedDataParallel(make(**options))  # would raise on a parameter without gradient
        for _ in range(2):
            model.zero_grad()
            loss = loss_of(model, *part(rank))
            torch.autograd.backward(loss)
        assert_same_step(rank, loss, {n: p.grad for n, p in model.module.named_parameters() if p.grad is not None})


def test_replicas_make_the_step_of_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    together(train_replicated, tmp_path)


def train_replicated_with_gaps(rank: int, folder: Path) -> None:
    mask = AVAILABLE.chunk(N_PROCESSES)[rank]
    for fill in ("zero", "learned"):
        for options in ({}, {"execution": "vmap"}, {"checkpoint": True}):
            model = DistributedDataParallel(make(fill=fill, **options))
            loss = loss_of(model, *part(rank), available=mask)
            torch.autograd.backward(loss)
            gradients = {n: p.grad for n, p in model.module.named_parameters() if p.grad is not None}
            assert_same_step(rank, loss, gradients, fill=fill, available=AVAILABLE)

    compiled = torch.compile(make(fill="zero"), fullgraph=True, backend="eager")
    torch.testing.assert_close(loss_of(compiled, *part(rank), available=mask), loss)


def test_replicas_with_missing_modalities_make_the_step_of_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    together(train_replicated_with_gaps, tmp_path)


def run_on_one(rank: int, folder: Path) -> None:
    groups = [dist.new_group([each]) for each in range(N_PROCESSES)]
    if rank == 0:
        model = make(fill="zero").eval()
        expected = loss_of(model.interaction_views, *batch(), available=AVAILABLE)
        model.process_group = groups[rank]
        model.train().reweighter.eval()  # type: ignore[attr-defined]
        for alone in (model, copy.deepcopy(model)):
            loss = loss_of(alone, *batch(), available=AVAILABLE)
            torch.testing.assert_close(loss, expected)
        assert prune(model, ("synergy",)).process_group is groups[rank]


def test_evaluation_and_a_model_of_one_process_wait_for_no_other(tmp_path: Path) -> None:
    together(run_on_one, tmp_path)


# --- FSDP2 ---


def shard(model: InteractionMoE) -> InteractionMoE:
    mesh = init_device_mesh("cpu", (N_PROCESSES,))
    for expert in model.experts:
        fully_shard(expert, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train_sharded(rank: int, folder: Path) -> None:
    executions: tuple[Execution, ...] = ("auto", "sequential")
    for execution in executions:
        for checkpoint in (False, True):
            model = shard(make(execution=execution, checkpoint=checkpoint))
            loss = loss_of(model, *part(rank))
            torch.autograd.backward(loss)
            assert_same_step(rank, loss, {n: p.grad.full_tensor() for n, p in model.named_parameters()})  # type: ignore[union-attr]


def test_shards_make_the_step_of_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    together(train_sharded, tmp_path)


def refuse_vmap(rank: int, folder: Path) -> None:
    model = shard(make(execution="vmap"))
    with pytest.raises(RuntimeError, match=r"execution='vmap' must be able to .*use execution='auto' or 'batched'"):
        model(*part(rank)[:2])


def test_vmap_refuses_shards(tmp_path: Path) -> None:
    together(refuse_vmap, tmp_path)


def save_and_load(rank: int, folder: Path) -> None:
    model = shard(make())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    save({"model": get_model_state_dict(model)}, checkpoint_id=folder / "saved")

    twin = shard(make())
    state = {"model": get_model_state_dict(twin)}
    load(state, checkpoint_id=folder / "saved")
    set_model_state_dict(twin, state["model"])

    single = make(execution="sequential")  # not sharded, another execution: the same names
    whole = {"model": single.state_dict()}
    load(whole, checkpoint_id=folder / "saved")
    single.load_state_dict(whole["model"])

    expected = {name: value + 1.0 for name, value in make().state_dict().items()}
    torch.testing.assert_close(single.state_dict(), expected)
    sharded = {name: value.full_tensor() for name, value in twin.state_dict().items()}
    torch.testing.assert_close(sharded, expected)


def test_a_distributed_checkpoint_is_read_by_shards_and_by_one_process(tmp_path: Path) -> None:
    together(save_and_load, tmp_path)
