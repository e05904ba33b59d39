"""The sections of the page about all samples, in plain words."""

from __future__ import annotations

import math
from html import escape

from torch import Tensor

from i2moe._common.names import expert_colors
from i2moe._common.tasks import score_name
from i2moe.interpretation.report.html.parts import Bar, bars, items, legend, paragraph, section, stacked, table
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.measures.dropping import DroppingCost, cost_of_dropping
from i2moe.interpretation.report.measures.pairs import pair_interactions
from i2moe.interpretation.report.measures.quality import Quality, chance
from i2moe.interpretation.report.text.columns import MOST_ROWS
from i2moe.interpretation.report.text.samples import joined, meaning
from i2moe.interpretation.report.warnings.rules import report_warnings
from i2moe.interpretation.statistics import FEW_SAMPLES, WeightStatistics

__all__ = ["asked", "headline", "how_good", "how_sure", "what_drives", "without_a_modality", "words"]

_SCORE = {
    "classification": "the share of samples whose class is predicted right",
    "multilabel": "of the labels of all samples, how many are predicted right",
    "regression": "the share of the target's variance that the predictions explain: 1 at best, 0 for the mean",
}


def headline(report: Diagnostics) -> str:
    """Say in a line what the report is of."""
    return f"{len(report)} samples, {report.task}, {score_name[report.task]} {_score(report, report.quality.score)}"


def asked(report: Diagnostics) -> str:
    """What the model is asked."""
    names, modalities = report.output_names, joined(report.modality_names)
    what = {
        "classification": f"which of {len(names)} classes it is ({_few(names)})",
        "multilabel": f"which of {len(names)} labels it has ({_few(names)})",
        "regression": f"for {'a number' if len(names) == 1 else f'{len(names)} numbers'} ({_few(names)})",
    }[report.task]
    text = (
        f"For each sample, the model is asked {what}. It sees {len(report.modality_names)} kinds of data, called "
        f"modalities: {modalities}. This page is about {len(report)} samples."
    )
    if report.clusters is not None:
        text += f" They belong to {report.n_clusters} groups; intervals are for another draw of groups."
    basis = f"The model has no experts for these interactions: the weights are {report.basis}." if report.basis else ""
    return paragraph(text, "lead") + (paragraph(basis, "note") if basis else "")


def how_good(report: Diagnostics) -> str:
    """How good the model is, from all modalities and from each alone."""
    guess = chance(report.task, report.target)
    rows = [Bar(label, q.score, q.low, q.high, _score(report, q.score)) for label, q in _qualities(report).items()]
    by_guess = {
        "classification": "Always saying the most frequent class",
        "multilabel": "Always saying what is more frequent for each label",
        "regression": "Always saying the mean of the targets",
    }[report.task]
    return section(
        "good",
        "How good is it?",
        paragraph(
            f"Score: {score_name[report.task]}, {_SCORE[report.task]}. {by_guess} would reach {_score(report, guess)} "
            "(dotted line)."
        ),
        bars(rows, top=1.0, mark=guess),
        paragraph(
            f"The dark line in a bar is the {report.confidence:.0%} interval: how far the score may be off because the "
            "samples are few. A number in parentheses is that of the samples that have the modality.",
            "note",
        ),
        paragraph("The model has no predictions from single modalities to compare with.", "note")
        if not report.quality_alone
        else "",
    )


