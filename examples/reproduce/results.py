"""Results of runs: a JSON line each, and a table that compares methods seed by seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from rich.table import Table

from examples.datasets._files import reading
from examples.reproduce.checkpoint import write_text
from examples.reproduce.methods import METHODS, find

__all__ = ["Comparison", "collect", "compare", "read_result", "read_results", "summarize"]


class Comparison(NamedTuple):
    """A paired difference: its mean, the ends of its 95% interval (no numbers for one pair) and the number of pairs."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        interval = f" [{self.low:+.4f}, {self.high:+.4f}]" if self.n > 1 else ""
        return f"{self.mean:+.4f}{interval}"


def compare(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Comparison | None:
    """Compare two methods on the seeds that both have, by Student's t interval of the paired differences.

    Args:
        ours: seed -> value.
        baseline: seed -> value.

    Returns:
        The comparison; None without a seed in common.

    Example:
        >>> print(compare({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.5, 1: 1.0, 2: 2.5, 7: 0.0}))
        +0.6667 [-0.0504, +1.3838]
    """
    from scipy.stats import t

    gains = [value - baseline[seed] for seed, value in ours.items() if seed in baseline]
    if not gains:
        return None
    center, n = mean(gains), len(gains)
    if n == 1:
        return Comparison(center, float("nan"), float("nan"), n)
    margin = float(t.ppf(0.975, n - 1)) * stdev(gains) / n**0.5
    return Comparison(center, center - margin, center + margin, n)


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
        scores = [_spread([run["test"][metric] for run in runs]) for metric in metrics]
        gain = None if method == baseline else compare(_values(runs, metrics[0]), theirs)
        parameters = f"{max(run['n_parameters'] for run in runs):,}"
        table.add_row(method, str(len(runs)), *scores, "" if gain is None else str(gain), parameters)
    return table


def _values(runs: Sequence[Mapping[str, Any]], metric: str) -> dict[int, float]:
    return {run["seed"]: run["test"][metric] for run in runs}


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
