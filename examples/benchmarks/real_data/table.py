"""The tables: what was measured, and paired differences of the recommended experts to each contender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from statistics import fmean

from examples.benchmarks.real_data.running import Results
from examples.common.statistics import mean_and_deviation, paired_difference

__all__ = ["differences", "print_tables"]

OURS = "computed"
COLUMNS = {
    "how good": ("score", "nll", "nll, scaled", "brier", "ece", "ece, scaled", "aurc", "risk at 80%"),
    "how robust": ("score", "missing", "missing, worst", "subsets", "noise", "masked"),
    "how expensive": ("parameters", "training", "inference", "inference, weights"),
    "weights": (
        "faithful",
        "faithful, worst",
        "stable",
        "stable, by weight",
        "starts differ",
        "stable, two models",
        "Pearson",
        "Pearson, two models",
        "Pearson, expected",
        "apart",
        "apart, of variance",
        "means differ",
        "shares of variance differ",
        "benefit, weights",
        "benefit, posterior",
        "benefit, confidence",
        "benefit, entropy",
    ),
}
COMPARED = {"score": 1, "missing": 1, "nll, scaled": -1, "nll": -1, "aurc": -1, "noise": 1, "masked": 1}
"""What is compared in pairs, and whether more is better."""


def print_tables(results: Results) -> None:
    """Print one table a data set and topic, and one of the paired differences."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=220)
    for name, methods in results.items():
        for topic, columns in COLUMNS.items():
            there = [c for c in columns if any(c in values for runs in methods.values() for values in runs.values())]
            table = Table("method", *there, title=f"{name}, {topic}: mean ± deviation over splits")
            for method, runs in methods.items():
                if any(c in values for values in runs.values() for c in there):
                    table.add_row(method, *(_cell([v[c] for v in runs.values() if c in v], c) for c in there))
            console.print(table)
    others = [method for method in next(iter(results.values())) if method != OURS]
    for measure in COMPARED if others else ():
        table = Table("against", *results, title=f"{measure}: {OURS} minus the other, 95% interval; * better, ! worse")
        for method in others:
            table.add_row(method, *(differences(runs, method, measure) for runs in results.values()))
        console.print(table)


def differences(methods: Mapping[str, Mapping[int, Mapping[str, float]]], other: str, measure: str) -> str:
    """Write the paired difference of ours and another method, marked where the interval does not hold 0."""
    if OURS not in methods or other not in methods:
        return "-"
    splits = [split for split, values in methods[OURS].items() if measure in values]
    ours, theirs = ([methods[name][split].get(measure, float("nan")) for split in splits] for name in (OURS, other))
    if not splits or any(map(isnan, (*ours, *theirs))):
        return "-"
    found = paired_difference(ours, theirs)
    low, high = sorted(COMPARED[measure] * end for end in (found.low, found.high))
    mark = " *" if low > 0 else " !" if high < 0 else ""
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{mark}"


def _cell(values: Sequence[float], column: str) -> str:
    values = [value for value in values if not isnan(value)]
    if not values:
        return "-"
    if column == "parameters":
        return f"{fmean(values):,.0f}"
    return mean_and_deviation(values, ".1f" if column.startswith(("training", "inference")) else ".3f")
