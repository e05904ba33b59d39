"""The documentation, built once for all tests that look at it."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of HTML pages, built without warnings; the workers share it. DOCS_SITE names one that is built."""
    if built := os.environ.get("DOCS_SITE"):
        return Path(built)
    pytest.importorskip("myst_nb", reason="the extra `docs` is not installed")
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    pages, done = shared / "site", shared / "site-is-built"
    with FileLock(shared / "site.lock"):
        if not done.exists():
            extensions = runpy.run_path(str(ROOT / "docs/conf.py"))["extensions"]
            needed = ",".join(name for name in extensions if name != "sphinx.ext.viewcode")  # no test opens its pages
            options = ["-q", "-W", "-D", f"extensions={needed}", "-d", str(shared / "doctrees")]
            command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(pages)]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
            done.touch()
    return pages
