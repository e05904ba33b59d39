"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

import re
from typing import Any

project = "i2moe"
author = copyright = "The i2moe developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_design"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
html_theme = "furo"
exclude_patterns = ["_build"]


def _dollars_to_math(_app: object, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Read $...$ and $$...$$ in docstrings as the Markdown pages do."""
    text = "\n".join(lines)
    text = re.sub(r"\$\$(.+?)\$\$", lambda found: ".. math:: " + " ".join(found[1].split()), text, flags=re.DOTALL)
    text = re.sub(r"\$(.+?)\$", r":math:`\1`", text, flags=re.DOTALL)
    lines[:] = text.split("\n")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _dollars_to_math)
