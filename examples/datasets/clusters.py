r"""Gaussian clusters: all that can be known about a sample follows from Bayes' rule, in closed form.

A sample belongs to one of K clusters. The cluster decides its class, its type of interaction and the place of each
modality; each modality adds noise of its own. With cluster shares $\pi_k$ and places $c_{ki}$,

$$p(y \mid x_i, i \in S) \propto \sum_{k: y_k = y} \pi_k \prod_{i \in S} \mathcal N(x_i; c_{ki}, \sigma^2 I).$$
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.datasets.known import KnownInteractions, Posteriors

__all__ = ["Clusters"]


@dataclass(frozen=True)
class Clusters:
    """A generator of `KnownInteractions` by the rules of this module.

    Args:
        places: M tensors (K, d_i), where each cluster lies in each modality.
        target: (K,), the class of each cluster.
        interaction: (K,), the type of each cluster. None where the noise decides: the type of a sample is then the
            largest of its exact shares, and the mix is their mean.
        shares: (K,), how frequent each cluster is; default: all alike.
        noise: standard deviation of every number.
        same: (K,) bool, clusters in which all modalities hold the very same numbers, noise included; default: none.
        projections: M tensors (D_i, d_i), what a modality shows of its d_i numbers; each must have full column rank,
            so that nothing is lost. Default: the numbers themselves.

    Raises:
        ValueError: if modalities differ in a cluster that is to be the same in all.

    Example:
        >>> places = torch.tensor([[-1.0], [1.0]])
        >>> data = Clusters((places, places), torch.tensor([0, 1]), torch.tensor([3, 3]))(100, seed=0)
        >>> data.modalities[0].shape, data.exact.alone.shape, data.mix
        (torch.Size([100, 1]), torch.Size([100, 2, 2]), tensor([0., 0., 0., 1.]))
    """

    places: tuple[Tensor, ...]
    target: Tensor
    interaction: Tensor | None = None
    shares: Tensor | None = None
    noise: float = 1.0
    same: Tensor | None = None
    projections: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        for place in self.places[1:]:
            if self._same.any() and not torch.equal(place[self._same], self.places[0][self._same]):
                raise ValueError(
                    "a cluster that is the same in all modalities must have the same place in all, however "
                    "`places` differ there."
                )

    def __call__(self, n: int, seed: int) -> KnownInteractions:
        """Draw n samples."""
        generator = torch.Generator().manual_seed(seed)
        cluster = torch.multinomial(self._shares, n, replacement=True, generator=generator)
        numbers = [
            place[cluster] + self.noise * torch.randn(n, place.shape[1], generator=generator) for place in self.places
        ]
        same = self._same[cluster].unsqueeze(1)
        if same.any():
            numbers = [torch.where(same, numbers[0], number) for number in numbers]

        exact = self.posteriors(numbers)
        projections = self.projections
        interaction, mix = self._truth(cluster, exact)
        return KnownInteractions(
            modalities=tuple(
                numbers if projections is None else (x @ p.T for x, p in zip(numbers, projections, strict=True))
            ),
            target=self.target[cluster],
            interaction=interaction,
            mix=mix,
            n_classes=self.n_classes,
            shows_type=(False,) * len(self.places),
            exact=exact,
        )

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return int(self.target.max()) + 1

    def posteriors(self, numbers: Sequence[Tensor]) -> Posteriors:
        """Return the posteriors of samples, given before their projection as M tensors (n, d_i)."""
        everything = range(len(self.places))
        return Posteriors(
            alone=torch.stack([self.posterior(numbers, [i]) for i in everything], dim=1),
            joint=self.posterior(numbers, everything),
            prior=self._by_class(self._shares.double()).float(),
        )

    def posterior(self, numbers: Sequence[Tensor], modalities: Sequence[int]) -> Tensor:
        """Return p(y | the modalities with these numbers), (n, C)."""
        distances = [torch.cdist(numbers[i].double(), self.places[i].double()).square() for i in modalities]  # (n, K)
        distance = torch.stack(distances).sum(0)
        if len(modalities) > 1 and self._same.any():
            # Numbers that agree to the last bit have no other cause; they count once.
            agree = torch.stack([(numbers[i] == numbers[modalities[0]]).all(1) for i in modalities]).all(0)
            distance = torch.where(self._same, distances[0], distance)
            distance = distance.masked_fill(agree.unsqueeze(1) != self._same, torch.inf)
        weight = (self._shares.double().log() - distance / (2 * self.noise**2)).softmax(1)
        return self._by_class(weight).float()

    @property
    def _shares(self) -> Tensor:
        return torch.full((len(self.target),), 1 / len(self.target)) if self.shares is None else self.shares

    @property
    def _same(self) -> Tensor:
        return torch.zeros(len(self.target), dtype=torch.bool) if self.same is None else self.same

    def _by_class(self, weight: Tensor) -> Tensor:
        """Add up the weights (..., K) of the clusters of each class: (..., C)."""
        return weight @ torch.eye(self.n_classes, dtype=weight.dtype)[self.target]

    def _truth(self, cluster: Tensor, exact: Posteriors) -> tuple[Tensor, Tensor]:
        if self.interaction is None:
            return exact.shares.argmax(1), exact.shares.mean(0)
        n_types = len(self.places) + 2
        return self.interaction[cluster], self._shares @ torch.eye(n_types)[self.interaction]
