"""Figures of reports and of training; needs matplotlib: `pip install "i2moe[plot]"`.

Each function draws on `ax`, or on a new figure, and returns the Axes for the caller to change, combine or save:
`plot_weights(report).figure.savefig("weights.png")`. Experts keep their color in all figures of a
model that has all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from i2moe._common.names import INK, expert_colors
from i2moe.interpretation.report import InteractionReport
from i2moe.interpretation.report.record import position
from i2moe.interpretation.statistics import ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_classes", "plot_faithfulness", "plot_losses", "plot_sample", "plot_weights"]

_FAINT = "#BBBBBB"


def plot_weights(report: InteractionReport, *, ax: Axes | None = None) -> Axes:
    """Draw how each expert's weight is distributed over the samples.

    The outline's height is the square root of the share of samples at that weight, scaled to each expert's highest. The
    dot is the mean and the bar its interval. The dotted line is an even share, 1 / E.

    Args:
        report: the report.
        ax: where to draw.

    Raises:
        ImportError: without matplotlib.

    Example:
        >>> ax = plot_weights(InteractionReport.example())
        >>> ax.get_xlabel()
        'weight'
    """
    n_experts = len(report.expert_names)
    ax = _axes(ax, height=1.2 + 0.7 * n_experts)
    edges = torch.linspace(0, 1, 41)
    overall = report.overall
    for row, color in enumerate(expert_colors(report.expert_names, report.interactions).values()):
        shares = torch.histc(report.weights[:, row].float(), bins=40, min=0, max=1) / len(report)
        # The square root keeps the few samples visible beside a peak that holds most of them.
        heights = (shares / shares.max()).sqrt() * 0.8
        ax.stairs((row - heights).tolist(), edges.tolist(), baseline=row, fill=True, color=color, alpha=0.55)
        ax.stairs((row - heights).tolist(), edges.tolist(), baseline=row, color=color, linewidth=1)
        mean, low, high = (float(value[row]) for value in (overall.mean, overall.low, overall.high))
        ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="o", color=INK, markersize=5, capsize=3)
        ax.annotate(f"mean {mean:.2f}", (1, row), (8, 0), textcoords="offset points", va="bottom", color=INK)
    ax.axvline(1 / n_experts, color=INK, linestyle=":", linewidth=1)
    ax.set_yticks(range(n_experts), report.expert_names)
    ax.set(xlim=(0, 1), ylim=(n_experts - 0.7, -0.95), xlabel="weight", title=f"Weights of {len(report)} samples")
    _tidy(ax)
    return ax


def plot_classes(report: InteractionReport, *, ax: Axes | None = None) -> Axes:
    """Draw each expert's mean weight for each true class (or label) as a heat map.

    Args:
        report: of a classification or multi-label task.
        ax: where to draw.

    Raises:
        ImportError: without matplotlib.
        ValueError: in regression, which has no classes.

    Example:
        >>> ax = plot_classes(InteractionReport.example())
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['cat (1)', 'dog (3)']
    """
    classes = report.per_class
    if not classes:
        raise ValueError(
            "a heat map of classes must have classes, however the task is regression; "
            "use report.by_group(...) with groups of your own"
        )
    n_experts = len(report.expert_names)
    ax = _axes(ax, width=2.4 + 1.1 * n_experts, height=1.8 + 0.42 * len(classes))
    means = torch.stack([group.mean for group in classes.values()])
    top = max(0.5, float(means.nan_to_num().max()))
    image = ax.imshow(means.tolist(), cmap="Blues", vmin=0, vmax=top, aspect="auto")
    for row, values in enumerate(means.tolist()):
        for column, value in enumerate(values):
            text = f"{value:.2f}" if value == value else "no samples" if column == 0 else ""
            ax.text(column, row, text, ha="center", va="center", color="white" if value > 0.6 * top else INK)
    ax.figure.colorbar(image, ax=ax, label="mean weight")
    ax.set_xticks(range(n_experts), [name.replace("/", "/\n") for name in report.expert_names])
    ax.set_yticks(range(len(classes)), [f"{name} ({group.n_samples})" for name, group in classes.items()])
    ax.set(ylabel="label" if report.task == "multilabel" else "true class", title="Mean weight by class (samples)")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    _show_as_it_is(ax)
    return ax


def plot_sample(report: InteractionReport, index: int, *, n_outputs: int = 5, ax: Axes | None = None) -> Axes:
    """Draw what each expert contributes to the outputs for one sample.

    An output's bars, one per expert, sum to the diamond. Class logits are shown minus their mean over the classes,
    which the softmax does not see. Outputs are the true class, then those with the largest contributions.

    Args:
        report: the report.
        index: the sample's position in the data.
        n_outputs: how many outputs to show at most.
        ax: where to draw.

    Raises:
        ImportError: without matplotlib.
        IndexError: if there is no such sample.

    Example:
        >>> ax = plot_sample(InteractionReport.example(), 2)
        >>> ax.get_title()
        'Sample 2: predicted dog (0.98), true dog'
    """
    index = position(report, index)
    contributions = report.contributions[index].double()  # (E, C)
    if report.task == "classification":
        contributions = contributions - contributions.mean(1, keepdim=True)
    shown = _outputs_to_show(report, index, contributions, n_outputs)
    ax = _axes(ax, height=2.0 + 0.6 * len(shown))

    for e, (name, color) in enumerate(expert_colors(report.expert_names, report.interactions).items()):
        values = contributions[:, shown]
        # Bars of one sign start where those of the experts before end.
        same_sign = values[:e] * (values[:e].sign() == values[e].sign())
        label = f"{name}, weight {report.weights[index, e]:.2f}"
        starts = same_sign.sum(0).tolist()
        style: dict[str, Any] = {"height": 0.6, "color": color, "edgecolor": "white", "linewidth": 0.5}
        ax.barh(range(len(shown)), values[e].tolist(), left=starts, label=label, **style)
    totals = contributions.sum(0)[shown].tolist()
    ax.plot(totals, range(len(shown)), "D", color="white", markeredgecolor=INK, markersize=7, label="sum")
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_yticks(range(len(shown)), [report.output_names[c] for c in shown])
    ax.set(ylim=(len(shown) - 0.5, -0.5), xlabel=_CONTRIBUTION[report.task], title=_describe(report, index))
    ax.use_sticky_edges = False  # bars would stick to the frame and cut the diamonds
    ax.margins(x=0.08)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _tidy(ax)
    return ax


def plot_faithfulness(report: InteractionReport, *, n_bins: int = 10, ax: Axes | None = None) -> Axes:
    """Draw each expert's weight against how strongly the model behaves like its interaction.

    Samples are ranked by `report.evidence` and cut into groups of equal size; a point is a group's mean weight, the
    band its standard error. A weight that means what it says rises from left to right.

    Args:
        report: the report, with faithfulness measured.
        n_bins: number of groups.
        ax: where to draw.

    Raises:
        ImportError: without matplotlib.
        ValueError: if faithfulness was not measured or `n_bins` is below 2.

    Example:
        >>> ax = plot_faithfulness(InteractionReport.example(), n_bins=2)
        >>> ax.get_ylabel()
        'mean weight'
    """
    if n_bins < 2:
        raise ValueError(f"n_bins must be at least 2, however it is {n_bins}")
    ax = _axes(ax, height=4.2)
    for e, (name, color) in enumerate(expert_colors(report.expert_names, report.interactions).items()):
        shown = report.evidence[:, e]
        known = ~shown.isnan()
        if not known.any():
            continue
        positions, means, errors = _binned(shown[known], report.weights[known, e].double(), n_bins)
        agreement = float(report.agreement[e])
        label = f"{name}, {'constant' if agreement != agreement else f'{agreement:+.2f}'}"
        ax.plot(positions.tolist(), means.tolist(), "o-", color=color, label=label, markersize=5)
        ax.fill_between(
            positions.tolist(),
            (means - errors).tolist(),
            (means + errors).tolist(),
            color=color,
            alpha=0.2,
            linewidth=0,
        )
    ax.set(
        xlim=(0, 1),
        ylim=(0, None),
        xlabel="samples, ranked by how much the model\nbehaves like the expert's interaction",
        ylabel="mean weight",
        title="Do the weights say what replaced modalities show?",
    )
    ax.set_xticks([0, 0.5, 1], ["least", "middle", "most"])
    ax.legend(title="expert, rank correlation", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _tidy(ax)
    return ax


def plot_losses(
    history: Sequence[Mapping[str, float | Tensor]],
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw logged scalars over training.

    Args:
        history: one dict per logged step, `out.losses` say; a name may be missing from some. `"step"` or `"epoch"`, if
            logged, is the horizontal axis.
        names: which to draw; all by default.
        ax: where to draw.

    Raises:
        ImportError: without matplotlib.
        ValueError: if there is nothing to draw or a name was never logged.

    Example:
        >>> ax = plot_losses([{"epoch": 1, "task": 0.9, "interaction": 0.5}, {"epoch": 2, "task": 0.4}])
        >>> ax.get_xlabel(), [line.get_label() for line in ax.get_lines()]
        ('epoch', ['task', 'interaction'])
    """
    logged = list(dict.fromkeys(name for entry in history for name in entry))
    clock = next((name for name in ("step", "epoch") if name in logged), None)
    names = [name for name in logged if name not in ("step", "epoch")] if names is None else list(names)
    unknown = [name for name in names if name not in logged]
    if unknown or not names:
        raise ValueError(f"names must be some of the logged {tuple(logged)}, however they are {tuple(names)}")

    ax = _axes(ax, height=4.2)
    styles = _loss_styles(logged)  # of all, so that a choice of names keeps its colors
    for name in names:
        entries = [(i, entry) for i, entry in enumerate(history) if name in entry]
        xs = [float(entry[clock]) if clock is not None and clock in entry else i for i, entry in entries]
        ys = [float(entry[name]) for _, entry in entries]
        marker = "o" if len(entries) < 25 else None
        ax.plot(xs, ys, marker=marker, markersize=3.5, label=name, **styles[name])
    ax.set(xlabel=clock if clock is not None else "entry", ylabel="loss", title="Losses during training")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _tidy(ax)
    return ax


