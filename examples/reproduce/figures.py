"""Figures of a run: its loss curves and, where there are experts, their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from examples.datasets._interface import MultimodalData
from examples.reproduce.learner import Learner
from i2moe import InteractionMoE, explain
from i2moe.interpretation.plots import plot_losses, plot_weights

__all__ = ["draw"]


def draw(
    learner: Learner, data: MultimodalData, history: Sequence[dict[str, float]], folder: Path, device: torch.device
) -> None:
    """Write `losses.png`, and of interaction experts `weights.png`, the weights of the test samples.

    Args:
        learner: the trained model.
        data: the data.
        history: what each epoch logged.
        folder: where to.
        device: where the model is.
    """
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    _save(plot_losses(history), folder / "losses.png")
    if not isinstance(learner.fusion, InteractionMoE):
        return

    def on_device(rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        batch = data.test[rows]
        return tuple(x.to(device) for x in batch.modalities), batch.targets

    report = explain(
        learner,
        map(on_device, torch.arange(len(data.test)).split(256)),
        task=data.task,
        class_names=data.output_names,
        call=lambda model, modalities: model(modalities),
        n_draws=0,
    )
    _save(plot_weights(report), folder / "weights.png")


def _save(axes: object, path: Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
