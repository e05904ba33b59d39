"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

import gc
import inspect
import re
from typing import Any, Literal

gc.disable()  # the millions of nodes of the pages live until the end; looking for garbage took a third of the time

project = "i2moe"
author = copyright = "The i2moe developers"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are shown as they were stored
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autosummary_generate = False
copybutton_exclude = ".linenos, .gp, .go"  # neither prompts nor outputs
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_theme = "furo"
html_title = "i2moe"
html_favicon = "_static/icon.svg"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
exclude_patterns = ["_build"]


def _list_names(_app: object, what: str, _name: str, module: Any, _options: object, lines: list[str]) -> None:
    """Begin a module's page with a table of its public classes and functions."""
    if what == "module":
        values = {name: getattr(module, name) for name in module.__all__}
        names = [name for name, value in values.items() if inspect.isclass(value) or inspect.isfunction(value)]
        lines += ["", ".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in names), ""]


def _dollars_to_math(_app: object, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Read $...$ and $$...$$ in docstrings as the Markdown pages do."""
    text = "\n".join(lines)
    text = re.sub(r"\$\$(.+?)\$\$", lambda found: ".. math:: " + " ".join(found[1].split()), text, flags=re.DOTALL)
    text = re.sub(r"\$(.+?)\$", r":math:`\1`", text, flags=re.DOTALL)
    lines[:] = text.split("\n")


def _link_by_last_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link `Name`, or the place where it is defined, to the page that documents the one object of that name."""
    from sphinx.util import logging
    from sphinx.util.nodes import make_refnode

    target = node["reftarget"]
    objects = env.get_domain("py").objects.items() if node.get("refdomain") == "py" else ()
    kinds = ("class", "data", "exception", "function")
    found = [
        entry
        for name, entry in objects
        if _last(name) == _last(target) and entry.objtype in kinds and not entry.aliased
    ]
    if len(found) == 1:
        return make_refnode(app.builder, node["refdoc"], found[0].docname, found[0].node_id, content)
    if target.startswith("i2moe.") and node["reftype"] == "obj":
        logging.getLogger(__name__).warning("%s is on %d pages of the reference", target, len(found), location=node)
    return None


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _mathml(display: Literal["inline", "block"]) -> tuple[Any, None]:
    """Draw formulas as MathML, which browsers show without a network or a script."""

    from docutils.nodes import SkipNode
    from latex2mathml.converter import convert

    def visit(translator: Any, node: Any) -> None:
        translator.body.append(convert(node.astext(), display=display))
        raise SkipNode

    return visit, None


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", _mathml("inline"), _mathml("block"))
    app.connect("autodoc-process-docstring", _list_names)
    app.connect("autodoc-process-docstring", _dollars_to_math)
    app.connect("missing-reference", _link_by_last_name)
