"""Results as a table, a figure and a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from examples.benchmarks.identify.running import Results
from examples.benchmarks.identify.scores import Scores
from examples.benchmarks.identify.settings import Settings

__all__ = ["plot", "print_table", "write_json"]

_COLUMNS: dict[str, Callable[[Scores], str]] = {
    "accuracy %": lambda scores: _cell(scores.accuracy, min, 100, 2),
    "interaction accuracy %": lambda scores: _cell(scores.named, min, 100, 1),
    "AUROC": lambda scores: _cell(scores.auroc, min, 1, 3),
    "calibration": lambda scores: _cell(scores.calibration, max, 1, 3),
    "mix": lambda scores: _cell(scores.mix, max, 1, 3),
    "seeds": lambda scores: _number(scores.correlation, 1, 3),
    "moved": lambda scores: _cell(scores.moved["mean"], max, 1, 3) if scores.moved else "",
    "moved, samples": lambda scores: _cell(scores.moved["samples"], max, 1, 3) if scores.moved else "",
}


def print_table(results: Results) -> None:
    """Print a line for each problem and method: means over seeds, the worst seed in brackets."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Means over seeds, worst seed in brackets")
    table.add_column("data", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for name, methods in results.items():
        for i, (method, scores) in enumerate(methods.items()):
            table.add_row(name if i == 0 else "", method, *(cell(scores) for cell in _COLUMNS.values()))
        table.add_section()
    Console(width=180).print(table)


def write_json(results: Results, settings: Settings, path: Path) -> None:
    """Write all scores and the settings; what is NaN becomes null."""
    content = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "results": {
            name: {method: asdict(scores) for method, scores in methods.items()} for name, methods in results.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False))


def plot(results: Results, path: Path) -> None:
    """Draw the share of samples named: a mark for the mean of the seeds, a bar for their range."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names, methods = list(results), list(next(iter(results.values())))
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(names) + 1.3), layout="constrained")
    for i, method in enumerate(methods):
        color = "0.6" if method == "paper" else f"C{i - 1 if 'paper' in methods else i}"
        values = [[100 * value for value in results[name][method].named] for name in names]
        axes.plot([mean(v) for v in values], range(len(names)), "o", color=color, label=method)
        axes.hlines(range(len(names)), [min(v) for v in values], [max(v) for v in values], color=color)
    axes.axvline(95, color="0.8", linewidth=1, zorder=0)
    axes.set(xlim=(0, 101), xlabel="samples whose true interaction is named, % (mean and range of seeds)")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _cell(values: Sequence[float], worst: Callable[[Sequence[float]], float], scale: float, digits: int) -> str:
    if any(math.isnan(value) for value in values):
        return ""
    return f"{_number(mean(values), scale, digits)} ({_number(worst(values), scale, digits)})"


def _number(value: float, scale: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{scale * value:.{digits}f}"


def _without_nan(content: object) -> object:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