def what_drives(report: Diagnostics) -> str:
    """The mean weights over all samples, by class and by outcome."""
    names, overall = report.expert_names, report.overall
    meanings = {
        name: f"rests on {meaning(interaction, report.modality_names)}."
        for name, interaction in zip(names, report.interactions, strict=True)
    }
    colors = expert_colors(names, report.interactions)
    header = ["interaction", "mean weight", f"{report.confidence:.0%} interval", "varies by"]
    note = "Varies by: the standard deviation of the weight between samples."
    rows = [
        [name, f"{overall.mean[e]:.1%}", _interval(overall, e), f"{overall.std[e]:.1%}"] for e, name in enumerate(names)
    ]
    if report.computed:
        header.append("of variance")
        note += (
            " Of variance: the mean in which a sample counts by the squared distance of its prediction from the prior, "
            "what is predicted from nothing. A prediction near it has little that could be shared out."
        )
        shares = report.variance_shares.tolist()
        rows = [[*row, "-" if math.isnan(share) else f"{share:.1%}"] for row, share in zip(rows, shares, strict=True)]
    classes = sorted(report.per_class.items(), key=lambda item: -item[1].n_samples)
    n_more = len(classes) - MOST_ROWS
    kind = "label" if report.task == "multilabel" else "class"
    by_class = [
        f"<h3>By {kind}</h3>",
        paragraph(f"The same for the samples of each true {kind}."),
        _chart(dict(classes[:MOST_ROWS]), report),
        paragraph(f"{n_more} smaller ones are left out.", "note") if n_more > 0 else "",
    ]
    available = dict(list(report.by_availability.items())[:MOST_ROWS])
    outcome = "Lower and higher error" if report.task == "regression" else "Right and wrong predictions"
    return section(
        "drives",
        "Which interactions drive it?",
        paragraph(
            "An interaction is a way in which modalities tell the answer. Each sample has a weight on each; a sample's "
            "weights sum to 100%. These are their means:"
        ),
        legend(colors, meanings),
        _chart({"all": overall}, report),
        table(header, rows),
        paragraph(note, "note"),
        *(by_class if classes else []),
        f"<h3>{outcome}</h3>",
        _chart(report.by_outcome, report),
        *(
            (
                "<h3>By the modalities that samples have</h3>",
                paragraph(
                    "The uniqueness of a modality that a sample lacks has no weight. Where a sample has one modality "
                    "alone, its uniqueness has all, whatever the modality knows."
                ),
                _chart(available, report),
            )
            if len(available) > 1
            else ()
        ),
    )


def without_a_modality(report: Diagnostics) -> str:
    """What is lost when modalities are missing."""
    if report.predictions_without is None:
        return ""
    name = score_name[report.task]
    costs = list(cost_of_dropping(report).items())[:MOST_ROWS]
    rows = [
        Bar(f"without {subset.replace('+', ' and ')}", cost.cost, cost.low, cost.high, _points(report, cost.cost))
        for subset, cost in costs
    ]
    ends = [end for row in rows for end in (row.value, row.low, row.high) if not math.isnan(end)]
    detail = [
        [
            subset.replace("+", " and "),
            _score(report, cost.score),
            *_fall(report, cost),
            *(() if report.predictions_retrained is None else _fall(report, cost.retrained)),
            str(cost.n_samples),
        ]
        for subset, cost in costs
    ]
    unit = "" if report.task == "regression" else " in percentage points (pp)"
    header = ["without", name, "falls by", f"{report.confidence:.0%} interval"]
    anew = "one that is trained without the modality may lose less."
    if report.predictions_retrained is not None:
        header += ["trained anew falls by", f"{report.confidence:.0%} interval"]
        anew = "what one loses that is trained without the modality stands beside it (trained anew)."
    how = "Predictions are made as said at the top" if report.basis else "This model is asked to do without"
    pairs = list(pair_interactions(report).values())[:MOST_ROWS]
    return section(
        "without",
        "What happens when a modality is missing?",
        paragraph(f"By how much the {name} falls{unit} when the model has to do without, with the same samples:"),
        bars(rows, bottom=min([*ends, 0.0]), top=max([*ends, 1e-9]), mark=0.0, color="#D55E00"),
        table([*header, "samples"], detail),
        paragraph(
            f"An interval that holds 0 means that no loss was found. {how}; {anew} "
            "Samples with nothing left are not counted, and a dash means that too few are left.",
            "note",
        ),
        *(
            (
                "<h3>Which pairs replace each other, which are needed together?</h3>",
                items(pair.sentence(points=report.task != "regression") for pair in pairs),
                paragraph("Only samples count that have both of the pair, and another modality left.", "note"),
            )
            if pairs
            else ()
        ),
    )


