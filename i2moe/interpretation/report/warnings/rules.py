"""The rules behind the warnings of a report and of a monitor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.warnings.marginal_rules import (
    LITTLE,
    find_miscalibrated,
    find_near_prior,
    find_off_where_missing,
    find_uncarried,
    find_worse_together,
)
from i2moe.interpretation.statistics import FEW_SAMPLES, explained_by_groups

__all__ = ["COLLAPSED", "CONSTANT", "UNUSED", "find_collapsed", "find_constant", "find_unused", "report_warnings"]


UNUSED = 0.1
"""(learned weights) An expert is unused if its mean weight is below this share of an even one, 1 / E, and it is the
largest for no sample. No warning where the model behaves like its interaction for less than a tenth."""
COLLAPSED = 0.9
"""(learned weights) The weights have collapsed if one expert's mean weight is above."""
CONSTANT = 0.01
"""(learned weights) The weights are constant if no expert's standard deviation reaches this."""
_CLASS_BOUND = 0.5
"""(learned weights of a classification) They follow the predicted class if it explains more than this share of their
variance between samples, beyond chance. A reweighter that solves the task by itself does so: an expert per class
instead of an expert per interaction."""
_IDENTICAL = 0.01
"""(learned weights) The experts are near identical if their mean disagreement is below (regression: in standard
deviations of the predictions). The weights may still name a sample's interaction, if they were trained to. They do not
show which expert the prediction depends on."""
_APART = 0.2
"""(learned weights) The mean weights contradict the behavior if one of them is farther outside of its bounds
(`report.behavior`)."""
_HOMOGENEOUS = 0.7
"""(learned weights) The data holds one interaction if the middle of the behavior's bounds and its expert's mean weight
are above. Then only a contradiction is warned of."""
_UNFAITHFUL = 0.3
"""The weights do not follow the behavior of single samples if an expert's rank correlation is below:
`report.faithfulness`, or `report.agreement` of learned weights. Not checked where ranks are noise: for fewer than 20
samples, constant weights, and experts with a mean weight below a tenth."""
_NEAR = 0.05
"""Weights follow the behavior, whatever their ranks, if an expert's weight differs from its share of the behavior
(`report.behavior_shares`) by less on average: where all samples are nearly alike, ranks are noise."""


def report_warnings(report: Diagnostics) -> tuple[str, ...]:
    """Return what is suspicious about the weights, in sentences.

    One expert with nearly all weight can mean that training failed, or that the data holds one interaction. Where
    faithfulness was measured, the model's behavior decides. If the model shows the interaction that the weights name,
    there is no warning. Computed weights are warned of only if the predictions that they come from are bad.

    Args:
        report: the report.

    Example:
        >>> from i2moe.interpretation import InteractionReport
        >>> InteractionReport.example().warnings()
        ()
    """
    names = report.expert_names
    if len(names) == 1:
        return ()
    found = _find_chance(report)
    found += find_worse_together(report)
    found += find_miscalibrated(report)
    found += find_off_where_missing(report)
    found += find_near_prior(report)
    found += find_uncarried(report)
    if report.computed:
        # They are shares of the model's own predictions: one interaction for all samples, or for a class, is a finding.
        return (*found, *_find_unfaithful(report))

    mean, (lowest, highest) = report.overall.mean, report.behavior  # NaN if not measured, true of no comparison
    found += _find_apart(names, mean, lowest, highest)
    if bool((torch.minimum(mean, (lowest + highest) / 2) > _HOMOGENEOUS).any()):
        return tuple(found)

    collapsed = find_collapsed(names, mean.tolist(), COLLAPSED)
    constant = find_constant(float(report.overall.std.max()), CONSTANT) if len(report) > 1 else {}
    if collapsed:
        found += collapsed.values()  # which says that the others are unused, and the weights constant
    else:
        is_largest = [share > 0 for share in report.weights.argmax(1).bincount(minlength=len(names)).tolist()]
        unused = find_unused(names, mean.tolist(), is_largest, UNUSED)
        found += [
            unused[name] for name, absent in zip(names, highest < LITTLE, strict=True) if name in unused and not absent
        ]
        found += constant.values()
    found += _find_near_identical(report)
    if not constant:
        found += _find_class_bound(report)
        found += _find_unfaithful(report)
    return tuple(found)


