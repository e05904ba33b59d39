"""Learned weights: reweighters, which map the modalities to the experts' weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from i2moe._common.checks import check_at_least_one, check_positive, check_rate
from i2moe._common.means import pool_tokens
from i2moe._common.modalities import Modality, leaves
from i2moe._common.randomness import Dropout

__all__ = ["Reweighter", "StaticReweighter"]


class Reweighter(nn.Module):
    r"""Weigh the experts for each sample from its modalities.

    .. math:: w(x) = \mathrm{softmax}(\mathrm{MLP}([\bar z_1, \dots, \bar z_M]) / \tau)

    where :math:`\bar z_i` is modality i averaged over its token axes (all between the first and the last). The
    floating-point tensors of a nested modality are averaged each and concatenated; integers and booleans are left out.
    Modalities of another precision than the parameters are converted.

    Padded tokens leave the average by a mask: a boolean tensor (B, T) beside the tokens (B, T, D), in the same tuple,
    list or dict, which is True for the tokens that count. A mask that is True for padding has to be inverted. A mask of
    integers is not read: compare it, `mask == 1`.

    Source: I2MoE (ICML 2025), section 3; appendix G for the sizes.

    Args:
        n_experts: number of weights E; M + 2 for a full set of experts.
        feature_dims: the width of each modality. Without it the first forward pass decides.
        hidden_dim: width of the hidden layers.
        n_layers: number of hidden layers, each Linear, ReLU, Dropout; a Linear to the E logits follows.
        dropout: probability of dropping a hidden unit in training.
        temperature: divides the logits: above 1 evens the weights, below 1 sharpens them.

    Raises:
        ValueError: if a size, the dropout or the temperature is out of range.

    Example:
        >>> reweighter = Reweighter(4, feature_dims=(8, 16), temperature=2.0)
        >>> reweighter((torch.randn(5, 8), torch.randn(5, 10, 16))).shape  # a vector and ten tokens
        torch.Size([5, 4])
    """

    def __init__(
        self,
        n_experts: int,
        feature_dims: Sequence[int] | None = None,
        *,
        hidden_dim: int = 256,
        n_layers: int = 2,
        dropout: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_at_least_one(n_experts=n_experts, hidden_dim=hidden_dim, n_layers=n_layers)
        check_rate(dropout=dropout)
        if feature_dims is not None and any(width < 1 for width in feature_dims):
            raise ValueError(f"feature_dims must be widths of at least 1, however they are {tuple(feature_dims)}")
        check_positive(temperature=temperature)

        self.n_experts = n_experts
        self.feature_dims: tuple[int, ...] | None = None if feature_dims is None else tuple(feature_dims)
        self.temperature = temperature

        first = (
            nn.LazyLinear(hidden_dim) if self.feature_dims is None else nn.Linear(sum(self.feature_dims), hidden_dim)
        )
        layers: list[nn.Module] = [first, nn.ReLU(), Dropout(dropout)]
        for _ in range(n_layers - 1):
            layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), Dropout(dropout)]
        self.mlp: nn.Sequential = nn.Sequential(*layers, nn.Linear(hidden_dim, n_experts))

    def forward(self, modalities: Sequence[Modality]) -> Tensor:
        """Return the weights.

        Args:
            modalities: M modalities, each (B, D), (B, T, D) or nested.

        Returns:
            (B, E), rows on the probability simplex.

        Raises:
            TypeError: if a modality has no floating-point tensor.
            ValueError: if the modalities do not have the widths `feature_dims`, or two masks fit the same tokens.
        """
        features = [_pool(i, modality) for i, modality in enumerate(modalities)]
        self._check_widths([feature.shape[-1] for feature in features])
        pooled = torch.cat(features, dim=-1).to(self._dtype)
        return torch.softmax(self.mlp(pooled) / self.temperature, dim=-1)

    @property
    def _dtype(self) -> torch.dtype:
        """The precision of the parameters; modalities may come in others, each in its own."""
        return next(self.parameters()).dtype

    def extra_repr(self) -> str:
        """Show the temperature beside the layers."""
        return f"temperature={self.temperature}"

    def _check_widths(self, widths: list[int]) -> None:
        expected, first = self.feature_dims, self.mlp[0]
        if expected is None and isinstance(first, nn.Linear) and first.in_features:
            expected, widths = (first.in_features,), [sum(widths)]
        if expected is not None and tuple(widths) != expected:
            raise ValueError(
                f"the reweighter's modalities must have widths {expected} (feature_dims, or the first batch's), "
                f"however they have {tuple(widths)}; tokens are (B, T, D), the width is the last axis"
            )


class StaticReweighter(nn.Module):
    """Weigh the experts the same for every sample: one learned vector, uniform at the start.

    Source: the paper's ablation "one global learned weight".

    Args:
        n_experts: number of weights E.
        temperature: divides the logits.

    Raises:
        ValueError: if `n_experts` or the temperature is not positive.

    Example:
        >>> StaticReweighter(4)((torch.randn(2, 8), torch.randn(2, 8)))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500],
                [0.2500, 0.2500, 0.2500, 0.2500]], grad_fn=<ExpandBackward0>)
    """

    def __init__(self, n_experts: int, *, temperature: float = 1.0) -> None:
        super().__init__()
        check_at_least_one(n_experts=n_experts)
        check_positive(temperature=temperature)
        self.n_experts = n_experts
        self.temperature = temperature
        self.logits: nn.Parameter = nn.Parameter(torch.zeros(n_experts))

    def forward(self, modalities: Sequence[Modality]) -> Tensor:
        """Return the weights (B, E) of a batch of modalities."""
        n_samples = leaves(modalities)[0].shape[0]
        return torch.softmax(self.logits / self.temperature, dim=-1).expand(n_samples, -1)


def _pool(index: int, modality: Modality) -> Tensor:
    """Average each floating-point tensor over its token axes and concatenate: (B, D)."""
    try:
        averages = pool_tokens(modality)
    except ValueError as error:
        error.add_note(f"in modality {index}")
        raise
    if not averages:
        raise TypeError(
            f"the reweighter must have a floating-point tensor in every modality, however modality {index} has none; "
            "embed it first, or use reweighter='computed', which reads predictions alone"
        )
    return torch.cat(averages, dim=-1)
