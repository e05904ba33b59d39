"""Scores of predictions on the test split: how good, how well calibrated, how useful where some may be refused."""

from __future__ import annotations

from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from i2moe.interpretation.report.measures.quality import calibration_error

__all__ = ["area_under_risk_coverage", "likelihood_scores", "main_score", "temperature"]

_TEMPERATURES = torch.logspace(-1, 1, 81, base=4, dtype=torch.float64)


def main_score(outputs: Tensor, targets: Tensor, metric: str) -> float:
    """Score outputs (n, C) by accuracy, AUROC (two classes) or R2."""
    from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

    if metric == "accuracy":
        return float(accuracy_score(targets, outputs.argmax(1)))
    if metric == "auroc":
        return float(roc_auc_score(targets, outputs.softmax(1)[:, 1]))
    return float(r2_score(targets, outputs))


def likelihood_scores(
    outputs: Tensor, targets: Tensor, held_out: Tensor, held_out_targets: Tensor, is_regression: bool
) -> dict[str, float]:
    """Return negative log-likelihood in nats and, of classes, Brier score, calibration error and selective risks.

    Args:
        outputs: (n, C), of the test split.
        targets: of the test split.
        held_out: (m, C), outputs of the validation split, which set a temperature or the variance of errors.
        held_out_targets: of the validation split.
        is_regression: whether targets are numbers.
    """
    outputs, held_out = outputs.double(), held_out.double()
    if is_regression:
        variance = (held_out - held_out_targets).square().mean()
        return {"nll": float((outputs - targets).square().mean() / variance + variance.log() + log(2 * pi)) / 2}
    scaled = outputs / temperature(held_out, held_out_targets)
    probabilities = outputs.softmax(1)
    is_wrong = probabilities.argmax(1) != targets
    confidence = probabilities.amax(1)
    surest = confidence.topk(max(1, round(0.8 * len(confidence)))).indices
    return {
        "nll": float(F.cross_entropy(outputs, targets)),
        "nll, scaled": float(F.cross_entropy(scaled, targets)),
        "brier": float((probabilities - F.one_hot(targets, outputs.shape[1])).square().sum(1).mean()),
        "ece": calibration_error(confidence, ~is_wrong)[0],
        "ece, scaled": calibration_error(scaled.softmax(1).amax(1), ~is_wrong)[0],
        "aurc": area_under_risk_coverage(confidence, is_wrong),
        "risk at 80%": float(is_wrong[surest].double().mean()),
    }


def temperature(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the number by which logits (m, C) of held-out samples are to be divided to lose least.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    losses = torch.stack([F.cross_entropy(logits.double() / t, targets) for t in _TEMPERATURES])
    return _TEMPERATURES[losses.argmin()]


def area_under_risk_coverage(confidence: Tensor, is_wrong: Tensor) -> float:
    """Return the error rate among the surest samples, averaged over their number; lower is better.

    Source: Geifman and El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017.

    Example:
        >>> area_under_risk_coverage(torch.tensor([0.9, 0.6]), torch.tensor([False, True]))
        0.25
    """
    errors = is_wrong[confidence.argsort(descending=True)].double().cumsum(0)
    return float((errors / torch.arange(1, len(errors) + 1)).mean())
