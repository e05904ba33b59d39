"""What is suspicious about how experts are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from i2moe._report import InteractionReport

__all__ = ["explained_by_group", "usage_warnings"]


def usage_warnings(
    report: InteractionReport,
    *,
    dead_below: float,
    collapsed_above: float,
    constant_below: float,
    follow_class_above: float,
    alike_below: float,
) -> tuple[str, ...]:
    """Return sentences on dead or equal experts, and on collapsed, constant or class-bound weights."""
    if len(report.expert_names) == 1:
        return ()
    found = [*_dead(report, dead_below), *_collapsed(report, collapsed_above), *_alike(report, alike_below)]
    spread = report.overall.std.max()
    if len(report) > 1 and spread < constant_below:
        return (
            *found,
            f"the weights are the same for all samples (standard deviation at most {spread:.4f}): "
            "they tell nothing about a single sample",
        )
    if report.task == "classification" and len(report) > 1:
        explained = explained_by_group(report.weights.double(), report.decision)
        if explained > follow_class_above:
            found.append(
                f"the weights follow the predicted class, which explains {explained:.0%} of their variance: "
                "experts may stand for classes and not for interactions"
            )
    return tuple(found)


def explained_by_group(values: Tensor, groups: Tensor) -> float:
    """The share of the variance of values (N, E), summed over columns, that lies between groups (N,)."""
    deviations = values - values.mean(0)
    members = [groups == group for group in set(groups.tolist())]
    between = [m.sum() * deviations[m].mean(0).square().sum() for m in members]
    return float(torch.stack(between).sum() / deviations.square().sum())


def _dead(report: InteractionReport, dead_below: float) -> Iterator[str]:
    largest = set(report.weights.argmax(1).tolist())
    for e, name in enumerate(report.expert_names):
        mean = report.overall.mean[e]
        if mean < dead_below / len(report.expert_names) and e not in largest:
            yield f"expert {name!r} is dead: its mean weight is {mean:.3f} and it is the largest for no sample"


def _collapsed(report: InteractionReport, collapsed_above: float) -> Iterator[str]:
    for name, mean in zip(report.expert_names, report.overall.mean, strict=True):
        if mean > collapsed_above:
            yield f"the weights have collapsed onto {name!r}: its mean weight is {mean:.3f}"


def _alike(report: InteractionReport, alike_below: float) -> Iterator[str]:
    mean = report.disagreement.mean()
    unit = report.prediction.std() if report.task == "regression" and len(report) > 1 else 1.0
    if mean < alike_below * unit:
        yield (
            f"the experts predict alike (mean disagreement {mean:.4f}): whatever the weights say of a sample, its "
            "prediction would be the same with others"
        )
