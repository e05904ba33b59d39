"""The MMoE example: it runs from end to end, and goes on where it was cut off."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib as mpl
import pytest
from rich.console import Console

from examples import mmoe_watch
from examples.datasets.watch import CLASS_NAMES
from tests.examples.fewer import load_few

mpl.use("Agg")


def test_main_prints_the_report_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(mmoe_watch, "load_watch", load_few)
    stages = tmp_path / "stages"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one epoch leaves few windows of some kinds
        mmoe_watch.main(["--epochs", "1", "--checkpoints", str(stages), "--figure", str(tmp_path / "figure.png")])
        printed = capsys.readouterr().out
        data = load_few()
        again = mmoe_watch.fit(data, 1, Console(), stages).report(data.test.modalities, data.test.labels)

    for word in (*CLASS_NAMES, "uniqueness/gyroscope", "baseline", "oracle", "another choice of distance"):
        assert word in printed
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert len(list(stages.iterdir())) == 9
    assert f"{again.overall.baseline:.3f}" in printed
    assert f"{again.overall.mixture:.3f}" in printed