_CONTRIBUTION = {
    "classification": "contribution to the logit (mean over classes taken off)",
    "multilabel": "contribution to the label's logit",
    "regression": "contribution to the value",
}


def _axes(ax: Axes | None, *, width: float = 8.0, height: float = 4.0) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need matplotlib, however it is not installed; pip install 'i2moe[plot]'") from error
    return pyplot.subplots(figsize=(width, min(height, 14)), layout="constrained")[1]


def _show_as_it_is(ax: Axes) -> None:
    """Take no `$` in a name for mathematics."""
    from matplotlib.text import Text

    for text in ax.findobj(Text):
        text.set_parse_math(False)


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="both", color=_FAINT, alpha=0.35, linewidth=0.6)
    ax.set_axisbelow(True)
    _show_as_it_is(ax)


def _loss_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The experts' colors for losses named after experts; black and greys for the others, then dashed, then dotted."""
    experts = [name.removeprefix("interaction/") for name in names if name.startswith("interaction/")]
    styles = {f"interaction/{name}": {"color": color} for name, color in expert_colors(experts).items()}
    others = cycle(product(("-", "--", ":", "-."), ("#000000", "#666666", "#999999", "#BBBBBB")))
    return {name: styles.get(name) or dict(zip(("linestyle", "color"), next(others), strict=True)) for name in names}


