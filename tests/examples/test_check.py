"""The command that looks at files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from examples.datasets import find
from examples.datasets._interface import Expected, MultimodalData, Split
from examples.make_fixture import main as make_fixture
from examples.reproduce.__main__ import main
from examples.reproduce.check import compare, describe


def data_of(targets: torch.Tensor, task: str = "classification") -> MultimodalData:
    available = torch.tensor([[True, i != 1] for i in range(len(targets))])
    split = Split((torch.zeros(len(targets), 3), torch.zeros(len(targets), 2, 5)), targets, available)
    names = ("no", "yes") if task != "regression" else ("value",)
    return MultimodalData(split, split, split, ("a", "b"), names, task, ("accuracy",))  # type: ignore[arg-type]


def test_differences_are_found() -> None:
    data = data_of(torch.tensor([0, 1, 1, 1]))
    assert not any(finding.expected for finding in compare(data, Expected()))
    right = Expected(12, (4, 4, 4), ((3,), (2, None)), 2)
    assert all(finding.agrees for finding in compare(data, right))
    for wrong in (
        Expected(13, (4, 4, 4), ((3,), (2, None)), 2),
        Expected(12, (4, 4, 5), ((3,), (2, None)), 2),
        Expected(12, None, ((3,), (3, 5)), 2),
        Expected(12, None, ((3,), (2,)), 2),
        Expected(12, None, ((3,), (2, None)), 3),
    ):
        assert sum(not finding.agrees for finding in compare(data, wrong)) == 1


@pytest.mark.parametrize(
    ("targets", "task", "text"),
    [
        (torch.tensor([0, 1, 1, 1]), "classification", "no 25.0%, yes 75.0%"),
        (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "multilabel", "no 50.0%, yes 100.0%"),
        (torch.tensor([[1.0], [3.0]]), "regression", "mean 2.000, deviation 1.000, from 1.000 to 3.000"),
    ],
)
def test_balance_and_gaps_are_described(targets: torch.Tensor, task: str, text: str) -> None:
    findings = describe(data_of(targets, task))
    assert findings[0].found == text
    assert findings[3].found == f"b {1 / len(targets):.1%}, any {1 / len(targets):.1%}"


def test_a_fixture_is_checked_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_fixture("mimic", tmp_path)
    assert "5 files" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["check", "mimic", "--root", str(tmp_path)])
    assert caught.value.code == 2  # it is tiny
    assert "9,003" in capsys.readouterr().out
    main(["check", "watch"])
    assert "2,369" in capsys.readouterr().out


def test_mistakes_end_with_one_message(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: these files must exist") as caught:
        main(["check", "mosi", "--root", str(tmp_path)])
    assert find("mosi").where in str(caught.value)
    with pytest.raises(SystemExit, match="error: a data set must be one of"):
        main(["check", "imagenet"])
