"""Health of the weights during training: entropy, unused experts, weights that collapse."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from i2moe._common.checks import check_at_least_one
from i2moe.interpretation.report.warnings.rules import (
    COLLAPSED,
    CONSTANT,
    UNUSED,
    find_collapsed,
    find_constant,
    find_unused,
)
from i2moe.moe import InteractionOutput

__all__ = ["WeightHealth", "WeightMonitor"]


@dataclass(frozen=True)
class WeightHealth:
    """The weights over some steps of training.

    Args:
        n_samples: how many samples they were of.
        mean: name of the expert -> its mean weight.
        largest: name -> share of the samples for which it has the largest weight.
        entropy: mean entropy of a sample's weights, in nats: 0 if one expert decides alone, log E if all count alike.
        spread: the largest standard deviation of an expert's weight between samples.
        findings: what is suspicious, in sentences.
    """

    n_samples: int
    mean: dict[str, float]
    largest: dict[str, float]
    entropy: float
    spread: float
    findings: tuple[str, ...]

    def to_dict(self) -> dict[str, float]:
        """Return flat numbers by name, for a log."""
        return {
            **{f"weight/{name}": value for name, value in self.mean.items()},
            **{f"largest/{name}": value for name, value in self.largest.items()},
            "entropy": self.entropy,
            "spread": self.spread,
        }


class WeightMonitor:
    """Watch the weights while a model trains, and warn of experts that are no longer used and of weights that collapse.

    Call it with each output, and `finish` at the end of an epoch. Between these it adds numbers up where the model is
    and waits for no device. In a trainer whose loop is not yours:
    `moe.register_forward_hook(lambda module, args, out: monitor(out))`.

    Args:
        expert_names: the model's.
        patience: warn of what was found this many times in a row.
        unused_below: an expert is unused if its mean weight is below this share of an even one, 1 / E, and it is the
            largest for no sample.
        collapsed_above: the weights have collapsed if one expert's mean weight is above.
        constant_below: the weights are constant if no expert's standard deviation reaches this.

    Raises:
        ValueError: if `patience` is not positive.

    Example:
        >>> from i2moe import InteractionMoE
        >>> class Fusion(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = torch.nn.Linear(8, 3)
        ...     def forward(self, x, y):
        ...         return self.head(torch.cat([x, y], dim=-1))
        >>> model = InteractionMoE(Fusion, 2, feature_dims=(4, 4))
        >>> monitor = WeightMonitor(model.expert_names, constant_below=0.0)
        >>> for _ in range(3):
        ...     monitor(model(torch.randn(16, 4), torch.randn(16, 4)))
        >>> health = monitor.finish()
        >>> health.n_samples, round(sum(health.mean.values()), 4), health.entropy > 0
        (48, 1.0, True)
        >>> sorted(health.to_dict())[:3]
        ['entropy', 'largest/redundancy', 'largest/synergy']
    """

    def __init__(
        self,
        expert_names: Sequence[str],
        *,
        patience: int = 1,
        unused_below: float = UNUSED,
        collapsed_above: float = COLLAPSED,
        constant_below: float = CONSTANT,
    ) -> None:
        check_at_least_one(patience=patience)
        self.expert_names: tuple[str, ...] = tuple(expert_names)
        self.patience = patience
        self.unused_below = unused_below
        self.collapsed_above = collapsed_above
        self.constant_below = constant_below
        self._sums: list[Tensor] = []
        self._n_samples = 0
        self._in_a_row: dict[str, int] = {}

    @torch.no_grad()
    def __call__(self, out: InteractionOutput) -> None:
        """Add the weights of an output.

        Raises:
            ValueError: if they are not of these experts.
        """
        weights = out.weights.detach()
        if weights.shape[1] != len(self.expert_names):
            raise ValueError(
                f"weights must be of the {len(self.expert_names)} experts {self.expert_names}, however there are "
                f"{weights.shape[1]}"
            )
        weights = weights.float()
        largest = weights.argmax(1, keepdim=True) == torch.arange(weights.shape[1], device=weights.device)
        entropy = -torch.xlogy(weights, weights).sum(1, keepdim=True).expand_as(weights)
        self._sums.append(torch.stack([weights, weights.square(), largest.to(weights), entropy]).sum(1))  # (4, E)
        self._n_samples += len(weights)

    def finish(self) -> WeightHealth:
        """Return the health of the weights since the last time, warn, and start anew.

        Warns:
            UserWarning: of each finding, once it was found `patience` times in a row.

        Raises:
            RuntimeError: if there were no weights.
            ValueError: if weights were not finite.
        """
        if not self._sums:
            raise RuntimeError("a monitor must have seen weights, however it was not called; call it with each output")
        sums, n_samples = self._sums, self._n_samples
        self._sums, self._n_samples = [], 0
        mean, square, largest, entropy = (torch.stack(sums).cpu().double().sum(0) / n_samples).tolist()
        spread = max(max(s - m * m, 0.0) ** 0.5 for s, m in zip(square, mean, strict=True))
        if not all(math.isfinite(value) for value in mean):
            raise ValueError(
                "weights must be finite, however some of the last ones were NaN or infinite; look for NaN in the "
                "inputs, or for a diverged training"
            )
        found = self._find(mean, largest, spread if n_samples > 1 else None)
        health = WeightHealth(
            n_samples,
            dict(zip(self.expert_names, mean, strict=True)),
            dict(zip(self.expert_names, largest, strict=True)),
            entropy[0],
            spread,
            tuple(found.values()),
        )
        self._in_a_row = {kind: self._in_a_row.get(kind, 0) + 1 for kind in found}
        for kind, sentence in found.items():
            if self._in_a_row[kind] == self.patience:
                warnings.warn(sentence, stacklevel=2)
        return health

    def _find(self, mean: list[float], largest: list[float], spread: float | None) -> dict[str, str]:
        """What is suspicious: kind -> sentence."""
        if len(mean) == 1:
            return {}
        names = self.expert_names
        unused = find_unused(names, mean, [share > 0 for share in largest], self.unused_below)
        collapsed = find_collapsed(names, mean, self.collapsed_above)
        constant = {} if spread is None else find_constant(spread, self.constant_below)
        return {**unused, **collapsed, **constant}
