"""Command line: `check` a data set's files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from examples.reproduce.check import check


def _check(dataset: Annotated[str, tyro.conf.Positional], root: Path | None = None, split: int = 0) -> None:
    """Print counts, shapes, balance and gaps of a data set beside what is expected of the official files.

    Args:
        dataset: name of the data set.
        root: folder of the files; data/<dataset> by default.
        split: which way to split the samples, where the split is not official.
    """
    if not check(dataset, root, split):
        sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a caller's mistake ends with one message and no traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        tyro.extras.subcommand_cli_from_dict({"check": _check}, prog="python -m examples.reproduce", args=arguments)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
