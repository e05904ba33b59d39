"""Data sets in one form, by name: `find("mosi").open(folder)`."""

from __future__ import annotations

from importlib import import_module

from examples.datasets._interface import Source

__all__ = ["NAMES", "OPEN", "find"]

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
        name: one of `NAMES`, or "synthetic/<generator>".

    Raises:
        ValueError: if there is no such data set.
    """
    name, _, variant = name.partition("/")
    if name not in NAMES or (variant and name != "synthetic"):
        raise ValueError(f"a data set must be one of {', '.join(NAMES)}, however it is {name!r}")
    module = import_module(f"examples.datasets.{name}")
    source: Source = module.source(variant) if variant else module.SOURCE
    return source
