"""The gallery: stored outputs are those of the stored code, hold nothing of a machine, and a reader can run it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs.gallery.execute import code_of, fingerprint
from tests.docs.conftest import ROOT
from tests.examples.fewer import load_few

FOLDER = ROOT / "docs/gallery"
NOTEBOOKS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.ipynb"))}
each = pytest.mark.parametrize("name", NOTEBOOKS)


def outputs_of(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", ())]


@each
def test_outputs_belong_to_the_code(name: str) -> None:
    assert NOTEBOOKS[name]["metadata"]["outputs_of"] == fingerprint(NOTEBOOKS[name]), (
        "the code was changed after its outputs were stored: python docs/gallery/execute.py"
    )


@each
def test_every_cell_was_run_in_order(name: str) -> None:
    counts = [cell["execution_count"] for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_outputs_are_clean(name: str) -> None:
    """No warning, no progress bar, no error, no path of the machine that ran it."""
    outputs = outputs_of(NOTEBOOKS[name])
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    shown = json.dumps(
        [{**output.get("data", {}), "image/png": "", "text": output.get("text", "")} for output in outputs]
    )
    assert not re.findall(r"/(?:tmp|home|root|work|usr|Users|opt)/|Warning|it/s|0x[0-9a-f]{6}", shown)


@each
def test_it_has_figures_and_words_and_is_small(name: str) -> None:
    cells = NOTEBOOKS[name]["cells"]
    assert any("image/png" in output.get("data", ()) for output in outputs_of(NOTEBOOKS[name]))
    assert 8 <= len(cells) <= 30
    assert cells[0]["cell_type"] == "markdown"
    assert "pip install" in "".join(cells[0]["source"])
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 400_000
    assert (FOLDER / f"thumbnails/{name}.png").stat().st_size < 60_000


@each
def test_it_is_in_the_gallery(name: str) -> None:
    index = (FOLDER / "index.md").read_text()
    assert f":link: {name}\n" in index
    assert f"{{download}}`{name}.ipynb`" in index


def test_the_first_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("examples.datasets.watch.load_watch", load_few)
    exec("\n".join(code_of(NOTEBOOKS["first-report"])), {})
    assert "accelerometer" in capsys.readouterr().out
