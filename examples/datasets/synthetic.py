"""Generators of data whose interactions are known, by name.

`python -m examples.datasets.synthetic` prints the decomposition of each (partial information, in bits).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from examples.datasets._interface import Expected, MultimodalData, Source, Split
from examples.datasets.known import KnownInteractions, type_names
from examples.datasets.liang import Latents
from examples.datasets.mixtures import Cue, Mixture, Region, levels, warp
from i2moe.pid import PID, against_rest, estimate_pid, pid

__all__ = [
    "GENERATORS",
    "SOURCE",
    "KnownInteractions",
    "decompose",
    "decompose_by_type",
    "generate",
    "source",
    "table",
    "type_names",
]


class Generates(Protocol):
    """What draws n samples, the same for the same seed."""

    def __call__(self, n: int, seed: int) -> KnownInteractions: ...


def _only(interaction: int) -> Mixture:
    shares = [0.0] * 4
    shares[interaction] = 1.0
    return Mixture(mix=tuple(shares))


GENERATORS: Mapping[str, Generates] = MappingProxyType(
    {
        "two-modalities": Mixture(),
        "three-modalities": Mixture(n_modalities=3),
        "four-modalities": Mixture(n_modalities=4),
        "four-classes": Mixture(n_classes=4),
        "label-noise": Mixture(label_noise=0.1),
        "imbalanced": Mixture(mix=(0.1, 0.15, 0.15, 0.6)),
        "warped": Mixture(render=warp),
        "region": Mixture(shows_type=Region()),
        "one-cue": Mixture(shown_by=(0,)),
        "only-uniqueness-0": _only(0),
        "only-uniqueness-1": _only(1),
        "only-synergy": _only(2),
        "only-redundancy": _only(3),
        "regression": Mixture(n_classes=4, target=levels),
        "liang-uniqueness-0": Latents(("0",), interaction=0),
        "liang-uniqueness-1": Latents(("1",), interaction=1),
        "liang-synergy": Latents(("0", "1"), interaction=2),
        "liang-redundancy": Latents(("01",), interaction=3),
        "half-cue": Mixture(shows_type=Cue(size=1.5)),
        "half-cue-three-modalities": Mixture(n_modalities=3, shows_type=Cue(size=1.5)),
        "region-three-modalities": Mixture(n_modalities=3, shows_type=Region()),
        "region-three-classes": Mixture(n_classes=3, shows_type=Region()),
        "region-label-noise": Mixture(label_noise=0.1, shows_type=Region()),
        "region-imbalanced": Mixture(mix=(0.1, 0.15, 0.15, 0.6), shows_type=Region()),
        "region-warped": Mixture(shows_type=Region(), render=warp),
        "region-regression": Mixture(n_classes=4, target=levels, shows_type=Region()),
        "three-classes-three-modalities": Mixture(n_modalities=3, n_classes=3),
        "four-classes-warped": Mixture(n_classes=4, render=warp),
        "label-noise-imbalanced": Mixture(mix=(0.1, 0.15, 0.15, 0.6), label_noise=0.2),
        "regression-three-modalities": Mixture(n_modalities=3, target=levels),
    }
)
"""The generators in the order of the tables."""


def generate(name: str, n: int, seed: int) -> KnownInteractions:
    """Draw n samples from a generator.

    Args:
        name: a key of `GENERATORS`.
        n: number of samples.
        seed: of all that is drawn; the same seed draws the same samples, other seeds independent ones.

    Raises:
        ValueError: if there is no such generator.

    Example:
        >>> data = generate("two-modalities", 1000, seed=0)
        >>> data.type_names[int(data.interaction[0])]
        'redundancy'
    """
    if name not in GENERATORS:
        raise ValueError(f"`name` must be a generator, however: {name!r}; there are {', '.join(GENERATORS)}.")
    return GENERATORS[name](n, seed)


def decompose(joint: Tensor) -> Tensor:
    """Decompose a table of M modalities and a target, in the order of the types.

    For M = 2 these are the four terms of the decomposition. For M > 2 each modality is set against the rest
    in turn: its uniqueness is its own term, synergy and redundancy are means over the M decompositions, and
    the terms need not add up to the information.

    Args:
        joint: (n_0, ..., n_{M-1}, C), probabilities.

    Returns:
        (M + 2,), bits: uniqueness of each modality, synergy, redundancy.
    """
    n_modalities = joint.ndim - 1
    if n_modalities == 2:
        return _in_order(pid(joint))
    parts = [pid(against_rest(joint, modality)) for modality in range(n_modalities)]
    synergy = sum(part.synergy for part in parts) / n_modalities
    redundancy = sum(part.redundancy for part in parts) / n_modalities
    return torch.tensor([*(part.uniqueness_1 for part in parts), synergy, redundancy])


def decompose_by_type(mixture: Mixture) -> Tensor:
    """Decompose the samples of each type on their own and average by the shares of the types.

    Returns:
        (M + 2,), bits, in the order of `decompose`.
    """
    shares = mixture.shares
    parts = [decompose(replace(mixture, mix=tuple(only.tolist())).joint()) for only in torch.eye(len(shares))]
    return shares @ torch.stack(parts)


def table(n: int = 4000, seed: int = 0) -> str:
    """Decompose what every generator draws: exactly where its latents are discrete, from n samples elsewhere.

    "Whole data" decomposes the table of everything that the modalities show. It need not be the true mix:
    where all modalities show the type and each is believed equally often, they know the target equally well,
    so nothing is unique to any in this sense (see `i2moe.pid.pid`). "Type by type" decomposes each type on
    its own: there the terms are the true mix times the information about the target.

    Args:
        n: samples for the estimates.
        seed: of these samples.

    Returns:
        A plain-text table, one line per generator.
    """
    rows = [("generator", "true mix", "whole data", "type by type", "how")]
    for name, generator in GENERATORS.items():
        if isinstance(generator, Mixture):
            whole, by_type = decompose(generator.joint()), decompose_by_type(generator)
            rows.append((name, _row(generator.shares), _row(whole), _row(by_type), "exact"))
        else:
            whole, how = _estimated(generator(n, seed))
            rows.append((name, "", _row(whole), "", how))

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(["Partial information in bits: uniqueness of each modality, synergy, redundancy", "", *lines])


def _estimated(data: KnownInteractions) -> tuple[Tensor, str]:
    first, second = data.modalities
    found = estimate_pid(first, second, data.target, n_clusters=(4, 8, 16))
    return _in_order(found.pids[-1]), f"16 clusters (from 4 to 16: moves by up to {max(found.spread.values()):.2f})"


def _in_order(found: PID) -> Tensor:
    return torch.tensor([found.uniqueness_1, found.uniqueness_2, found.synergy, found.redundancy])


def _row(values: Tensor) -> str:
    return " ".join(f"{abs(value):.2f}" for value in values.tolist())


_SIZES = (8_000, 2_000, 4_000)


def source(name: str) -> Source:
    """Return a generator as a data set of 8,000 / 2,000 / 4,000 samples; `split` is the seed.

    Args:
        name: a key of `GENERATORS`.
    """
    shapes = tuple(tuple(x.shape[1:]) for x in generate(name, 2, seed=0).modalities)
    expected = Expected(sum(_SIZES), _SIZES, shapes, generate(name, 2, seed=0).n_classes or 1)
    return Source(
        load=lambda root, split: _in_common_form(generate(name, sum(_SIZES), split)),
        where="it is drawn, not read",
        expected=expected,
        n_splits=None,
    )


def _in_common_form(data: KnownInteractions) -> MultimodalData:
    regression = data.n_classes is None
    target = data.target.float().reshape(-1, 1) if regression else data.target
    train, validation, test = (
        Split(modalities, part)
        for *modalities, part in zip(
            *(x.float().split(_SIZES) for x in data.modalities), target.split(_SIZES), strict=True
        )
    )
    return MultimodalData(
        train,
        validation,
        test,
        modality_names=tuple(str(i) for i in range(len(data.modalities))),
        output_names=tuple(str(i) for i in range(data.n_classes or 1)),
        task="regression" if regression else "classification",
        metrics=("r2", "mae", "correlation") if regression else ("accuracy", "macro_f1", "auroc"),
    )


SOURCE = source("two-modalities")


if __name__ == "__main__":
    print(table())
