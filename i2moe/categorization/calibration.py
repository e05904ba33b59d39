"""Calibration: what predictions are worth, measured by the labels, before modalities are compared."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from i2moe._common.checks import check_fraction
from i2moe.categorization.checks import Predictions

__all__ = ["Calibrated", "calibrated_near"]

_LEAST = 1e-6  # a probability of 0 would outweigh everything else
_PRIOR_SAMPLES = 10  # samples, spread evenly over the classes, added to those that base rates are counted from
_PRECISION = 1.0  # of the normal prior that keeps the weights of a pool finite, whatever the samples


@dataclass(frozen=True)
class Calibrated:
    r"""Compare calibrated predictions with what all modalities together predict: the default for classes.

    Predictions $p_k$ are pooled relative to the base rates $b$ of the classes, a logarithmic opinion pool:

    $$p(c) \propto b_c \prod_k \left(\frac{p_k(c)}{b_c}\right)^{w_k}, \qquad w_k \ge 0$$

    With labels the weights are those of the highest likelihood: a modality at chance gets weight 0, however confident
    it is. Without labels all weights are 1. Three kinds of pools are compared, *alone* (one modality, for each),
    *apart* (all unimodal predictions) and *together* (those and the multimodal prediction, whose weight alone is 1
    without labels). The reference is the class that *together* raises most above its base rate, and a pool's gain g is
    how far it raises that class:

    * synergy, where the best modality alone gains less than the fraction s of what all gain together, and all apart,
      whose noise adds up as well, less than halfway from there to everything:
      $\max_i g_i < s \, g_{together}$ and $g_{apart} < \frac{1 + s}{2} g_{together}$;
    * else a modality is near that gains $g_i \ge s \max_j g_j$.

    So a weak modality counts where it points to what all together predict, a confident one at chance does not, and
    evidence that adds up is no synergy. A sample that all together get wrong is categorized by what they predict.

    Source: Genest & Zidek, Combining Probability Distributions, Statistical Science 1986, for the pools; the rule is
    ours.

    Args:
        fraction: s, between 0 and 1.

    Raises:
        ValueError: if the fraction is not in [0, 1].
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        check_fraction(fraction=self.fraction)


def calibrated_near(given: Predictions, fraction: float) -> Tensor:
    """Say which modalities (B, M) are near; see `Calibrated`."""
    n_modalities = given.unimodal.shape[1]
    base = _base_rates(given)  # (C,)
    everything = torch.cat([given.unimodal, given.multimodal.unsqueeze(1)], dim=1).double()
    lifts = everything.clamp(min=_LEAST).log() - base.log()  # (B, M + 1, C)

    multimodal_only = F.one_hot(torch.tensor(n_modalities), n_modalities + 1).to(base)
    pools = [_pool(lifts[:, i : i + 1], base, given.labels, base.new_ones(1)) for i in range(n_modalities)]
    pools.append(_pool(lifts[:, :n_modalities], base, given.labels, base.new_ones(n_modalities)))
    pools.append(_pool(lifts, base, given.labels, multimodal_only))
    _warn_at_chance(pools[-1], base, given.labels, n_modalities + 1)
    raised = torch.stack(pools, dim=1) - base  # (B, M + 2, C)

    reference = raised[:, -1].argmax(-1)
    gains = raised.gather(2, reference.reshape(-1, 1, 1).expand(-1, n_modalities + 2, 1)).squeeze(2)
    alone, apart, together = gains[:, :n_modalities], gains[:, -2], gains[:, -1]
    best = alone.amax(1)
    explained = (best >= fraction * together) | (apart >= (1 + fraction) / 2 * together)
    return explained.unsqueeze(1) & (alone > 0) & (alone >= fraction * best.unsqueeze(1))


def _base_rates(given: Predictions) -> Tensor:
    n_samples, n_classes = given.multimodal.shape
    if given.labels is None:
        counts = given.multimodal.double().sum(0)
    else:
        counts = torch.bincount(given.labels, minlength=n_classes).double()
    return (counts + _PRIOR_SAMPLES / n_classes) / (n_samples + _PRIOR_SAMPLES)


def _warn_at_chance(together: Tensor, base: Tensor, labels: Tensor | None, n_weights: int) -> None:
    """Warn where the gain in log-likelihood is what as many weights gain on noise (Akaike's criterion)."""
    if labels is None:
        return
    gain = float((together.gather(1, labels.unsqueeze(1)).squeeze(1).log() - base.log()[labels]).sum())
    if gain <= n_weights:
        warnings.warn(
            "the predictions should tell more about the labels than the classes' frequencies do, however all "
            f"modalities together gain {gain:.2g} nats on {len(labels)} samples: the categories are noise; "
            "train the classifiers better, or on more samples",
            UserWarning,
            stacklevel=5,
        )


def _pool(lifts: Tensor, base: Tensor, labels: Tensor | None, weights: Tensor) -> Tensor:
    """Pool K predictions, given as log ratios to the base rates (B, K, C), to (B, C)."""
    if labels is not None:
        weights = _fit(lifts, base, labels, weights)
    return (base.log() + torch.einsum("k,bkc->bc", weights, lifts)).softmax(-1)


def _fit(lifts: Tensor, base: Tensor, labels: Tensor, prior: Tensor) -> Tensor:
    """Find the weights (K,) >= 0 of the highest posterior: a convex problem of K numbers.

    The gradient is written out: inference mode allows no other.
    """
    weights = prior.clone()
    observed = lifts.gather(2, labels.reshape(-1, 1, 1).expand(-1, lifts.shape[1], 1)).sum((0, 2))  # (K,)

    def loss() -> Tensor:
        logits = base.log() + torch.einsum("k,bkc->bc", weights, lifts)
        expected = torch.einsum("bc,bkc->k", logits.softmax(-1), lifts)
        weights.grad = expected - observed + _PRECISION * (weights - prior)
        penalty = _PRECISION / 2 * (weights - prior).square().sum()
        return F.cross_entropy(logits, labels, reduction="sum") + penalty

    torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe").step(loss)
    positive = weights > 0
    if positive.all():
        return weights.detach()
    # Cutting negative weights off would leave what balanced them: the others are fitted again without them.
    found = torch.zeros_like(prior)
    if positive.any():
        found[positive] = _fit(lifts[:, positive], base, labels, prior[positive])
    return found
