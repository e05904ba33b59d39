"""A report as a file."""

from __future__ import annotations

import os
import zipfile
from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

from i2moe._common.files import replacing
from i2moe.interpretation.report.record import ReportRecord

__all__ = ["load_record", "save_record"]

_FORMAT = 2

Record = TypeVar("Record", bound=ReportRecord)


def save_record(record: ReportRecord, path: str | os.PathLike[str]) -> None:
    """Write the report to a file, whole or not at all.

    The file is one of `torch.save`, of tensors, numbers and strings alone.

    Args:
        record: the report.
        path: where to; a file there is replaced.

    Example:
        >>> import tempfile
        >>> from i2moe.interpretation import InteractionReport
        >>> path = tempfile.mkdtemp() + "/report.pt"
        >>> InteractionReport.example().save(path)
        >>> InteractionReport.load(path)
        InteractionReport(4 samples, classification, experts (...))
    """
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    # A clone: of a slice, torch would save all it was cut from.
    values = {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}
    with replacing(path) as file:
        torch.save({"format": _FORMAT, **values}, file)


def load_record(kind: type[Record], path: str | os.PathLike[str]) -> Record:
    """Read a report from a file that `save_record` wrote. Nothing in the file is executed.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if the file is damaged, of another kind or of another format.
    """
    with open(path, "rb") as file:
        try:
            _check_members(zipfile.ZipFile(file))
            file.seek(0)
            values = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # there is no end to what a damaged file can do
            # Without torch's own message, which advises to execute what is in the file.
            raise _damaged(path, type(error).__name__) from None
    found = values.pop("format", None) if isinstance(values, dict) else None
    if found is not None and found != _FORMAT:
        raise ValueError(
            f"{os.fspath(path)} must have report format {_FORMAT}, however it has {found!r}; "
            "read it with the version of i2moe that wrote it"
        )
    try:
        return kind(**values)
    except Exception as error:
        raise _damaged(path, str(error)) from error


def _check_members(archive: zipfile.ZipFile) -> None:
    """Raise if a checksum is wrong or a member is marked as a folder: `torch.load` looks at neither."""
    folders = [member.filename for member in archive.infolist() if member.external_attr]
    if archive.testzip() is not None or folders:
        raise zipfile.BadZipFile


def _damaged(path: str | os.PathLike[str], why: str) -> ValueError:
    return ValueError(
        f"{os.fspath(path)} must be a whole file written by InteractionReport.save, however it is damaged or of "
        f"another kind ({why}); save the report again"
    )
