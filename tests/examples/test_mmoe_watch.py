"""The MMoE example: it runs from end to end, and goes on where it was cut off."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

from examples import mmoe_watch
from examples.datasets.watch import CLASS_NAMES

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Undo what `main` sets."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.slow
def test_main_prints_the_report_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    arguments = ["--epochs", "1", "--checkpoints", str(tmp_path / "stages"), "--figure", str(tmp_path / "figure.png")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one epoch leaves few windows of some kinds
        mmoe_watch.main(arguments)
        first = capsys.readouterr().out
        mmoe_watch.main(arguments)
    again = capsys.readouterr().out

    for word in (*CLASS_NAMES, "uniqueness/gyroscope", "baseline", "oracle", "With another distance"):
        assert word in first
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert len(list((tmp_path / "stages").iterdir())) == 9
    report = [line for line in first.splitlines() if line.strip().startswith(("synergy", "redundancy", "all"))]
    assert report
    assert all(line in again for line in report)
