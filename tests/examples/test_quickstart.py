"""The quickstart: it runs from end to end, and says what came out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector

from examples import quickstart
from examples.datasets.watch import CLASS_NAMES, load_watch
from examples.quickstart import MODELS, SUPERVISED
from i2moe import InteractionMoE

ROOT = Path(__file__).parents[2]


def test_main_ends_with_a_report_and_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    figure = tmp_path / "new" / "figure.png"
    state = torch.get_rng_state()

    quickstart.main(["--folds", "1", "--epochs", "1", "--output", str(figure)])

    torch.set_rng_state(state)
    printed = capsys.readouterr().out
    for title in (*MODELS, *CLASS_NAMES, "accelerometer", "synergy", "Report of", "by the probes", str(figure.name)):
        assert title in printed
    assert "of 1 folds" in printed
    height, width, _ = matplotlib.image.imread(figure).shape
    assert (height, width) > (500, 1000)


@pytest.mark.parametrize("how", [["examples/quickstart.py"], ["-m", "examples.quickstart"]], ids=["script", "module"])
def test_it_starts_both_ways(how: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *how, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--epochs" in done.stdout


def test_models_differ_in_the_fusion_alone() -> None:
    torch.manual_seed(0)
    alone = MODELS["fusion alone"]()
    torch.manual_seed(0)
    experts = MODELS["I2MoE"]()
    assert isinstance(experts.fusion, InteractionMoE)
    assert all(type(expert) is type(alone.fusion) for expert in experts.fusion.experts)
    assert [p.shape for p in experts.encoders.parameters()] == [p.shape for p in alone.encoders.parameters()]


def test_loss_is_that_of_the_model() -> None:
    """Each model adds what its name says to the cross-entropy; the supervision judges windows by their number."""
    windows, rows, seen = load_watch().validation, torch.arange(5, 21), []
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build().eval()  # nothing random
        with torch.no_grad():
            output = model(*(x[rows] for x in windows.modalities))
            logits = output if isinstance(output, torch.Tensor) else output.prediction
            loss, task = model.loss(windows, rows), F.cross_entropy(logits, windows.labels[rows])
            assert (loss > task) if name == SUPERVISED else (loss == task)
        if model.supervise is not None:
            model.supervise.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True)
            model.train().loss(windows, rows).backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
    assert len(seen) == 1
    assert torch.equal(seen[0]["index"], rows)


def test_training_keeps_the_epoch_that_is_best_on_the_validation_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = load_watch(), MODELS["fusion alone"]()
    states: list[torch.Tensor] = []
    accuracies = iter([0.2, 0.6, 0.4])

    def accuracy_of(predicted: torch.Tensor, windows: object) -> float:
        assert windows is data.validation
        states.append(parameters_to_vector(model.parameters()).detach().clone())
        return next(accuracies)

    monkeypatch.setattr(quickstart, "accuracy_of", accuracy_of)
    quickstart.train(model, data, 3, 0, lambda: None)

    assert torch.equal(parameters_to_vector(model.parameters()), states[1])
    assert not torch.equal(states[1], states[2])


@pytest.mark.parametrize(
    ("gains", "judgment"),
    [
        ([3.0], "one fold says little"),
        ([1.0, -1.0, 0.5], "no clear difference (p = 0.81)"),
        ([1.0, 1.1, 0.9], "a clear gain (p = 0.0033)"),
        ([-1.0, -1.1, -0.9], "a clear loss (p = 0.0033)"),
    ],
)
def test_verdict_is_honest(gains: list[float], judgment: str) -> None:
    assert quickstart.judgment(gains) == judgment


def test_examine() -> None:
    """Nine of ten windows right, and the tenth of the smaller class wrong: F1 is (18 / 19 + 0) / 2."""

    class Always0(nn.Module):
        def forward(self, accelerometer: torch.Tensor, gyroscope: torch.Tensor) -> torch.Tensor:
            return F.one_hot(torch.zeros(len(accelerometer), dtype=torch.long), len(CLASS_NAMES)).float()

    windows = load_watch().test
    labels = torch.tensor([0] * 9 + [1])
    windows = type(windows)(windows.accelerometer[:10], windows.gyroscope[:10], labels, windows.subjects[:10])
    fold = quickstart.examine(quickstart.Recognizer(Always0()), windows)
    assert fold.accuracy == pytest.approx(0.9)
    assert fold.macro_f1 == pytest.approx(9 / 19)
    assert fold.report is None


def test_reports_are_of_the_test_windows() -> None:
    windows, model = load_watch().test, MODELS[SUPERVISED]()
    fold = quickstart.examine(model, windows)
    report = fold.report
    assert report is not None
    assert fold.probed is not None
    assert fold.probed.sum() == pytest.approx(1.0)
    with torch.no_grad():
        torch.testing.assert_close(report.prediction, model.eval()(*windows.modalities).prediction)
    assert report.output_names == CLASS_NAMES
