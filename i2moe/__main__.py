"""The command line: `python -m i2moe report data.npz --target y --out report.html`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from i2moe.interpretation import InteractionReport

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: what was typed; None for that of this process.
    """
    parser = argparse.ArgumentParser(prog="python -m i2moe", description="Interaction experts for multimodal fusion.")
    commands = parser.add_subparsers(required=True, metavar="command")
    report = commands.add_parser(
        "report",
        help="train on the arrays of a file and report which interactions predictions come from",
        description="Train on the arrays of an .npz file, and report on samples held out: a text on the terminal and a "
        "page in a file. A target of floating-point numbers is a regression, any other a classification.",
    )
    report.add_argument("data", type=Path, help=".npz file of arrays (N, D) or (N, T, D); rows of NaN are missing")
    report.add_argument("--target", required=True, help="name of the array to predict, (N,)")
    report.add_argument("--modalities", nargs="+", help="names of the arrays to predict from; by default all others")
    report.add_argument("--out", type=Path, default=Path("report.html"), help="where to write the page")
    report.add_argument("--test-fraction", type=float, default=0.25, help="of the samples, to report on")
    report.add_argument("--max-epochs", type=int, default=200, help="passes over the samples, at most")
    report.add_argument("--seed", type=int, default=0, help="of the training and the samples held out")
    options = parser.parse_args(arguments)
    try:
        found = _report(options)
        print(found.summary())
        found.to_html(options.out)
    except (ImportError, OSError, ValueError) as error:
        report.error(str(error))
    print(f"\nwritten to {options.out}")


def _report(options: argparse.Namespace) -> InteractionReport:
    """Train on part of the samples, report on the others."""
    from sklearn.model_selection import train_test_split

    from i2moe.estimators import InteractionClassifier, InteractionRegressor, Modalities

    arrays = _read(options.data)
    names = options.modalities or [name for name in arrays if name != options.target]
    unknown = [name for name in (options.target, *names) if name not in arrays]
    if unknown:
        raise ValueError(f"the names must be arrays of {options.data}: {list(arrays)}, however {unknown} are not")
    y = arrays[options.target]
    settings: dict[str, Any] = {
        "max_epochs": options.max_epochs,
        "random_state": options.seed,
        "progress": "rich" if sys.stderr.isatty() else None,
    }
    classes = y.dtype.kind != "f"
    estimator = InteractionClassifier(**settings) if classes else InteractionRegressor(**settings)
    train, test, y_train, y_test = train_test_split(
        Modalities({name: arrays[name] for name in names}),
        y,
        test_size=options.test_fraction,
        random_state=options.seed,
        stratify=y if classes else None,
    )
    return estimator.fit(train, y_train).report(test, y_test)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read a file of arrays, of which none is executed."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"data must be an .npz file of arrays of numbers or strings, however {path} is not ({error}); "
            "write it by numpy.savez(path, image=..., text=..., y=...)"
        ) from error


if __name__ == "__main__":
    main()
