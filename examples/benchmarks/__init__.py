"""Benchmarks: one command each, one table each."""
