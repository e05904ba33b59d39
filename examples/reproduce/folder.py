"""The folder of a run: one process at a time is at work in it, and one identity alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from examples.datasets._files import reading
from examples.reproduce.checkpoint import write_text
from examples.reproduce.identity import check_same
from examples.reproduce.results import read_result

__all__ = ["claimed"]


@contextmanager
def claimed(folder: Path, identity: Mapping[str, Any], accelerator: Accelerator, *, fresh: bool) -> Iterator[bool]:
    """Keep a folder for a run while the block lasts, and say whether the run is done.

    The system frees the folder when the process ends, however it ends.

    Args:
        folder: `<method>/seed-<n>` of the output.
        identity: what the run's numbers depend on.
        accelerator: the processes of the run; the main one decides for all.
        fresh: remove what is there, whatever it is. A trial (`smoke`) removes another trial in any case.

    Raises:
        ValueError: if another process is at work in the folder, or it holds another run, or a damaged one.
    """
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
            answer[0] = _claim(folder, identity, fresh)
        except Timeout:
            answer[1] = (
                f"{folder} must be used by one process at a time, however another one is at work in it; "
                "wait for its end, or choose another --output"
            )
        except ValueError as error:
            answer[1] = str(error)
    done, problem = broadcast_object_list(answer)  # or the others would wait for one that has given up
    try:
        if problem is not None:
            raise ValueError(problem)
        yield done
        accelerator.wait_for_everyone()
    finally:
        lock.release()


def _claim(folder: Path, identity: Mapping[str, Any], fresh: bool) -> bool:
    found = {} if fresh else _found(folder)
    if fresh or (identity["smoke"] and found.get("smoke")):
        shutil.rmtree(folder, ignore_errors=True)
    elif found:
        check_same(found, identity, folder)
    for unfinished in folder.glob(".*.tmp"):  # of a process that was killed
        unfinished.unlink()
    done = (folder / "result.json").exists()
    if not done:
        write_text(folder / "settings.json", json.dumps(identity, indent=1))
    return done


def _found(folder: Path) -> Mapping[str, Any]:
    """What the run in a folder says of itself; nothing where none has come to its first checkpoint."""
    result, settings = folder / "result.json", folder / "settings.json"
    if result.exists():
        return read_result(result)
    if not settings.exists() or not (folder / "checkpoint.pt").exists():
        return {}
    with reading(settings, "the settings of a run", "Delete the folder, or begin anew with --fresh."):
        found = json.loads(settings.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    return found
