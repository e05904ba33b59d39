"""Execute the notebooks of the gallery and store their outputs.

python docs/gallery/execute.py [NAME ...]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


def code_of(notebook: dict[str, Any]) -> list[str]:
    """Return the source of each code cell."""
    return [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def fingerprint(notebook: dict[str, Any]) -> str:
    """Say which code the stored outputs belong to."""
    return hashlib.sha256("\n\n".join(code_of(notebook)).encode()).hexdigest()


def execute(path: Path) -> None:
    """Run a notebook in an empty folder, and write it back with its outputs.

    Its first figure is its thumbnail.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=None, resources=place).execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # the time of execution
    notebook.metadata = {
        "kernelspec": notebook.metadata.kernelspec,
        "language_info": {"name": "python"},
    }
    notebook.metadata["outputs_of"] = fingerprint(notebook)
    nbformat.write(notebook, path)
    draw_thumbnail(notebook, FOLDER / f"thumbnails/{path.stem}.png")


def draw_thumbnail(notebook: dict[str, Any], path: Path) -> None:
    """Store the first figure, 480 pixels wide and 240 high, on white."""
    from PIL import Image, ImageOps

    outputs = [
        output for cell in notebook["cells"] for output in cell.get("outputs", ())
    ]
    shown = [output.get("data", {}) for output in outputs]
    figure = base64.b64decode(next(d["image/png"] for d in shown if "image/png" in d))
    image = Image.open(io.BytesIO(figure)).convert("RGB")
    path.parent.mkdir(exist_ok=True)
    ImageOps.pad(image, (480, 240), color="white").quantize(64).save(
        path, optimize=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", help="notebooks, without .ipynb; default: all"
    )
    names = parser.parse_args().names or sorted(
        path.stem for path in FOLDER.glob("*.ipynb")
    )
    os.environ |= {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        # of tqdm, where ipywidgets is not installed
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }
    for name in names:
        start = time.perf_counter()
        execute(FOLDER / f"{name}.ipynb")
        print(f"{name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
