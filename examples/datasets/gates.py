"""Gaussian clusters behind which bits and symbols decide: four kinds of data with exact posteriors."""

from __future__ import annotations

import math
from itertools import combinations, product
from typing import Literal

import torch
from torch import Generator, Tensor

from examples.datasets.clusters import Clusters

__all__ = ["dense_gates", "noisy_gate", "pairwise_redundancy", "scattered_clusters"]

U0, U1, SYNERGY, REDUNDANCY = range(4)  # the types of two modalities
SILENT = (0.0, 0.0)


def dense_gates(shift: float = 3.4, n_numbers: int = 10, n_features: int = 200) -> Clusters:
    """Return XOR of two bits, y = b_1 xor b_2, hidden in modalities all of whose features look alike.

    Behind each modality are `n_numbers` numbers with noise of standard deviation 1, in two halves. A bit shifts each
    number of a half up or down. The types, 25% each, differ in what is shifted:

    * uniqueness i: the halves of modality i by the two bits; the other modality is noise;
    * synergy: the first half of modality 0 by b_1, the first half of modality 1 by b_2;
    * redundancy: both modalities hold the same numbers, shifted by the two bits.

    A modality shows its numbers by a random projection to `n_features` features. It is fixed, and the same for all
    types, so that no feature shows the type.

    Args:
        shift: how far a bit shifts the mean of a half, in standard deviations of that mean.
        n_numbers: numbers behind a modality, even, at most `n_features`. The more there are, the more directions of
            the features hold noise: exact posteriors stay the same, networks find the bits harder.
        n_features: features of a modality.

    Source: after HD-XOR of Wenderoth et al., "Measuring Cross-Modal Interactions in Multimodal Models", AAAI 2025,
    whose data sets have one type each. Pooling the types, and the noise, are chosen here.

    Example:
        >>> data = dense_gates()(1000, seed=0)
        >>> [tuple(x.shape) for x in data.modalities]
        [(1000, 200), (1000, 200)]
    """
    clusters = []
    for bits in product((-1.0, 1.0), repeat=2):
        first, second = bits
        clusters += [
            (bits, SILENT, U0),
            (SILENT, bits, U1),
            ((first, 0.0), (second, 0.0), SYNERGY),
            (bits, bits, REDUNDANCY),
        ]
    half = n_numbers // 2
    places = tuple(
        shift / math.sqrt(half) * torch.tensor([cluster[i] for cluster in clusters]).repeat_interleave(half, dim=1)
        for i in range(2)
    )
    interaction = torch.tensor([cluster[2] for cluster in clusters])
    scale = math.sqrt(n_features / n_numbers)
    return Clusters(
        places,
        target=torch.tensor([int(a != b) for a, b in product((0, 1), repeat=2)]).repeat_interleave(4),
        interaction=interaction,
        same=interaction == REDUNDANCY,
        projections=tuple(scale * _orthonormal(n_features, n_numbers, seed=i) for i in range(2)),
    )


def scattered_clusters(n_classes: int = 3, n_features: int = 8, spread: float = 1.6) -> Clusters:
    """Return clusters that lie anywhere: which of them a modality is in tells the class, the type, or nothing.

    In each modality every type has places of its own, drawn once. Under uniqueness i modality i has a place for each
    class, the other a single one. Under synergy each has `n_classes` places, a and b, and the class is (a + b) mod
    `n_classes`. Under redundancy both have a place for each class. Types 25% each; the noise is 1.

    Args:
        n_classes: number of classes.
        n_features: of each modality.
        spread: standard deviation of the places: how little clusters overlap.
    """
    classes = range(n_classes)
    clusters = [(c, 0, c, U0) for c in classes] + [(0, c, c, U1) for c in classes]
    clusters += [(a, b, (a + b) % n_classes, SYNERGY) for a, b in product(classes, repeat=2)]
    clusters += [(c, c, c, REDUNDANCY) for c in classes]

    index = torch.tensor(clusters)
    interaction = index[:, 3]
    drawn = spread * torch.randn(2, 4, n_classes, n_features, generator=Generator().manual_seed(0))
    return Clusters(
        places=tuple(drawn[i, interaction, index[:, i]] for i in range(2)),
        target=index[:, 2],
        interaction=interaction,
        shares=_equal_types(interaction),
    )


def noisy_gate(gate: Literal["and", "or", "xor"], noise: float = 0.5) -> Clusters:
    """Return one bit a modality, shown by the sign of a number with noise, and y = b_0 and / or / xor b_1.

    There are no types: what each modality contributes differs from sample to sample, by the rules of the gate and by
    how clear the bits are. The truth are the shares of the exact posteriors.

    Args:
        gate: what combines the bits.
        noise: standard deviation; a bit shifts its number by 1 up or down.

    Example:
        >>> noisy_gate("xor")(1000, seed=0).mix.argmax()  # synergy
        tensor(2)
    """
    bits = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    answers = {"and": bits.min(1).values, "or": bits.max(1).values, "xor": bits.sum(1) % 2}
    places = 2.0 * bits - 1
    return Clusters((places[:, :1], places[:, 1:]), answers[gate], noise=noise)


def pairwise_redundancy(n_modalities: int = 3) -> Clusters:
    """Return mixtures of more than two modalities in which redundancy is between two of them, the others at chance.

    Every modality says a bit by the sign of its first feature, and shows by a cue which of the following decides:

    * uniqueness i: the bit of modality i;
    * synergy: whether the number of ones is odd;
    * redundancy, of any two modalities: their bit, which is the same.

    As in `Mixture`, a bit shifts by 4 and a cue by 6 standard deviations, and the types have equal shares.

    Args:
        n_modalities: M, at least 3.

    Raises:
        ValueError: if there are fewer than three modalities.
    """
    if n_modalities < 3:
        raise ValueError(f"`n_modalities` must be at least 3, however: {n_modalities}; use `Mixture` for two.")
    pairs = list(combinations(range(n_modalities), 2))
    clusters: list[tuple[tuple[int, ...], int, int, int]] = []  # bits, answer, cue, type
    for bits in product((0, 1), repeat=n_modalities):
        clusters += [(bits, bits[i], i, i) for i in range(n_modalities)]
        clusters += [(bits, sum(bits) % 2, n_modalities, n_modalities)]
        clusters += [
            (bits, bits[i], n_modalities + 1 + cue, n_modalities + 1)
            for cue, (i, j) in enumerate(pairs)
            if bits[i] == bits[j]
        ]
    cues = 3.0 * torch.eye(n_modalities + 1 + len(pairs))[[cluster[2] for cluster in clusters]]
    signs = 4.0 * torch.tensor([cluster[0] for cluster in clusters]) - 2  # (K, M)
    interaction = torch.tensor([cluster[3] for cluster in clusters])
    return Clusters(
        places=tuple(torch.cat((signs[:, i : i + 1], cues), dim=1) for i in range(n_modalities)),
        target=torch.tensor([cluster[1] for cluster in clusters]),
        interaction=interaction,
        shares=_equal_types(interaction),
        noise=0.5,
    )


def _equal_types(interaction: Tensor) -> Tensor:
    """Share out the types' equal shares among the clusters of each."""
    counts = interaction.bincount()
    return 1 / (len(counts) * counts[interaction])


def _orthonormal(n_rows: int, n_columns: int, seed: int) -> Tensor:
    columns: Tensor = torch.linalg.qr(torch.randn(n_rows, n_columns, generator=Generator().manual_seed(seed)))[0]
    return columns
