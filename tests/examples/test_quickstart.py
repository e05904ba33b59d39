"""The quickstart: it runs from end to end, and says what came out."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from examples import quickstart
from examples.datasets.watch import CLASS_NAMES, load_watch
from examples.quickstart import COMPUTED, MODELS, Fold
from i2moe import InteractionMoE
from i2moe.interpretation import InteractionReport
from i2moe.interpretation.statistics import rank_correlation
from tests.examples.fewer import load_few

ROOT = Path(__file__).parents[2]


def test_main_ends_with_a_report_and_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(quickstart, "load_watch", load_few)
    figure = tmp_path / "new" / "figure.png"
    state = torch.get_rng_state()

    quickstart.main(["--folds", "1", "--epochs", "1", "--output", str(figure)])

    torch.set_rng_state(state)
    printed = capsys.readouterr().out
    for title in (*MODELS, *CLASS_NAMES, "accelerometer", "synergy", "Report of", "rank correlation", str(figure.name)):
        assert title in printed
    height, width, _ = matplotlib.image.imread(figure).shape
    assert (height, width) > (500, 1000)


def test_the_quickstart_starts_as_a_script(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "examples/quickstart.py"), run_name="__main__")
    assert caught.value.code == 0
    assert "--epochs" in capsys.readouterr().out


def test_models_are_made_of_the_same_network() -> None:
    """The experts of the paper share the encoders; those with computed weights share everything."""
    alone, paper, computed = (MODELS[name].build() for name in ("fusion alone", "I2MoE", COMPUTED))
    names = [name for name, _ in alone.named_parameters()]
    assert isinstance(computed, InteractionMoE)
    shared = [name for name, _ in computed.example_backbone.named_parameters() if "member_factors" not in name]
    assert shared == names
    in_paper = dict(paper.named_parameters())
    assert all(name in in_paper for name in names if name.startswith("encoders"))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_trained(name: str) -> None:
    windows, kind = load_watch().validation, MODELS[name]
    model = kind.build().train()
    kind.loss_of(model(*(x[:16] for x in windows.modalities)), windows.labels[:16]).backward()
    missing = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert {name.rpartition(".")[2] for name in missing} <= {"fill"}


def test_weights_that_name_what_the_model_does_are_true_and_shuffled_ones_are_not() -> None:
    """Of a model whose weights are the shares themselves: it predicts by its experts' mean."""
    windows, model = load_few().validation, MODELS[COMPUTED].build().eval()
    found = quickstart.shares_of(model, windows)
    assert found.shape == (len(windows), 4)
    torch.testing.assert_close(found.sum(1), torch.ones(len(windows)))
    fold = quickstart.examine(model, windows)
    assert fold.report is not None
    assert fold.truth is not None
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    for e in range(4):
        assert fold.truth[e] == pytest.approx(rank_correlation(fold.report.weights[:, e], found[:, e]))
        assert abs(rank_correlation(fold.report.weights[order, e], found[:, e])) < 0.3


def test_verdict_compares_fold_by_fold() -> None:
    report, truth = InteractionReport.example(), torch.tensor([0.5, 0.0, 1.0, -0.5])
    folds = [Fold(accuracy, accuracy, report, truth) for accuracy in (0.7, 0.8, 0.9)]
    results = {"fusion alone": [Fold(accuracy, accuracy) for accuracy in (0.6, 0.7, 0.83)], COMPUTED: folds}
    # gains of 10, 10 and 7 points: mean 9, deviation 1.73, and 4.30 standard errors of 1 for 95%
    assert f"{COMPUTED}: +9.0 [+4.7, +13.3] points" in quickstart.verdict(results)
    assert f"{report.expert_names[3]} -0.50" in quickstart.verdict(results)
    assert "[" not in quickstart.verdict({name: some[:2] for name, some in results.items()})


def test_scores_are_those_counted_by_hand() -> None:
    """Nine of ten windows right, and the tenth of the smaller class wrong: F1 is (18 / 19 + 0) / 2."""

    class Always0(nn.Module):
        def forward(self, accelerometer: torch.Tensor, gyroscope: torch.Tensor) -> torch.Tensor:
            return F.one_hot(torch.zeros(len(accelerometer), dtype=torch.long), len(CLASS_NAMES)).float()

    windows = load_watch().test
    labels = torch.tensor([0] * 9 + [1])
    windows = type(windows)(windows.accelerometer[:10], windows.gyroscope[:10], labels, windows.subjects[:10])
    fold = quickstart.examine(Always0(), windows)
    assert fold.accuracy == pytest.approx(0.9)
    assert fold.macro_f1 == pytest.approx(9 / 19)
    assert fold.report is None


def test_reports_are_of_the_test_windows() -> None:
    windows, model = load_few().test, MODELS[COMPUTED].build()
    report = quickstart.examine(model, windows).report
    assert report is not None
    with torch.no_grad():
        torch.testing.assert_close(report.prediction, model.eval()(*windows.modalities).prediction)
    assert report.output_names == CLASS_NAMES
