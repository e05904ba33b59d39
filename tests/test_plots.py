"""Figures show what the report says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from i2moe.interpretation import InteractionReport
from i2moe.interpretation.plots import plot_classes, plot_faithfulness, plot_losses, plot_sample, plot_weights

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
pyplot = pytest.importorskip("matplotlib.pyplot")

EXAMPLE = InteractionReport.example()
REGRESSION = replace(EXAMPLE, task="regression", target=EXAMPLE.prediction + 1)
MULTILABEL = replace(EXAMPLE, task="multilabel", target=torch.tensor([[1.0, 0], [1, 0], [0, 0], [1, 0]]))


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    pyplot.close("all")  # those that other tests of this process left
    yield
    pyplot.close("all")


@pytest.mark.parametrize("report", [EXAMPLE, REGRESSION, MULTILABEL], ids=lambda report: report.task)
def test_every_figure_draws_on_the_axes_given_and_opens_no_other(report: InteractionReport) -> None:
    figure, axes = pyplot.subplots(2, 2)
    assert plot_weights(report, ax=axes[0, 0]) is axes[0, 0]
    assert plot_sample(report, 1, ax=axes[0, 1]) is axes[0, 1]
    assert plot_faithfulness(report, ax=axes[1, 0]) is axes[1, 0]
    if report.task != "regression":
        assert plot_classes(report, ax=axes[1, 1]) is axes[1, 1]
    assert pyplot.get_fignums() == [figure.number]
    figure.canvas.draw()


def test_weights_mark_the_mean() -> None:
    ax: Any = plot_weights(EXAMPLE)
    marked = [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() == "o"]
    assert marked == pytest.approx(EXAMPLE.overall.mean.tolist())
    assert [label.get_text() for label in ax.get_yticklabels()] == list(EXAMPLE.expert_names)


def test_outlines_hold_every_sample() -> None:
    weights = torch.eye(4)  # the ends of the range belong to the histogram
    report = replace(EXAMPLE, weights=weights)
    ax: Any = plot_weights(report)
    filled = [patch for patch in ax.patches if patch.get_fill()]
    for row, patch in enumerate(filled):
        heights = row - torch.tensor(patch.get_data().values)
        assert heights[0] > heights[-1] > 0
        assert heights[1:-1].abs().max() < 1e-6


def test_classes_show_mean_weights_and_say_where_there_are_no_samples() -> None:
    report = replace(EXAMPLE, target=torch.zeros(4, dtype=torch.long))
    ax: Any = plot_classes(report)
    shown = [text.get_text() for text in ax.texts]
    assert shown[:4] == [f"{value:.2f}" for value in report.overall.mean]
    assert shown[4:] == ["no samples", "", "", ""]


def test_bars_of_a_sample_end_at_its_contributions() -> None:
    ax: Any = plot_sample(EXAMPLE, 1 - len(EXAMPLE))
    assert ax.get_title().startswith("Sample 1:")
    contributions = EXAMPLE.contributions[1]
    contributions = contributions - contributions.mean(1, keepdim=True)
    widths = torch.tensor([[bar.get_width() for bar in container] for container in ax.containers])
    torch.testing.assert_close(widths, contributions.double(), rtol=0, atol=1e-6)
    diamonds = next(line for line in ax.get_lines() if line.get_marker() == "D")
    assert list(diamonds.get_xdata()) == pytest.approx(contributions.sum(0).tolist())


def test_bars_of_a_sample_do_not_overlap() -> None:
    predictions = torch.tensor([[[4.0], [-3], [2], [-1]]])
    report = InteractionReport(
        task="regression",
        modality_names=("a", "b"),
        expert_names=EXAMPLE.expert_names,
        interactions=EXAMPLE.interactions,
        output_names=("output",),
        weights=torch.full((1, 4), 0.25),
        expert_predictions=predictions,
        prediction=predictions.mean(1),
        target=torch.zeros(1, 1),
        comprehensiveness=None,
        sufficiency=None,
        checksums=torch.zeros(1),
    )
    ax: Any = plot_sample(report, 0)
    spans = sorted(
        (min(bar.get_x(), bar.get_x() + bar.get_width()), max(bar.get_x(), bar.get_x() + bar.get_width()))
        for container in ax.containers
        for bar in container
    )
    assert spans == [(-1.0, -0.75), (-0.75, 0.0), (0.0, 1.0), (1.0, 1.5)]
    assert "predicted 0.5, true 0" in ax.get_title()


def test_a_sample_of_many_classes_shows_the_true_and_the_predicted_one() -> None:
    n_classes = 30
    expert_predictions = torch.zeros(1, 4, n_classes)
    expert_predictions[..., 7], expert_predictions[..., 20] = 3.0, 2.0
    report = replace(
        EXAMPLE,
        output_names=tuple(str(c) for c in range(n_classes)),
        weights=torch.full((1, 4), 0.25),
        expert_predictions=expert_predictions,
        prediction=expert_predictions.mean(1),
        target=torch.tensor([11]),
        comprehensiveness=None,
        sufficiency=None,
        checksums=torch.zeros(1),
    )
    labels = [label.get_text() for label in plot_sample(report, 0, n_outputs=3).get_yticklabels()]
    assert labels == ["7", "11", "20"]


def test_faithfulness_rises_for_weights_that_follow_the_evidence() -> None:
    evidence = torch.linspace(0, 1, 100, dtype=torch.float64)
    fall = torch.stack([evidence, torch.zeros(100)], dim=1)
    weights = torch.stack([0.4 * evidence + 0.1, 0.5 - 0.4 * evidence, *[torch.full((100,), 0.2)] * 2], dim=1)
    report = replace(
        EXAMPLE,
        weights=weights,
        expert_predictions=torch.zeros(100, 4, 2),
        prediction=torch.zeros(100, 2),
        target=torch.zeros(100, dtype=torch.long),
        comprehensiveness=fall,
        sufficiency=fall.flip(1),
        checksums=torch.zeros(100),
    )
    ax: Any = plot_faithfulness(report, n_bins=5)
    first, second = (torch.as_tensor(line.get_ydata()) for line in ax.get_lines()[:2])
    assert len(first) == 5
    assert (first.diff() > 0).all()
    assert first.mean().item() == pytest.approx(weights[:, 0].mean().item())
    assert (second.diff() > 0).all()  # evidence of the other modality's uniqueness falls, as its weight does
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend[0] == "uniqueness/image, +1.00"
    assert legend[2] == "synergy, constant"


def test_many_losses_look_different() -> None:
    names = ["task", "interaction", "aux", "supervision", "weights", "experts", "probes", "interaction/synergy"]
    lines = plot_losses([dict.fromkeys(names, 1.0)]).get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(names)


def test_losses_skip_steps_without_a_value() -> None:
    history: list[dict[str, float | Tensor]] = [
        {"step": 10, "task": torch.tensor(2.0), "interaction/synergy": 1.0},
        {"step": 20, "task": 1.0},
        {"step": 30, "task": 0.5, "interaction/synergy": 0.0},
    ]
    lines: list[Any] = list(plot_losses(history).get_lines())
    task, synergy = lines
    assert list(task.get_xdata()) == [10, 20, 30]
    assert list(task.get_ydata()) == [2.0, 1.0, 0.5]
    assert list(synergy.get_xdata()) == [10, 30]


def test_experts_keep_their_color() -> None:
    history = [{f"interaction/{name}": 1.0 for name in EXAMPLE.expert_names}]
    faithfulness, losses = (
        [line.get_color() for line in ax.get_lines()] for ax in (plot_faithfulness(EXAMPLE), plot_losses(history))
    )
    assert faithfulness == losses
    assert len(set(losses)) == 4
    some = plot_losses(history, names=["interaction/uniqueness/text", "interaction/synergy"])
    assert [line.get_color() for line in some.get_lines()] == losses[1:3]
    weights = EXAMPLE.weights[:, 1:3]
    pruned = replace(
        EXAMPLE,
        expert_names=EXAMPLE.expert_names[1:3],
        interactions=EXAMPLE.interactions[1:3],
        weights=weights / weights.sum(1, keepdim=True),
        expert_predictions=EXAMPLE.expert_predictions[:, 1:3],
    )
    assert [line.get_color() for line in plot_faithfulness(pruned).get_lines()] == losses[1:3]
    for color in losses[1:3]:
        assert str(color) in pruned._repr_html_()
    assert str(losses[0]) not in pruned._repr_html_()


class TestErrors:
    def test_no_classes_in_regression(self) -> None:
        with pytest.raises(ValueError, match="must have classes, however the task is regression"):
            plot_classes(REGRESSION)

    @pytest.mark.parametrize("index", [4, -5])
    def test_a_sample_that_does_not_exist_is_refused(self, index: int) -> None:
        with pytest.raises(IndexError, match="one of 4 samples"):
            plot_sample(EXAMPLE, index)

    def test_faithfulness_was_not_measured(self) -> None:
        with pytest.raises(ValueError, match="must have been measured"):
            plot_faithfulness(replace(EXAMPLE, comprehensiveness=None))
        with pytest.raises(ValueError, match="n_bins must be at least 2"):
            plot_faithfulness(EXAMPLE, n_bins=1)

    @pytest.mark.parametrize("names", [["tsak"], []])
    def test_names_never_logged_are_refused(self, names: list[str]) -> None:
        with pytest.raises(ValueError, match=r"some of the logged \('task',\)"):
            plot_losses([{"task": 1.0}], names=names)

    def test_an_empty_history_is_refused(self) -> None:
        with pytest.raises(ValueError, match="some of the logged"):
            plot_losses([])

    def test_without_matplotlib_the_error_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
        with pytest.raises(ImportError, match=r"pip install 'i2moe\[plot\]'"):
            plot_weights(EXAMPLE)


def test_a_dollar_in_a_name_is_no_mathematics() -> None:
    report = replace(EXAMPLE, output_names=("under $\\50", "over $\\80"))
    for draw in (plot_classes, lambda report: plot_sample(report, 1)):
        draw(report).figure.canvas.draw()
