"""Run methods on problems, seed by seed and in several processes."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import TypeAlias

import torch

from examples.benchmarks.identify.methods import METHODS
from examples.benchmarks.identify.scores import Run, Scores, score
from examples.benchmarks.identify.settings import Settings
from examples.datasets.known import KnownInteractions
from examples.datasets.problems import GROUPS, change_of, draw

__all__ = ["TEST_SEED", "VALIDATION_SEED", "Results", "draw_test", "identify", "run"]

TEST_SEED = 1_000_000  # plus the first seed: all share one test set, so weights can be compared sample by sample
VALIDATION_SEED = 2_000_000  # plus the seed

Job: TypeAlias = tuple[str, str, int]

Results: TypeAlias = dict[str, dict[str, Scores]]
"""Scores by problem and method."""


def identify(settings: Settings) -> Results:
    """Run everything.

    Raises:
        ValueError: if there is no such data or method.
    """
    names = _expand(settings)
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    jobs = list(product(names, settings.method, seeds))
    runs = dict(zip(jobs, _run_all(jobs, settings), strict=True))

    results: Results = {}
    for name in names:
        problem, change = change_of(name)
        test = draw_test(name, settings)
        results[name] = {
            method: score(
                [runs[name, method, seed] for seed in seeds],
                test,
                [change.weights(runs[problem, method, seed].weights) for seed in seeds]
                if change and problem in names
                else None,
            )
            for method in settings.method
        }
    return results


def run(name: str, method: str, seed: int, settings: Settings) -> Run:
    """Train a method on a problem and run it on the test set."""
    train = draw(name, settings.n_train, seed, "train")
    validation = draw(name, settings.n_validation, VALIDATION_SEED + seed, "validation")
    test = draw_test(name, settings)
    trained = METHODS[method](settings)
    trained.fit(train, validation, seed)
    return Run(trained.accuracy(test), trained.weights(test))


def draw_test(name: str, settings: Settings) -> KnownInteractions:
    """Draw the test set of a problem, the same for all seeds."""
    return draw(name, settings.n_test, TEST_SEED + settings.first_seed, "test")


def _run_all(jobs: list[Job], settings: Settings) -> list[Run]:
    if settings.processes == 1:
        return _with_progress((_run(job, settings) for job in jobs), len(jobs))
    with ProcessPoolExecutor(settings.processes, mp_context=get_context("spawn")) as pool:
        return _with_progress(pool.map(_run, jobs, [settings] * len(jobs)), len(jobs))


def _run(job: Job, settings: Settings) -> Run:
    torch.set_num_threads(1)
    return run(*job, settings)


def _expand(settings: Settings) -> list[str]:
    """Replace groups by their names, each once, and check all names before any work is done."""
    names = list(dict.fromkeys(name for given in settings.data for name in GROUPS.get(given, (given,))))
    for name in names:
        change_of(name)
    for method in settings.method:
        if method not in METHODS:
            raise ValueError(f"a method must be one of {', '.join(METHODS)}, however: {method!r}.")
    return names


def _with_progress(runs: Iterable[Run], total: int) -> list[Run]:
    from rich.progress import track

    return list(track(runs, "Training", total=total))
