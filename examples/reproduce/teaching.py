"""What a model with computed weights learns: the mean predictions of others, each kept in a file once trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from examples.datasets._interface import Split, Task
from examples.reproduce.checkpoint import load_checkpoint, save_checkpoint
from examples.reproduce.identity import check_same
from examples.reproduce.learner import Learner
from examples.reproduce.training import EVALUATION_BATCH
from i2moe.moe.teacher import SoftTargets, Teacher

__all__ = ["soft_targets"]


def soft_targets(
    train: Callable[[int | None, int], Learner],
    n_teachers: int,
    split: Split,
    task: Task,
    folder: Path,
    identity: Mapping[str, Any],
    accelerator: Accelerator,
) -> SoftTargets:
    """Train teachers, those that a folder does not hold yet, and return what they predict, mixed with the targets.

    Args:
        train: trains the specialist of a modality, None for all, and of a number.
        n_teachers: how many of each.
        split: the training samples.
        task: what the targets are.
        folder: where what each predicts is kept.
        identity: what the run's numbers depend on; predictions of another one are refused.
        accelerator: the processes of the run; the main one saves.

    Raises:
        ValueError: if a file is damaged or another run's.
    """
    found = []
    for number in range(n_teachers):
        path = folder / f"teacher-{number}.pt"
        saved = load_checkpoint(path)
        if saved is None:
            soft = _predictions(train, number, split, task, accelerator.device)
            saved = {"identity": dict(identity), **soft._asdict()}
            if accelerator.is_main_process:
                save_checkpoint(path, saved)
            accelerator.wait_for_everyone()
        check_same(saved.get("identity", {}), identity, path)
        found.append((saved["target"], saved["marginal_target"]))
    means = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
    return SoftTargets(*means).mixed_with(split.targets)


def _predictions(
    train: Callable[[int | None, int], Learner], number: int, split: Split, task: Task, device: torch.device
) -> SoftTargets:
    kinds = (*range(len(split.modalities)), None)
    teacher = Teacher([_Fused(train(kind, number)) for kind in kinds], task)
    batches = (split[rows] for rows in torch.arange(len(split)).split(EVALUATION_BATCH))
    soft = SoftTargets.cat(
        teacher(*(x.to(device) for x in batch.modalities), available=batch.available.to(device)) for batch in batches
    )
    return SoftTargets(soft.target.cpu(), soft.marginal_target.cpu())


class _Fused(nn.Module):
    """A learner that returns what its fusion does."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, *modalities: Tensor, available: Tensor) -> Any:
        return self.learner.fuse(modalities, available)
