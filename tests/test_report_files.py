"""Reports as files: whole or one error, and nothing in them is executed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2moe import explain
from i2moe.interpretation import InteractionReport
from tests.test_interpretation import double_batches, make_model, same_tensors

DAMAGED = r"report\.pt must be a whole file written by InteractionReport\.save, however .*; save the report again"


@pytest.mark.parametrize("n_draws", [0, 1])
def test_a_saved_report_is_loaded_as_it_was(tmp_path: Path, n_draws: int) -> None:
    names, confidence = np.array(["a", "ß", "c"]), np.float64(0.9)
    report = explain(
        make_model().double(),
        double_batches(),
        n_draws=n_draws,
        class_names=names,  # type: ignore[arg-type]
        confidence=confidence,
    )
    report.save(tmp_path / "report.pt")
    loaded = InteractionReport.load(tmp_path / "report.pt")
    assert same_tensors(report, loaded)
    assert loaded.summary() == report.summary()
    assert loaded.weights.dtype == torch.float64


def test_a_slice_of_a_large_tensor_is_saved_alone(tmp_path: Path) -> None:
    report = replace(InteractionReport.example(), checksums=torch.zeros(10**6)[:4])
    report.save(tmp_path / "report.pt")
    assert (tmp_path / "report.pt").stat().st_size < 10**5


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "report.pt"
    report = InteractionReport.example()
    report.save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=DAMAGED):
            InteractionReport.load(path)
    for position in range(0, len(whole), 61):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            loaded = InteractionReport.load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            continue
        assert same_tensors(loaded, report)  # a byte that carries nothing, like padding


def contents(**changes: Any) -> dict[str, Any]:
    report = InteractionReport.example()
    return {"format": 2} | {field.name: getattr(report, field.name) for field in fields(report)} | changes


class Executes:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize(
    "crafted",
    [
        [1, 2],
        torch.zeros(3),
        {},
        {"format": 2},
        contents(task="poetry"),
        contents(surprise=1),
        contents(weights=3),
        contents(weights=torch.zeros(4, 4, dtype=torch.long)),
        contents(weights=torch.zeros(4, 5)),
        contents(weights=torch.eye(4).to_sparse()),
        contents(target=torch.tensor([0, 1, 7, -1])),
        contents(target=torch.zeros(4, dtype=torch.complex64)),
        contents(available=torch.zeros(4, 2)),
        contents(modality_names=3),
        contents(expert_names=(1, 2, 3, 4)),
        contents(interactions=(0, 1, 2, "synergy")),
        contents(interactions=([], 1, "synergy", "redundancy")),
        contents(confidence=95),
        contents(confidence="high"),
        contents(checksums=Executes()),
    ],
)
def test_crafted_contents_end_in_one_error(tmp_path: Path, crafted: Any) -> None:
    torch.save(crafted, tmp_path / "report.pt")
    with pytest.raises(ValueError, match=DAMAGED):
        InteractionReport.load(tmp_path / "report.pt")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("weights,0.5"),
        lambda path: path.write_bytes(pickle.dumps(Executes())),
        lambda path: path.write_bytes(b""),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    write(tmp_path / "report.pt")
    with pytest.raises(ValueError, match=DAMAGED):
        InteractionReport.load(tmp_path / "report.pt")


def test_a_report_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save(contents(format=7), tmp_path / "report.pt")
    with pytest.raises(ValueError, match="must have report format 2, however it has 7; read it with the version"):
        InteractionReport.load(tmp_path / "report.pt")


def test_a_file_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        InteractionReport.load(tmp_path / "none")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.pt"
    report = InteractionReport.example()
    report.save(path)

    def fail(values: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        replace(report, confidence=0.5).save(path)
    monkeypatch.undo()
    assert same_tensors(InteractionReport.load(path), report)
    assert list(tmp_path.iterdir()) == [path]
