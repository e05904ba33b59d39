"""Several heads: one prediction that holds the outputs of several tasks side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from i2moe._common.output import InteractionOutput
from i2moe.losses import Interaction, Losses

__all__ = ["HeadLosses", "Heads"]


class Heads:
    """Where each task's outputs are on the last axis of a prediction.

    A backbone with several heads returns them joined; criteria, interaction losses and reports take them apart again.

    Args:
        sizes: name of a head -> its number of outputs.

    Raises:
        ValueError: if there is no head, or one has no output.

    Example:
        >>> heads = Heads({"activity": 7, "age": 1})
        >>> joined = heads.join({"activity": torch.zeros(2, 7), "age": torch.ones(2, 1)})  # what the backbone returns
        >>> joined.shape
        torch.Size([2, 8])
        >>> heads.split(joined)["age"]
        tensor([[1.], [1.]])
        >>> heads["age"]  # for `explain(..., outputs=heads["age"])`
        slice(7, 8, None)
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        if not sizes or min(sizes.values()) < 1:
            raise ValueError(f"heads must have at least one output each, however they are {dict(sizes)}")
        self.sizes: dict[str, int] = dict(sizes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sizes})"

    def __getitem__(self, name: str) -> slice:
        if name not in self.sizes:
            raise KeyError(f"there must be a head {name!r}, however the heads are {tuple(self.sizes)}")
        names = list(self.sizes)
        start = sum(self.sizes[other] for other in names[: names.index(name)])
        return slice(start, start + self.sizes[name])

    def join(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Put the outputs of all heads side by side.

        Args:
            outputs: name -> (B, ..., C of the head); a head with one output keeps the axis.

        Returns:
            (B, ..., C), in the order of the heads.

        Raises:
            ValueError: if a head is missing or unknown, or has another number of outputs.
        """
        if outputs.keys() != self.sizes.keys():
            raise ValueError(f"outputs must be of the heads {tuple(self.sizes)}, however they are of {tuple(outputs)}")
        widths = {name: outputs[name].shape[-1] for name in self.sizes}
        if widths != self.sizes:
            raise ValueError(f"outputs must be {self.sizes} wide, however they are {widths}")
        return torch.cat([outputs[name] for name in self.sizes], dim=-1)

    def split(self, joined: Tensor) -> dict[str, Tensor]:
        """Take a prediction (B, ..., C) apart, or any tensor whose last axis is a prediction's.

        Raises:
            ValueError: if the last axis has another size.
        """
        if joined.shape[-1] != sum(self.sizes.values()):
            raise ValueError(
                f"the last axis must hold the {sum(self.sizes.values())} outputs of {self.sizes}, however the shape is "
                f"{tuple(joined.shape)}"
            )
        return dict(zip(self.sizes, joined.split(list(self.sizes.values()), dim=-1), strict=True))

    def select(self, output: InteractionOutput, name: str) -> InteractionOutput:
        """Return a model's output with the predictions of one head, for a supervision of its own, say.

        Args:
            output: of a model whose backbones return all heads joined.
            name: of the head.
        """
        outputs = self[name]
        of_all_heads = (
            "prediction",
            "expert_predictions",
            "views",
            "marginals",
            "member_predictions",
            "member_marginals",
        )
        found: dict[str, Any] = {field: getattr(output, field) for field in of_all_heads}
        return replace(output, **{field: x[..., outputs] for field, x in found.items() if x is not None})


class HeadLosses:
    """Compute each head's interaction losses by a rule of its own, and average over the heads.

    Args:
        heads: the heads.
        losses: name -> the head's losses, on predictions. A head without any leaves the interactions to the others.

    Raises:
        ValueError: if a name is no head, there is none, or losses are on the latent, which belongs to all heads.

    Example:
        >>> from i2moe import InteractionLosses
        >>> heads = Heads({"activity": 7, "age": 1})
        >>> losses = HeadLosses(heads, {"activity": InteractionLosses(), "age": InteractionLosses("regression")})
        >>> views = torch.randn(16, 4, 3, 8)  # `out.views`
        >>> losses(views).shape, {name: tuple(each.shape) for name, each in losses.by_head(views).items()}
        (torch.Size([4]), {'activity': (4,), 'age': (4,)})
    """

    def __init__(self, heads: Heads, losses: Mapping[str, Losses]) -> None:
        unknown = [name for name in losses if name not in heads.sizes]
        if unknown or not losses:
            raise ValueError(
                f"losses must be for some of the heads {tuple(heads.sizes)}, however they are for {tuple(losses)}"
            )
        on_latent = [name for name, loss in losses.items() if getattr(loss, "on", "prediction") == "latent"]
        if on_latent:
            raise ValueError(
                f"losses of heads must compare predictions, however those of {on_latent} compare the latent, which "
                "belongs to all heads; give the model InteractionLosses(on='latent') alone"
            )
        self.heads = heads
        self.losses: dict[str, Losses] = dict(losses)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.losses})"

    def __call__(
        self,
        views: Tensor,
        interactions: Sequence[Interaction] | None = None,
        replaced: Tensor | None = None,
        **missing: Tensor,
    ) -> Tensor:
        """Return the losses (E,) of views (B, E, V, ..., C); arguments as for `InteractionLosses`."""
        return torch.stack(list(self.by_head(views, interactions, replaced, **missing).values())).mean(0)

    def by_head(
        self,
        views: Tensor,
        interactions: Sequence[Interaction] | None = None,
        replaced: Tensor | None = None,
        **missing: Tensor,
    ) -> dict[str, Tensor]:
        """Return name of the head -> its losses (E,), for a log; arguments as for `InteractionLosses`.

        Args:
            views: (B, E, V, ..., C), all heads joined.
            interactions: the E experts' interactions.
            replaced: (V - 1, M) bool, where fewer views than modalities were drawn.
            **missing: `available` (B, M), where modalities are missing.
        """
        parts = self.heads.split(views)
        each: dict[str, Callable[..., Tensor]] = {**self.losses}
        return {name: loss(parts[name], interactions, replaced, **missing) for name, loss in each.items()}
