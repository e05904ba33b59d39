"""Rules about what the model predicts from each modality alone: whether it can carry the weights."""

from __future__ import annotations

import torch

from i2moe._common.tasks import certain, probabilities, score_name
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.measures.quality import calibration, points
from i2moe.interpretation.statistics import FEW_SAMPLES, mean_interval

__all__ = [
    "LITTLE",
    "find_miscalibrated",
    "find_near_prior",
    "find_off_where_missing",
    "find_uncarried",
    "find_worse_together",
]

LITTLE = 0.1
"""A mean weight, or a share of the model's behavior, that is too small to compare."""
_OFF = 0.1
"""Predictions are off if the calibration error of a modality alone exceeds by this what it would be by chance, or if
the mean for the samples without a modality is by more than this from the targets' mean: probability, or the target's
deviations."""
_WORSE = 0.01
"""Predictions from all modalities are worse than those from one if they lose more than this: accuracy, or R2."""
_UNCARRIED = 0.2
"""A mean weight above this contradicts the predictions from each modality alone. It is on the uniqueness of one that
predicts no better than chance, or on redundancy where fewer than two predict better."""
_NEAR_PRIOR = 0.5
"""The mean weights are mostly of predictions near the prior, if their share is above."""


def find_worse_together(report: Diagnostics) -> list[str]:
    """Say which modality alone predicts better than all together, on the same samples, beyond chance."""
    if report.marginals is None:
        return []
    found = []
    confidence = 1 - (1 - report.confidence) / len(report.modality_names)  # of all of them at once
    for name, marginal in zip(report.modality_names, report.marginals.unbind(1), strict=True):
        known = ~marginal.isnan().any(1)
        if known.sum() < FEW_SAMPLES:
            continue
        target = report.target[known]
        alone, together = (points(report.task, raw[known], target) for raw in (marginal, report.prediction))
        by, low, _ = mean_interval(alone - together, confidence, clusters=report.clusters_of(known))
        if low > 0 and by > _WORSE:
            found.append(
                f"the predictions from all modalities are worse than those from {name} alone "
                f"({score_name[report.task]} {together.mean():.3f} against {alone.mean():.3f} on the same samples): "
                "the others mislead the model; regularize it more, give it more samples, or leave them out"
            )
    return found


def find_miscalibrated(report: Diagnostics) -> list[str]:
    """Say which modality's predictions are not as sure as they are right, where weights are computed from them.

    One that predicts no better than chance, and has little weight of its own, moves no weight by much. Classes count as
    the prior of held-out targets says: with class weights, predictions are about other frequencies than the samples'.
    """
    if report.prior is None or report.marginals is None or report.task == "regression":
        return []
    counts = torch.ones(len(report))
    if report.task == "classification" and not report.basis:
        counts = (report.prior / report.target.bincount(minlength=len(report.prior)))[report.target]
    weight = dict(zip(report.interactions, report.overall.mean.tolist(), strict=True))
    parts = []
    for i, (name, marginal) in enumerate(zip(report.modality_names, report.marginals.unbind(1), strict=True)):
        known = ~marginal.isnan().any(1)
        if not known.any():
            continue
        error, noise = calibration(report.task, marginal[known], report.target[known], counts[known])
        if error - noise > _OFF and (report.quality_alone[name].better_than_chance or weight.get(i, 0) > LITTLE):
            parts.append(f"{name!r} {error:.2f}")
    if not parts:
        return []
    return [
        f"the weights rest on predictions that are not as sure as they are right (calibration error from one modality "
        f"alone: {', '.join(parts)}): "
        + (
            "a larger background may mend it"
            if report.basis
            else "calibrate(model, held_out_batches) mends it; where it was done, as in the fit of an estimator, give "
            "more samples, and hold out other groups where samples belong together, people say"
        )
    ]


def find_near_prior(report: Diagnostics) -> list[str]:
    """Say that most computed weights are of predictions near the prior, where small errors decide."""
    near = float(report.near_prior.double().mean()) if report.computed and len(report) >= FEW_SAMPLES else 0.0
    if near <= _NEAR_PRIOR:
        return []
    return [
        f"{near:.0%} of the predictions are near the prior, what is predicted from nothing: there small errors decide "
        "about the weights, and so about the mean weights. "
        + ("If the target is skewed, predict its logarithm. Else read" if report.task == "regression" else "Read")
        + " the shares of variance in place of these, and single samples only where `report.near_prior` is false"
    ]


def find_off_where_missing(report: Diagnostics) -> list[str]:
    """Say without which modality the predictions are too high or too low on average, beyond chance.

    So they are where it is missing for a reason that has to do with the target: the model cannot tell a modality that
    is missing from one that it leaves out itself.
    """
    if report.available is None:
        return []
    predicted = probabilities(report.task, report.prediction.double())
    actual = certain(report.task, report.target, predicted.shape[1])
    unit = actual.std(0) if report.task == "regression" else torch.ones(())
    unit = torch.where(unit > 0, unit, torch.nan)  # of a constant value, nothing is far off
    found = []
    for name, there in zip(report.modality_names, report.available.unbind(1), strict=True):
        if min(int(there.sum()), int((~there).sum())) < FEW_SAMPLES:
            continue
        error = ((predicted - actual) / unit)[~there]
        off = error.mean(0).abs().nan_to_num(0)
        output = int(off.argmax())
        if off[output] > max(_OFF, 3 * float(error[:, output].std()) / len(error) ** 0.5):
            found.append(
                f"the predictions for the {len(error)} samples without {name} are off: {report.output_names[output]!r} "
                f"is predicted at {predicted[~there, output].mean():.2f} on average, and is at "
                f"{actual[~there, output].mean():.2f} (with {name} {predicted[there, output].mean():.2f} and "
                f"{actual[there, output].mean():.2f}). It may be missing for a reason that has to do with the target; "
                "then weights of samples that have it are off. Train on samples that have it, or tell the model by a "
                f"feature of another modality that {name} is missing"
            )
    return found


def find_uncarried(report: Diagnostics) -> list[str]:
    """Say which weights no modality alone can carry."""
    alone = {name: found for name, found in report.quality_alone.items() if found.better_than_chance is not None}
    if not alone:
        return []
    able = [name for name, found in alone.items() if found.better_than_chance]
    found = []
    for expert, interaction, weight in zip(
        report.expert_names, report.interactions, report.overall.mean.tolist(), strict=True
    ):
        if weight <= _UNCARRIED or interaction == "synergy":
            continue
        if isinstance(interaction, int):
            name = report.modality_names[interaction]
            if name in alone and name not in able:
                found.append(
                    f"{expert!r} has a mean weight of {weight:.2f}, however {name} alone predicts no better than "
                    f"chance ({score_name[report.task]} {alone[name].score:.3f}): do not interpret it"
                )
        elif len(alone) > 1 and len(able) < 2:
            found.append(
                f"{expert!r} has a mean weight of {weight:.2f}, however fewer than two modalities predict better than "
                "chance alone: do not interpret it"
            )
    return found
