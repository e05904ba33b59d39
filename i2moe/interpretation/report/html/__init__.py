"""A report as one HTML page for a colleague, and as a cell of a notebook."""

from i2moe.interpretation.report.html.page import to_html, to_notebook

__all__ = ["to_html", "to_notebook"]