def find_unused(
    names: Sequence[str], mean: Sequence[float], is_largest: Sequence[bool], below: float
) -> dict[str, str]:
    """Return name -> sentence on experts of little weight that is the largest for no sample."""
    return {
        name: f"expert {name!r} is unused: its mean weight is {weight:.3f} and it is the largest for no sample; "
        "training gave up on it, or the data holds no such interaction"
        for name, weight, largest in zip(names, mean, is_largest, strict=True)
        if weight < below / len(names) and not largest
    }


def find_collapsed(names: Sequence[str], mean: Sequence[float], above: float) -> dict[str, str]:
    """Return kind -> sentence on an expert that has all weight."""
    return {
        f"collapsed/{name}": f"the weights have collapsed onto {name!r}: its mean weight is {weight:.3f}"
        for name, weight in zip(names, mean, strict=True)
        if weight > above
    }


def find_constant(spread: float, below: float) -> dict[str, str]:
    """Return kind -> sentence on weights that do not depend on the sample."""
    if spread >= below:
        return {}
    return {
        "constant": f"the weights are the same for all samples (standard deviation at most {spread:.4f}): "
        "they tell nothing about a single sample"
    }


def _find_chance(report: Diagnostics) -> list[str]:
    if len(report) >= FEW_SAMPLES and (report.target == report.target[0]).all():
        return ["the targets of all samples are the same: there is nothing to interpret"]
    if report.task == "regression" and report.quality.high < 0:
        return [
            f"the predictions are farther from the targets than their mean is (R² {report.quality.score:.2f}): there "
            "is nothing to interpret; look at the units of the targets, or calibrate"
        ]
    if report.quality.better_than_chance is not False:
        return []
    return ["the predictions are no better than without any modality: there is nothing to interpret"]


def _find_apart(names: Sequence[str], mean: Tensor, lowest: Tensor, highest: Tensor) -> list[str]:
    parts = [
        f"{name!r} {weight:.2f} against {low:.2f} to {high:.2f}"
        for name, weight, low, high in zip(names, mean.tolist(), lowest.tolist(), highest.tolist(), strict=True)
        if max(low - weight, weight - high) > _APART
    ]
    if not parts:
        return []
    return [
        f"the mean weights contradict the model's behavior when modalities are replaced ({', '.join(parts)}): "
        "do not interpret them"
    ]


def _find_near_identical(report: Diagnostics) -> list[str]:
    mean = report.disagreement.mean()
    unit = report.prediction.std(0).mean() if report.task == "regression" and len(report) > 1 else 1.0
    if mean >= _IDENTICAL * unit:
        return []
    return [
        f"the experts are near identical (mean disagreement {mean:.4f}): whatever the weights say of a sample, its "
        "prediction would be the same with others"
    ]


def _find_class_bound(report: Diagnostics) -> list[str]:
    if report.task != "classification":
        return []
    explained = explained_by_groups(report.weights, report.decision)
    if not explained > _CLASS_BOUND:
        return []
    return [
        f"the weights follow the predicted class, which explains {explained:.0%} of their variance: "
        "experts may stand for classes and not for interactions"
    ]


def _find_unfaithful(report: Diagnostics) -> list[str]:
    if len(report) < FEW_SAMPLES:
        return []
    measures: dict[str, Tensor] = {}
    if report.marginals is not None:
        measures["faithfulness"] = report.faithfulness
    # Weights computed from predictions are compared with these; a single sample's score is noise beside them.
    if report.comprehensiveness is not None and not report.computed:
        measures["agreement"] = report.agreement
    compared = (report.overall.std >= CONSTANT) & (report.overall.mean >= LITTLE)
    if report.marginals is not None:
        compared &= ~((report.weights - report.behavior_shares).abs().nanmean(0) < _NEAR)
    found = []
    for measure, values in measures.items():
        low = ((values < _UNFAITHFUL) & compared).tolist()
        parts = [f"{name!r} {values[e]:+.2f}" for e, name in enumerate(report.expert_names) if low[e]]
        if parts:
            found.append(
                f"weights do not follow the model's behavior from sample to sample ({measure}: {', '.join(parts)}): "
                "do not interpret them for single samples"
            )
    return found
