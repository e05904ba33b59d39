"""What goes wrong around a training: processes, kills, damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from i2moe._common.files import replacing
from i2moe.interpretation import InteractionReport

ROOT = Path(__file__).parent.parent

TRAINING = """
import torch
from torch import nn
from i2moe import InteractionMoE, InteractionSupervision, explain
from i2moe.perturbations import Gaussian

torch.set_num_threads(1)
torch.manual_seed(3)
computed = {"reweighter": "computed", "perturbation": Gaussian(fraction=0.5)}
model = InteractionMoE(lambda: nn.Bilinear(5, 4, 3), 2, **computed)
supervise = InteractionSupervision(nn.functional.cross_entropy)
optimizer = torch.optim.Adam(model.parameters())
batch, target = (torch.randn(32, 5), torch.randn(32, 4)), torch.randint(3, (32,))
for _ in range(3):
    out = model(*batch)
    loss = out.interaction_loss + supervise(out, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
report = explain(model, [(batch, target)])
print(loss.item(), report.weights.sum(0).tolist(), report.comprehensiveness.sum(0).tolist())
"""

SAVING = """
import os, signal, sys, time
from i2moe.interpretation import InteractionReport

path, report = sys.argv[1], InteractionReport.example()
for delay in (0.01, 0.05, 0.1):
    child = os.fork()
    while child == 0:
        report.save(path)
    time.sleep(delay)  # somewhere within one of many saves
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(InteractionReport.load(path)) == len(report)
"""


def test_two_processes_with_one_seed_agree_to_the_last_digit(capsys: pytest.CaptureFixture[str]) -> None:
    """One that begins anew, and this one, which has another hash seed and has run other tests."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    other = subprocess.run(
        [sys.executable, "-c", TRAINING],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    exec(TRAINING, {})
    assert capsys.readouterr().out == other.stdout
    assert "nan" not in other.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_killed_save_leaves_a_whole_report(tmp_path: Path) -> None:
    path = tmp_path / "report.pt"
    InteractionReport.example().save(path)
    subprocess.run([sys.executable, "-c", SAVING, path], cwd=ROOT, check=True)


def test_what_a_killed_process_left_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / f".report.pt.{os.getpid()}.tmp").write_bytes(b"half a rep")
    InteractionReport.example().save(tmp_path / "report.pt")
    assert len(InteractionReport.load(tmp_path / "report.pt")) == len(InteractionReport.example())


def test_writers_of_one_path_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as first:
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_needs_its_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"there is no folder .*absent; make it first"),
        replacing(tmp_path / "absent" / "saved"),
    ):
        pass


def test_threads_that_save_at_once_leave_whole_files(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([letter]) * 100_000 for letter in b"abcd"]

    def save(content: bytes) -> list[bytes]:
        found = []
        for _ in range(25):
            with replacing(path) as file:
                file.write(content)
            found.append(path.read_bytes())
        return found

    with ThreadPoolExecutor(4) as pool:
        found = {content for read in pool.map(save, contents) for content in read}
    assert found <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
@pytest.mark.parametrize("target", ["old", "new"])
def test_a_link_stays_a_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/old").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(Path("elsewhere", target))
    with replacing(link) as file:
        file.write(b"content")
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / target).read_bytes() == b"content"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such modes")
def test_a_saved_file_has_the_usual_mode(tmp_path: Path) -> None:
    with replacing(tmp_path / "saved") as file:
        file.write(b"content")
    (tmp_path / "plain").touch()
    assert (tmp_path / "saved").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_cut_report_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "report.pt"
    InteractionReport.example().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"must be a whole file written by InteractionReport\.save, however"):
        InteractionReport.load(path)
