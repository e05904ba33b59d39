"""The training loop: one for every data set, fusion and method.

Each epoch draws its random numbers and its order from (seed, epoch, process). What an epoch does therefore depends on
nothing but the state at its start, which is saved: a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from examples.common.best_epoch import Progress, train_to_best_epoch
from examples.common.recipe import LONGER, dropout_of_three
from examples.datasets._interface import Batch, MultimodalData, Split
from examples.reproduce.checkpoint import load_checkpoint, reading_checkpoint, save_checkpoint
from examples.reproduce.identity import check_same
from examples.reproduce.learner import Learner, task_loss
from examples.reproduce.metrics import is_better, measure
from examples.reproduce.settings import Settings
from i2moe import calibrate
from i2moe._common.modalities import map_leaves
from i2moe.missing import ModalityDropout
from i2moe.moe.teacher import SoftTargets
from i2moe.training.recipe import moving_average

__all__ = ["EVALUATION_BATCH", "epoch_batches", "fit", "predict", "score", "seed_of"]

EVALUATION_BATCH = 256
"""Samples a pass without gradient."""


def fit(
    learner: Learner,
    data: MultimodalData,
    settings: Settings,
    *,
    seed: int,
    accelerator: Accelerator,
    soft: SoftTargets | None = None,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] = MappingProxyType({}),
    workers: int = 0,
    after_step: Callable[[], None] = lambda: None,
) -> Progress:
    """Train, and go back to the epoch that was best on the validation split; calibrate computed weights on it.

    Args:
        learner: what to train.
        data: what on; the test split is not touched.
        settings: how.
        seed: of the order and of everything drawn in training.
        accelerator: the device, the precision and the other processes; a new one for each run.
        soft: what to learn of the training samples in place of their targets.
        checkpoint: file to save to after each epoch and to go on from.
        identity: what the run's numbers depend on, as JSON holds it; a checkpoint of another one is refused.
        workers: processes that read data.
        after_step: called after each step, to show that something happens.

    Returns:
        What happened.

    Raises:
        ValueError: if the checkpoint is damaged or another run's.
    """
    metric = data.metrics[0]
    averaged = _averaged(learner, data).to(accelerator.device) if settings.average else None
    tested = learner if averaged is None else cast(Learner, averaged.module)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    wrapped, optimizer = accelerator.prepare(learner, optimizer)
    saved = load_checkpoint(checkpoint) if checkpoint else None
    progress = None
    if checkpoint and saved is not None:
        check_same(saved.get("identity", {}), identity, checkpoint)
        with reading_checkpoint(checkpoint):
            progress = Progress(**saved["progress"])
            _restore(saved, learner, averaged, optimizer, accelerator)

    def after_optimizer_step() -> None:
        if averaged is not None:
            averaged.update_parameters(learner)
        after_step()

    def run_epoch(epoch: int) -> dict[str, float]:
        when = (seed, epoch)
        logged = _train_epoch(
            wrapped, optimizer, data, settings, when, accelerator, soft, workers, after_optimizer_step
        )
        value = score(tested, data, "validation", (metric,), accelerator, workers)[metric]
        return {**logged, f"validation {metric}": value}

    def save(progress: Progress) -> None:
        if checkpoint and accelerator.is_main_process:
            state = _state(progress, learner, averaged, optimizer, accelerator)
            save_checkpoint(checkpoint, {"identity": dict(identity), **state})

    progress = train_to_best_epoch(
        tested,
        run_epoch,
        f"validation {metric}",
        settings.epochs,
        patience=settings.patience and settings.patience * (1 if soft is None else LONGER),
        is_better=partial(is_better, metric),
        progress=progress,
        after_epoch=save,
    )
    accelerator.wait_for_everyone()
    if averaged is not None:
        learner.load_state_dict(tested.state_dict())
    if settings.computed:
        batches = (data.validation[rows] for rows in torch.arange(len(data.validation)).split(EVALUATION_BATCH))
        held_out = (((batch.modalities, batch.available), batch.targets) for batch in batches)
        weight = torch.tensor(settings.class_weights)[data.validation.targets] if settings.class_weights else None
        calibrate(
            learner, held_out, call=lambda model, inputs: model(inputs[0], available=inputs[1]), sample_weight=weight
        )
    return progress


def predict(learner: Learner, split: Split, accelerator: Accelerator, workers: int = 0) -> Tensor:
    """Return the outputs (N, C) for a split in evaluation mode; each process computes its part and gets all."""
    learner.eval()
    own = torch.arange(len(split)).tensor_split(accelerator.num_processes)[accelerator.process_index]
    outputs = []
    with torch.no_grad():
        for _, batch in _load(split, list(own.split(EVALUATION_BATCH)), workers):
            modalities = [x.to(accelerator.device) for x in batch.modalities]
            answer = learner(modalities, available=batch.available.to(accelerator.device))
            outputs.append(answer.prediction.float().cpu())
    gathered: list[Tensor] = gather_object(outputs)
    return torch.cat(gathered)


def score(
    learner: Learner,
    data: MultimodalData,
    split: str,
    metrics: tuple[str, ...],
    accelerator: Accelerator,
    workers: int = 0,
) -> dict[str, float]:
    """Return metrics of a split."""
    chosen = data.splits[split]
    prediction = predict(learner, chosen, accelerator, workers)
    loss = float(task_loss(data.task, prediction, chosen.targets, learner.settings))
    return dict(measure(metrics, data.task, prediction, chosen.targets, loss))


def epoch_batches(n_samples: int, batch_size: int, seed: int) -> list[Tensor]:
    """Cut a random order into batches of nearly equal size, so that none is tiny.

    Example:
        >>> [len(batch) for batch in epoch_batches(33, 16, seed=0)]
        [11, 11, 11]
    """
    order = torch.randperm(n_samples, generator=torch.Generator().manual_seed(seed))
    return list(order.tensor_split(-(-n_samples // batch_size)))


def seed_of(*numbers: int) -> int:
    """Mix numbers into one seed; different numbers give unrelated seeds.

    Example:
        >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
        (True, False)
    """
    from numpy.random import SeedSequence

    return int(SeedSequence(numbers).generate_state(1)[0])


def _train_epoch(
    wrapped: torch.nn.Module,
    optimizer: Any,
    data: MultimodalData,
    settings: Settings,
    when: tuple[int, int],
    accelerator: Accelerator,
    soft: SoftTargets | None,
    workers: int,
    after_step: Callable[[], None],
) -> Mapping[str, float]:
    """Train on every sample once, and return the mean of each loss."""
    n_processes, process = accelerator.num_processes, accelerator.process_index
    torch.manual_seed(seed_of(*when, process))
    wrapped.train()
    batches = epoch_batches(len(data.train), settings.batch_size, seed_of(*when))
    own = [rows.tensor_split(n_processes)[process] for rows in batches]
    rate = dropout_of_three(len(data.modality_names)) if settings.computed else 0.0
    drop = ModalityDropout(rate, rows=0.5) if rate else nn.Identity()
    totals: dict[str, Tensor] = {}
    for whole, (rows, batch) in zip(batches, _load(data.train, own, workers), strict=True):
        modalities = batch.modalities if data.augment is None else data.augment(batch.modalities, None)
        modalities = tuple(x.to(accelerator.device) for x in modalities)
        targets = map_leaves(lambda y: y.to(accelerator.device), batch.targets if soft is None else soft.take(rows))
        answer = wrapped(modalities, targets, drop(batch.available).to(accelerator.device))
        # Processes average their gradients, whatever the size of their parts.
        accelerator.backward(answer.loss * (n_processes * len(rows) / len(whole)))
        accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        for name, part in {"loss": answer.loss.detach(), **answer.parts}.items():
            totals[name] = totals.get(name, 0) + part.double() * len(rows)
        after_step()
    names = list(totals)
    sums = accelerator.reduce(torch.stack([totals[name] for name in names]).float(), "sum")
    return dict(zip(names, (sums / len(data.train)).tolist(), strict=True))


def _load(split: Split, batches: list[Tensor], workers: int) -> Iterator[tuple[Tensor, Batch]]:
    loader = DataLoader(
        split,
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),  # apart from torch's global one
    )
    return zip(batches, loader, strict=True)


def _averaged(learner: Learner, data: MultimodalData) -> AveragedModel:
    """Copy a model after a pass, which gives its buffers their sizes, to average its parameters over the steps."""
    batch = data.train[range(min(2, len(data.train)))]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        learner.train()(batch.modalities, available=batch.available)
    return AveragedModel(learner, multi_avg_fn=moving_average())


def _state(
    progress: Progress, learner: Learner, averaged: nn.Module | None, optimizer: Any, accelerator: Accelerator
) -> dict[str, Any]:
    scaler = accelerator.scaler
    return {
        "progress": vars(progress),
        "model": learner.state_dict(),
        "averaged": None if averaged is None else averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def _restore(
    saved: dict[str, Any], learner: Learner, averaged: nn.Module | None, optimizer: Any, accelerator: Accelerator
) -> None:
    learner.load_state_dict(saved["model"])
    if averaged is not None:
        averaged.load_state_dict(saved["averaged"])
    optimizer.load_state_dict(saved["optimizer"])
    if accelerator.scaler is not None and saved["scaler"] is not None:
        accelerator.scaler.load_state_dict(saved["scaler"])
