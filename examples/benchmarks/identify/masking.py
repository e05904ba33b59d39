r"""Interaction indices of a model's predictions while modalities are masked.

Modalities are players, and the value v(S) of a coalition is what the model predicts when the others are masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import factorial

import torch
from torch import Generator, Tensor

from examples.benchmarks.identify.pointwise import as_weights
from examples.benchmarks.identify.predictors import Predictor
from examples.benchmarks.identify.settings import Training
from examples.datasets.known import KnownInteractions

__all__ = ["InterShap", "interaction_parts", "masked_predictions", "shapley_interactions"]


def shapley_interactions(values: Tensor) -> Tensor:
    r"""Return the Shapley interaction index of every pair of players, and on the diagonal what each adds alone.

    $$\phi_{ij} = \sum_{S \not\ni i, j} \frac{|S|!\,(M - |S| - 2)!}{2 (M - 1)!}
    \big( v(S \cup ij) - v(S \cup i) - v(S \cup j) + v(S) \big), \qquad
    \phi_{ii} = \phi_i - \sum_{j \ne i} \phi_{ij}$$

    with the Shapley value $\phi_i$. All of them add up to v(all) - v(none).

    Args:
        values: (n, 2^M), v of each coalition; bit i of its number says whether player i is in it.

    Returns:
        (n, M, M), symmetric.

    Source: Wenderoth et al., "Measuring Cross-Modal Interactions in Multimodal Models" (InterSHAP), AAAI 2025;
    Grabisch and Roubens, 1999.

    Example:
        >>> shapley_interactions(torch.tensor([[0.5, 0.5, 0.5, 1.0]]))  # only both together say something
        tensor([[[0.0000, 0.2500],
                 [0.2500, 0.0000]]])
    """
    n_players = values.shape[1].bit_length() - 1
    players = range(n_players)
    found = values.new_zeros(len(values), n_players, n_players)
    for i, j in combinations(players, 2):
        for coalition in _coalitions([k for k in players if k not in (i, j)]):
            both = values[:, coalition | 1 << i | 1 << j] - values[:, coalition | 1 << i]
            one = values[:, coalition | 1 << j] - values[:, coalition]
            size = coalition.bit_count()
            factor = factorial(size) * factorial(n_players - size - 2) / (2 * factorial(n_players - 1))
            found[:, i, j] += factor * (both - one)
    found = found + found.mT
    for i in players:
        shapley = values.new_zeros(len(values))
        for coalition in _coalitions([k for k in players if k != i]):
            size = coalition.bit_count()
            factor = factorial(size) * factorial(n_players - size - 1) / factorial(n_players)
            shapley += factor * (values[:, coalition | 1 << i] - values[:, coalition])
        found[:, i, i] = shapley - found[:, i].sum(1)
    return found


def interaction_parts(interactions: Tensor) -> Tensor:
    """Read interaction indices (n, M, M) as uniqueness of each modality, synergy and redundancy: (n, E).

    A pair that is worth more together than apart is synergistic. One that is worth less repeats itself: that much is
    redundancy, and is taken from what each of the two adds alone.

    Example:
        >>> alike = shapley_interactions(torch.tensor([[0.5, 1.0, 1.0, 1.0]]))  # each of two says everything
        >>> interaction_parts(alike)
        tensor([[0.0000, 0.0000, 0.0000, 0.5000]])
    """
    alone = interactions.diagonal(dim1=1, dim2=2)
    pairs = 2 * (interactions - torch.diag_embed(alone))
    repeated, gained = (-pairs).clamp_min(0), pairs.clamp_min(0)
    uniqueness = (alone - repeated.sum(2)).clamp_min(0)
    synergy, redundancy = (part.sum((1, 2)).unsqueeze(1) / 2 for part in (gained, repeated))
    return torch.cat((uniqueness, synergy, redundancy), dim=1)


def masked_predictions(
    predict: Callable[[Sequence[Tensor]], Tensor],
    modalities: Sequence[Tensor],
    background: Sequence[Tensor],
    n_draws: int,
    generator: Generator,
) -> Tensor:
    """Predict samples with modalities masked: replaced by those of other samples, and averaged over these.

    Args:
        predict: from M modalities (n, ...) to predictions (n, C).
        modalities: M tensors (n, ...).
        background: M tensors (N, ...), what a masked modality is drawn from.
        n_draws: how many replacements to average over; all modalities of one come from the same sample.
        generator: what they are drawn with.

    Returns:
        (n, 2^M, C); bit i of a coalition's number says whether modality i is its own.
    """
    n, n_modalities = len(modalities[0]), len(modalities)
    total: Tensor | None = None
    for _ in range(n_draws):
        rows = torch.randint(len(background[0]), (n,), generator=generator)
        others = [x[rows] for x in background]
        coalitions = [
            predict([x if coalition >> i & 1 else o for i, (x, o) in enumerate(zip(modalities, others, strict=True))])
            for coalition in range(2**n_modalities)
        ]
        found = torch.stack(coalitions, dim=1)
        total = found if total is None else total + found
    assert total is not None
    return total / n_draws


class InterShap:
    """Read the interactions of one model of all modalities from what it predicts while some are masked.

    The value of a coalition is the probability of the class that the model predicts from all, or, for a regression,
    the prediction, in the direction in which all together move it.
    """

    def __init__(self, training: Training, n_draws: int = 16) -> None:
        self.training = training
        self.n_draws = n_draws
        self._predictor: Predictor | None = None
        self._background: tuple[Tensor, ...] = ()

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Train one network on all modalities."""
        self._background = train.modalities
        self._predictor = Predictor(train, validation, seed, self.training)

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the parts in proportion."""
        predictor = self._predictor
        assert predictor is not None, "fit first"

        def predict(modalities: Sequence[Tensor]) -> Tensor:
            prediction = predictor(modalities)
            return prediction if test.n_classes is None else prediction.softmax(1)

        generator = torch.Generator().manual_seed(0)
        predicted = masked_predictions(predict, test.modalities, self._background, self.n_draws, generator)
        if test.n_classes is None:
            moved = predicted[:, -1] - predicted[:, 0]  # (n, 1)
            values = predicted.squeeze(2) * moved.sign()
        else:
            best = predicted[:, -1].argmax(1)
            values = predicted[torch.arange(len(best)), :, best]
        return as_weights(interaction_parts(shapley_interactions(values)))

    def accuracy(self, test: KnownInteractions) -> float:
        """Return that of the network."""
        assert self._predictor is not None, "fit first"
        return self._predictor.accuracy(test)


def _coalitions(players: Sequence[int]) -> list[int]:
    """All sets of these players, as numbers with a bit for each."""
    return [sum(1 << k for k in chosen) for size in range(len(players) + 1) for chosen in combinations(players, size)]
