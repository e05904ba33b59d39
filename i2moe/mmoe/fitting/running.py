"""Stages: steps that are seeded on their own, saved when done, and not done twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2moe._common.files import replacing, to_bytes
from i2moe._common.randomness import seeded

__all__ = ["OnProgress", "Progress", "Stage", "fingerprint_of", "run_stages"]


@dataclass(frozen=True)
class Progress:
    """What `MMoE.fit` is doing.

    Args:
        stage: "unimodal/<name>", "baseline", "categories", "expert/<category>" or "router".
        n_done: stages finished.
        n_stages: stages in all.
        event: "start", "epoch", "done", or "restored" if the stage came from a checkpoint.
        epoch: epochs finished of the stage, 0 at its start.
        n_epochs: epochs of the stage, 0 where it has none.
        loss: the last epoch's mean loss.
    """

    stage: str
    n_done: int
    n_stages: int
    event: str
    epoch: int = 0
    n_epochs: int = 0
    loss: float | None = None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Stage:
    """One step.

    Args:
        name: unique among the stages.
        run: does it, given a function to call after every epoch and a seeded generator, and returns what a checkpoint
            has to hold: tensors, numbers, strings, and dicts and lists of them.
        restore: does the same from that.
    """

    name: str
    run: Callable[[Callable[[int, int, float], None], torch.Generator], dict[str, Any]]
    restore: Callable[[dict[str, Any]], None]


def run_stages(
    stages: Sequence[Stage],
    *,
    seed: int,
    folder: str | os.PathLike[str] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    progress: OnProgress | None = None,
    device: torch.device | None = None,
) -> None:
    """Run stages in order; those with a checkpoint in the folder are restored instead.

    Every stage starts from random state of its own, drawn from the seed and its name: whether the stages before it ran
    or were restored makes no difference to it. The global random state is the same afterwards.

    Args:
        stages: what to do.
        seed: decides everything random.
        folder: where checkpoints are; created if needed. None keeps none.
        fingerprint: what the results depend on; a checkpoint with another one is refused, as is one that was made
            after other results of the earlier stages.
        progress: called at the start and end of every stage and after every epoch.
        device: that in use.

    Raises:
        ValueError: if a checkpoint cannot be read or comes from other data or settings.
    """
    identity = {"seed": int(seed), **(fingerprint or {}), "earlier stages": ""}
    done: list[str] = []
    for stage in stages:

        def report(event: str, *epoch: Any, name: str = stage.name) -> None:
            if progress is not None:
                progress(Progress(name, len(done), len(stages), event, *epoch))

        path = None if folder is None else Path(folder) / f"{stage.name.replace('/', '-')}.pt"
        restored = result = None if path is None else _load(path, identity)
        own = int.from_bytes(hashlib.sha256(f"{seed}/{stage.name}".encode()).digest()[:7], "big")
        with seeded(own, device):
            if result is not None:
                stage.restore(result)
            else:
                report("start")
                try:
                    result = stage.run(partial(report, "epoch"), torch.Generator().manual_seed(own))
                except Exception as error:
                    error.add_note(_what_is_left(stage.name, done, folder))
                    raise
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with replacing(path) as file:
                        torch.save({"identity": identity, "result": result}, file)
        if path is not None:
            identity["earlier stages"] = _hash([identity["earlier stages"], stage.name, result])
        done.append(stage.name)
        report("done" if restored is None else "restored")


def fingerprint_of(data: Mapping[str, Any]) -> dict[str, str]:
    """Hash data, to recognize it again: tensors, numbers, strings, and dicts, lists and tuples of them."""
    return {name: _hash(values) for name, values in data.items()}


def _hash(value: Any) -> str:
    digest = hashlib.sha256()
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(to_bytes(value))
    elif isinstance(value, Mapping):
        digest.update("".join(f"{key}{_hash(item)}" for key, item in value.items()).encode())
    elif isinstance(value, list | tuple):
        digest.update("".join(_hash(item) for item in value).encode())
    else:
        digest.update(repr(value).encode())
    return digest.hexdigest()


def _load(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        found, result = content["identity"], content["result"]
    except Exception as error:
        raise ValueError(
            f"{path} must be a checkpoint of MMoE.fit, however it cannot be read ({type(error).__name__}); delete it"
        ) from error
    different = [key for key in identity.keys() | found.keys() if identity.get(key) != found.get(key)]
    if different:
        raise ValueError(
            f"checkpoints must come from the same data and settings, however {path} differs in {sorted(different)}; "
            "use another folder, or delete this one"
        )
    return dict(result)


def _what_is_left(failed: str, done: Sequence[str], folder: str | os.PathLike[str] | None) -> str:
    if folder is None:
        return f"in stage {failed!r}, after {list(done)}; with checkpoint_dir=... finished stages are not run again"
    return f"in stage {failed!r}; {list(done)} are kept in {os.fspath(folder)!r} and not run again by the same call"
