r"""Mixtures of interactions: every sample has one type, drawn at random, and shows which.

Each modality j says a symbol a_j out of C, and the answer s out of C is

* uniqueness i: s = a_i, all symbols drawn independently;
* synergy: s = (a_0 + ... + a_{M-1}) mod C, all symbols drawn independently (for C = 2, the product of signs);
* redundancy: s = a_0 = ... = a_{M-1}.

So each type is pure: within uniqueness i the other modalities are at chance, within synergy any M - 1 of them
together are, within redundancy each is perfect. Which to believe only the type tells; samples show it by a
cue or by the region of two continuous features that they lie in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from examples.datasets.known import KnownInteractions, Posteriors
from examples.datasets.mixture_posteriors import mixture_posteriors

__all__ = ["Cue", "Mixture", "Region", "ShowsType", "as_they_are", "classes", "levels", "warp"]

N_FEATURES = 16  # per modality
NOISE = 0.5  # standard deviation of every feature
SYMBOL = 2.0  # size of a symbol: four standard deviations from the middle


class ShowsType(Protocol):
    """What the modalities that show the type have in common.

    Args:
        noise: standard deviation of what each modality adds on its own.
    """

    @property
    def noise(self) -> float:
        """The standard deviation."""
        ...

    def __call__(self, interaction: Tensor, mix: Tensor, generator: Generator) -> Tensor:
        """From types (n,) and their shares (E,) to features (n, K)."""
        ...

    def log_likelihood(self, shown: Tensor, mix: Tensor) -> Tensor:
        """From features (n, K or more) of a modality to those of the types, (n, E), up to a constant."""
        ...


@dataclass(frozen=True)
class Cue:
    """A feature per type: `size` for samples of that type, 0 for others."""

    size: float = 3.0
    noise: float = NOISE

    def __call__(self, interaction: Tensor, mix: Tensor, generator: Generator) -> Tensor:
        """Return features (n, E)."""
        return self.size * _one_hot(interaction, len(mix))

    def log_likelihood(self, shown: Tensor, mix: Tensor) -> Tensor:
        """Return (n, E)."""
        return _log_likelihood(shown[:, : len(mix)], self.size * torch.eye(len(mix)), self.noise)


@dataclass(frozen=True)
class Region:
    """A point of a disc in which each type has a sector as large as its share: no feature names a type."""

    radius: float = 3.0

    @property
    def noise(self) -> float:
        """All modalities show the same point."""
        return 0.0

    def __call__(self, interaction: Tensor, mix: Tensor, generator: Generator) -> Tensor:
        """Return features (n, 2)."""
        across, outward = torch.rand(2, len(interaction), generator=generator).unbind()
        begin = mix.cumsum(0) - mix
        angle = 2 * math.pi * (begin[interaction] + mix[interaction] * across)
        return self.radius * outward.sqrt()[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1)

    def log_likelihood(self, shown: Tensor, mix: Tensor) -> Tensor:
        """Return (n, E): a point is in one sector."""
        turn = torch.atan2(shown[:, 1], shown[:, 0]) / (2 * math.pi) % 1
        sector = (turn.unsqueeze(1) >= mix.cumsum(0)[:-1]).sum(1)
        return _one_hot(sector, len(mix)).log()


def classes(answer: Tensor, n_classes: int, generator: Generator) -> Tensor:
    """Ask for the answer (n,) itself."""
    return answer


def levels(answer: Tensor, n_classes: int, generator: Generator) -> Tensor:
    """Ask for a uniform number of mean 0 and variance 1: the answer (n,) decides in which of C equal slices.

    The answer explains 1 - 1 / n_classes^2 of the variance; where in its slice a number lies is noise.
    """
    within = torch.rand(answer.shape, generator=generator)
    return _scaled(answer + within, n_classes)


def as_they_are(features: Tensor, modality: int) -> Tensor:
    """Leave features (n, D) alone."""
    return features


def warp(features: Tensor, modality: int) -> Tensor:
    """Spread each feature of (n, D) over all, then bend each half by waves of the other; invertible."""
    signs = 2.0 * torch.randint(2, (N_FEATURES,), generator=torch.Generator().manual_seed(modality)) - 1
    left, right = ((features * signs) @ _hadamard(N_FEATURES)).chunk(2, dim=1)
    right = right + torch.sin(2 * left)
    left = left + torch.sin(2 * right)
    return torch.cat((left, right), dim=1)


@dataclass(frozen=True)
class Mixture:
    """A generator of `KnownInteractions` by the rules of this module.

    Args:
        n_modalities: M.
        n_classes: C, how many symbols each modality has.
        mix: (E,), the share of each type; default: equal shares.
        label_noise: the share of answers replaced by another, drawn at random.
        shows_type: how samples show their type.
        shown_by: the modalities that show it; default: all.
        render: `render(features, modality)`, the last change to what a modality looks like.
        target: `target(answer, n_classes, generator)`, what is asked for: `classes` or `levels`.

    Example:
        >>> data = Mixture(n_modalities=3)(100, seed=0)
        >>> len(data.modalities), data.modalities[0].shape, data.n_classes
        (3, torch.Size([100, 16]), 2)
        >>> Mixture().joint().shape  # 2 symbols x 4 types per modality, 2 classes
        torch.Size([8, 8, 2])
    """

    n_modalities: int = 2
    n_classes: int = 2
    mix: tuple[float, ...] | None = None
    label_noise: float = 0.0
    shows_type: ShowsType = Cue()
    shown_by: tuple[int, ...] | None = None
    render: Callable[[Tensor, int], Tensor] = as_they_are
    target: Callable[[Tensor, int, Generator], Tensor] = classes

    def __post_init__(self) -> None:
        if len(self.shares) != self.n_modalities + 2 or not math.isclose(sum(self.shares), 1, abs_tol=1e-6):
            raise ValueError(
                f"`mix` must hold M + 2 shares that sum to 1, however: {self.mix} for {self.n_modalities} "
                "modalities; they are uniqueness 0..M-1, synergy, redundancy."
            )

    def __call__(self, n: int, seed: int) -> KnownInteractions:
        """Draw n samples."""
        generator = torch.Generator().manual_seed(seed)
        interaction = torch.multinomial(self.shares, n, replacement=True, generator=generator)
        symbols = torch.randint(self.n_classes, (n, self.n_modalities), generator=generator)
        symbols, answers = _decide(symbols, interaction, self.n_classes)

        shown = self.shows_type(interaction, self.shares, generator)
        features = [
            self._features(symbols[:, j], shown if shows else None, generator) for j, shows in enumerate(self._shown)
        ]
        answer = _disturb(_of_type(answers, interaction), self.n_classes, self.label_noise, generator)
        return KnownInteractions(
            modalities=tuple(self.render(each, j) for j, each in enumerate(features)),
            target=self.target(answer, self.n_classes, generator),
            interaction=interaction,
            mix=self.shares,
            n_classes=self.n_classes if self.target is classes else None,
            shows_type=self._shown,
            exact=self._exact(features),
            answers=answers if self.target is classes else _scaled(answers + 0.5, self.n_classes),
        )

    @property
    def shares(self) -> Tensor:
        """(E,), the share of each type."""
        n_types = self.n_modalities + 2
        return torch.tensor(self.mix or [1 / n_types] * n_types)

    def joint(self) -> Tensor:
        """Tabulate what the features show, symbol and type, with the answer.

        Returns:
            (n_0, ..., n_{M-1}, C) in float64, the probabilities p(x_0, ..., x_{M-1}, s); x_j is the symbol of
            modality j, plus C times the type if it shows that. Features tell x_j almost surely, and so does a
            regression's target s.
        """
        grid = torch.cartesian_prod(*[torch.arange(self.n_classes)] * self.n_modalities)  # (C^M, M)
        interaction = torch.arange(len(self.shares)).repeat_interleave(len(grid))
        symbols, answers = _decide(grid.repeat(len(self.shares), 1), interaction, self.n_classes)

        n_states = [self.n_classes * (len(self.shares) if shows else 1) for shows in self._shown]
        states = symbols + self.n_classes * interaction[:, None] * torch.tensor(self._shown)
        joint = torch.zeros(*n_states, self.n_classes, dtype=torch.float64)
        probability = self.shares.double()[interaction] / len(grid)
        joint.index_put_((*states.T, _of_type(answers, interaction)), probability / probability.sum(), accumulate=True)

        return self._with_label_noise(joint)

    @property
    def _shown(self) -> tuple[bool, ...]:
        return tuple(self.shown_by is None or j in self.shown_by for j in range(self.n_modalities))

    def _features(self, symbols: Tensor, shown: Tensor | None, generator: Generator) -> Tensor:
        """From symbols (n,) and what shows the type (n, K) to features (n, D)."""
        features = NOISE * torch.randn(len(symbols), N_FEATURES, generator=generator)
        code = _code(symbols, self.n_classes)
        features[:, : code.shape[1]] += code
        if shown is not None:
            place = slice(code.shape[1], code.shape[1] + shown.shape[1])
            features[:, place] = shown + features[:, place] * (self.shows_type.noise / NOISE)
        return features

    def _with_label_noise(self, probabilities: Tensor) -> Tensor:
        """Move a share of the probability (..., C) of each answer to the others."""
        wrong = (probabilities.sum(-1, keepdim=True) - probabilities) / (self.n_classes - 1)
        return (1 - self.label_noise) * probabilities + self.label_noise * wrong

    def _exact(self, features: Sequence[Tensor]) -> Posteriors:
        """Return what features say about the answer; their last change can be undone."""
        codes = _code(torch.arange(self.n_classes), self.n_classes)
        width, nothing = codes.shape[1], torch.zeros(len(features[0]), len(self.shares))
        answers = mixture_posteriors(
            [_log_likelihood(each[:, :width], codes, NOISE) for each in features],
            [
                self.shows_type.log_likelihood(each[:, width:], self.shares) if shows else nothing
                for each, shows in zip(features, self._shown, strict=True)
            ],
            self.shares,
        )
        prior = torch.full((self.n_classes,), 1 / self.n_classes, dtype=torch.float64)
        found = [self._with_label_noise(each) for each in (*answers, prior)]
        if self.target is levels:
            middles = _scaled(torch.arange(self.n_classes, dtype=torch.float64) + 0.5, self.n_classes)
            found = [(each @ middles).unsqueeze(-1) for each in found]
        return Posteriors(*(each.float() for each in found))


def _hadamard(size: int) -> Tensor:
    """Tabulate the rotation that spreads each feature evenly over all; the size is a power of 2."""
    if size == 1:
        return torch.ones(1, 1)
    return torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), _hadamard(size // 2)) / math.sqrt(2)


def _decide(symbols: Tensor, interaction: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """From independent symbols (n, M) to those of samples of these types, and what each type would answer, (n, E)."""
    redundant = interaction == symbols.shape[1] + 1
    symbols = torch.where(redundant[:, None], symbols[:, :1], symbols)
    synergy = symbols.sum(1, keepdim=True) % n_classes
    return symbols, torch.cat((symbols, synergy, symbols[:, :1]), dim=1)


def _of_type(answers: Tensor, interaction: Tensor) -> Tensor:
    """Return the answers (n,) of the samples' own types."""
    return answers.gather(1, interaction[:, None]).squeeze(1)


