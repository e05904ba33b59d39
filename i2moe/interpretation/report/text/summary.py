"""A report as text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from i2moe._common.tasks import drop_name, score_name
from i2moe.interpretation.report.measures.diagnostics import Diagnostics, group_by_availability
from i2moe.interpretation.report.measures.dropping import DroppingCost, cost_of_dropping
from i2moe.interpretation.report.measures.pairs import pair_interactions
from i2moe.interpretation.report.record import dropped_subsets
from i2moe.interpretation.report.text.columns import MOST_ROWS, interval, number, table
from i2moe.interpretation.report.warnings.rules import report_warnings
from i2moe.interpretation.statistics import FEW_SAMPLES, WeightStatistics

__all__ = ["summary"]


def summary(report: Diagnostics) -> str:
    """Return a plain-text table of the weights, per class, by outcome, and of what modalities are worth.

    Example:
        >>> from i2moe.interpretation import InteractionReport
        >>> print(InteractionReport.example().summary().splitlines()[0])
        4 samples, classification, accuracy 0.750
    """
    blocks = [_headline(report), _experts(report), _groups(report)]
    if report.marginals is not None:
        blocks.append(_alone(report))
    if report.predictions_without is not None:
        blocks.append(_dropping(report))
    if report.comprehensiveness is not None:
        blocks.append(_drops(report))
    if report.available is not None:
        blocks.append(_availability(report, report.available))
    blocks.append(
        f"entropy of the weights {report.entropy.mean():.3f} of at most {math.log(len(report.expert_names)):.3f} nats"
    )
    if report.disagreement.any():  # experts that are one network never disagree
        blocks[-1] += f", disagreement of the experts {report.disagreement.mean():.3f}"
    if report.computed:
        blocks[-1] += f", predictions near the prior {report.near_prior.double().mean():.1%}"
    groups = (*report.by_outcome.values(), *report.per_class.values(), *report.by_availability.values())
    if any(map(_is_small, groups)):
        blocks.append(f"* fewer than {FEW_SAMPLES} samples: their mean weights are rough")
    warnings = report_warnings(report)
    if warnings:
        blocks.append("\n".join(["warnings", *(f"  {warning}" for warning in warnings)]))
    return "\n\n".join(blocks)


def _headline(report: Diagnostics) -> str:
    if report.task == "classification":
        quality = f"accuracy {report.correct.double().mean():.3f}"
    elif report.task == "multilabel":
        right = (report.decision == report.target).double().mean()
        quality = f"{right:.3f} of the labels and {report.correct.double().mean():.3f} of the samples right"
    else:
        quality = f"mean squared error {report.score.mean().abs():.4g}"
    basis = f"\nweights {report.basis}" if report.basis else ""
    groups = "" if report.clusters is None else f" of {report.n_clusters} groups"
    return f"{len(report)} samples{groups}, {report.task}, {quality}{basis}"


def _experts(report: Diagnostics) -> str:
    overall, largest = report.overall, _largest(report)
    header = ["expert", "weight", f"{report.confidence:.0%} interval", "std", "largest for"]
    rows = [
        [
            name,
            number(overall.mean[e]),
            interval(overall.low[e], overall.high[e]),
            number(overall.std[e]),
            f"{largest[e]:.1%}",
        ]
        for e, name in enumerate(report.expert_names)
    ]
    if report.computed:
        header.append("of variance")
        rows = [[*row, number(share)] for row, share in zip(rows, report.variance_shares, strict=True)]
    elif report.comprehensiveness is not None:
        header += ["behavior", "agreement"]
        measured = zip(rows, *report.behavior, report.agreement, strict=True)
        rows = [[*row, interval(low, high), number(correlation)] for row, low, high, correlation in measured]
    if report.marginals is not None:
        header.append("faithfulness")
        rows = [[*row, number(value)] for row, value in zip(rows, report.faithfulness, strict=True)]
    if report.weight_spread is not None:
        header.append("members differ by")
        rows = [[*row, number(value)] for row, value in zip(rows, report.weight_spread.mean(0), strict=True)]
    return table(header, rows)


def _largest(report: Diagnostics) -> Tensor:
    """The share of the samples for which each expert weighs most (E,); equal weights share the sample."""
    winners = report.weights == report.weights.amax(1, keepdim=True)
    return (winners / winners.sum(1, keepdim=True)).mean(0, dtype=torch.float64)


def _groups(report: Diagnostics) -> str:
    """Mean weights by outcome and by class; the largest classes only where there are many."""
    classes = list(report.per_class.items())
    if len(classes) > MOST_ROWS:
        classes.sort(key=lambda item: -item[1].n_samples)
    header = ["mean weight", "samples", *report.expert_names]
    text = table(header, [_group_row(*item) for item in (*report.by_outcome.items(), *classes[:MOST_ROWS])])
    n_more = len(classes) - MOST_ROWS
    return text if n_more <= 0 else f"{text}\n... and {n_more} smaller classes: see per_class"


def _group_row(name: str, group: WeightStatistics) -> list[str]:
    return [name, _size(group), *map(number, group.mean)]


def _drops(report: Diagnostics) -> str:
    assert report.comprehensiveness is not None
    assert report.sufficiency is not None
    drops = zip(report.modality_names, report.comprehensiveness.nanmean(0), report.sufficiency.nanmean(0), strict=True)
    rows = [[name, number(replaced), number(alone)] for name, replaced, alone in drops]
    return f"{drop_name[report.task]} with a modality\n" + table(["", "replaced", "kept alone"], rows)


def _alone(report: Diagnostics) -> str:
    """How good the predictions from each modality alone are, and from all."""
    header = ["predicting from", "samples", score_name[report.task], f"{report.confidence:.0%} interval"]
    header += [] if report.task == "regression" else ["log-likelihood (nats)", "calibration error"]
    rows = []
    alone = {f"{name} alone": found for name, found in report.quality_alone.items()}
    for name, found in (alone | {"all": report.quality}).items():
        row = [name, str(found.n_samples), number(found.score), interval(found.low, found.high)]
        rows.append(row if found.nll is None else [*row, number(-found.nll), number(found.calibration_error)])
    return table(header, rows)


def _dropping(report: Diagnostics) -> str:
    """What dropping modalities costs, and which pairs of them are redundant or synergistic."""
    found = cost_of_dropping(report)
    costs = list(found.items())[:MOST_ROWS]
    header = ["without", "samples", score_name[report.task], "falls by", f"{report.confidence:.0%} interval"]
    rows = [[name, str(cost.n_samples), number(cost.score), *_fall(cost)] for name, cost in costs]
    if report.predictions_retrained is not None:
        header += ["trained anew", f"{report.confidence:.0%} interval"]
        rows = [[*row, *_fall(cost.retrained)] for row, (_, cost) in zip(rows, costs, strict=True)]
    text = table(header, rows) + "".join(f"\n{note}" for note in _left_out(report, found))
    pairs = list(pair_interactions(report).values())[:MOST_ROWS]
    return "\n\n".join([text, *(["\n".join(pair.sentence() for pair in pairs)] if pairs else [])])


def _left_out(report: Diagnostics, costs: dict[str, DroppingCost]) -> list[str]:
    """Say which samples and rows the cost of dropping leaves out."""
    notes = []
    if any(each.n_samples < len(report) for cost in costs.values() for each in (cost, cost.retrained or cost)):
        notes.append("samples with nothing left are not counted")
    if len(costs) < len(dropped_subsets(len(report.modality_names))):
        notes.append("where no sample has anything left there is no row")
    if report.predictions_retrained is not None and any(cost.retrained is None for cost in costs.values()):
        notes.append("trained anew -: too few samples have something left to train on or to predict")
    return notes


def _fall(cost: DroppingCost | None) -> list[str]:
    return ["-", "-"] if cost is None else [number(cost.cost), interval(cost.low, cost.high)]


def _availability(report: Diagnostics, available: Tensor) -> str:
    """Quality and mean weights by which modalities samples have; the most frequent only where there are many."""
    names, group_of = group_by_availability(report.modality_names, available)
    regression = report.task == "regression"
    quality = -report.score if regression else report.correct.double()
    quality = quality.new_zeros(len(names)).index_add(0, group_of, quality)
    patterns = list(report.by_availability.items())
    header = ["available", "samples", "squared error" if regression else "correct", *report.expert_names]
    rows = [
        [name, _size(group), number(quality[names.index(name)] / group.n_samples), *map(number, group.mean)]
        for name, group in patterns[:MOST_ROWS]
    ]
    n_more = len(patterns) - MOST_ROWS
    return table(header, rows) + (f"\n... and {n_more} rarer patterns: see by_availability" if n_more > 0 else "")


def _size(group: WeightStatistics) -> str:
    return f"{group.n_samples}{'*' * _is_small(group)}"


def _is_small(group: WeightStatistics) -> bool:
    return 0 < group.n_samples < FEW_SAMPLES
