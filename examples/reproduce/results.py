"""Results of runs: a JSON line each, and a table that compares methods seed by seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from rich.table import Table

from examples.reproduce.checkpoint import write_text
from examples.reproduce.methods import METHODS

__all__ = ["Comparison", "collect", "compare", "read_results", "summarize"]


class Comparison(NamedTuple):
    """A paired difference: its mean, the ends of its 95% interval and the number of pairs.

    The ends are no numbers where the pairs cannot tell how much they vary: one pair, or differences that are all equal.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        interval = "" if isnan(self.low) else f" [{self.low:+.4f}, {self.high:+.4f}]"
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
    largest = max(map(abs, (*ours.values(), *baseline.values())))
    if max(gains) - min(gains) <= 1e-9 * largest:  # equal but for rounding: a width of 0 would claim certainty
        return Comparison(center, nan, nan, n)
    margin = float(t.ppf(0.975, n - 1)) * stdev(gains) / n**0.5
    return Comparison(center, center - margin, center + margin, n)


def collect(folder: Path) -> list[dict[str, Any]]:
    """Write `results.jsonl`, one line a run, from the results in the folders of the runs, and return them.

    Args:
        folder: of the runs, `<folder>/<method>/seed-<seed>/result.json`.
    """
    results = [_read(path) for path in folder.glob("*/seed-*/result.json")]
    order = list(METHODS)
    results.sort(key=lambda result: (order.index(result["method"]), result["seed"]))
    write_text(folder / "results.jsonl", "".join(json.dumps(result) + "\n" for result in results))
    return results


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} must be a result, however it is damaged ({error}); delete it, and run again"
        ) from error


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read a file that `collect` wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]


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
