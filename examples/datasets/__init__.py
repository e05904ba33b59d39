"""Data sets in one form, by name: `find("mosi").open(folder)`."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from examples.datasets._interface import Batch, Expected, Lazy, MultimodalData, Source, Split

__all__ = ["NAMES", "OPEN", "Batch", "Expected", "Lazy", "MultimodalData", "Source", "Split", "find"]

OPEN = (
    *("watch", "support2", "films", "digits", "digit_quadrants"),
    *("leaves", "houses", "flights", "rhc", "basic_motions"),
)
"""Real data sets inside packages, which anybody can install."""

NAMES = ("adni", "mimic", "mmimdb", "mosi", "enrico", *OPEN, "synthetic")
"""All data sets; each is the module of its name, with a `SOURCE`."""


def find(name: str) -> Source:
    """Return where a data set comes from and how it is opened.

    Only the module of this data set is imported, so that nobody needs the packages of the others.

    Args:
        name: one of `NAMES`, "synthetic/<generator>", or "<module>:<name>", a `Source` in a module of your own that
            Python can import.

    Raises:
        ValueError: if there is no such data set.
    """
    if ":" in name:
        return _own(name)
    name, _, variant = name.partition("/")
    if name not in NAMES or (variant and name != "synthetic"):
        raise ValueError(
            f"a data set must be one of {', '.join(NAMES)}, or one of your own as <module>:<name>, "
            f"however it is {name!r}"
        )
    module = import_module(f"examples.datasets.{name}")
    source: Source = module.source(variant) if variant else module.SOURCE
    return source


def _own(name: str) -> Source:
    module_name, _, attribute = name.partition(":")
    must = f"{name!r} must name a module that Python can import and a Source in it, <module>:<name>, however"
    try:
        spec = find_spec(module_name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{must} {module_name!r} cannot be found ({error})") from error
    if spec is None:
        raise ValueError(f"{must} there is no module {module_name!r}; run in its folder, or set PYTHONPATH")
    source = getattr(import_module(module_name), attribute, None)
    if not isinstance(source, Source):
        raise ValueError(f"{must} {attribute!r} in {module_name!r} is {source!r}")
    return source
