"""What `groups` are worth to an estimator: windows of people, tested on others.

    python -m examples.benchmarks.groups

The smartwatch data, five folds of people. One estimator holds out windows at random, the other windows of other people,
for early stopping and calibration. Both are tested on people that neither has seen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from statistics import fmean

import numpy as np
import torch

from examples.common.recipe import TEACHERS
from examples.datasets.watch import N_FOLDS, Windows, load_watch
from i2moe.estimators import InteractionClassifier

__all__ = ["Options", "main"]


@dataclass(frozen=True)
class Options:
    """What to run.

    Args:
        folds: number of folds.
        n_teachers: of the estimators.
    """

    folds: int = N_FOLDS
    n_teachers: int = TEACHERS


def main(options: Options) -> None:
    """Print a row for each way to hold out samples."""
    torch.set_num_threads(1)
    print("held out  accuracy  log-likelihood  calibration error: all  accelerometer  gyroscope  warn of it")
    for of_people in (False, True):
        rows = [_result(fold, of_people, options.n_teachers) for fold in range(options.folds)]
        accuracy, likelihood, *errors, warned = map(fmean, zip(*rows, strict=True))
        print(
            f"{'people' if of_people else 'windows':8}  {accuracy:8.3f}  {likelihood:14.3f}  {errors[0]:22.3f}  "
            f"{errors[1]:13.3f}  {errors[2]:9.3f}  {warned:10.1f}",
            flush=True,
        )


def _result(fold: int, of_people: bool, n_teachers: int) -> tuple[float, ...]:
    data = load_watch(fold)
    known, test = _joined(data.train, data.validation), _joined(data.test)
    model = InteractionClassifier(random_state=fold, n_teachers=n_teachers)
    model.fit(known[0], known[1], groups=known[2] if of_people else None)
    report = model.report(test[0], test[1], n_draws=0)
    every = [report.quality, *report.quality_alone.values()]
    errors = [quality.calibration_error or 0.0 for quality in every]
    warned = any("as sure as they are right" in warning for warning in report.warnings())
    return report.quality.score, -(report.quality.nll or 0.0), *errors, float(warned)


def _joined(*parts: Windows) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return modalities, labels and people."""
    accelerometer, gyroscope, labels, people = (
        torch.cat([getattr(part, field.name) for part in parts]).numpy() for field in fields(Windows)
    )
    return {"accelerometer": accelerometer, "gyroscope": gyroscope}, labels, people


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
