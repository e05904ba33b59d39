"""Files that are there completely or not at all, whenever the process is killed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from examples.datasets._files import reading
from i2moe._common.files import replacing

__all__ = ["file_name", "load_checkpoint", "reading_checkpoint", "save_checkpoint", "write_text", "writing"]


def file_name(name: str) -> str:
    """Return a name without what no file may have in its own.

    Example:
        >>> file_name("synthetic/two-modalities"), file_name("my_module:SOURCE")
        ('synthetic-two-modalities', 'my_module-SOURCE')
    """
    return name.replace("/", "-").replace(":", "-")


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


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Save tensors, numbers and texts at once."""
    with writing(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Load what `save_checkpoint` saved, on the CPU; None if there is nothing.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.exists():
        return None
    with reading_checkpoint(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare checksums
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is another one")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    return state


def reading_checkpoint(path: Path) -> AbstractContextManager[None]:
    """Turn whatever goes wrong with a checkpoint's content into one `ValueError` with the path and the cure."""
    return reading(path, "a whole checkpoint", "Delete it, or begin anew with --fresh.")
