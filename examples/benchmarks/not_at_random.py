"""What weights are worth where a modality is missing not at random, and what mends it.

    python -m examples.benchmarks.not_at_random

Two modalities of Gaussian features say whether a patient is sick. The second one, the laboratory, is missing more often
for the sick. *As it is*: the estimator gets rows of NaN. *Flag*: a feature of the notes says whether the laboratory is
there. *Complete*: it learns from the patients that have both. Weights are compared with those of the exact posteriors
of what it was given, on the test patients that have both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from examples.common.recipe import TEACHERS
from i2moe.estimators import InteractionClassifier
from i2moe.moe.weights import interaction_shares

__all__ = ["Options", "main"]

SHIFTS = (0.8, 1.5)
"""By how much the first feature of each modality is higher for the sick than the mean, in deviations."""
RATES = ((0.4, 0.4), (0.6, 0.2), (0.75, 0.05))
"""How often the laboratory is missing for the sick, and for the others."""
WAYS = ("as it is", "flag", "complete")


@dataclass(frozen=True)
class Options:
    """What to run.

    Args:
        n_train: training samples.
        seeds: of training data and start.
        n_teachers: of the estimators.
    """

    n_train: int = 2000
    seeds: int = 3
    n_teachers: int = TEACHERS


@dataclass(frozen=True)
class Patients:
    """Features (N, 3) of both modalities, who is sick (N,), and whose laboratory is missing (N,)."""

    notes: np.ndarray
    laboratory: np.ndarray
    sick: np.ndarray
    missing: np.ndarray

    @classmethod
    def draw(cls, n: int, rates: tuple[float, float], seed: int) -> Patients:
        """Draw patients of whom half are sick."""
        draw = np.random.default_rng(seed)
        sick = draw.integers(2, size=n)
        notes, laboratory = draw.normal(size=(2, n, 3))
        for features, shift in zip((notes, laboratory), SHIFTS, strict=True):
            features[:, 0] += shift * (2 * sick - 1)
        return cls(notes, laboratory, sick, draw.random(n) < np.where(sick == 1, *rates))

    def given(self, way: str) -> dict[str, np.ndarray]:
        """Return what the estimator gets."""
        flag = [self.missing[:, None]] if way == "flag" else []
        laboratory = np.where(self.missing[:, None], np.nan, self.laboratory)
        return {"notes": np.concatenate([self.notes, *flag], axis=1), "laboratory": laboratory}


def main(options: Options) -> None:
    """Print a row for each way of each pair of rates."""
    torch.set_num_threads(1)
    print("missing  way       accuracy without laboratory, at best  weights right  mix off by  warnings")
    for rates in RATES:
        for way in WAYS:
            accuracy, best, right, mix, warned = map(fmean, zip(*_results(rates, way, options), strict=True))
            print(
                f"{rates[0]:.0%}, {rates[1]:<4.0%} {way:9} {accuracy:27.3f}  {best:7.3f}  {right:13.3f}  {mix:10.3f}  "
                f"{warned:8.1f}",
                flush=True,
            )


def _results(rates: tuple[float, float], way: str, options: Options) -> Iterator[tuple[float, ...]]:
    test = Patients.draw(4000, rates, seed=99)
    complete, sick = ~test.missing, test.sick == 1
    exact = _exact_weights(test, rates, way)[complete]
    log_odds_without = 2 * SHIFTS[0] * test.notes[:, 0] + np.log(rates[0] / rates[1])
    best = ((log_odds_without > 0) == sick)[~complete].mean()
    for seed in range(options.seeds):
        train = Patients.draw(options.n_train, rates, seed)
        rows = ~train.missing if way == "complete" else slice(None)
        learned = {name: x[rows] for name, x in train.given(way).items()}
        model = InteractionClassifier(random_state=seed, n_teachers=options.n_teachers).fit(learned, train.sick[rows])
        report = model.report(test.given(way), test.sick)
        weights = report.weights.numpy()[complete]
        yield (
            report.correct[~complete].double().mean().item(),
            best,
            (weights.argmax(1) == exact.argmax(1)).mean(),
            np.abs(weights.mean(0) - exact.mean(0)).sum() / 2,
            len(report.warnings()),
        )


def _exact_weights(patients: Patients, rates: tuple[float, float], way: str) -> np.ndarray:
    """Return the weights (N, 4) of the exact posteriors of patients that have both modalities."""
    measured = np.log((1 - rates[0]) / (1 - rates[1]))  # log-odds of being sick, once the laboratory is there
    notes, laboratory = (
        2 * shift * x[:, 0] for shift, x in zip(SHIFTS, (patients.notes, patients.laboratory), strict=True)
    )
    knows = 0 if way == "as it is" else measured  # notes alone do not show it without a flag
    log_odds = np.stack([notes + knows, laboratory + measured, notes + laboratory + measured], axis=1)
    sick = torch.from_numpy(1 / (1 + np.exp(-log_odds)))
    prior = 1 / (1 + np.exp(-measured)) if way == "complete" else 0.5
    both = torch.stack([sick, 1 - sick], dim=-1)
    shares, _ = interaction_shares(both[:, :2], both[:, 2], torch.tensor([prior, 1 - prior], dtype=both.dtype))
    weights: np.ndarray = shares.numpy()
    return weights


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
