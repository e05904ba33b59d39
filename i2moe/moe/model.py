"""InteractionMoE: a fusion backbone turned into interaction experts that a reweighter mixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from i2moe._common.checks import check_callable, check_shape
from i2moe._common.means import ProcessGroupAttribute, joined_processes, scaled_to_all, weighted_sum
from i2moe._common.modalities import Modality, leaves
from i2moe._common.names import check_modality_names
from i2moe._common.output import InteractionOutput
from i2moe._common.passes import sizes_parameters
from i2moe.losses import Interaction, InteractionLosses, Losses
from i2moe.missing import Fill
from i2moe.moe.available import Fills, bind_and_fill, make_fills, mask_of, weigh_available
from i2moe.moe.experts.bank import Execution, ExpertOutputs
from i2moe.moe.experts.building import make_experts
from i2moe.moe.experts.shared import SharedExperts
from i2moe.moe.inputs import Arrange
from i2moe.moe.names import group_arguments, order_in_call, select_experts
from i2moe.moe.weights.computed import ComputedReweighter
from i2moe.moe.weights.learned import Reweighter
from i2moe.perturbations import Perturbation, Views, as_perturbation

__all__ = ["InteractionMoE"]

Weigh: TypeAlias = Callable[..., Tensor]
"""Maps the tuple of modalities to weights (B, E); a `ComputedReweighter` maps the experts' outputs."""


