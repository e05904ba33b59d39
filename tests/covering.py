"""Fewer cases than a product of factors has.

Where factors cannot interact, each value is met once (`in_turn`). Where two may, each pair is met once (`every_pair`):
almost all faults need no more than two values together (Kuhn, Wallace and Gallo, 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

__all__ = ["every_pair", "in_turn"]


def in_turn(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Meet every value at least once, in as many cases as the longest factor has values."""
    return [tuple(factor[i % len(factor)] for factor in factors) for i in range(max(map(len, factors)))]


def every_pair(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Meet every pair of values of two factors at least once, in few cases: each is the one with most new pairs."""
    pairs = {row: set(combinations(enumerate(row), 2)) for row in product(*(range(len(factor)) for factor in factors))}
    missing = set().union(*pairs.values())
    cases = []
    while missing:
        best = max(pairs, key=lambda row: len(pairs[row] & missing))
        missing -= pairs[best]
        cases.append(tuple(factor[i] for factor, i in zip(factors, best, strict=True)))
    return cases
