"""The report that `explain` returns."""

from i2moe.interpretation.report.report import InteractionReport

__all__ = ["InteractionReport"]
