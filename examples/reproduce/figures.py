"""What a trained model shows: its loss curves and, where there are experts, the report of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from examples.datasets._interface import MultimodalData
from examples.reproduce.learner import Learner
from i2moe import InteractionMoE, explain
from i2moe.interpretation import InteractionReport
from i2moe.interpretation.plots import plot_losses, plot_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "draw_history", "report_of"]


def draw(learner: Learner, data: MultimodalData, history: Sequence[dict[str, float]], folder: Path) -> None:
    """Write `losses.png`, and of interaction experts `report.pt` and `weights.png`, all of the test samples.

    Args:
        learner: the trained model.
        data: the data.
        history: what each epoch logged.
        folder: where to.
    """
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    _save(draw_history(history, f"validation {data.metrics[0]}"), folder / "losses.png")
    if isinstance(learner.fusion, InteractionMoE):
        report = report_of(learner, data)
        report.save(folder / "report.pt")
        _save(_figure_of(plot_weights(report)), folder / "weights.png")


def draw_history(history: Sequence[dict[str, float]], score: str) -> Figure:
    """Draw the losses, and below them the validation score, which is none of them, on an axis of its own.

    Args:
        history: what each epoch logged.
        score: the name of the validation score in it.
    """
    import matplotlib.pyplot as plt

    figure, (losses, scores) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    plot_losses(history, names=[name for name in history[0] if name not in ("epoch", score)], ax=losses)
    plot_losses(history, names=[score], ax=scores)
    losses.set(xlabel="")
    scores.set(ylabel=score, title="")
    scores.legend().remove()
    return figure


def report_of(learner: Learner, data: MultimodalData) -> InteractionReport:
    """Explain the test samples.

    Args:
        learner: a trained model with interaction experts.
        data: the data.
    """

    def batch_of(rows: Tensor) -> tuple[tuple[tuple[Tensor, ...], Tensor], Tensor]:
        batch = data.test[rows]
        return (batch.modalities, batch.available), batch.targets

    return explain(
        learner,
        map(batch_of, torch.arange(len(data.test)).split(256)),
        task=data.task,
        class_names=data.output_names,
        call=lambda model, inputs: model(inputs[0], available=inputs[1]),
    )


def _figure_of(axes: Axes) -> Figure:
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    return figure


def _save(figure: Figure, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
