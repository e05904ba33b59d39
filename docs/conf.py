"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

project = "i2moe"
author = copyright = "The i2moe developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
html_theme = "furo"
exclude_patterns = ["_build"]
