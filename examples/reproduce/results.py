"""Results of runs: a JSON line each, and a table that compares methods seed by seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from rich.table import Table

from examples.common.statistics import PairedDifference, mean_and_deviation, paired_difference
from examples.datasets._files import reading
from examples.reproduce.checkpoint import write_text
from examples.reproduce.methods import METHODS, find

__all__ = ["collect", "compare", "read_result", "read_results", "summarize"]


def compare(ours: Mapping[int, float], baseline: Mapping[int, float]) -> PairedDifference | None:
    """Compare two methods on the seeds that both have.

    Args:
        ours: seed -> value.
        baseline: seed -> value.

    Returns:
        The paired difference; None without a seed in common.

    Example:
        >>> print(compare({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.5, 1: 1.0, 2: 2.5, 7: 0.0}))
        +0.6667 [-0.0504, +1.3838]
    """
    seeds = [seed for seed in ours if seed in baseline]
    if not seeds:
        return None
    return paired_difference([ours[seed] for seed in seeds], [baseline[seed] for seed in seeds])


def collect(folder: Path) -> list[dict[str, Any]]:
    """Write `results.jsonl`, one line a run, from the results in the folders of the runs, and return them.

    Args:
        folder: of the runs, `<folder>/<method>/seed-<seed>/result.json`.

    Raises:
        ValueError: if a result is damaged.
    """
    results = list(read_results(folder).values())
    order = list(METHODS)
    results.sort(key=lambda result: (order.index(result["method"]), result["seed"]))
    write_text(folder / "results.jsonl", "".join(json.dumps(result) + "\n" for result in results))
    return results


def read_results(folder: Path, *, but: Set[Path] = frozenset()) -> dict[Path, dict[str, Any]]:
    """Return the results in the folders of the runs, by these.

    Args:
        folder: of the runs, `<folder>/<method>/seed-<seed>/result.json`.
        but: folders to leave out.

    Raises:
        ValueError: if a result is damaged.
    """
    paths = sorted(path for path in folder.glob("*/seed-*/result.json") if path.parent not in but)
    return {path.parent: read_result(path) for path in paths}


def read_result(path: Path) -> dict[str, Any]:
    """Read what a run left as its `result.json`.

    Raises:
        ValueError: if the file is damaged.
    """
    with reading(path, "the result of a run", "Delete it, and run again."):
        result = json.loads(path.read_text())
        if not isinstance(result, dict):
            raise ValueError(f"it holds a {type(result).__name__}")
        find(result["method"])
        numbers = [result["seed"], result["n_parameters"], *result["test"].values()]
        if not result["test"] or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"seed, parameters and scores are {numbers}")
    return result


def summarize(results: Sequence[Mapping[str, Any]], title: str = "", baseline: str = "vanilla") -> Table:
    """Return a table: for each method mean ± deviation over the seeds and the paired difference to another.

    Args:
        results: of one data set and fusion.
        title: of the table.
        baseline: the method that others are compared with.
    """
    metrics = list(results[0]["test"])
    difference = f"{metrics[0]} - {baseline}"
    table = Table("method", "seeds", *metrics, difference, "parameters", title=title)
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_method.setdefault(result["method"], []).append(result)
    theirs = _values(by_method.get(baseline, []), metrics[0])
    for method, runs in by_method.items():
        scores = [mean_and_deviation([run["test"][metric] for run in runs], ".4f") for metric in metrics]
        gain = None if method == baseline else compare(_values(runs, metrics[0]), theirs)
        parameters = f"{max(run['n_parameters'] for run in runs):,}"
        table.add_row(method, str(len(runs)), *scores, "" if gain is None else str(gain), parameters)
    return table


def _values(runs: Sequence[Mapping[str, Any]], metric: str) -> dict[int, float]:
    return {run["seed"]: run["test"][metric] for run in runs}
