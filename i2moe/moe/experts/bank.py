"""Running E experts on V views: by batch, by vmap or one by one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from i2moe._common.modalities import BackboneOutput, Modality, leaves, versions_of
from i2moe.moe.experts.buffers import borrowed_buffers, check_untouched, checkpointed
from i2moe.moe.experts.rows import check_output, join, shapes_of, split_last, split_views, stack_views
from i2moe.moe.experts.structure import unchanged, watched
from i2moe.moe.experts.vmap import run_vmapped
from i2moe.moe.inputs import Arrange
from i2moe.perturbations import Views

__all__ = ["Execution", "ExpertBank", "ExpertOutputs", "mixing_layer"]

Execution: TypeAlias = Literal["auto", "batched", "vmap", "sequential"]
"""How the experts are run: one by one, all at once, or what is faster."""


@dataclass(frozen=True, eq=False)
class ExpertOutputs:
    """What all experts made of the views of a batch.

    Args:
        predictions: (B, E, ...) of the real batch.
        views: (B', E, V, ...) of the rows with perturbed views, None without perturbed views.
        latent_views: the same of the latents, None if an expert returns none.
        aux_loss: scalar, the experts' mean; an expert's is that of all rows it sees.
        marginals: (B, M, ...), what the uniqueness experts predict from their modality alone; None if not asked for.
        member_predictions: (B, E, k, ...), of each expert's members; None where an expert is one backbone.
        member_marginals: (B, M, k, ...), the same of the marginals; None where one member made each of them.
    """

    predictions: Tensor
    views: Tensor | None
    latent_views: Tensor | None
    aux_loss: Tensor
    marginals: Tensor | None = None
    member_predictions: Tensor | None = None
    member_marginals: Tensor | None = None


class ExpertBank(nn.ModuleList):
    """Hold the experts and run them on the views of a batch.

    Whatever the execution, outputs and gradients are those of one pass per expert and view, dropout aside, and
    perturbed views never change a buffer: running statistics come from the real batch.

    * `"sequential"`: one pass per expert and view. A modality alone counts as a view of its uniqueness expert.
    * `"batched"`: one pass per expert on all views stacked along the batch. An expert with buffers takes one pass for
      the real batch and one for the other views.
    * `"vmap"`: one pass for all experts on all views, over parameters stacked inside the forward pass, and one pass for
      each modality alone. The experts must differ in nothing but parameters and buffers. That is checked at the first
      pass in training and in evaluation, after any change of an expert's attributes, layers or hooks, and when a model
      is compiled.
    * `"auto"`: batched, on CUDA devices vmap; where samples of a batch influence each other (batch norm in training,
      or a layer with the attribute `mixes_samples = True`) sequential.

    Set `mixes_samples = True` on a layer of yours whose result for a sample depends on the rest of the batch. Set it
    too if its `aux_loss` is not a mean over the samples. Stacked views would change both.

    Args:
        experts: E modules, called the same way.
        names: the E names, for errors; their numbers if not given.
        execution: one of the above.
        checkpoint: recompute each expert in the backward pass instead of keeping its activations.

    Raises:
        ValueError: if `execution` is unknown, or `"vmap"` together with `checkpoint`.
    """

    tied = False
    """Whether all experts are one network, as `TiedExperts` are."""

    def __init__(
        self,
        experts: Sequence[nn.Module],
        names: Sequence[str] | None = None,
        *,
        execution: Execution = "auto",
        checkpoint: bool = False,
    ) -> None:
        super().__init__(experts)
        if execution not in get_args(Execution):
            raise ValueError(f"execution must be one of {get_args(Execution)}, however it is {execution!r}")
        if execution == "vmap" and checkpoint:
            raise ValueError(
                "checkpoint=True must run one expert at a time, however execution='vmap' runs all at once; "
                "use execution='auto'"
            )
        self.names: tuple[str, ...] = tuple(str(e) for e in range(len(self))) if names is None else tuple(names)
        self.execution = execution
        self.checkpoint = checkpoint
        self.vmap_refusals: dict[str, str] = {}
        """Why `"auto"` does not use vmap, for "training" and "evaluation", once found out."""
        self._vmap_proven: dict[str, list[object]] = {}

    def forward(self, arrange: Arrange, views: Views, alone: Sequence[tuple[Modality, ...]] = ()) -> ExpertOutputs:
        """Run every expert on every view.

        Args:
            arrange: turns modalities into the arguments of an expert's call.
            views: the real batch and its perturbed views.
            alone: for each of the first experts the batch in which all modalities but its own are filled in; empty
                where no marginals are needed.

        Raises:
            TypeError: if an expert returns neither a tensor nor a `BackboneOutput`.
            ValueError: if experts disagree in shape, or the execution asked for would mix views.
        """
        output = self._run_vmap(arrange, views)
        if output is None:
            output, marginals = self._run_each(arrange, views, alone)
        else:
            output, marginals = self._with_alone(output, arrange, alone, 1 + len(views.perturbed))
        predictions, prediction_views = split_views(output.prediction, views)
        latent_views = None if output.latent is None else split_views(output.latent, views)[1]
        aux_loss = predictions.new_zeros(()) if output.aux_loss is None else output.aux_loss.mean()
        return ExpertOutputs(predictions, prediction_views, latent_views, aux_loss, marginals)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the experts were when they last ran: a copy is looked at anew."""
        return vars(self) | {"_vmap_proven": {}}

    def run_one(self, expert: int, arrange: Arrange, modalities: tuple[Modality, ...]) -> BackboneOutput:
        """Run one expert on the real batch, or on some of its rows.

        Args:
            expert: its index.
            arrange: turns the modalities into the arguments of the expert's call.
            modalities: M modalities.
        """
        return self._run_pass(self.names[expert], self[expert], (0,), arrange, modalities)

    def _run_each(
        self, arrange: Arrange, views: Views, alone: Sequence[tuple[Modality, ...]]
    ) -> tuple[BackboneOutput, Tensor | None]:
        """Return what the experts made of all rows of all views, (N, E, ...), and the marginals (B, M, ...)."""
        every_view = (views.real, *views.perturbed)
        n_samples = leaves(views.real)[0].shape[0]
        stacked: dict[tuple[int, ...], tuple[Modality, ...]] = {}
        outputs, marginals = [], []
        for e, (name, expert) in enumerate(zip(self.names, self, strict=True)):
            seen = (*every_view, *alone[e : e + 1])
            plan = self._plan(name, expert, len(every_view), alone=len(seen) > len(every_view))
            for passed in plan:
                if passed not in stacked or len(every_view) in passed:
                    stacked[passed] = stack_views([seen[v] for v in passed])
            output = join([self._run_pass(name, expert, passed, arrange, stacked[passed]) for passed in plan])
            if len(seen) > len(every_view):
                output, marginal = split_last(output, n_samples)
                marginals.append(marginal)
            outputs.append(output)
        output = _across_experts(self.names, outputs)
        return output, _stack_predictions("prediction", self.names, marginals) if marginals else None

    def _with_alone(
        self, output: BackboneOutput, arrange: Arrange, alone: Sequence[tuple[Modality, ...]], n_views: int
    ) -> tuple[BackboneOutput, Tensor | None]:
        """Run the first experts on one modality each, beside what all made of the views in one pass."""
        if not alone:
            return output, None
        passes = [
            self._run_pass(name, expert, (n_views,), arrange, modalities)
            for name, expert, modalities in zip(self.names, self, alone, strict=False)
        ]
        marginals = _stack_predictions("prediction", self.names, [one.prediction for one in passes])
        own = [one.aux_loss for one in passes if one.aux_loss is not None]
        if output.aux_loss is not None and own:
            first, others = output.aux_loss.tensor_split([len(own)])
            share = marginals.shape[0] / (marginals.shape[0] + output.prediction.shape[0])
            output = replace(output, aux_loss=torch.cat([first.lerp(torch.stack(own), share), others]))
        return output, marginals

    def _plan(self, name: str, expert: nn.Module, n_views: int, *, alone: bool) -> list[tuple[int, ...]]:
        """Group the views of an expert into passes; its modality alone, if it runs, is the last."""
        each: list[tuple[int, ...]] = [(v,) for v in range(n_views + int(alone))]
        if self.execution == "sequential" or len(each) == 1:
            return each
        mixing = mixing_layer(expert)
        if mixing is None:
            # Only a pass on the real batch alone may update a buffer.
            buffered = any(layer._buffers for layer in expert.modules())  # None is a buffer too: one to come
            return [(0,), tuple(range(1, len(each)))] if buffered else [tuple(range(len(each)))]
        if self.execution == "batched" and n_views > 1:
            raise ValueError(
                f"execution='batched' must be able to stack real and perturbed samples in one pass, however {mixing} "
                f"of expert {name!r} lets the samples of a batch influence each other; use execution='auto'"
            )
        return each

    def _run_pass(
        self,
        name: str,
        expert: nn.Module,
        passed: tuple[int, ...],
        arrange: Arrange,
        modalities: tuple[Modality, ...],
    ) -> BackboneOutput:
        args, kwargs = arrange(modalities)
        versions = versions_of(modalities)
        # NOTE[DIFF] running statistics come from the real batch alone.
        with nullcontext() if 0 in passed else borrowed_buffers(expert):
            try:
                output = self._call(expert, args, kwargs)
            except Exception as error:
                inputs = shapes_of(modalities)
                error.add_note(f"in expert {name!r} on view {passed} (0 is the real batch), inputs {inputs}")
                raise
        check_untouched(name, modalities, versions)
        return check_output(name, output, leaves(modalities)[0].shape[0])

    def _call(self, expert: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        if not (self.checkpoint and torch.is_grad_enabled()):
            return expert(*args, **kwargs)
        return checkpointed(expert, expert, args, kwargs)

    def _run_vmap(self, arrange: Arrange, views: Views) -> BackboneOutput | None:
        """Run all experts at once, or return None where that is not asked for or cannot be done."""
        if self.execution == "vmap":
            return self._vmap_pass(arrange, views)
        if not self._auto_vmap(arrange, views):
            return None
        try:
            return self._vmap_pass(arrange, views)
        except RuntimeError as error:  # what went well once need not with another batch
            self._vmap_proven.pop(self._mode, None)
            self.vmap_refusals[self._mode] = str(error)
            return None

    def _vmap_pass(self, arrange: Arrange, views: Views) -> BackboneOutput:
        modalities = stack_views((views.real, *views.perturbed))
        n_rows = leaves(modalities)[0].shape[0]
        mixing = mixing_layer(self[0]) if views.perturbed else None
        if mixing is not None:
            raise RuntimeError(
                "execution='vmap' must be able to stack real and perturbed samples in one pass, however "
                f"{mixing} lets the samples of a batch influence each other; use execution='auto'"
            )
        versions = versions_of(modalities)
        watching = [] if torch.compiler.is_compiling() else watched(self)
        output = run_vmapped(
            self,
            *arrange(modalities),
            lambda output: check_output("all", output, n_rows),
            trusted=bool(watching) and unchanged(self._vmap_proven.get(self._mode, []), watching),
        )
        check_untouched("all", modalities, versions)
        if watching:
            self._vmap_proven[self._mode] = watching
        return output

    @property
    def _mode(self) -> str:
        return "training" if self.training else "evaluation"

    def _auto_vmap(self, arrange: Arrange, views: Views) -> bool:
        """Whether `"auto"` runs all experts at once: on CUDA, after one trial per mode has gone well."""
        device = leaves(views.real)[0].device
        if self.execution != "auto" or self.checkpoint or not _is_launch_bound(device):
            return False
        mode = self._mode
        if mode in self._vmap_proven or mode in self.vmap_refusals:
            return mode in self._vmap_proven
        if torch.compiler.is_compiling() or any(is_lazy(parameter) for parameter in self.parameters()):
            return False
        # The trial must not move the random state: results would depend on whether there was one.
        with torch.random.fork_rng(devices=[device] if torch.cuda.is_available() else []):
            try:
                with warnings.catch_warnings():
                    # A layer without a batching rule runs expert by expert, slower than batched.
                    warnings.filterwarnings("error", message="There is a performance drop")
                    self._vmap_pass(arrange, views)
            except Exception as error:
                self.vmap_refusals[mode] = str(error)
        return mode in self._vmap_proven


def _is_launch_bound(device: torch.device) -> bool:
    """Whether starting a kernel costs more than running it, so that one pass for all experts pays."""
    return device.type == "cuda"


def _across_experts(names: Sequence[str], outputs: Sequence[BackboneOutput]) -> BackboneOutput:
    """Stack the experts on axis 1; the auxiliary loss is the mean over all experts."""
    aux_losses = [output.aux_loss for output in outputs if output.aux_loss is not None]
    latents = [output.latent for output in outputs if output.latent is not None]
    return BackboneOutput(
        _stack_predictions("prediction", names, [output.prediction for output in outputs]),
        torch.stack(aux_losses).sum() / len(outputs) if aux_losses else None,
        _stack_predictions("latent", names, latents) if len(latents) == len(outputs) else None,
    )


def _stack_predictions(what: str, names: Sequence[str], tensors: Sequence[Tensor]) -> Tensor:
    if any(tensor.shape[1:] != tensors[0].shape[1:] for tensor in tensors):
        shapes = {name: ("B", *tensor.shape[1:]) for name, tensor in zip(names, tensors, strict=True)}
        raise ValueError(f"all experts must return the same shape, however their {what}s are {shapes}")
    return torch.stack(list(tensors), dim=1)


def mixing_layer(expert: nn.Module) -> str | None:
    """Name a layer through which the samples of a batch influence each other."""
    for path, layer in expert.named_modules():
        normalizes = isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
        if normalizes or getattr(layer, "mixes_samples", False):
            return f"layer {path!r} ({type(layer).__name__})"
    return None
