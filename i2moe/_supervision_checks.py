"""What `InteractionSupervision` must be given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from i2moe._types import Modality, leaves

__all__ = ["check_available", "check_factors", "check_index", "check_probes", "check_shares", "check_source"]


def check_factors(**factors: float) -> None:
    for name, value in factors.items():
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, however it is {value}")


def check_probes(feature_dims: Sequence[int], **numbers: int) -> None:
    if len(feature_dims) < 2 or min(feature_dims) < 1:
        raise ValueError(
            f"feature_dims must be the positive widths of at least two modalities, however they are {feature_dims}"
        )
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, however it is {value}")


def check_available(available: Tensor | None, modalities: Sequence[Modality]) -> None:
    if available is None:
        return
    expected = (leaves(modalities)[0].shape[0], len(modalities))
    if available.dtype != torch.bool or available.shape != expected:
        raise ValueError(
            f"available must be bool (B, M) = {expected}, however it is {available.dtype} {tuple(available.shape)}"
        )


def check_index(index: Tensor | None, n_samples: int) -> None:
    if index is None:
        return
    if not isinstance(index, Tensor):
        raise TypeError(f"index must be a tensor of integers, however it is a {type(index).__name__}")
    if index.shape != (n_samples,) or index.is_floating_point():
        raise ValueError(
            f"index must be integers (B,) = ({n_samples},), the sample of the data set each row is, however it is "
            f"{index.dtype} {tuple(index.shape)}"
        )


def check_source(probing: bool, unimodal: Sequence[Tensor] | None, joint: Tensor | None) -> None:
    if probing and (unimodal is not None or joint is not None):
        raise ValueError(
            "predictions must come from probes or from the caller, however both are given; "
            "leave feature_dims None to hand in unimodal predictions"
        )
    if not probing and (unimodal is None or len(unimodal) < 2):
        raise ValueError(
            f"unimodal must hold the predictions of at least two modalities where feature_dims is None, "
            f"however it is {'None' if unimodal is None else f'of length {len(unimodal)}'}"
        )


def check_shares(shares: Tensor, weights: Tensor, alone: bool, values: bool) -> None:
    """Raise a ValueError unless shares are the only source of targets and fit the weights; look at values if asked."""
    if not alone:
        raise ValueError(
            "shares must come from the caller or be found out here, however both are asked for; "
            "leave feature_dims None, unimodal and joint out, to hand in shares"
        )
    if shares.shape != weights.shape:
        raise ValueError(
            f"shares must be (B, E) = {tuple(weights.shape)} as the weights, however they are {tuple(shares.shape)}"
        )
    if values and not bool(((shares >= 0).all(-1) & (shares.sum(-1) <= 1 + 1e-3)).all()):
        raise ValueError(
            f"shares must be at least 0 and sum to at most 1, however they lie in [{shares.min():.3g}, "
            f"{shares.max():.3g}] and sum to at most {shares.sum(-1).max():.3g}"
        )
