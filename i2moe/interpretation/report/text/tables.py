"""A report as columns, one row per sample, and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from i2moe._common.tasks import decide
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.measures.dropping import cost_of_dropping
from i2moe.interpretation.report.measures.pairs import pair_interactions
from i2moe.interpretation.report.warnings.rules import report_warnings
from i2moe.interpretation.statistics import plain

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["to_dict", "to_pandas"]


def to_dict(report: Diagnostics) -> dict[str, Any]:
    """Return what `summary` says as plain dicts, lists and numbers, ready for JSON; None for NaN.

    Values per sample are the report's attributes, and the rows of `to_pandas`.

    Example:
        >>> from i2moe.interpretation import InteractionReport
        >>> InteractionReport.example().to_dict()["per_class"]["cat"]["n_samples"]
        1
    """
    comprehensiveness, sufficiency = report.comprehensiveness, report.sufficiency
    return {
        "task": report.task,
        "basis": report.basis,
        "n_samples": len(report),
        "n_clusters": report.n_clusters,
        "modality_names": list(report.modality_names),
        "expert_names": list(report.expert_names),
        "mean_score": report.score.mean().item(),
        "overall": report.overall.to_dict(),
        "per_class": {name: group.to_dict() for name, group in report.per_class.items()},
        "by_outcome": {name: group.to_dict() for name, group in report.by_outcome.items()},
        "mean_entropy": report.entropy.mean().item(),
        "mean_disagreement": report.disagreement.mean().item(),
        "by_availability": {name: group.to_dict() for name, group in report.by_availability.items()},
        "comprehensiveness": None if comprehensiveness is None else plain(comprehensiveness.nanmean(0)),
        "sufficiency": None if sufficiency is None else plain(sufficiency.nanmean(0)),
        "behavior": [plain(bound) for bound in report.behavior],
        "quality": report.quality.to_dict(),
        "quality_alone": {name: found.to_dict() for name, found in report.quality_alone.items()},
        "cost_of_dropping": None
        if report.predictions_without is None
        else {name: cost.to_dict() for name, cost in cost_of_dropping(report).items()},
        "pair_interactions": None
        if report.predictions_without is None
        else {name: pair.to_dict() for name, pair in pair_interactions(report).items()},
        "variance_shares": plain(report.variance_shares) if report.computed else None,
        "share_near_prior": report.near_prior.double().mean().item() if report.computed else None,
        "weight_spread": None if report.weight_spread is None else plain(report.weight_spread.mean(0)),
        "faithfulness": None if report.marginals is None else plain(report.faithfulness),
        "agreement": None if comprehensiveness is None else plain(report.agreement),
        "warnings": list(report_warnings(report)),
    }


def to_pandas(report: Diagnostics) -> pd.DataFrame:
    """Return a table with one row per sample; needs pandas.

    The columns are the report's attributes of these names, "/" and an expert, a modality or an output where there are
    several: target, prediction, correct (in a regression: an error of at most the median), score (probability of the
    true class, log-likelihood of labels, or negative squared error), weight, near_prior (computed weights: whether they
    say little), weight_spread (members differ by), prediction of each expert, alone (prediction from a modality alone),
    available, entropy (of the weights, in nats), disagreement (of the experts), comprehensiveness (drop of the score
    without a modality) and sufficiency (with it alone).

    Raises:
        ImportError: without pandas.

    Example:
        >>> from i2moe.interpretation import InteractionReport
        >>> table = InteractionReport.example().to_pandas()
        >>> table[["target", "weight/synergy"]].round(2)
          target  weight/synergy
        0    cat            0.05
        1    dog            0.10
        2    dog            0.80
        3    dog            0.45
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas needs pandas, however it is not installed; pip install pandas") from error
    columns = _columns(report)
    return pandas.DataFrame(
        {name: column.numpy() if isinstance(column, Tensor) else column for name, column in columns.items()}
    )


def _columns(report: Diagnostics) -> dict[str, Tensor | list[str | None]]:
    named = _decided(report, "target", report.target, report.target)
    named |= _decided(report, "prediction", report.prediction, report.decision)
    named |= {"correct": report.correct, "score": report.score}
    named |= _each("weight", report.expert_names, report.weights)
    if report.computed:
        named |= {"near_prior": report.near_prior}
    if report.weight_spread is not None:
        named |= _each("weight_spread", report.expert_names, report.weight_spread)
    for e, expert in enumerate(report.expert_names):
        raw = report.expert_predictions[:, e]
        named |= _decided(report, f"prediction/{expert}", raw, decide(report.task, raw))
    if report.marginals is not None:
        for name, alone in zip(report.modality_names, report.marginals.unbind(1), strict=True):
            named |= _decided(report, f"alone/{name}", alone, decide(report.task, alone))
    if report.available is not None:
        named |= _each("available", report.modality_names, report.available)
    named |= {"entropy": report.entropy, "disagreement": report.disagreement}
    if report.comprehensiveness is not None and report.sufficiency is not None:
        named |= _each("comprehensiveness", report.modality_names, report.comprehensiveness)
        named |= _each("sufficiency", report.modality_names, report.sufficiency)
    return named


def _each(prefix: str, names: Sequence[str], values: Tensor) -> dict[str, Tensor | list[str | None]]:
    return {f"{prefix}/{name}": column for name, column in zip(names, values.unbind(1), strict=True)}


def _decided(report: Diagnostics, name: str, raw: Tensor, decided: Tensor) -> dict[str, Tensor | list[str | None]]:
    """A class by its name, or one column per label or value."""
    if report.task == "classification":
        rows = zip(decided.tolist(), raw.isnan().reshape(len(raw), -1).any(1).tolist(), strict=True)
        return {name: [None if unknown else report.output_names[c] for c, unknown in rows]}
    if len(report.output_names) == 1:
        return {name: raw[:, 0]}
    return _each(name, report.output_names, raw)
