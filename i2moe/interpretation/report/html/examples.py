"""The section of the page about single samples."""

from __future__ import annotations

from html import escape

import torch

from i2moe._common.names import expert_colors
from i2moe.interpretation.report.html.parts import paragraph, section, stacked, table
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.text.samples import in_words, sample

__all__ = ["chosen_samples", "single_samples"]


def single_samples(report: Diagnostics) -> str:
    """A handful of samples, each with what it rests on."""
    return section(
        "samples",
        "Single samples",
        paragraph(
            "A few, to see what weights mean: for each interaction a sample that is predicted right and rests on it "
            "most, the sample whose weights are most even, and the prediction that is farthest off. The first are "
            "chosen among predictions that are not near what is predicted from nothing. Weights compare how sure "
            "predictions are: what is missing may lower a probability, and leave the class as it is."
        ),
        *(_article(report, index, why) for index, why in chosen_samples(report).items()),
    )


def chosen_samples(report: Diagnostics) -> dict[int, str]:
    """Return some samples' positions, and why each was chosen.

    Example:
        >>> from i2moe.interpretation import InteractionReport
        >>> chosen_samples(InteractionReport.example())[2]
        'rests on synergy'
    """
    chosen: dict[int, str] = {}
    for e, name in enumerate(report.expert_names):
        fits = report.correct & (report.weights.argmax(1) == e) & ~report.near_prior
        if fits.any():
            index = int(report.weights[:, e].masked_fill(~fits, -1).argmax())
            chosen.setdefault(index, f"rests on {name}")
    chosen.setdefault(int(report.entropy.argmax()), "the most even weights")
    wrong = (~report.correct).nonzero().flatten()
    if len(wrong):
        worst = int(wrong[report.score[wrong].argmin()])
        chosen.setdefault(worst, "the highest error" if report.task == "regression" else "the prediction farthest off")
    return chosen


def _article(report: Diagnostics, index: int, why: str) -> str:
    weights = dict(zip(report.expert_names, report.weights[index].tolist(), strict=True))
    rows = [
        [name, f"{weight:.1%}", *_spread(report, index, e)]
        for e, (name, weight) in enumerate(weights.items())
        if weight >= 0.005
    ]
    header = ["interaction", "weight", *(["members differ by"] if report.weight_spread is not None else [])]
    alone = []
    if report.marginals is not None:
        alone = [
            [f"{name} alone", in_words(report, prediction)]
            for name, prediction in zip(report.modality_names, report.marginals[index], strict=True)
            if not torch.isnan(prediction).any()
        ]
    return (
        f'<article id="sample-{index}">\n<h3>Sample {index}: {escape(why)}</h3>\n'
        + paragraph(sample(report, index))
        + stacked({"weights": weights}, expert_colors(report.expert_names, report.interactions))
        + table(header, rows)
        + (table(["predicting from", "the model says"], alone) if alone else "")
        + "</article>"
    )


def _spread(report: Diagnostics, index: int, e: int) -> list[str]:
    return [] if report.weight_spread is None else [f"{report.weight_spread[index, e]:.1%}"]
