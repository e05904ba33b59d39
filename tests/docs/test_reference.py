"""The reference: a page for each public module, and every public name on one of them."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.docs.conftest import ROOT
from tests.test_package import PUBLIC_MODULES

pytestmark = pytest.mark.slow

PAGES = sorted(path.stem for path in (ROOT / "docs/reference").glob("*.md") if path.stem != "index")
MODULES = {
    "",
    *(f".{name}" for name in PUBLIC_MODULES),
    *(".backbones", ".categorization", ".estimators", ".mmoe", ".mmoe.prompting", ".pid"),
}


@pytest.fixture(scope="module")
def documented(site: Path) -> dict[str, Any]:
    """Where each documented object is -> the object."""
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    kinds = ("py:class", "py:function", "py:data", "py:exception", "py:method")
    return {name: find(name) for kind in kinds for name in inventory.get(kind, {})}


def find(name: str) -> Any:
    """Follow a dotted name; a function goes before the module of its name."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        with suppress(AttributeError):
            return reduce(getattr, parts[length:], import_module(".".join(parts[:length])))
    raise AssertionError(f"{name} is documented, however it does not exist")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_public_name_is_in_the_reference(module: str, documented: dict[str, Any]) -> None:
    package = import_module(f"i2moe{module}")
    there = {(place.rpartition(".")[2], id(value)) for place, value in documented.items()}
    assert not [name for name in package.__all__ if (name, id(getattr(package, name))) not in there]


def test_a_page_for_each_public_module() -> None:
    root = {"", ".moe"}  # on one page
    assert set(PAGES) == {"i2moe", *(module.removeprefix(".") for module in MODULES - root)}


def test_modules_of_the_guides_have_a_page() -> None:
    guides = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    used = {name for path in guides for name in re.findall(r"from i2moe\.([\w.]+) import", path.read_text())}
    assert used <= set(PAGES)


@pytest.mark.parametrize(
    "method",
    [
        "i2moe.InteractionMoE.forward",
        "i2moe.losses.InteractionLosses.__call__",
        "i2moe.losses.InteractionSupervision.__call__",
        "i2moe.missing.Fill.forward",
        "i2moe.moe.weights.Reweighter.forward",
    ],
)
def test_what_is_called_is_documented(method: str, documented: dict[str, Any]) -> None:
    assert method in documented
