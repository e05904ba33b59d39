"""Write a tiny file set of a data set's official form: `python -m examples.make_fixture mosi DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from examples.fixtures import find

__all__ = ["main"]


def main(dataset: Literal["adni", "mimic", "mimic_raw", "mmimdb", "mosi", "enrico"], folder: Path, /) -> None:
    """Write a tiny file set of exactly the official form: random values, real names, shapes and quirks.

    Args:
        dataset: what to write; mimic_raw is MIMIC-IV as PhysioNet distributes it.
        folder: where to; it is made.
    """
    find(dataset)(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB, in {folder}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
