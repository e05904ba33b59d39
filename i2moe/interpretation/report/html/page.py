"""The page: sections, style and title in one file that loads nothing."""

from __future__ import annotations

import os
from html import escape

from i2moe._common.files import replacing
from i2moe._common.names import expert_colors
from i2moe.interpretation.report.html.examples import single_samples
from i2moe.interpretation.report.html.parts import items, stacked, table
from i2moe.interpretation.report.html.sections import (
    asked,
    headline,
    how_good,
    how_sure,
    what_drives,
    without_a_modality,
    words,
)
from i2moe.interpretation.report.measures.diagnostics import Diagnostics
from i2moe.interpretation.report.warnings.rules import report_warnings

__all__ = ["to_html", "to_notebook"]

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 46rem; color: #222; background: #fff;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.2rem 0 .5rem; padding-top: .8rem; border-top: 1px solid #ccc; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
p, li { overflow-wrap: anywhere; }
p { margin: .5rem 0; }
nav { margin: .8rem 0; }
nav a { color: #00538a; margin-right: .9rem; white-space: nowrap; }
.lead { font-size: 1.1rem; }
.note { color: #555; font-size: .9rem; }
.warnings { background: #fff4e5; border-left: 4px solid #D55E00; padding: .6rem .8rem .6rem 2rem; margin: .6rem 0; }
.legend { list-style: none; padding: 0; margin: .6rem 0; }
.legend svg { vertical-align: -1px; }
.chart { margin: .6rem 0 1rem; }
.row { display: grid; grid-template-columns: minmax(6rem, 13rem) 1fr minmax(4rem, auto); gap: 0 .7rem;
  align-items: center; margin: .35rem 0; break-inside: avoid; }
.row .label { overflow-wrap: anywhere; }
.row svg { grid-column: 2; grid-row: 1; width: 100%; height: 1rem; display: block; }
.row .label:only-of-type + svg { grid-column: 2 / 4; }
.row .value { grid-column: 3; font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; }
td, thead th { white-space: nowrap; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top;
  font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; padding-left: 0; font-weight: 600; min-width: 8rem; }
article { break-inside: avoid; border: 1px solid #ddd; border-radius: 4px; padding: .2rem .8rem .5rem; margin: 1rem 0; }
article h3 { margin-top: .6rem; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; }
@media (max-width: 34rem) {
  .row { grid-template-columns: 1fr auto; margin: .6rem 0; }
  .row svg, .row .label:only-of-type + svg { grid-column: 1 / 3; grid-row: 2; }
  .row .value { grid-column: 2; grid-row: 1; }
  table { font-size: .82rem; }
  th, td { padding: .25rem .35rem; }
  thead th { white-space: normal; }
  th:first-child { min-width: 6.5rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


def to_html(report: Diagnostics, path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Write the report as one HTML page for people who were not there when the model was trained.

    The file holds its style and figures and loads nothing from anywhere. It reads on a phone and in print.

    Args:
        report: the report.
        path: where to; a file there is replaced.
        title: the page's title.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from i2moe.interpretation import InteractionReport
        >>> path = Path(tempfile.mkdtemp()) / "report.html"
        >>> InteractionReport.example().to_html(path, title="Cats and dogs")
        >>> "<h1>Cats and dogs</h1>" in path.read_text(encoding="utf-8")
        True
    """
    title = "What drives the model's predictions" if title is None else title
    sections = [
        how_good(report),
        what_drives(report),
        without_a_modality(report),
        how_sure(report),
        single_samples(report),
        words(report),
    ]
    links = "".join(
        f'<a href="#{name}">{label}</a> '
        for name, label in _LINKS.items()
        if any(part.startswith(f'<section id="{name}"') for part in sections)
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{asked(report)}
<nav>{links}</nav>
{"".join(part + chr(10) for part in sections if part)}</main>
</body>
</html>
"""
    with replacing(path) as file:
        file.write(page.encode())


def to_notebook(report: Diagnostics) -> str:
    """Return the report in short as HTML, as a notebook shows it.

    Example:
        >>> from i2moe.interpretation import InteractionReport
        >>> "accuracy 75.0%" in InteractionReport.example()._repr_html_()
        True
    """
    mean = dict(zip(report.expert_names, report.overall.mean.tolist(), strict=True))
    rows = [[name, f"{weight:.1%}"] for name, weight in mean.items()]
    warnings = report_warnings(report)
    colors = expert_colors(report.expert_names, report.interactions)
    return (
        f"<div><p>{escape(headline(report))}</p>"
        + f'<div style="max-width: 30rem">{stacked({"": mean}, colors)}</div>'
        + table(["mean weight of", "share"], rows)
        + (items(warnings) if warnings else "")
        + "</div>"
    )


_LINKS = {
    "good": "How good",
    "drives": "What drives it",
    "without": "Without a modality",
    "sure": "How sure",
    "samples": "Single samples",
    "words": "Words",
}
