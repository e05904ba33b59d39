r"""Pointwise information: what each modality, and all of them, say about the target that happened.

$i(x; y) = \log p(y \mid x) - \log p(y)$ of a sample may be negative, where a modality misleads. How it splits into
redundancy, uniqueness and synergy is a matter of definition; here are two. They need the target, unlike weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from examples.benchmarks.identify.predictors import Predictor, only, prior_log_likelihood
from examples.benchmarks.identify.settings import Training
from examples.datasets.known import KnownInteractions

__all__ = ["Lsmi", "Pointwise", "as_weights", "gaussian_surprisal", "lattice", "smaller_information"]


def smaller_information(information: Tensor) -> Tensor:
    r"""Split information by the rule that redundancy is the smaller of what two modalities say.

    $r = \min_i i(x_i; y)$, $u_i = i(x_i; y) - r$, and synergy is the rest. With more than two modalities r is the
    second largest and only the best one is unique.

    Args:
        information: (n, M + 1), $i(x_i; y)$ of each modality, then that of all together.

    Returns:
        (n, E), which add up to the information of all; any may be negative.

    Example:
        >>> smaller_information(torch.tensor([[0.7, 0.2, 1.0]]))
        tensor([[0.5000, 0.0000, 0.3000, 0.2000]])
    """
    alone, joint = information[:, :-1], information[:, -1:]
    largest, order = alone.topk(2)
    first, second = largest[:, :1], largest[:, 1:]
    uniqueness = torch.zeros_like(alone).scatter(1, order[:, :1], first - second)
    return torch.cat((uniqueness, joint - first, second), dim=1)


def lattice(information: Tensor, surprisal: Tensor) -> Tensor:
    r"""Split information by the rule of LSMI: redundancy is taken for what speaks for a sample and what against it.

    $$r = \min_i h(x_i) - \min_i h(x_i \mid y), \qquad u_i = i(x_i; y) - r,$$

    and synergy is the rest, with the surprisals $h(x) = -\log p(x)$ and $h(x \mid y) = h(x) - i(x; y)$. These are
    densities: in other units h moves, and r with it.

    Args:
        information: (n, M + 1), $i(x_i; y)$ of each modality, then that of all together.
        surprisal: (n, M), $h(x_i)$ in nats.

    Returns:
        (n, E), which add up to the information of all; any may be negative.

    Source: Yang et al., "Efficient Quantification of Multimodal Interaction at Sample Level", ICML 2025, for two
    modalities, after Finn and Lizier, "Pointwise partial information decomposition using the specificity and
    ambiguity lattices", Entropy 2018.

    Example:
        >>> lattice(torch.tensor([[0.75, 0.25, 1.0]]), surprisal=torch.tensor([[3.0, 3.0]]))
        tensor([[ 0.0000, -0.5000,  0.7500,  0.7500]])
    """
    alone, joint = information[:, :-1], information[:, -1:]
    ambiguity = surprisal - alone
    redundancy = surprisal.min(1, keepdim=True).values - ambiguity.min(1, keepdim=True).values
    uniqueness = alone - redundancy
    synergy = joint - redundancy - uniqueness.sum(1, keepdim=True)
    return torch.cat((uniqueness, synergy, redundancy), dim=1)


def as_weights(parts: Tensor) -> Tensor:
    """Turn parts (n, E) that may be negative into weights: the positive ones in proportion, or the largest alone.

    Example:
        >>> as_weights(torch.tensor([[0.5, -0.1, 0.5, 0.0], [-0.3, -0.1, -0.2, -0.4]]))
        tensor([[0.5000, 0.0000, 0.5000, 0.0000],
                [0.0000, 1.0000, 0.0000, 0.0000]])
    """
    positive = parts.clamp_min(0)
    total = positive.sum(1, keepdim=True)
    largest = torch.eye(parts.shape[1])[parts.argmax(1)]
    return torch.where(total > 0, positive / total.clamp_min(torch.finfo(parts.dtype).tiny), largest)


def gaussian_surprisal(train: Tensor, test: Tensor) -> Tensor:
    """Return -log p(x) of test samples (n, D), in nats, by the normal distribution of training samples (N, D).

    Its covariance is shrunk as Ledoit and Wolf say. Linear, this is the cheapest estimator that there is.

    Returns:
        (n,).
    """
    from sklearn.covariance import LedoitWolf

    estimate = LedoitWolf(store_precision=False).fit(train.double().numpy())
    normal = torch.distributions.MultivariateNormal(
        torch.from_numpy(estimate.location_), torch.from_numpy(estimate.covariance_), validate_args=False
    )
    surprisal: Tensor = -normal.log_prob(test.double()).float()
    return surprisal


class Pointwise:
    """Estimate pointwise information by classifiers of each modality and of all; the smaller one is redundant."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self._train: KnownInteractions | None = None
        self._alone: list[Predictor] = []
        self._joint: Predictor | None = None

    def fit(self, train: KnownInteractions, validation: KnownInteractions, seed: int) -> None:
        """Train a classifier of each modality alone, and one of all."""
        self._train = train
        self._alone = [
            Predictor(only(train, i), only(validation, i), seed, self.training) for i in range(len(train.modalities))
        ]
        self._joint = Predictor(train, validation, seed, self.training)

    def weights(self, test: KnownInteractions) -> Tensor:
        """Return the positive parts of the information in proportion; looks at the targets."""
        assert self._train is not None, "fit first"
        assert self._joint is not None
        likelihood = [predictor.log_likelihood(only(test, i)) for i, predictor in enumerate(self._alone)]
        likelihood.append(self._joint.log_likelihood(test))
        information = torch.stack(likelihood, dim=1) - prior_log_likelihood(self._train, test).unsqueeze(1)
        return as_weights(self._split(information, self._train, test))

    def accuracy(self, test: KnownInteractions) -> float:
        """Return that of the classifier of all modalities."""
        assert self._joint is not None, "fit first"
        return self._joint.accuracy(test)

    def _split(self, information: Tensor, train: KnownInteractions, test: KnownInteractions) -> Tensor:
        return smaller_information(information)


class Lsmi(Pointwise):
    """The same information, split by the rule of LSMI."""

    def _split(self, information: Tensor, train: KnownInteractions, test: KnownInteractions) -> Tensor:
        modalities = zip(train.modalities, test.modalities, strict=True)
        surprisal = [gaussian_surprisal(known.flatten(1), x.flatten(1)) for known, x in modalities]
        return lattice(information, torch.stack(surprisal, dim=1))
