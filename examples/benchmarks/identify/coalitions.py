r"""Coalition benefit: does taking modalities away help this sample? No interaction has to be known for that.

For each proper subset S of the modalities the event is that the prediction from all of them is worse than the one from
S alone: its loss exceeds that of S by more than a margin. A score says without the target how likely that is.
"""

from __future__ import annotations

import math
from itertools import combinations
from statistics import mean

import torch
from torch import Tensor

__all__ = [
    "MARGIN",
    "benefits",
    "confidence_score",
    "entropy_score",
    "macro_auroc",
    "posterior_score",
    "proper_subsets",
    "weight_score",
]

MARGIN = 0.01
"""By how many nats a loss must differ to count."""


def proper_subsets(n_modalities: int) -> list[tuple[int, ...]]:
    """List the sets of modalities that are neither empty nor complete, in the order of all that follows.

    Example:
        >>> proper_subsets(3)
        [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    """
    return [chosen for size in range(1, n_modalities) for chosen in combinations(range(n_modalities), size)]


def benefits(log_subsets: Tensor, log_full: Tensor, target: Tensor, margin: float = MARGIN) -> Tensor:
    """Return the events: whether the subset alone has a smaller loss than all modalities, by more than a margin.

    Args:
        log_subsets: (n, S, C), log-probabilities predicted from each of the S subsets.
        log_full: (n, C), those from all modalities.
        target: (n,), the classes.
        margin: in nats.

    Returns:
        (n, S) bool.

    Example:
        >>> alone, both = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]).log(), torch.tensor([[0.7, 0.3]]).log()
        >>> benefits(alone, both, torch.tensor([0]))
        tensor([[ True, False]])
    """
    rows = torch.arange(len(target))
    return log_subsets[rows, :, target] - log_full[rows, target].unsqueeze(1) > margin


def posterior_score(log_subsets: Tensor, log_full: Tensor, margin: float = MARGIN) -> Tensor:
    r"""Return how probable the model itself believes each event to be.

    $\pi_S = \sum_y p(y) \, 1[\log p_S(y) - \log p(y) > \text{margin}]$, with the prediction p from all modalities.

    Args:
        log_subsets: (n, S, C), log-probabilities predicted from each of the S subsets.
        log_full: (n, C), those from all modalities.
        margin: in nats.

    Returns:
        (n, S), in [0, 1].

    Example:
        >>> alone, both = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]).log(), torch.tensor([[0.7, 0.3]]).log()
        >>> posterior_score(alone, both)
        tensor([[0.7000, 0.3000]])
    """
    happens = log_subsets - log_full.unsqueeze(1) > margin
    return (log_full.exp().unsqueeze(1) * happens).sum(-1)


def weight_score(weights: Tensor) -> Tensor:
    """Return the weight of the interactions that a subset has by itself: its uniqueness, and redundancy.

    What it lacks are the uniqueness of the other modalities and synergy: the less these weigh, the less is lost.

    Args:
        weights: (n, E).

    Returns:
        (n, S), in [0, 1].

    Example:
        >>> weight_score(torch.tensor([[0.5, 0.1, 0.2, 0.2]]))
        tensor([[0.7000, 0.3000]])
    """
    subsets = proper_subsets(weights.shape[1] - 2)
    return torch.stack([weights[:, list(chosen)].sum(1) + weights[:, -1] for chosen in subsets], dim=1)


def confidence_score(log_full: Tensor, n_subsets: int) -> Tensor:
    """Return the largest probability from all modalities, the same for each subset: (n, S)."""
    return log_full.exp().amax(1, keepdim=True).expand(-1, n_subsets)


def entropy_score(log_full: Tensor, n_subsets: int) -> Tensor:
    """Return the entropy of the prediction from all modalities, in nats, the same for each subset: (n, S)."""
    return -(log_full.exp() * log_full).nan_to_num(0).sum(1, keepdim=True).expand(-1, n_subsets)


def macro_auroc(score: Tensor, events: Tensor) -> float:
    """Return how well a score tells where the events happen: the mean AUROC over subsets.

    Subsets whose event never or always happens are left out.

    Args:
        score: (n, S).
        events: (n, S) bool.

    Returns:
        A share, 0.5 for a score that tells nothing; NaN where no subset can be asked for.

    Example:
        >>> macro_auroc(torch.tensor([[0.9, 0.1], [0.2, 0.3]]), torch.tensor([[True, False], [False, False]]))
        1.0
    """
    from sklearn.metrics import roc_auc_score

    found = [
        float(roc_auc_score(happens, of_subset))
        for happens, of_subset in zip(events.T, score.T, strict=True)
        if 0 < int(happens.sum()) < len(happens)
    ]
    return mean(found) if found else math.nan
