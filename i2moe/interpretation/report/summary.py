"""A report as text and as columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from i2moe._tasks import decide, fall_name
from i2moe.interpretation.statistics import WeightStatistics

if TYPE_CHECKING:
    from i2moe.interpretation.report import InteractionReport

__all__ = ["availability", "columns", "summary", "table"]

_MOST_ROWS = 30


def summary(report: InteractionReport) -> str:
    """Return the report's data-set level as plain text."""
    blocks = [_headline(report), _experts(report), _groups(report)]
    if report.comprehensiveness is not None:
        blocks.append(_falls(report))
    if report.available is not None:
        blocks.append(_availability(report))
    blocks.append(
        f"entropy of the weights {report.entropy.mean():.3f} of at most {math.log(len(report.expert_names)):.3f} nats, "
        f"disagreement of the experts {report.disagreement.mean():.3f}"
    )
    warnings = report.usage_warnings()
    if warnings:
        blocks.append("\n".join(["warnings", *(f"  {warning}" for warning in warnings)]))
    return "\n\n".join(blocks)


def availability(report: InteractionReport) -> list[str]:
    """Name the modalities that each sample has: "image+text"."""
    assert report.available is not None
    names = report.modality_names
    return [
        "+".join(name for name, there in zip(names, row, strict=True) if there) for row in report.available.tolist()
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align text in columns, the first to the left, the others to the right.

    Example:
        >>> print(table(["expert", "mean"], [["synergy", "0.5"]]))
        expert   mean
        synergy   0.5
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:], widths[1:]))]).rstrip() for line in lines
    )


def columns(report: InteractionReport) -> dict[str, list[Any]]:
    """Return the report's samples as columns by name."""
    named = _decided(report, "target", report.target, report.target)
    named |= _decided(report, "prediction", report.prediction, report.decision)
    named |= {"correct": report.correct.tolist(), "score": report.score.tolist()}
    named |= _each("weight", report.expert_names, report.weights)
    for e, expert in enumerate(report.expert_names):
        raw = report.expert_predictions[:, e]
        named |= _decided(report, f"prediction/{expert}", raw, decide(report.task, raw))
    if report.available is not None:
        named |= _each("available", report.modality_names, report.available)
    named |= {"entropy": report.entropy.tolist(), "disagreement": report.disagreement.tolist()}
    if report.comprehensiveness is not None and report.sufficiency is not None:
        named |= _each("comprehensiveness", report.modality_names, report.comprehensiveness)
        named |= _each("sufficiency", report.modality_names, report.sufficiency)
    return named


def _headline(report: InteractionReport) -> str:
    if report.task == "classification":
        quality = f"accuracy {report.correct.double().mean():.3f}"
    elif report.task == "multilabel":
        right = (report.decision == report.target).double().mean()
        quality = f"{right:.3f} of the labels and {report.correct.double().mean():.3f} of the samples right"
    else:
        quality = f"mean squared error {-report.score.mean():.4g}"
    return f"{len(report)} samples, {report.task}, {quality}"


def _experts(report: InteractionReport) -> str:
    overall, largest = report.overall, _largest(report)
    header = ["expert", "weight", f"{report.confidence:.0%} interval", "std", "largest for"]
    rows = [
        [
            name,
            _number(overall.mean[e]),
            f"[{_number(overall.low[e])}, {_number(overall.high[e])}]",
            _number(overall.std[e]),
            f"{largest[e]:.1%}",
        ]
        for e, name in enumerate(report.expert_names)
    ]
    if report.comprehensiveness is not None:
        header.append("agreement")
        rows = [[*row, _number(value)] for row, value in zip(rows, report.agreement, strict=True)]
    return table(header, rows)


def _largest(report: InteractionReport) -> Tensor:
    """The share of the samples for which each expert weighs most (E,); equal weights share the sample."""
    winners = report.weights == report.weights.amax(1, keepdim=True)
    return (winners / winners.sum(1, keepdim=True)).double().mean(0)


def _groups(report: InteractionReport) -> str:
    """Mean weights by outcome and by class; the largest classes only where there are many."""
    classes = list(report.per_class.items())
    if len(classes) > _MOST_ROWS:
        classes.sort(key=lambda item: -item[1].n_samples)
    header = ["mean weight", "samples", *report.expert_names]
    text = table(header, [_group_row(*item) for item in (*report.by_outcome.items(), *classes[:_MOST_ROWS])])
    n_more = len(classes) - _MOST_ROWS
    return text if n_more <= 0 else f"{text}\n... and {n_more} smaller classes: see per_class"


def _group_row(name: str, group: WeightStatistics) -> list[str]:
    return [name, str(group.n_samples), *map(_number, group.mean)]


def _falls(report: InteractionReport) -> str:
    assert report.comprehensiveness is not None
    assert report.sufficiency is not None
    falls = zip(report.modality_names, report.comprehensiveness.nanmean(0), report.sufficiency.nanmean(0), strict=True)
    rows = [[name, _number(replaced), _number(alone)] for name, replaced, alone in falls]
    return f"{fall_name[report.task]} with a modality\n" + table(["", "replaced", "kept alone"], rows)


def _availability(report: InteractionReport) -> str:
    """Quality and mean weights by which modalities samples have; the most frequent only where there are many."""
    patterns = list(report.by_availability.items())
    of_sample = availability(report)
    regression = report.task == "regression"
    quality = -report.score if regression else report.correct.double()
    header = ["available", "samples", "squared error" if regression else "correct", *report.expert_names]
    rows = []
    for name, group in patterns[:_MOST_ROWS]:
        members = torch.tensor([name == other for other in of_sample])
        rows.append([name, str(group.n_samples), _number(quality[members].mean()), *map(_number, group.mean)])
    n_more = len(patterns) - _MOST_ROWS
    return table(header, rows) + (f"\n... and {n_more} rarer patterns: see by_availability" if n_more > 0 else "")


def _number(value: Tensor) -> str:
    return "-" if value.isnan() else f"{value:.3f}"


def _each(prefix: str, names: Sequence[str], values: Tensor) -> Mapping[str, list[Any]]:
    return {f"{prefix}/{name}": column.tolist() for name, column in zip(names, values.unbind(1), strict=True)}


def _decided(report: InteractionReport, name: str, raw: Tensor, decided: Tensor) -> dict[str, list[Any]]:
    """A class by its name, or one column per label or value."""
    if report.task == "classification":
        return {name: [report.output_names[c] for c in decided.tolist()]}
    if len(report.output_names) == 1:
        return {name: raw[:, 0].tolist()}
    return dict(_each(name, report.output_names, raw))
