"""Changes to data after which it is known what becomes of the weights.

Other units, another order of the modalities, a modality that is there twice, one that is noise: none of these changes
what there is to know about the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Generator, Tensor

from examples.datasets.known import UNKNOWN, KnownInteractions, Posteriors

__all__ = ["CHANGES", "Change"]


@dataclass(frozen=True)
class Change:
    """A change to data, and what becomes of the types of interaction and of the weights.

    A modality that is there twice afterwards is unique no more: its uniqueness becomes redundancy.

    Args:
        sources: from the number of modalities M to a list of M', for each modality afterwards the number of the one
            that it was before, or None if it is noise.
        factor: what modality 0 is multiplied by.

    Example:
        >>> from examples.datasets.gates import dense_gates
        >>> CHANGES["duplicated"](dense_gates()(100, seed=0), seed=0).mix  # uniqueness 0, 1, 2, synergy, redundancy
        tensor([0.0000, 0.2500, 0.0000, 0.2500, 0.5000])
    """

    sources: Callable[[int], Sequence[int | None]]
    factor: float = 1.0

    def __call__(self, data: KnownInteractions, seed: int) -> KnownInteractions:
        """Change data; the seed is that of the noise."""
        sources = self.sources(len(data.modalities))
        generator = torch.Generator().manual_seed(seed)
        types = torch.tensor(self._types(len(data.modalities)))
        known = data.interaction != UNKNOWN
        return replace(
            data,
            modalities=tuple(self._modality(data, source, generator) for source in sources),
            interaction=torch.where(known, types[data.interaction], UNKNOWN),
            mix=self.weights(data.mix.unsqueeze(0)).squeeze(0),
            shows_type=tuple(source is not None and data.shows_type[source] for source in sources),
            exact=data.exact and _change_posteriors(data.exact, sources),
            answers=None,
        )

    def weights(self, weights: Tensor) -> Tensor:
        """Return the weights (n, E') that follow from weights (n, E) before the change."""
        n_modalities = weights.shape[1] - 2
        changed = weights.new_zeros(len(weights), len(self.sources(n_modalities)) + 2)
        return changed.index_add(1, torch.tensor(self._types(n_modalities)), weights)

    def _types(self, n_modalities: int) -> list[int]:
        """(E,), what each type is called afterwards."""
        sources = list(self.sources(n_modalities))
        synergy, redundancy = len(sources), len(sources) + 1
        unique = [sources.index(i) if sources.count(i) == 1 else redundancy for i in range(n_modalities)]
        return [*unique, synergy, redundancy]

    def _modality(self, data: KnownInteractions, source: int | None, generator: Generator) -> Tensor:
        if source is None:
            return torch.randn(data.modalities[0].shape, generator=generator)
        return data.modalities[source] * (self.factor if source == 0 else 1)


def _change_posteriors(exact: Posteriors, sources: Sequence[int | None]) -> Posteriors:
    nothing = exact.prior.expand_as(exact.joint)
    alone = [nothing if source is None else exact.alone[:, source] for source in sources]
    return replace(exact, alone=torch.stack(alone, dim=1))


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "times-10": Change(lambda n_modalities: range(n_modalities), factor=10),
        "reversed": Change(lambda n_modalities: range(n_modalities)[::-1]),
        "duplicated": Change(lambda n_modalities: (*range(n_modalities), 0)),
        "noise": Change(lambda n_modalities: (*range(n_modalities), None)),
    }
)
"""The changes by name: modality 0 in other units, the modalities in reverse order, modality 0 once more, and noise."""
