"""Rows: views stacked along the batch for one pass, and its outputs split again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from i2moe._common.modalities import BackboneOutput, Modality, as_backbone_output, leaves, map_leaves
from i2moe.perturbations import Views

__all__ = ["check_output", "join", "mean_aux_loss", "shapes_of", "split_last", "split_views", "stack_views"]


def shapes_of(modalities: Sequence[Modality]) -> str:
    """Say which shapes modalities have, for an error.

    Example:
        >>> shapes_of([torch.zeros(2, 3), None])
        '(2, 3), None'
    """
    return ", ".join(str(map_leaves(lambda x: tuple(x.shape), modality)) for modality in modalities)


def stack_views(views: Sequence[tuple[Modality, ...]]) -> tuple[Modality, ...]:
    """Concatenate views along the batch; a single one stays what it is."""
    if len(views) == 1:
        return views[0]
    return tuple(map_leaves(lambda *rows: torch.cat(rows), *same) for same in zip(*views, strict=True))


def split_views(rows: Tensor, views: Views) -> tuple[Tensor, Tensor | None]:
    """Split rows into predictions and views.

    Args:
        rows: (N, E, ...), those of the real batch first.
        views: the views that they come from.

    Returns:
        Predictions (B, E, ...), and views (B', E, V, ...) or None.
    """
    n_perturbed = len(views.perturbed)
    if n_perturbed == 0:
        return rows, None
    n_samples = leaves(views.real)[0].shape[0]
    real, perturbed = rows.tensor_split([n_samples])
    anchors = real if views.rows is None else real.index_select(0, views.rows)
    perturbed = perturbed.reshape(n_perturbed, -1, *rows.shape[1:])  # (V - 1, B', E, ...)
    return real, torch.cat([anchors.unsqueeze(0), perturbed]).movedim(0, 2)


def check_output(name: str, output: object, n_rows: int) -> BackboneOutput:
    """Return what an expert returned as a `BackboneOutput`.

    Args:
        name: of the expert, for errors.
        output: what it returned.
        n_rows: rows of its input.

    Raises:
        TypeError: if it is neither a tensor nor a `BackboneOutput` of tensors.
        ValueError: if a shape is wrong.
    """
    output = as_backbone_output(output, f"expert {name!r}")
    for what, tensor in (("prediction", output.prediction), ("latent", output.latent)):
        if tensor is not None and (tensor.ndim == 0 or tensor.shape[0] != n_rows):
            raise ValueError(
                f"a backbone's {what} must keep the batch of {n_rows} on axis 0, "
                f"however expert {name!r} returned shape {tuple(tensor.shape)}"
            )
    if output.aux_loss is not None and not isinstance(output.aux_loss, Tensor):
        raise TypeError(
            f"a backbone's aux_loss must be a scalar tensor, however expert {name!r} returned a "
            f"{type(output.aux_loss).__name__}; return None where there is none"
        )
    if output.aux_loss is not None and output.aux_loss.ndim > 0:
        raise ValueError(
            f"a backbone's aux_loss must be a scalar, however expert {name!r} returned shape "
            f"{tuple(output.aux_loss.shape)}; take its mean"
        )
    return output


def join(passes: Sequence[BackboneOutput]) -> BackboneOutput:
    """Concatenate passes; the auxiliary loss is the mean over all rows."""
    if len(passes) == 1:
        return passes[0]
    latents = [output.latent for output in passes if output.latent is not None]
    return BackboneOutput(
        torch.cat([output.prediction for output in passes]),
        mean_aux_loss(passes),
        torch.cat(latents) if len(latents) == len(passes) else None,
    )


def mean_aux_loss(passes: Sequence[BackboneOutput]) -> Tensor | None:
    """Average the auxiliary losses of passes over all their rows; None where there are none."""
    # NOTE[DIFF] the auxiliary loss keeps its graph; the released code rebuilds it as a constant.
    n_rows = [output.prediction.shape[0] for output in passes]
    aux_losses = [output.aux_loss * n for output, n in zip(passes, n_rows, strict=True) if output.aux_loss is not None]
    return torch.stack(aux_losses).sum() / sum(n_rows) if aux_losses else None


def split_last(output: BackboneOutput, n_rows: int) -> tuple[BackboneOutput, Tensor]:
    """Take the last rows off; they share the auxiliary loss."""
    kept = output.prediction.shape[0] - n_rows
    prediction, last = output.prediction.split([kept, n_rows])
    latent = None if output.latent is None else output.latent.narrow(0, 0, kept)
    return BackboneOutput(prediction, output.aux_loss, latent), last
