"""Files that are there completely or not at all, whenever the process is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from i2moe._files import replacing

__all__ = ["load_checkpoint", "save_checkpoint", "write_text", "writing"]


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that takes its place only when everything is on the disk.

    Args:
        path: the file; its folder is made.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "new", "file")
        >>> with writing(path) as file:
        ...     _ = file.write(b"all of it")
        ...     print(path.exists())
        False
        >>> path.read_bytes()
        b'all of it'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text file at once."""
    with writing(path) as file:
        file.write(text.encode())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers and texts at once."""
    with writing(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Load what `save_checkpoint` saved, on the CPU; None if there is nothing."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