def how_sure(report: Diagnostics) -> str:
    """Whether the weights can be believed."""
    warnings = report_warnings(report)
    found = (
        items(warnings, "warnings")
        if warnings
        else paragraph("None of the checks of this library found anything suspicious.")
    )
    header, columns = ["interaction"], [list(report.expert_names)]
    explained = []
    if report.weight_spread is not None:
        header.append("members differ by")
        columns.append([f"{value:.1%}" for value in report.weight_spread.mean(0).tolist()])
        explained.append(
            "The model holds several members, which were trained together. Members differ by: the standard deviation "
            "of the weights that each member's own predictions give, mean over samples. The larger it is, the less "
            "can be read from the weights of a single sample."
        )
    if report.marginals is not None:
        header.append("faithfulness")
        columns.append(_correlations(report.faithfulness))
        explained.append(
            "Faithfulness: whether the weight is high for the samples where the model's own predictions, from each "
            "modality alone and from all, show this interaction. A rank correlation: 1 fully, 0 not at all, below 0 "
            "the opposite; a dash where the weight is constant."
        )
    if report.comprehensiveness is not None and not report.computed:
        header.append("agreement")
        columns.append(_correlations(report.agreement))
        explained.append(
            "Agreement: whether the weight is high for the samples whose score falls as the interaction says when "
            "modalities are replaced by noise or by those of other samples. A rank correlation as well, and lower by "
            "nature: the score of a single sample is partly chance."
        )
    calibration = [
        [name, f"{q.calibration_error:.3f}", f"{q.calibration_noise:.3f}", f"{q.nll:.3f}"]
        for name, q in _qualities(report).items()
        if q.nll is not None
    ]
    return section(
        "sure",
        "How sure are the weights?",
        found,
        table(header, zip(*columns, strict=True)) if len(header) > 1 else "",
        items(explained, "note") if explained else "",
        "<h3>Are predictions as sure as they are right?</h3>" if calibration else "",
        paragraph(
            "Of predictions with a probability of 80%, 80% should be right. The calibration error is how far they are "
            "from it on average (0 at best, 1 at worst); next to it what chance alone would give for so many samples. "
            "The negative log-likelihood, in nats, is low where the truth was given a high probability."
        )
        if calibration
        else "",
        table(["predictions from", "calibration error", "by chance", "negative log-likelihood"], calibration)
        if calibration
        else "",
    )


def words(report: Diagnostics) -> str:
    """What the words of the page mean."""
    meanings = {
        "modality": "a kind of data that describes each sample: " + joined(report.modality_names) + ".",
        "uniqueness": "what one modality says and no other does.",
        "synergy": "what can only be known from several modalities together.",
        "redundancy": "what several modalities say alike, so that one of them would do. Where modalities each add a "
        "part of their own, as in a sum, what they move alike counts too.",
        "weight": "the share of a prediction that is put down to an interaction, between 0% and 100%.",
        "expert": "what stands for one interaction; experts may share one network, and then predict alike.",
    }
    entries = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in meanings.items())
    limits = (
        "Weights describe this model on these samples. They do not say that one thing causes another, nor what another "
        "model would find."
    )
    return section("words", "Words on this page", f"<dl>{entries}</dl>", paragraph(limits, "note"))


def _chart(groups: dict[str, WeightStatistics], report: Diagnostics) -> str:
    known = {name: group for name, group in groups.items() if group.n_samples}
    rows = {
        f"{name} ({group.n_samples}{'*' if group.n_samples < FEW_SAMPLES else ''})": dict(
            zip(report.expert_names, group.mean.tolist(), strict=True)
        )
        for name, group in known.items()
    }
    small = any(group.n_samples < FEW_SAMPLES for group in known.values())
    note = paragraph(f"In parentheses the number of samples. * fewer than {FEW_SAMPLES}: a rough mean.", "note")
    return stacked(rows, expert_colors(report.expert_names, report.interactions)) + (note if small else "")


def _qualities(report: Diagnostics) -> dict[str, Quality]:
    found = {f"{name} alone": quality for name, quality in report.quality_alone.items()}
    found |= {"all together": report.quality}
    few = any(quality.n_samples < len(report) for quality in found.values())  # some lack a modality
    return {f"{label} ({quality.n_samples})" if few else label: quality for label, quality in found.items()}


def _score(report: Diagnostics, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:z.3f}" if report.task == "regression" else f"{value:z.1%}"


def _points(report: Diagnostics, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:z.3f}" if report.task == "regression" else f"{100 * value:z.1f} pp"


def _fall(report: Diagnostics, cost: DroppingCost | None) -> list[str]:
    if cost is None or math.isnan(cost.low):
        return ["-" if cost is None else _points(report, cost.cost), "-"]
    low = _points(report, cost.low).removesuffix(" pp")
    return [_points(report, cost.cost), f"{low} to {_points(report, cost.high)}"]


def _interval(group: WeightStatistics, e: int) -> str:
    return "-" if group.low[e].isnan() else f"{group.low[e]:.1%} to {group.high[e]:.1%}"


def _correlations(values: Tensor) -> list[str]:
    return ["-" if math.isnan(value) else f"{value:.2f}" for value in values.tolist()]


def _few(names: tuple[str, ...], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