def _outputs_to_show(report: InteractionReport, index: int, contributions: Tensor, n_outputs: int) -> list[int]:
    """The true class, the predicted one and those with the largest contributions, in the outputs' order."""
    order = contributions.abs().sum(0).argsort(descending=True).tolist()
    if report.task == "classification":
        order = [int(report.target[index]), int(report.decision[index]), *order]
    return sorted(list(dict.fromkeys(order))[: max(1, n_outputs)])


def _describe(report: InteractionReport, index: int) -> str:
    names = report.output_names
    if report.task == "classification":
        predicted, true = int(report.decision[index]), int(report.target[index])
        probability = float(report.prediction[index].softmax(-1)[predicted])
        return f"Sample {index}: predicted {names[predicted]} ({probability:.2f}), true {names[true]}"
    if report.task == "multilabel":
        predicted_labels, true_labels = (
            ", ".join(names[c] for c in labels[index].nonzero().flatten().tolist()) or "none"
            for labels in (report.decision, report.target)
        )
        return f"Sample {index}: predicted {predicted_labels}\ntrue {true_labels}"
    if len(names) == 1:
        return f"Sample {index}: predicted {report.prediction[index, 0]:.3g}, true {report.target[index, 0]:.3g}"
    return f"Sample {index}"


def _binned(evidence: Tensor, weight: Tensor, n_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean rank (0 to 1) and mean weight with its standard error of groups of samples alike in evidence."""
    position = (ranks(evidence) + 0.5) / len(evidence)
    group = (position * n_bins).long().clamp(max=n_bins - 1)
    members = [group == b for b in range(n_bins) if bool((group == b).any())]
    return (
        torch.stack([position[m].mean() for m in members]),
        torch.stack([weight[m].mean() for m in members]),
        torch.stack([weight[m].std(correction=0) / m.sum().sqrt() for m in members]),
    )
