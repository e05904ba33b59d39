"""What mean weights and shares of variance are worth where one class is rare.

    python -m examples.benchmarks.rare_class

Two modalities of Gaussian features. *Either*: a sample of the rare class shows it in one modality, drawn at random.
*Both*: the class is that two features, one of each modality, exceed a threshold. Both summaries of the weights are
compared with those of the exact posteriors: half the L1 distance. *Balanced*: the estimator has
class_weight="balanced", and the posteriors are of data with as many samples of each class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np
import torch

from examples.benchmarks.not_at_random import Options
from examples.benchmarks.real_data.behavior import over_samples
from i2moe.estimators import InteractionClassifier
from i2moe.moe.weights import interaction_shares

__all__ = ["main"]

FREQUENCIES = (0.5, 0.2, 0.1, 0.04)
KINDS = ("either", "both")
SHIFT = 4.0
"""By how much the feature that shows the rare class is higher, in deviations."""


@dataclass(frozen=True)
class Samples:
    """Features (N, 4) of both modalities, who is of the rare class (N,), and its exact posteriors (N, 3).

    The posteriors are from each modality alone, and from both.
    """

    modalities: list[np.ndarray]
    rare: np.ndarray
    posterior: np.ndarray

    @classmethod
    def draw(cls, kind: str, n: int, frequency: float, seed: int) -> Samples:
        """Draw samples."""
        draw = np.random.default_rng(seed)
        a, b = draw.normal(size=(2, n, 4))
        if kind == "both":
            each = frequency**0.5  # of the features, as the class needs both
            above = np.stack([x[:, 0] > NormalDist().inv_cdf(1 - each) for x in (a, b)], axis=1)
            rare = above.all(1)
            return cls([a, b], rare.astype(int), np.column_stack([each * above, rare]))
        rare, shown = draw.random(n) < frequency, draw.integers(2, size=n)
        for i, x in enumerate((a, b)):
            x[:, 0] += SHIFT * (rare & (shown == i))
        ratio_a, ratio_b = (np.exp(SHIFT * x[:, 0] - SHIFT**2 / 2) for x in (a, b))
        ratios = np.column_stack([(1 + ratio_a) / 2, (1 + ratio_b) / 2, (ratio_a + ratio_b) / 2])
        return cls([a, b], rare.astype(int), frequency * ratios / (frequency * ratios + 1 - frequency))


def main(options: Options) -> None:
    """Print a row for each kind, frequency and choice of class weights."""
    torch.set_num_threads(1)
    print("kind    frequency  classes   near the prior  mean weights off by  of variance off by")
    for kind in KINDS:
        for frequency in FREQUENCIES:
            for balanced in (False, True) if frequency < 0.5 else (False,):
                near, mean, variance = map(fmean, zip(*_results(kind, frequency, balanced, options), strict=True))
                classes = "balanced" if balanced else "as is"
                print(f"{kind:6}  {frequency:9}  {classes:8}  {near:14.0%}  {mean:19.2f}  {variance:18.2f}", flush=True)


def _results(kind: str, frequency: float, balanced: bool, options: Options) -> Iterator[tuple[float, float, float]]:
    test = Samples.draw(kind, 4000, frequency, seed=99)
    exact = _exact(test, frequency, balanced)
    for seed in range(options.seeds):
        train = Samples.draw(kind, options.n_train, frequency, seed)
        model = InteractionClassifier(
            random_state=seed, n_teachers=options.n_teachers, class_weight="balanced" if balanced else None
        ).fit(train.modalities, train.rare)
        report = model.report(test.modalities, test.rare, n_draws=0)
        found = torch.stack([report.overall.mean, report.variance_shares])
        yield (report.near_prior.double().mean().item(), *((found - exact).abs().sum(1) / 2).tolist())


def _exact(samples: Samples, frequency: float, balanced: bool) -> torch.Tensor:
    """Return the mean weights and the shares of variance of the exact posteriors, (2, 4)."""
    posterior = torch.from_numpy(samples.posterior)
    if balanced:
        odds = posterior * (1 - frequency)
        posterior, frequency = odds / (odds + (1 - posterior) * frequency), 0.5
    both = torch.stack([1 - posterior, posterior], dim=-1)
    return over_samples(*interaction_shares(both[:, :2], both[:, 2], both.new_tensor([1 - frequency, frequency])))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))
