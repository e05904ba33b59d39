"""What the numbers of a run depend on: a run with another identity neither goes on from it nor replaces it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import i2moe
from examples.datasets._interface import MultimodalData

__all__ = ["check_same", "checksum", "conditions", "plain"]

_ROWS_AT_ONCE = 256
_CURE = "choose another --output, or --fresh to begin anew"


def checksum(data: MultimodalData) -> str:
    """Hash everything a data set holds; each sample is read once.

    The folder of the files is not part of it: the same data elsewhere is the same data.

    Args:
        data: the data, split.

    Example:
        >>> from examples.datasets import find
        >>> first, second = (find("synthetic").open(split=split) for split in (0, 1))
        >>> checksum(first) == checksum(first), checksum(first) == checksum(second)
        (True, False)
    """
    names = (data.task, data.modality_names, data.output_names, data.metrics)
    digest = hashlib.sha256(repr(names).encode())
    for split in data.splits.values():
        for column in (*split.modalities, split.targets, split.available):
            for rows in torch.arange(len(split)).split(_ROWS_AT_ONCE):
                values = column[rows].contiguous()
                digest.update(f"{values.dtype}{tuple(values.shape)}".encode())
                digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def conditions(accelerator: Accelerator) -> dict[str, Any]:
    """Return what numbers depend on besides settings and data: precision, device, processes, versions.

    Args:
        accelerator: the device, the precision and the other processes.
    """
    return {
        "mixed_precision": accelerator.mixed_precision,
        "device": accelerator.device.type,
        "n_processes": accelerator.num_processes,
        "versions": {"i2moe": i2moe.__version__, "torch": torch.__version__},
    }


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity as it is read again from JSON."""
    read: dict[str, Any] = json.loads(json.dumps(identity))
    return read


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: Path, cure: str = _CURE) -> None:
    """Refuse to go on from a run, or to replace it, by one of another identity.

    Args:
        found: the identity of the run that is there, which may hold more.
        wanted: the identity of the run to be.
        where: the folder or file that holds the former.
        cure: what the caller can do.

    Raises:
        ValueError: if they differ; the message says in what.

    Example:
        >>> check_same({"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0}, Path("outputs/run"))
        Traceback (most recent call last):
        ...
        ValueError: outputs/run must hold a run with these settings, however it holds one with lr 0.1 (now 0.2);
        choose another --output, or --fresh to begin anew
    """
    theirs, ours = _flat(found), _flat(wanted)
    changes = [f"{name} {theirs.get(name)} (now {value})" for name, value in ours.items() if theirs.get(name) != value]
    if changes:
        raise ValueError(
            f"{where} must hold a run with these settings, however it holds one with {', '.join(changes)}; {cure}"
        )


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat
