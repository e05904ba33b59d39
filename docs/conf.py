"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

project = "i2moe"
author = copyright = "The i2moe developers"
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
exclude_patterns = ["_build"]
