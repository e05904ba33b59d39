"""The benchmarks of speed run, and count what they claim to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from examples.benchmarks import cheaper, many_samples, step_time
from examples.benchmarks._reference import Reference


def test_a_setting_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "numbers.json"
    rivals = ("bound", "auto", "sequential", "E forwards", "evaluation")
    step_time.main(step_time.Options(settings=("MLP",), contenders=rivals, json=file, repeats=2))
    found = json.loads(file.read_text())["settings"]["MLP"]
    assert tuple(found) == rivals
    assert found["bound"]["operators"] < found["auto"]["operators"] < found["sequential"]["operators"]
    assert found["evaluation"]["kept"] <= found["auto"]["kept"]
    assert "MLP: 3 modalities" in capsys.readouterr().out


def test_computed_weights_are_measured_beside_bounds_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "numbers.json"
    rivals = ("one backbone", "computed bound", "computed", "members=1", "E + M forwards", "evaluation, members=1")
    step_time.main(step_time.Options(settings=("MLP",), contenders=rivals, json=file, repeats=2))
    found = json.loads(file.read_text())["settings"]["MLP"]
    assert found["computed"]["parameters"] == found["computed bound"]["parameters"]
    assert found["members=1"]["parameters"] == found["one backbone"]["parameters"]
    assert found["computed"]["parameters"] == 5 * found["one backbone"]["parameters"]
    assert found["computed bound"]["operators"] < found["computed"]["operators"]
    bounds = [line.split()[3:5] for line in capsys.readouterr().out.splitlines() if line.startswith("computed bound")]
    assert bounds[0][1] == "1.00"


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a checkout of the authors' repository, however"):
        Reference(tmp_path)


def test_cheaper_steps_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    cheaper.main(cheaper.Options(seeds=1, epochs=1, n_train=256))
    out = capsys.readouterr().out
    assert all(name in out for name in cheaper.CHEAPER)
    assert "the 1 highest-weighted of each sample" in out


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
def test_a_report_of_many_samples_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    many_samples.main(many_samples.Options(n_samples=5000))
    parts = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert parts == ["imports", "explain, which keeps 0.00 GB", "summary", "page"]
