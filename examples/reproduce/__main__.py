"""Command line: run a data set, `check` its files, or `sweep` its settings."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from examples.datasets import NAMES, find
from examples.reproduce.check import check
from examples.reproduce.fusions import FusionName
from examples.reproduce.run import Options, reproduce
from examples.reproduce.settings import Settings, preset, smoke
from examples.reproduce.sweep import SweepOptions, sweep

_PROGRAM = "python -m examples.reproduce"
_USAGE = f"""usage: {_PROGRAM} DATASET [options]        train and compare; DATASET --help lists the options
       {_PROGRAM} sweep DATASET [options]  look for better settings by the validation split
       {_PROGRAM} check DATASET [options]  look at the files

DATASET: {", ".join(NAMES)}, synthetic/<generator>,
or a Source of your own in a module that Python can import: --data MODULE:NAME"""


@dataclass(frozen=True)
class _Chosen:
    fusion: FusionName = "transformer"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a caller's mistake ends with one message and no traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {"check": _check, "sweep": _sweep}
    if not arguments or arguments[0] in ("-h", "--help") or arguments[:2] in (["sweep", "-h"], ["sweep", "--help"]):
        print(_USAGE)
        return
    command = commands.get(arguments[0], _run)
    arguments = _own_data_first(arguments[1:] if command is not _run else arguments)
    try:
        command(arguments)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on after the last finished epoch")


def _run(arguments: list[str]) -> None:
    dataset, settings = _preset_of(arguments)
    options = Options()

    def run(run: Options = options, settings: Settings = settings) -> None:
        reproduce(dataset, run, smoke(settings) if run.smoke else settings)

    _parse(run, Options.__doc__, dataset, arguments[1:])


def _sweep(arguments: list[str]) -> None:
    dataset, settings = _preset_of(arguments)
    options = SweepOptions()

    def run(run: SweepOptions = options, settings: Settings = settings) -> None:
        sweep(dataset, run, settings)

    _parse(run, SweepOptions.__doc__, f"sweep {dataset}", arguments[1:])


def _check(arguments: list[str]) -> None:
    def run(dataset: tyro.conf.Positional[str], root: Path | None = None, split: int = 0) -> None:
        """Print counts, shapes, balance and gaps of a data set beside what is expected of the official files.

        Args:
            dataset: name of the data set.
            root: folder of the files; data/<dataset> by default.
            split: which way to split the samples, where the split is not official.
        """
        if not check(dataset, root, split):
            sys.exit(2)

    tyro.cli(run, prog=f"{_PROGRAM} check", args=arguments)


def _own_data_first(arguments: list[str]) -> list[str]:
    """Put the value of `--data` where the name of a data set stands."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, prog=_PROGRAM)
    parser.add_argument("--data")
    own, others = parser.parse_known_args(arguments)
    return others if own.data is None else [own.data, *others]


def _preset_of(arguments: list[str]) -> tuple[str, Settings]:
    """Return the data set and its settings with the fusion, which are then the defaults of the options."""
    dataset = arguments[0] if arguments else ""
    find(dataset)
    rest = [argument for argument in arguments[1:] if argument not in ("-h", "--help")]
    chosen, _ = tyro.cli(_Chosen, prog=f"{_PROGRAM} {dataset}", args=rest, return_unknown_args=True)
    return dataset, preset(dataset, chosen.fusion)


def _parse(run: Callable[..., Any], what: str | None, name: str, arguments: list[str]) -> None:
    description = (what or "").partition("\n")[0]
    tyro.cli(
        run,
        prog=f"{_PROGRAM} {name}",
        description=description,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )


if __name__ == "__main__":
    main()
