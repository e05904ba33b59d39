"""Rules about what the model predicts from each modality alone: whether it can carry the weights."""

from __future__ import annotations

from i2moe._common.tasks import score_name
from i2moe.interpretation.report.measures.diagnostics import Diagnostics

__all__ = ["find_miscalibrated", "find_uncarried"]


def find_miscalibrated(report: Diagnostics, above: float) -> list[str]:
    """Say which modality's predictions are not as sure as they are right, where weights are computed from them."""
    if not report.computed:
        return []
    parts = [
        f"{name!r} {found.calibration_error:.2f}"
        for name, found in report.quality_alone.items()
        if found.calibration_error is not None
        and found.calibration_noise is not None
        and found.calibration_error - found.calibration_noise > above
    ]
    if not parts:
        return []
    return [
        f"the weights rest on predictions that are not as sure as they are right (calibration error from one modality "
        f"alone: {', '.join(parts)}): "
        + ("a larger background may mend it" if report.basis else "calibrate(model, held_out_batches) mends it")
    ]


def find_uncarried(report: Diagnostics, above: float) -> list[str]:
    """Say which weights no modality alone can carry."""
    alone = {name: found for name, found in report.quality_alone.items() if found.better_than_chance is not None}
    if not alone:
        return []
    able = [name for name, found in alone.items() if found.better_than_chance]
    found = []
    for expert, interaction, weight in zip(
        report.expert_names, report.interactions, report.overall.mean.tolist(), strict=True
    ):
        if weight <= above or interaction == "synergy":
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
