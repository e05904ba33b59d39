"""All data with known interactions, by name: what the methods of `examples.benchmarks.identify` are asked.

Next to the generators of `examples.datasets.synthetic` there are harder ones, partly from real data. Every name also
comes with each change of `examples.datasets.invariance`, as in "dense-gates/times-10".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from examples.datasets.digit_sums import digit_sums
from examples.datasets.exchanged import ExchangedSensors
from examples.datasets.gates import dense_gates, noisy_gate, pairwise_redundancy, scattered_clusters
from examples.datasets.invariance import CHANGES, Change
from examples.datasets.known import KnownInteractions, Part
from examples.datasets.synthetic import GENERATORS
from examples.datasets.watch import N_FOLDS

__all__ = ["GROUPS", "PROBLEMS", "change_of", "draw"]


class Draws(Protocol):
    """What draws n samples for a part; the same for the same seed."""

    def __call__(self, n: int, seed: int) -> KnownInteractions: ...


class DrawsPart(Protocol):
    """What draws n samples from the material of a part."""

    def __call__(self, n: int, seed: int, part: Part) -> KnownInteractions: ...


_ENDLESS: Mapping[str, Draws] = MappingProxyType(
    {
        **GENERATORS,
        "dense-gates": dense_gates(),
        "dense-gates-full-rank": dense_gates(n_numbers=200),
        "scattered-clusters": scattered_clusters(),
        "noisy-and": noisy_gate("and"),
        "noisy-or": noisy_gate("or"),
        "noisy-xor": noisy_gate("xor"),
        "pairwise-redundancy": pairwise_redundancy(3),
        "pairwise-redundancy-four-modalities": pairwise_redundancy(4),
    }
)
_REAL: Mapping[str, DrawsPart] = MappingProxyType(
    {
        "digit-sums": digit_sums,
        **{f"exchanged-sensors-{fold}": ExchangedSensors(fold) for fold in range(N_FOLDS)},
    }
)
PROBLEMS = (*_ENDLESS, *_REAL)
"""The names without changes."""

_KNOWN = (
    "two-modalities",
    "three-modalities",
    "four-modalities",
    "four-classes",
    "label-noise",
    "imbalanced",
    "warped",
    "region",
    "one-cue",
    "only-uniqueness-0",
    "only-uniqueness-1",
    "only-synergy",
    "only-redundancy",
    "regression",
)
_CHANGED = ("two-modalities", "dense-gates")
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "known": _KNOWN,
        "harder": tuple(name for name in GENERATORS if name not in _KNOWN and not name.startswith("liang")),
        "literature": ("digit-sums", "exchanged-sensors-0", *(name for name in _ENDLESS if name not in GENERATORS)),
        "invariance": tuple(
            f"{problem}{change}" for problem in _CHANGED for change in ("", *map("/{}".format, CHANGES))
        ),
    }
)
"""Problems that make a table together."""


def draw(name: str, n: int, seed: int, part: Part = "train") -> KnownInteractions:
    """Draw n samples.

    Args:
        name: one of `PROBLEMS`, or with a change "<problem>/<change>".
        n: number of samples.
        seed: of all that is drawn. Another part needs another seed: most data is drawn without end.
        part: what the samples are for; where they are drawn from real data no part has material of another.

    Raises:
        ValueError: if there is no such problem or change.

    Example:
        >>> data = draw("pairwise-redundancy/noise", 100, seed=0)
        >>> data.type_names
        ('uniqueness/0', 'uniqueness/1', 'uniqueness/2', 'uniqueness/3', 'synergy', 'redundancy')
    """
    problem, change = change_of(name)
    data = _ENDLESS[problem](n, seed) if problem in _ENDLESS else _REAL[problem](n, seed, part)
    return change(data, seed) if change else data


def change_of(name: str) -> tuple[str, Change | None]:
    """Split a name into that of the problem and the change, if there is one.

    Raises:
        ValueError: if there is no such problem or change.
    """
    problem, _, change = name.partition("/")
    if problem not in PROBLEMS:
        raise ValueError(f"data must be a problem, however: {problem!r}; there are {', '.join(PROBLEMS)}.")
    if change and change not in CHANGES:
        raise ValueError(f"what follows / must be a change, however: {change!r}; there are {', '.join(CHANGES)}.")
    return problem, CHANGES[change] if change else None
