"""Files that are there whole or not at all, and the bytes of tensors."""

from __future__ import annotations

import ctypes
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

__all__ = ["replacing", "to_bytes"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place when the block ends well; else `path` stays as it was.

    Processes and threads that write the same path at once do not disturb each other: the last one to end wins. A link
    stays a link, and the file that it names is replaced.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"a file must be in a folder that exists, however there is no folder {path.parent}; make it first"
        )
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def to_bytes(tensor: Tensor) -> bytes:
    """The numbers of a tensor in memory order; `Tensor.numpy` would need numpy."""
    tensor = tensor.detach().cpu().contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes)
