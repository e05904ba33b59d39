"""What an observer who knows the rules of a mixture believes of its samples, by Bayes' rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["mixture_posteriors"]


def mixture_posteriors(symbols: Sequence[Tensor], types: Sequence[Tensor], mix: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each modality alone and all together say about the answer.

    Args:
        symbols: for each of M modalities, (n, C), log-likelihoods of what it shows, of each symbol.
        types: for each modality, (n, E), the same of each type.
        mix: (E,), the share of each type: uniqueness of each modality, synergy, redundancy.

    Returns:
        (n, M, C) and (n, C), the probabilities of the answer, in float64.
    """
    symbols = [each.double().log_softmax(1) for each in symbols]
    n_classes = symbols[0].shape[1]
    log_mix = mix.double().log()
    unknown = torch.full_like(symbols[0], 1 / n_classes)
    alone = []
    for j, (symbol, of_type) in enumerate(zip(symbols, types, strict=True)):
        # The answer by type: this modality's symbol if it decides alone or all say the same, else anything.
        answers = [symbol.exp() if i == j else unknown for i in range(len(symbols))]
        answers += [unknown, symbol.exp()]
        alone.append(_mean(torch.stack(answers, dim=1), log_mix + of_type.double()))

    same = torch.stack(symbols).sum(0)  # (n, C), of one symbol in all modalities
    evidence = torch.zeros(len(same), len(mix), dtype=torch.float64)
    evidence[:, -1] = same.logsumexp(1) + (len(symbols) - 1) * math.log(n_classes)  # against independent symbols
    answers = [*(symbol.exp() for symbol in symbols), _sum_modulo(symbols), same.softmax(1)]
    joint = _mean(torch.stack(answers, dim=1), log_mix + torch.stack(list(types)).double().sum(0) + evidence)
    return torch.stack(alone, dim=1), joint


def _mean(answers: Tensor, log_types: Tensor) -> Tensor:
    """Average answers (n, E, C) over types of log-probabilities (n, E), up to a constant."""
    return (log_types.softmax(1).unsqueeze(2) * answers).sum(1)


def _sum_modulo(symbols: Sequence[Tensor]) -> Tensor:
    """Return the probabilities (n, C) of the sum modulo C of independent symbols of log-probabilities (n, C)."""
    total = symbols[0].exp()
    for symbol in symbols[1:]:
        shifted = torch.stack([total.roll(c, dims=1) for c in range(total.shape[1])], dim=2)  # (n, C, symbol)
        total = (shifted * symbol.exp().unsqueeze(1)).sum(2)
    return total
