"""One sample in plain words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from i2moe._common.tasks import decide, probabilities
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.record import dropped_subsets, position
from i2moe.losses import Interaction

__all__ = ["in_words", "joined", "meaning", "sample"]

_ENOUGH = 0.9


def sample(report: Diagnostics, index: int) -> str:
    """Say in plain words what the prediction for one sample rests on.

    Args:
        report: the report.
        index: the sample's position in the data.

    Returns:
        What was predicted, the largest weights up to nine tenths of the whole, how far members differ on them, and
        what would have been predicted without each modality, as far as these were measured.

    Raises:
        IndexError: if there is no such sample.

    Example:
        >>> from i2moe.interpretation import InteractionReport
        >>> print(InteractionReport.example().sample(1))
        Sample 1: the model predicts 'dog' at 0.95, which is right. 50% of the weight is on what several modalities say
        alike (redundancy), 30% on what text alone says (uniqueness/text), 10% on what image alone says
        (uniqueness/image).
    """
    index = position(report, index)
    sentences = [
        f"Sample {index}: the model predicts {in_words(report, report.prediction[index])}, {_truth(report, index)}.",
        f"{_weights(report, index)}.",
    ]
    if report.weight_spread is not None:
        spread = report.weight_spread[index].max()
        sentences.append(f"Members of the model differ by up to {spread:.0%} on these shares (standard deviation).")
    if report.computed and report.near_prior[index]:
        sentences.append("The prediction is near what is predicted from nothing: its shares say little.")
    if report.available is not None and not report.available[index].all():
        absent = [n for n, has in zip(report.modality_names, report.available[index], strict=True) if not has]
        sentences.append(f"It lacks {joined(absent)}.")
    return " ".join(sentences + _without(report, index))


def meaning(interaction: Interaction, modality_names: tuple[str, ...]) -> str:
    """Say what an interaction is.

    Example:
        >>> meaning(0, ("image", "text"))
        'what image alone says'
    """
    if interaction == "synergy":
        return "what only several modalities together say"
    if interaction == "redundancy":
        return "what several modalities say alike"
    return f"what {modality_names[interaction]} alone says"


def in_words(report: Diagnostics, prediction: Tensor) -> str:
    """Say what raw outputs (C,) predict."""
    names, decided = report.output_names, decide(report.task, prediction)
    probability = probabilities(report.task, prediction.double())
    if report.task == "classification":
        return f"'{names[int(decided)]}' at {probability[decided]:.2f}"
    if report.task == "regression":
        return ", ".join(_value(name, value, len(names)) for name, value in zip(names, prediction, strict=True))
    if len(names) == 1:
        return f"'{names[0]}' at {probability[0]:.2f}"
    has = [f"'{names[c]}' at {probability[c]:.2f}" for c in decided.nonzero().flatten().tolist()]
    return joined(has) if has else "no label"


def _value(name: str, value: Tensor, n_outputs: int) -> str:
    return f"{value:.3g}" if n_outputs == 1 else f"{name} {value:.3g}"


def _truth(report: Diagnostics, index: int) -> str:
    target = report.target[index]
    if report.task == "regression":
        return f"the true value is {in_words(report, target)}"
    if report.correct[index]:
        return "which is right"
    if report.task == "classification":
        return f"the truth is '{report.output_names[int(target)]}'"
    if len(target) == 1:
        return f"the truth is {int(target)}"
    return f"the truth is {joined([repr(report.output_names[c]) for c in target.nonzero().flatten().tolist()])}"


def _weights(report: Diagnostics, index: int) -> str:
    weights = report.weights[index]
    parts: list[str] = []
    covered = 0.0
    for e in weights.argsort(descending=True, stable=True).tolist():
        share = float(weights[e])
        if covered >= _ENOUGH - 1e-6 or share < 0.005:
            break
        covered += share
        what = f"{meaning(report.interactions[e], report.modality_names)} ({report.expert_names[e]})"
        parts.append(f"{share:.0%} {'' if parts else 'of the weight is '}on {what}")
    return ", ".join(parts)


def _without(report: Diagnostics, index: int) -> list[str]:
    if report.predictions_without is None:
        return []
    sentences = []
    for subset, prediction in zip(
        dropped_subsets(len(report.modality_names)), report.predictions_without[index], strict=True
    ):
        present = report.available is None or bool(report.available[index, list(subset)].all())
        if len(subset) == 1 and present and not prediction.isnan().any():
            name = report.modality_names[subset[0]]
            same = report.task == "classification" and torch.equal(prediction.argmax(), report.decision[index])
            would = "it would still be" if same else "it would have been"
            sentences.append(f"Without {name} {would} {in_words(report, prediction)}.")
    return sentences


def joined(items: Sequence[str]) -> str:
    """Join names as in a sentence, "a, b and c"; "none" of none."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items or ["none"])
