"""What is suspicious about how experts are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from i2moe.interpretation.report import InteractionReport

__all__ = ["explained_by_group", "find_collapsed", "find_constant", "find_dead", "usage_warnings"]


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
    mean, largest = report.overall.mean.tolist(), set(report.weights.argmax(1).tolist())
    is_largest = [e in largest for e in range(len(mean))]
    found = [
        *find_dead(report.expert_names, mean, is_largest, dead_below).values(),
        *find_collapsed(report.expert_names, mean, collapsed_above).values(),
        *_alike(report, alike_below),
    ]
    if len(report) == 1:
        return tuple(found)
    constant = find_constant(float(report.overall.std.max()), constant_below)
    if constant:
        return (*found, *constant.values())
    if report.task == "classification":
        explained = explained_by_group(report.weights.double(), report.decision)
        if explained > follow_class_above:
            found.append(
                f"the weights follow the predicted class, which explains {explained:.0%} of their variance: "
                "experts may stand for classes and not for interactions"
            )
    return tuple(found)


def find_dead(names: Sequence[str], mean: Sequence[float], is_largest: Sequence[bool], below: float) -> dict[str, str]:
    """Return kind -> sentence on experts of little weight that is the largest for no sample."""
    return {
        f"dead/{name}": f"expert {name!r} is dead: its mean weight is {weight:.3f} and it is the largest for no sample"
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


def explained_by_group(values: Tensor, groups: Tensor) -> float:
    """The share of the variance of values (N, E), summed over columns, that lies between groups (N,)."""
    deviations = values - values.mean(0)
    members = [groups == group for group in set(groups.tolist())]
    between = [m.sum() * deviations[m].mean(0).square().sum() for m in members]
    return float(torch.stack(between).sum() / deviations.square().sum())


def _alike(report: InteractionReport, alike_below: float) -> Iterator[str]:
    mean = report.disagreement.mean()
    unit = report.prediction.std() if report.task == "regression" and len(report) > 1 else 1.0
    if mean < alike_below * unit:
        yield (
            f"the experts predict alike (mean disagreement {mean:.4f}): whatever the weights say of a sample, its "
            "prediction would be the same with others"
        )
