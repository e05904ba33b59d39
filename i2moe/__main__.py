"""The command line: `python -m i2moe report data.npz --target y --out report.html`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

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
        "page in a file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    report.add_argument("data", type=Path, help=".npz file of arrays (N, D) or (N, T, D); rows of NaN are missing")
    report.add_argument("--target", required=True, default=argparse.SUPPRESS, help="name of the array to predict, (N,)")
    report.add_argument(
        "--modalities",
        nargs="+",
        default=argparse.SUPPRESS,
        help="names of the arrays to predict from (default: all others)",
    )
    report.add_argument(
        "--task",
        choices=("classification", "regression"),
        default=argparse.SUPPRESS,
        help="what the target is (default: regression for floating-point numbers, else classification)",
    )
    report.add_argument(
        "--groups",
        default=argparse.SUPPRESS,
        help="name of an array (N,) of what samples belong to, people say: those reported on are of other groups than "
        "those trained on (default: samples on their own)",
    )
    report.add_argument("--out", type=Path, default=Path("report.html"), help="where to write the page")
    report.add_argument("--test-fraction", type=float, default=0.25, help="of the samples, to report on")
    report.add_argument("--max-epochs", type=int, default=200, help="passes over the samples, at most")
    report.add_argument(
        "--n-teachers", type=int, default=8, help="networks of each kind to learn from; 0 is several times faster"
    )
    report.add_argument("--seed", type=int, default=0, help="of the training and the samples held out")
    report.add_argument(
        "--retrain", action="store_true", help="train copies without each modality and each pair, to say what they lose"
    )
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
    from i2moe.estimators import InteractionClassifier, InteractionRegressor, Modalities
    from i2moe.estimators.checks import check_targets

    if not 0 < options.test_fraction < 1:
        raise ValueError(f"--test-fraction must lie between 0 and 1, however it is {options.test_fraction}")
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed must be from 0 to {2**32 - 1}, however it is {options.seed}")
    if options.out.is_dir():
        raise ValueError(f"--out must be a file, however {options.out} is a folder; name a file in it")
    if not options.out.absolute().parent.is_dir():
        raise ValueError(f"--out must lie in a folder that exists, however {options.out.parent} does not; make it")
    arrays = _read(options.data)
    group = getattr(options, "groups", None)
    others = [options.target] if group is None else [options.target, group]
    names = getattr(options, "modalities", None) or [name for name in arrays if name not in others]
    unknown = [name for name in (*others, *names) if name not in arrays]
    if unknown:
        raise ValueError(f"the names must be out of {options.data}'s arrays {list(arrays)}, however {unknown} are not")
    for name in {*others} & {*names}:
        raise ValueError(f"--modalities must not hold target or groups, however they hold {name!r}; leave it out")
    if len(names) < 2:
        raise ValueError(
            f"there must be at least two modalities beside the target, however there are {names} of the arrays "
            f"{list(arrays)}; name more, or save each modality as an array of its own"
        )
    for name in names:
        if arrays[name].ndim > 3:
            raise ValueError(
                f"modalities must be vectors (N, D) or sequences (N, T, D), however array {name!r} has shape "
                f"{arrays[name].shape}; flatten it or save its features, or use i2moe.estimators with encoders="
            )
    y, groups = arrays[options.target], None if group is None else arrays[group]
    modalities = Modalities({name: arrays[name] for name in names})
    modalities.available()  # what no row may hold is found before training, and by its place in the file
    check_targets(y, len(modalities))
    settings: dict[str, Any] = {
        "max_epochs": options.max_epochs,
        "n_teachers": options.n_teachers,
        "random_state": options.seed,
        "progress": "rich" if sys.stderr.isatty() else None,
    }
    classes = _choose_task(options, y) == "classification"
    if not classes and y.dtype.kind not in "fiub":
        raise ValueError(
            f"a regression must have a target of numbers, however {options.target!r} is of type {y.dtype}; say --task "
            "classification"
        )
    estimator = InteractionClassifier(**settings) if classes else InteractionRegressor(**settings)
    train, test = _split(y, groups, options, classes=classes)
    fitted = modalities[train], y[train], None, None if groups is None else groups[train]
    report = estimator.fit(*fitted).report(modalities[test], y[test], retrain_on=fitted if options.retrain else None)
    return report if groups is None else report.clustered(groups[test])


def _split(
    y: np.ndarray, groups: np.ndarray | None, options: argparse.Namespace, *, classes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on, and those to report on."""
    import numpy as np
    import torch
    from sklearn.model_selection import train_test_split

    from i2moe._common.randomness import seeded
    from i2moe.estimators.checks import check_groups
    from i2moe.estimators.rows import split

    fraction: float = options.test_fraction
    if groups is not None:
        target = torch.from_numpy(np.unique(y, return_inverse=True)[1]) if classes else torch.zeros(len(y))
        with seeded(options.seed):
            train, test = split(target, fraction, check_groups(groups, len(y)))
        return train.numpy(), test.numpy()
    try:
        rows = train_test_split(
            np.arange(len(y)), test_size=fraction, random_state=options.seed, stratify=y if classes else None
        )
        return rows[0], rows[1]
    except ValueError as error:
        if not classes:
            raise ValueError(
                f"samples must be enough to hold some out, however there are {len(y)}, of which --test-fraction "
                f"{fraction} is held out; give more"
            ) from error
        counts = Counter(y.flatten().tolist())
        raise ValueError(
            f"samples must be enough to hold some of each class out, however the rarest of {len(counts)} classes has "
            f"{min(counts.values())} of {len(y)}, of which --test-fraction {fraction} is held out; give more, or say "
            "--task regression for values that are no classes"
        ) from error


def _choose_task(options: argparse.Namespace, y: np.ndarray) -> str:
    """Return the task that was asked for, or that of the target's type, with a hint where it may not be meant."""
    task: str = getattr(options, "task", "regression" if y.dtype.kind == "f" else "classification")
    if not hasattr(options, "task") and y.dtype.kind == "f" and y.ndim == 1 and (y == y.round()).all():
        print(
            f"the {len(set(y.tolist()))} different values of {options.target!r} are floating-point numbers: this is a "
            "regression; if they are classes, say --task classification",
            file=sys.stderr,
        )
    return task


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read a file of arrays, of which none is executed."""
    import numpy as np

    if not path.is_file():
        raise ValueError(f"data must be an .npz file, however there is no file {path}; look at the path")
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (AttributeError, EOFError, TypeError, ValueError, BadZipFile) as error:
        raise ValueError(
            f"data must be an .npz file of arrays of numbers or strings, however {path} is not; "
            "write it by numpy.savez(path, image=..., text=..., y=...), strings of pandas by y.astype(str)"
        ) from error


if __name__ == "__main__":
    main()
