"""Parts of a page: text that is safe, tables, bars drawn in SVG. Names of the user's are escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Bar", "bars", "items", "legend", "paragraph", "section", "stacked", "table"]


class Bar(NamedTuple):
    """A row of a bar chart: its label, value, interval and how the value is written."""

    label: str
    value: float
    low: float
    high: float
    text: str


def section(name: str, title: str, *parts: str) -> str:
    """A section with its heading; `name` is its anchor."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{body}\n</section>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def items(texts: Iterable[str], kind: str = "") -> str:
    """A list of plain texts."""
    return f"<ul{_class(kind)}>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts, numbers to the right; it scrolls by itself on a small screen."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(text)}</td>" for text in row[1:]) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def legend(colors: Mapping[str, str], meanings: Mapping[str, str]) -> str:
    """The legend."""
    entries = "".join(
        f'<li><svg width="12" height="12" aria-hidden="true"><rect width="12" height="12" fill="{color}"/></svg> '
        f"<strong>{escape(name)}</strong> {escape(meanings[name])}</li>"
        for name, color in colors.items()
    )
    return f'<ul class="legend">{entries}</ul>'


def stacked(rows: Mapping[str, Mapping[str, float]], colors: Mapping[str, str]) -> str:
    """Shares that sum to one, a bar for each row."""
    return (
        '<div class="chart">'
        + "".join(_stacked_row(label, shares, colors) for label, shares in rows.items())
        + "</div>"
    )


def bars(rows: Sequence[Bar], *, top: float, mark: float, bottom: float = 0.0, color: str = "#0072B2") -> str:
    """A bar from 0 with its interval for each row, on an axis from `bottom` to `top`, and a dotted line at `mark`."""
    drawn = "".join(_bar_row(row, bottom, top, mark, color) for row in rows)
    return f'<div class="chart">{drawn}</div>'


def _stacked_row(label: str, shares: Mapping[str, float], colors: Mapping[str, str]) -> str:
    start, parts, described = 0.0, [], []
    for name, share in shares.items():
        if math.isnan(share):
            return ""
        if share > 0:
            parts.append(f'<rect x="{start:.2f}" width="{100 * share:.2f}" height="10" fill="{colors[name]}"/>')
            described.append(f"{name} {share:.0%}")
        start += 100 * share
    return _row(label, "", ", ".join(described), "".join(parts))


def _bar_row(row: Bar, bottom: float, top: float, mark: float, color: str) -> str:
    def at(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - bottom) / (top - bottom)))

    start, end = sorted((at(0.0), at(0.0 if math.isnan(row.value) else row.value)))
    drawn = f'<rect x="{start:.2f}" width="{end - start:.2f}" y="1" height="8" fill="{color}"/>'
    if not math.isnan(row.low):
        low, high = at(row.low), at(row.high)
        drawn += f'<rect x="{low:.2f}" width="{high - low:.2f}" y="4" height="2" fill="#000" fill-opacity="0.55"/>'
    drawn += (
        f'<line x1="{at(mark):.2f}" x2="{at(mark):.2f}" y1="0" y2="10" stroke="#333" stroke-dasharray="2 2" '
        'vector-effect="non-scaling-stroke"/>'
    )
    return _row(row.label, row.text, f"{row.label}: {row.text}", drawn)


def _row(label: str, text: str, description: str, drawn: str) -> str:
    value = f'<span class="value">{escape(text)}</span>' if text else ""
    return (
        f'<div class="row"><span class="label">{escape(label)}</span>{value}'
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{escape(description)}">'
        f'<rect width="100" height="10" fill="#eee"/>{drawn}</svg></div>\n'
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
