"""Tensors and JSON in one file without pickle: a zip of .npy members that `numpy.load` reads as well."""

from __future__ import annotations

import ast
import json
import math
import os
import struct
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from i2moe._files import replacing, to_bytes

__all__ = ["read", "write"]

_MAGIC = b"\x93NUMPY\x01\x00"
_CODES = {torch.float32: "f4", torch.float64: "f8", torch.int64: "i8"}
_ORDER = "<" if sys.byteorder == "little" else ">"
_DESCRIPTIONS = {dtype: _ORDER + code for dtype, code in _CODES.items()} | {torch.bool: "|b1"}
_DTYPES = {description: dtype for dtype, description in _DESCRIPTIONS.items()}


def write(path: str | os.PathLike[str], facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file, whole or not at all.

    Args:
        path: where to; a file there is replaced.
        facts: what JSON can hold.
        tensors: float32, float64, int64 or bool tensors on the CPU.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("report.json", json.dumps(facts, indent=1, ensure_ascii=False))
        for name, tensor in tensors.items():
            archive.writestr(f"{name}.npy", _to_npy(tensor))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `write` wrote; checksums are verified and nothing in the file is executed.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if the file is damaged or something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read("report.json"))
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            tensors = {name.removesuffix(".npy"): _from_npy(archive.read(name)) for name in members}
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, NotImplementedError, struct.error) as error:
        raise ValueError(
            f"{os.fspath(path)} must be a whole file written by InteractionReport.save, however it is damaged or of "
            f"another kind ({type(error).__name__}: {error}); save the report again"
        ) from error
    if not isinstance(facts, dict):
        raise ValueError(f"{os.fspath(path)} must hold a JSON object, however it holds a {type(facts).__name__}")
    return facts, tensors


def _to_npy(tensor: Tensor) -> bytes:
    header = f"{{'descr': '{_DESCRIPTIONS[tensor.dtype]}', 'fortran_order': False, 'shape': {tuple(tensor.shape)}, }}"
    padding = -(len(_MAGIC) + 2 + len(header) + 1) % 64
    text = (header + " " * padding + "\n").encode("latin1")
    return _MAGIC + struct.pack("<H", len(text)) + text + to_bytes(tensor)


def _from_npy(content: bytes) -> Tensor:
    start = len(_MAGIC) + 2
    if content[: len(_MAGIC)] != _MAGIC:
        raise ValueError("a member is no .npy file of version 1.0")
    (length,) = struct.unpack("<H", content[len(_MAGIC) : start])
    header = ast.literal_eval(content[start : start + length].decode("latin1"))
    dtype, shape = _DTYPES.get(header["descr"]), header["shape"]
    if dtype is None or header["fortran_order"]:
        raise ValueError(f"a member is of type {header['descr']}, not one of {tuple(_DTYPES)} in C order")
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content[start + length :]), dtype=dtype).reshape(shape)
