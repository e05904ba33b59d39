"""What every test starts from: one thread and a fixed seed. What takes long is started first."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch
from _pytest.doctest import DoctestTextfile

from tests.processes import needs_gloo


def pytest_configure() -> None:
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of the workers and all that they start
    gc.disable()  # what is imported and collected lives until the end: nobody looks for garbage in it


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let no worker wait for another at the end, and one worker run all tests that need several processes."""

    def place(item: pytest.Item) -> int:
        if needs_gloo.mark in item.iter_markers():
            return 0
        return 1 if isinstance(item.parent, DoctestTextfile) or item.get_closest_marker("slow") else 2

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


@pytest.fixture
def double() -> Iterator[None]:
    """Make new tensors in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers apart from torch's global ones."""
    return torch.Generator().manual_seed(7)