def _disturb(answer: Tensor, n_classes: int, label_noise: float, generator: Generator) -> Tensor:
    """Replace a share of the answers (n,) by another one."""
    disturbed = torch.rand(answer.shape, generator=generator) < label_noise
    shift = torch.randint(1, n_classes, answer.shape, generator=generator)
    return torch.where(disturbed, (answer + shift) % n_classes, answer)


def _scaled(position: Tensor, n_classes: int) -> Tensor:
    """Scale uniform numbers between 0 and C to mean 0 and variance 1."""
    return math.sqrt(12) * (position / n_classes - 0.5)


def _log_likelihood(features: Tensor, centers: Tensor, noise: float) -> Tensor:
    """Return the log-likelihoods (n, k) of Gaussian noise about each of k centers (k, D), up to a constant."""
    return -(features.unsqueeze(1) - centers).square().sum(-1) / (2 * noise**2)


def _one_hot(values: Tensor, n_values: int) -> Tensor:
    return torch.eye(n_values)[values]


def _code(symbols: Tensor, n_classes: int) -> Tensor:
    """Show two symbols by the sign of one feature, more of them by one feature each: (n, 1 or C)."""
    signs = SYMBOL * (2 * _one_hot(symbols, n_classes) - 1)
    return signs[:, 1:] if n_classes == 2 else signs
