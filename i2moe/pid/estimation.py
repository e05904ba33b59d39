"""The decomposition of continuous features, by clustering."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from i2moe.pid._checks import (
    NEEDS_EXTRA,
    Values,
    as_tensor,
    check_lengths,
    checked_counts,
    checked_features,
    checked_labels,
    checked_target,
)
from i2moe.pid.decomposition import PID, SYMBOLS, joint_distribution, pid

__all__ = ["Clustering", "PIDEstimate", "estimate_pid", "kmeans"]

Clustering: TypeAlias = Callable[[Tensor, int], Tensor]
"""`cluster(features, n_clusters)`: from (n, D) to integer labels (n,)."""


@dataclass(frozen=True)
class PIDEstimate:
    """Estimates of a decomposition, one per number of clusters.

    Few clusters lose information. Many clusters for few samples invent it. So trust an estimate only if it
    is the same for several numbers of clusters. `spread` is how far it moves between them. `chance` is the
    estimate for shuffled targets. Quote the printed table beside every number.

    Args:
        n_samples: samples behind the estimates.
        n_clusters: (K,), the numbers of clusters per modality.
        pids: (K,), the estimate with each of them.
        chance: (K,), the same with the target shuffled: what these clusters find where nothing is.
    """

    n_samples: int
    n_clusters: tuple[int, ...]
    pids: tuple[PID, ...]
    chance: tuple[PID, ...]

    @property
    def spread(self) -> dict[str, float]:
        """Largest minus smallest estimate of each term over the numbers of clusters, in bits."""
        columns = zip(*(part.to_dict().values() for part in self.pids), strict=True)
        spreads = [max(column) - min(column) for column in columns]
        return dict(zip(self.pids[0].to_dict(), spreads, strict=True))

    def __repr__(self) -> str:
        return f"PIDEstimate({self.n_samples} samples, clusters {self.n_clusters}; print it for the table)"

    def __str__(self) -> str:
        lines = [f"PID in bits of {self.n_samples} samples, by the number of clusters per modality"]
        for count, found, chance in zip(self.n_clusters, self.pids, self.chance, strict=True):
            lines += [f"{count:>8} | {found}", f"{'shuffled':>8} | {chance}"]
        spreads = " | ".join(f"{s} {b:.3f}" for s, b in zip(SYMBOLS, self.spread.values(), strict=True))
        return "\n".join([*lines, f"{'spread':>8} | {spreads}"])


def estimate_pid(
    features_1: Values,
    features_2: Values,
    target: Values,
    *,
    n_clusters: int | Sequence[int] = (4, 8, 16),
    n_bins: int | None = None,
    cluster: Clustering | None = None,
    seed: int = 0,
) -> PIDEstimate:
    """Estimate the decomposition of continuous features: cluster each modality, count, decompose.

    Features may be raw, or a model's: embeddings, or the class probabilities of a unimodal classifier
    (often the sharpest choice). Clusters follow distances, so columns should be scaled as their importance
    deserves. A modality that takes no more values than clusters are asked for is not clustered: there the
    estimate is the plain count.

    For more than two modalities, estimate pairs, or one modality against the others joined by
    `torch.cat(rest, dim=1)`. For several labels per sample, estimate one label at a time.

    Args:
        features_1: (n,) or (n, ...), modality 1.
        features_2: (n,) or (n, ...), modality 2.
        target: (n,), classes as integers, or numbers to cut into `n_bins`.
        n_clusters: the numbers of clusters to try, or one; each is used for both modalities.
        n_bins: cut a continuous target into that many bins of equal counts.
        cluster: `cluster(features, n_clusters)`, from (n, D) to integer labels (n,); default `kmeans`.
        seed: of the shuffle behind `PIDEstimate.chance`.

    Returns:
        The estimates in bits, one per number of clusters, with their spread and their level by chance.

    Raises:
        ImportError: if the extra `pid` is not installed.
        TypeError: if the target is continuous and `n_bins` is not given.
        ValueError: if lengths differ, values are not finite, the target has one class, or a number of
            clusters is not in 2..n.

    Warns:
        UserWarning: if a shuffled target gives more than half of what the true one does.

    Source: Liang et al., NeurIPS 2023 (clusters, then the convex program); spread and chance are added here.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(2, 2000, 1, generator=draw)
        >>> print(estimate_pid(a, b, (a * b > 0).flatten().long(), n_clusters=(2, 4)))
        PID in bits of 2000 samples, by the number of clusters per modality
               2 | R 0.00... | U1 0.00... | U2 0.00... | S 0.8... | total 0.8... bits
        shuffled | R 0.00... | U1 0.00... | U2 0.00... | S 0.00... | total 0.00... bits
               4 | R 0.00... | U1 0.00... | U2 0.00... | S 0.6... | total 0.6... bits
        shuffled | R 0.00... | U1 0.00... | U2 0.00... | S 0.00... | total 0.00... bits
          spread | R 0.00... | U1 0.00... | U2 0.00... | S 0.1...
    """
    first, second = checked_features(features_1, "features_1"), checked_features(features_2, "features_2")
    classes = checked_target(target, n_bins)
    check_lengths({"features_1": first, "features_2": second, "target": classes})
    counts = checked_counts(n_clusters, len(classes))

    shuffled = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))]
    pids, chance = [], []
    for count in counts:
        labels_1, labels_2 = (_cluster(features, count, cluster or kmeans) for features in (first, second))
        pids.append(pid(joint_distribution(labels_1, labels_2, classes)))
        chance.append(pid(joint_distribution(labels_1, labels_2, shuffled)))

    estimate = PIDEstimate(len(classes), counts, tuple(pids), tuple(chance))
    _warn_where_chance_dominates(estimate)
    return estimate


def kmeans(features: Values, n_clusters: int, *, seed: int = 0) -> Tensor:
    """Cluster samples by scikit-learn's k-means, the best of four starts.

    Args:
        features: (n, D).
        n_clusters: how many clusters.
        seed: of the starts; `functools.partial(kmeans, seed=1)` is another clustering for `estimate_pid`.

    Returns:
        (n,), labels 0..n_clusters-1.

    Raises:
        ImportError: if the extra `pid` is not installed.

    Example:
        >>> labels = kmeans(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2)
        >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
        True
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError(NEEDS_EXTRA.format("scikit-learn")) from error

    table = as_tensor(features, "features").numpy()
    found: list[int] = KMeans(n_clusters, n_init=4, random_state=seed).fit_predict(table).tolist()
    return torch.tensor(found)


def _cluster(features: Tensor, n_clusters: int, cluster: Clustering) -> Tensor:
    labels: Tensor
    distinct, labels = torch.unique(features, dim=0, return_inverse=True)
    if len(distinct) <= n_clusters:
        return labels
    found = checked_labels(cluster(features, n_clusters), "cluster(features, n_clusters)")
    check_lengths({"features": features, "cluster(features, n_clusters)": found})
    return found


def _warn_where_chance_dominates(estimate: PIDEstimate) -> None:
    for count, found, chance in zip(estimate.n_clusters, estimate.pids, estimate.chance, strict=True):
        if chance.total > 0.5 * found.total:
            warnings.warn(
                f"the true target must tell more than a shuffled one, however with {count} clusters of "
                f"{estimate.n_samples} samples: {found.total:.3f} and {chance.total:.3f} bits; the features "
                "tell little, or the samples are too few: use fewer clusters or more samples.",
                stacklevel=3,
            )
