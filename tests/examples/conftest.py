"""What the tests of the examples share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from examples.fixtures import find as find_fixture


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Undo what a `main` sets."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write each data set once; tests that spoil files copy the folder."""
    folders: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            find_fixture(name)(folders[name])
        return folders[name]

    return write