class InteractionMoE(nn.Module):
    r"""Mix experts that each learn one kind of interaction between modalities.

    For M modalities there are E = M + 2 experts, all of the backbone's architecture: one for what is unique to each
    modality, one for synergy, one for redundancy. The prediction is the sum of theirs, weighted per sample:

    .. math:: y(x) = \sum_e w_e(x)\, y_e(x)

    In training every expert also predicts M views in which one modality is replaced, and a loss on these views makes it
    the expert of its interaction. Train with ``criterion(out.prediction, y) + 0.1 * out.interaction_loss +
    0.01 * out.aux_loss``.

    In evaluation the model makes E forward passes, draws no random number and returns no interaction loss. Computed
    weights take M passes more, in training and in evaluation, and no perturbed views. With `members=k` they take
    k (M + 1) passes in all: one network predicts from all modalities and from each alone. In training they take k + M:
    the members divide the samples of each modality alone at random among them.

    Source: Xin et al., I2MoE: Interpretable Multimodal Interaction-aware Mixture-of-Experts, ICML 2025.

    Args:
        backbone_factory: called without arguments once per expert, so that experts start different. What it returns is
            called with the modalities exactly as this model is and returns a tensor (B, ...) or a `BackboneOutput`.
        n_modalities: number of modalities M, at least 2.
        modality_names: M names, for keyword or dict inputs and for the experts' names; ("0", "1", ...) by default. If
            the backbone's parameters have these names, modalities by position need them in the same order. Or which
            arguments of a call by keyword each modality is: `{"text": ("input_ids", "attention_mask"),
            "image": "pixel_values"}`.
        feature_dims: the modalities' widths, to build the default reweighter and fills now and not at the first
            forward pass.
        reweighter: "computed" or a `ComputedReweighter` computes the weights from the model's own predictions; train
            with `InteractionSupervision`. To average parameters, as `AveragedModel` does, give a `ComputedReweighter`
            its `n_outputs`. Else what maps the tuple of modalities to weights (B, E); a `Reweighter`, the paper's, by
            default.
        losses: the losses of the views; `InteractionLosses()` (classification) by default.
        perturbation: "gaussian", "zero", "mean", "shuffle", a `Perturbation`, or a function of a tensor. None makes no
            perturbed views and so no interaction loss. "auto": gaussian, and None with computed weights.
        fill: what fills a modality that a sample lacks: "learned", "zero", "mean" or "shuffle", or a list with one
            of these or a `Fill` per modality. None: every sample must have all modalities; with computed
            weights "zero", which fills integers by 1.
        members: None: each expert is a backbone of its own. A number k: all experts share the weights of one backbone,
            see `i2moe.moe.experts.sharing.share`, and each is the mean of k members. With computed weights, and no
            perturbation, they share the members too: from all modalities all experts predict the same, and the weights
            say what that prediction rests on.
        experts: "all", or the names of some; "uniqueness" means those of all modalities.
        execution: "auto", "batched", "vmap" or "sequential", see `ExpertBank`.
        checkpoint: recompute each expert in the backward pass instead of keeping its activations.

    Attributes:
        arguments: modality -> the arguments of a call that it is, where `modality_names` says so; else None.
        expert_names: the E names, ("uniqueness/<name 0>", ..., "synergy", "redundancy").
        interactions: the E interactions, (0, ..., "synergy", "redundancy"), a number being a modality's uniqueness.

    Raises:
        TypeError: if the factory is no callable or returns no module.
        ValueError: if an argument is out of range or unknown; the message says what must hold.

    Warns:
        UserWarning: if each expert has more than five million parameters of its own, as whole encoders do.

    Example:
        >>> import torch
        >>> class Fusion(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(8 + 4, 3)
        ...     def forward(self, image, text):
        ...         return self.head(torch.cat([image, text], dim=-1))
        >>> model = InteractionMoE(Fusion, 2, modality_names=("image", "text"), feature_dims=(8, 4))
        >>> model.expert_names
        ('uniqueness/image', 'uniqueness/text', 'synergy', 'redundancy')
        >>> image, text = torch.randn(16, 8), torch.randn(16, 4)
        >>> out = model(image=image, text=text)  # or model(image, text), model([image, text]), a dict
        >>> out.prediction.shape, out.weights.shape, out.views.shape
        (torch.Size([16, 3]), torch.Size([16, 4]), torch.Size([16, 4, 3, 3]))
        >>> (out.prediction.sum() + 0.1 * out.interaction_loss).backward()
    """

    accepts_loss_kwargs = False
    """For the Hugging Face Trainer, which takes `**kwargs` for a loss that is divided already."""

    process_group = ProcessGroupAttribute()
    """The processes whose rows are one batch in training; None for all, where torch.distributed is in use."""

    modality_names: tuple[str, ...]
    expert_names: tuple[str, ...]
    interactions: tuple[Interaction, ...]
    experts: Any
    """An `ExpertBank`, or `SharedExperts` with members."""

    def __init__(
        self,
        backbone_factory: Callable[[], nn.Module],
        n_modalities: int,
        *,
        modality_names: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        feature_dims: Sequence[int] | None = None,
        reweighter: Literal["computed"] | Weigh | None = None,
        losses: Losses | None = None,
        perturbation: str | Perturbation | Callable[[Tensor], Tensor] | None = "auto",
        fill: str | Sequence[str | Fill] | None = None,
        members: int | None = None,
        experts: Literal["all"] | Sequence[str] = "all",
        execution: Execution = "auto",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.modality_names = check_modality_names(n_modalities, modality_names)
        self.arguments: dict[str, tuple[str, ...]] | None = group_arguments(modality_names)
        self.expert_names, self.interactions = select_experts(self.modality_names, experts)
        reweighter, perturbation, fill = _with_defaults(reweighter, perturbation, fill)
        _check_widths(n_modalities, feature_dims, needed=reweighter is None or fill is not None)
        self.perturbation: Perturbation | None = _make_perturbation(perturbation, self.interactions, n_modalities)
        self.losses: Losses = _check_losses(losses)
        self.reweighter: Weigh = _check_reweighter(reweighter, self.interactions, n_modalities, feature_dims)
        self.fill: Fills | None = make_fills(fill, n_modalities, feature_dims)
        tied = isinstance(reweighter, ComputedReweighter) and perturbation is None  # all have the same loss
        self.experts = make_experts(
            backbone_factory, self.expert_names, members, tied=tied, execution=execution, checkpoint=checkpoint
        )
        self._order = order_in_call(self.example_backbone, self.modality_names)

    @property
    def n_modalities(self) -> int:
        """Number of modalities M."""
        return len(self.modality_names)

    @property
    def example_backbone(self) -> nn.Module:
        """A backbone as the factory built it, to see how it is called."""
        return self.experts.backbone if isinstance(self.experts, SharedExperts) else self.experts[0]

    @sizes_parameters
    def forward(self, *args: Any, available: Tensor | None = None, **kwargs: Any) -> InteractionOutput:
        """Predict, in training with perturbed views and interaction losses.

        What an absent modality holds, NaN included, changes neither outputs nor gradients: it is filled in, never
        perturbed, its views leave the losses, its uniqueness expert has weight 0.

        Args:
            *args: the M modalities, or one list, tuple or dict of them if the backbone takes that. Where the model has
                a `fill`, one that no sample of the batch has may be None, or left out if modalities go by name.
            available: (B, M) bool, which modalities each sample has; None for all that are given.
            **kwargs: the modalities by name.

        Raises:
            TypeError: if a modality is not made of tensors or cannot be perturbed or filled, or the mask is not bool.
            ValueError: if modalities are missing, unknown or do not fit together, or go by position where the
                backbone's parameters have the names in another order. Also if a sample has none at all: on other
                devices than the CPU, and in compiled code, an assertion of the device fails for the latter.
        """
        modalities, arrange, available = self._bind(args, kwargs, available)
        return self._mix(modalities, arrange, available, perturb=self.training and self.perturbation is not None)

    @sizes_parameters
    def predict(self, *args: Any, available: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the prediction (B, ...) alone: that of the model itself, where nobody asks for interactions.

        With computed weights and `members=k` it makes k passes in place of k (M + 1): all experts predict the same, and
        no weight changes it. Other models make the passes that they make anyway.

        Wrappers like FSDP2, which prepare a model in its forward pass, must be told of this method:
        `register_fsdp_forward_method(model, "predict")`.

        Args:
            *args: as for the model itself.
            available: as for the model itself.
            **kwargs: as for the model itself.
        """
        modalities, arrange, available = self._bind(args, kwargs, available)
        if not isinstance(self.reweighter, ComputedReweighter) or not self.experts.tied:
            return self._mix(modalities, arrange, available, perturb=False).prediction
        outputs = self.experts(arrange, Views(modalities))
        return self.reweighter.calibrated(outputs, available).predictions[:, 0]

    @sizes_parameters
    def interaction_views(self, *args: Any, available: Tensor | None = None, **kwargs: Any) -> InteractionOutput:
        """Predict with perturbed views and interaction losses in any mode, for validation curves.

        Train with the model itself: wrappers like DDP synchronize gradients in its forward pass only.

        Args:
            *args: as for the model itself.
            available: as for the model itself.
            **kwargs: as for the model itself.

        Raises:
            ValueError: if the model has no perturbation.
        """
        if self.perturbation is None:
            raise ValueError(
                "interaction views must have a perturbation, however perturbation=None; give the model one"
            )
        return self._mix(*self._bind(args, kwargs, available), perturb=True)

    def extra_repr(self) -> str:
        """Show the experts' names."""
        return f"expert_names={self.expert_names}, losses={self.losses}"

    def _bind(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], available: Tensor | None
    ) -> tuple[tuple[Modality, ...], Arrange, Tensor | None]:
        names = self.arguments or self.modality_names
        return bind_and_fill(names, self._order, self.fill, args, kwargs, available)

    def _present(self, modalities: tuple[Modality, ...], available: Tensor | None) -> Tensor | None:
        """Return a mask in any case, where there could be one: in other processes samples may lack something."""
        return available if self.fill is None or available is not None else mask_of(modalities, True)

    def _mix(
        self, modalities: tuple[Modality, ...], arrange: Arrange, available: Tensor | None, *, perturb: bool
    ) -> InteractionOutput:
        if self.experts.tied and (perturb or not isinstance(self.reweighter, ComputedReweighter)):
            raise ValueError(
                "experts that are one network must have computed weights and no perturbation, however the model got "
                "others after it was built; build the model with them"
            )
        present = self._present(modalities, available)
        views = Views(modalities)
        if perturb and self.perturbation is not None:
            views = self.perturbation.draw(modalities, present)
        if isinstance(self.reweighter, ComputedReweighter):
            assert self.fill is not None
            outputs = self.experts(arrange, views, self.fill.each_alone(self.modality_names, modalities))
            outputs = self.reweighter.calibrated(outputs, available)
            weights = self.reweighter(outputs, available, self.interactions)
        else:
            weights = self._weigh(modalities, available)
            outputs = self.experts(arrange, views)
        losses = None if outputs.views is None else _interaction_losses(self, outputs, views, present)
        return InteractionOutput(
            prediction=weighted_sum(outputs.predictions, weights),
            weights=weights,
            expert_predictions=outputs.predictions,
            aux_loss=outputs.aux_loss,
            interaction_loss=None if losses is None else losses.mean(),
            interaction_losses={} if losses is None else dict(zip(self.expert_names, losses.unbind(), strict=True)),
            views=outputs.views,
            marginals=outputs.marginals,
            available=present,
            member_predictions=outputs.member_predictions,
            member_marginals=outputs.member_marginals,
        )

    def _weigh(self, modalities: tuple[Modality, ...], available: Tensor | None) -> Tensor:
        """Return the weights (B, E) of a reweighter that reads the modalities.

        Args:
            modalities: M modalities, filled in where absent.
            available: (B, M) bool, which modalities are there; None for all.

        Raises:
            ValueError: if the reweighter returns another shape.
        """
        weights: Tensor = self.reweighter(modalities)
        shape = leaves(modalities)[0].shape[0], len(self.expert_names)
        check_shape("the weights of a reweighter", weights, shape, "(B, E)")
        return weights if available is None else weigh_available(weights, available, self.interactions)


def _interaction_losses(
    model: InteractionMoE, outputs: ExpertOutputs, views: Views, available: Tensor | None
) -> Tensor:
    """Return the interaction loss of each expert (E,)."""
    compared = outputs.views if getattr(model.losses, "on", "prediction") == "prediction" else outputs.latent_views
    if compared is None:
        raise ValueError(
            "losses on the latent must have one, however a backbone returned none; "
            "return BackboneOutput(prediction, latent=...)"
        )
    missing = {} if views.available is None else {"available": views.available}
    losses = model.losses(compared, model.interactions, views.replaced, **missing)
    if losses.shape != (len(model.expert_names),):
        raise ValueError(
            f"losses must return one number for each of {len(model.expert_names)} experts, (E,), however they "
            f"returned shape {tuple(losses.shape)}"
        )
    if available is None or views.available is None:
        return losses
    group = joined_processes(model.process_group) if model.training else None
    return scaled_to_all(losses, model.interactions, views.available, available, group)


def _make_perturbation(
    perturbation: str | Perturbation | Callable[[Tensor], Tensor] | None,
    interactions: tuple[Interaction, ...],
    n_modalities: int,
) -> Perturbation | None:
    made = None if perturbation is None else as_perturbation(perturbation)
    per_step = None if made is None else made.per_step
    lowest = 2 if any(isinstance(interaction, int) for interaction in interactions) else 1
    if per_step is not None and not lowest <= per_step <= n_modalities:
        raise ValueError(
            f"per_step must lie between {lowest} (uniqueness contrasts two replaced modalities) and the number of "
            f"modalities {n_modalities}, however it is {per_step}"
        )
    return made


def _check_losses(losses: Losses | None) -> Losses:
    if losses is None:
        return InteractionLosses()
    check_callable("losses must be an object called with the views, such as InteractionLosses('regression')", losses)
    return losses


def _with_defaults(reweighter: Any, perturbation: Any, fill: Any) -> tuple[Any, Any, Any]:
    """Return reweighter, perturbation and fill; computed weights need no views, and a fill."""
    if reweighter == "computed":
        reweighter = ComputedReweighter()
    computed = isinstance(reweighter, ComputedReweighter)
    if isinstance(perturbation, str) and perturbation == "auto":
        perturbation = None if computed else "gaussian"
    return reweighter, perturbation, "zero" if computed and fill is None else fill


def _check_widths(n_modalities: int, feature_dims: Sequence[int] | None, *, needed: bool) -> None:
    if feature_dims is None:
        return
    if not hasattr(feature_dims, "__len__") or len(feature_dims) != n_modalities:
        raise ValueError(
            f"feature_dims must give one width for each of {n_modalities} modalities, however it is {feature_dims}"
        )
    if not needed:
        raise ValueError(
            "feature_dims must be left out with a reweighter, however both are given; "
            "pass them to the reweighter: Reweighter(n_experts, feature_dims)"
        )


def _check_reweighter(
    reweighter: Any,
    interactions: tuple[Interaction, ...],
    n_modalities: int,
    feature_dims: Sequence[int] | None,
) -> Any:
    n_experts = len(interactions)
    if isinstance(reweighter, str | type):
        raise ValueError(
            "reweighter must be 'computed', an object such as ComputedReweighter('regression') or None, however it is "
            f"{reweighter!r}"
        )
    if isinstance(reweighter, ComputedReweighter) and interactions[:n_modalities] != tuple(range(n_modalities)):
        raise ValueError(
            "computed weights must have the uniqueness expert of every modality, which predicts from it alone, however "
            f"the experts are of the interactions {interactions}; add 'uniqueness' to the experts"
        )
    if reweighter is None:
        return Reweighter(n_experts, feature_dims)
    if getattr(reweighter, "n_experts", n_experts) != n_experts:
        raise ValueError(
            f"the reweighter must weigh the {n_experts} experts, however its n_experts is {reweighter.n_experts}"
        )
    return reweighter
