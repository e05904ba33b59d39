"""The methods by name. To add one, write a class that is a `Method` and name it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from examples.benchmarks.identify.bounds import Ceiling, Exact, Informed, Told
from examples.benchmarks.identify.computed import Computed
from examples.benchmarks.identify.existing import Existing
from examples.benchmarks.identify.experts import Experts
from examples.benchmarks.identify.masking import InterShap
from examples.benchmarks.identify.method import Method
from examples.benchmarks.identify.pointwise import Lsmi, Pointwise
from examples.benchmarks.identify.rules import Rules
from examples.benchmarks.identify.settings import Training

__all__ = ["METHODS"]

METHODS: Mapping[str, Callable[[Training], Method]] = MappingProxyType(
    {
        "paper": Experts,
        "computed": Computed,
        "fitted": partial(Existing, marginals="fitted"),
        "replaced": partial(Existing, marginals="replaced"),
        "pointwise": Pointwise,
        "lsmi": Lsmi,
        "intershap": InterShap,
        "ceiling": Ceiling,
        "informed": Informed,
        "told": Told,
        "rules": Rules,
        "exact": lambda training: Exact(),
    }
)
"""Build each method from the settings of its networks."""
