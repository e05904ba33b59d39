"""A report as text and as tables."""
