"""Two processes that work together, started once for all tests that need them: each start imports torch anew.

`tests/conftest.py` lets these tests follow one another, so that one worker of pytest runs them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

__all__ = ["N_PROCESSES", "forget_accelerator", "needs_gloo", "together"]

N_PROCESSES = 2
needs_gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")


def together(work: Callable[..., None], folder: Path, *args: Any) -> None:
    """Run `work(rank, folder, ...)` in every process. One that fails alone lets the others wait for a minute."""
    running = [process.submit(_join, rank, work, folder, *args) for rank, process in enumerate(_processes())]
    for each in running:
        each.result()


@cache
def _processes() -> tuple[ProcessPoolExecutor, ...]:
    # A process keeps its rank from test to test: torch caches what it has laid out for a rank.
    context = get_context("forkserver")
    context.set_forkserver_preload(["accelerate", "torch.distributed.fsdp"])  # imported once for both
    return tuple(ProcessPoolExecutor(1, context) for _ in range(N_PROCESSES))


def _join(rank: int, work: Callable[..., None], folder: Path, *args: Any) -> None:
    torch.set_num_threads(1)
    sizes = {"WORLD_SIZE": N_PROCESSES, "LOCAL_WORLD_SIZE": N_PROCESSES}
    for name, number in ({"RANK": rank, "LOCAL_RANK": rank} | sizes).items():  # as torchrun does
        os.environ[name] = str(number)
    options: dict[str, Any] = {"rank": rank, "world_size": N_PROCESSES, "timeout": timedelta(minutes=1)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", **options)
    try:
        work(rank, folder, *args)
        dist.barrier()  # a process that leaves early takes its connections with it
    finally:
        dist.destroy_process_group()


def forget_accelerator() -> None:
    """Let one process ask for another precision, or for other processes."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
