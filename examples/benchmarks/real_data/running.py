"""Running all contenders on all splits, each finished run kept in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from examples.benchmarks.identify.scores import distance
from examples.benchmarks.real_data.behavior import agreement
from examples.benchmarks.real_data.contenders import BY_NAME, CONTENDERS
from examples.benchmarks.real_data.measuring import run, shares_apart
from examples.benchmarks.real_data.settings import Settings
from examples.datasets import find

__all__ = ["Results", "run_all"]

Results = dict[str, dict[str, dict[int, dict[str, float]]]]
"""Data -> contender -> split -> what was measured, a mean over starts."""


def run_all(settings: Settings) -> Results:
    """Run what the file of runs does not hold yet, and return all."""
    if settings.quick:
        settings = replace(settings, splits=2, steps=100, noise_draws=1)
    unknown = [name for name in settings.methods if name not in BY_NAME]
    if unknown:
        raise ValueError(f"methods must be names out of {tuple(BY_NAME)}, however they hold {unknown[0]!r}")
    torch.set_num_threads(1)
    settings.runs.parent.mkdir(parents=True, exist_ok=True)
    done = {_key(found): found for found in _read(settings)}
    wanted = list(product(settings.data, range(settings.splits), settings.methods or CONTENDERS))
    jobs = [(*run, settings) for run in wanted if _key(_described(*run, settings)) not in done]
    with (
        ProcessPoolExecutor(settings.processes, mp_context=get_context("spawn")) as pool,
        settings.runs.open("a") as file,
    ):
        for found in _with_progress(pool.map(_run, jobs), len(jobs)):
            file.write(json.dumps(found) + "\n")
            file.flush()
            done[_key(found)] = found
    results: Results = {}
    for name, split, method in wanted:
        found = done[_key(_described(name, split, method, settings))]
        results.setdefault(name, {}).setdefault(method, {})[split] = found["values"]
    return results


def _run(job: tuple[str, int, str, Settings]) -> dict[str, Any]:
    name, split, method, settings = job
    torch.set_num_threads(1)
    data = find(name).open(split=split)
    found = [run(data, BY_NAME[method], 100 * split, settings)]
    if found[0].weights is not None:  # only weights need more than one start
        found += [run(data, BY_NAME[method], 100 * split + start, settings) for start in range(1, settings.starts)]
    values = {key: fmean(one.values[key] for one in found) for key in found[0].values}
    weights = [one.weights for one in found if one.weights is not None]
    if len(weights) > 1:
        values |= agreement(weights)
    overall = [one.overall for one in found if one.overall is not None]
    if overall:
        apart = _shares_apart(name, split, settings)
        by_mean, of_variance = torch.stack([distance(each, apart) for each in overall]).mean(0).tolist()
        values |= {"apart": by_mean, "apart, of variance": of_variance}
    if len(overall) > 1:
        by_mean, of_variance = distance(overall[0], overall[1]).tolist()
        values |= {"means differ": by_mean, "shares of variance differ": of_variance}
    return {**_described(name, split, method, settings), "values": values}


@lru_cache(maxsize=8)
def _shares_apart(name: str, split: int, settings: Settings) -> Tensor:
    """Return what is the same for all contenders of a split."""
    return shares_apart(find(name).open(split=split), split, settings)


def _described(name: str, split: int, method: str, settings: Settings) -> dict[str, Any]:
    """Return a run's name and the settings on which its values depend."""
    of_run = {
        key: getattr(settings, key)
        for key in ("steps", "patience", "batch_size", "teachers", "augment", "noise_draws", "starts")
    }
    return {"data": name, "split": split, "method": method, **of_run}


def _key(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(value for name, value in found.items() if name != "values")


def _read(settings: Settings) -> Iterator[dict[str, Any]]:
    if settings.runs.exists():
        yield from (json.loads(line) for line in settings.runs.read_text().splitlines())


def _with_progress(runs: Any, total: int) -> Iterator[dict[str, Any]]:
    from rich.progress import track

    yield from track(runs, "Training", total=total)
