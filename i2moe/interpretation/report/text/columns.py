"""Text in columns, and numbers as the summary shows them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

__all__ = ["MOST_ROWS", "interval", "number", "table"]

MOST_ROWS = 30
"""Rows that a table shows at most; it says how many more there are."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align text in columns, the first to the left, the others to the right.

    Example:
        >>> print(table(["expert", "mean"], [["synergy", "0.5"]]))
        expert   mean
        synergy   0.5
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:], widths[1:]))]).rstrip() for line in lines
    )


def number(value: Tensor | float | None) -> str:
    """Three decimals, 0 without a sign; a dash for what is unknown."""
    return "-" if value is None or math.isnan(value) else f"{value:z.3f}"


def interval(low: Tensor | float, high: Tensor | float) -> str:
    """Both ends; a dash for what is unknown."""
    return "-" if math.isnan(low) else f"[{low:z.3f}, {high:z.3f}]"
