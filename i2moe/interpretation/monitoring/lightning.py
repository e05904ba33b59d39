"""A callback for Lightning: the training term, the numbers of every epoch, and a report at the end."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from i2moe._common.tasks import Task
from i2moe.interpretation.monitoring.metric import InteractionMetric
from i2moe.interpretation.monitoring.weights import WeightMonitor
from i2moe.interpretation.observation.observe import find_moe
from i2moe.interpretation.report import InteractionReport
from i2moe.moe import InteractionOutput
from i2moe.moe.weights.computed import ComputedReweighter

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = ["interaction_callback"]


def _last(batch: Any) -> Any:
    return batch[-1]


def interaction_callback(
    term: Callable[[InteractionOutput, Any], Tensor] | None = None,
    *,
    target: Callable[[Any], Any] = _last,
    report: str | os.PathLike[str] | None = None,
    task: Task | None = None,
    class_names: Sequence[str] | None = None,
) -> Callback:
    """Make a callback that trains and watches the `InteractionMoE` in a LightningModule.

    * The term is added to the loss that `training_step` returns, or stands for it where the step returns nothing. Its
      named losses are logged as "train/<name>", for an `InteractionSupervision`.
    * After each training epoch the numbers of a `WeightMonitor` are logged as "train/<name>". Learned weights are
      warned of, computed ones are not: one interaction for all samples may be a finding.
    * After each validation epoch the numbers of `InteractionMetric` are logged as "val/<name>".
    * At the end of training the report of the last validation epoch is written.

    The module's steps must call its `InteractionMoE` once a batch. The callback's `report` attribute is the report of
    the last validation epoch, None before.

    Args:
        term: `term(out, target)` returns a scalar, `InteractionSupervision(criterion)` say; None adds nothing.
        target: finds the targets in a batch; the last item by default.
        report: file for the HTML report; None writes none.
        task: as of `InteractionMetric`.
        class_names: the C outputs' names.

    Raises:
        ImportError: without Lightning.

    Example:
        >>> from torch.nn.functional import cross_entropy
        >>> from i2moe import InteractionSupervision
        >>> callback = interaction_callback(InteractionSupervision(cross_entropy))  # doctest: +SKIP
        >>> lightning.Trainer(callbacks=[callback])  # doctest: +SKIP
    """
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise ImportError(
            "interaction_callback must have Lightning, however it cannot be imported; pip install lightning"
        ) from error
    path = report

    class InteractionCallback(Callback):
        """What `interaction_callback` made."""

        report: InteractionReport | None = None
        handle: RemovableHandle | None = None

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            moe = find_moe(pl_module)
            self.seen: list[InteractionOutput] = []
            if stage in ("fit", "validate"):  # nobody would take them away
                self.handle = moe.register_forward_hook(lambda module, args, out: self.seen.append(out))
            self.metric = InteractionMetric(pl_module, task=task, class_names=class_names)
            computed = isinstance(moe.reweighter, ComputedReweighter)
            quiet: Any = {"unused_below": 0.0, "collapsed_above": 1.0, "constant_below": 0.0} if computed else {}
            self.monitor = WeightMonitor(moe.expert_names, **quiet)
            if stage == "fit" and term is not None:
                pl_module.training_step = _with_term(self, pl_module, term, target)

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if self.handle is not None:
                self.handle.remove()
            vars(pl_module).pop("training_step", None)

        def on_train_batch_end(self, *args: Any) -> None:
            for out in self.seen:
                self.monitor(out)
            self.seen.clear()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log_dict({f"train/{name}": value for name, value in self.monitor.finish().to_dict().items()})

        def on_validation_batch_start(self, *args: Any) -> None:
            self.seen.clear()

        def on_validation_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            self.metric.update(_only(self.seen), target(batch))
            self.seen.clear()

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                self.report = self.metric.report()
                pl_module.log_dict({f"val/{name}": value for name, value in self.metric.compute().items()})
            self.metric.reset()

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            if path is not None and self.report is not None and trainer.is_global_zero:
                self.report.to_html(path)

    return InteractionCallback()


def _with_term(
    callback: Any, module: Any, term: Callable[[InteractionOutput, Any], Tensor], target: Callable[[Any], Any]
) -> Callable[..., Any]:
    """Return the module's training step with the term added to its loss."""
    step = module.training_step

    @functools.wraps(step)
    def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
        callback.seen.clear()
        returned = step(batch, *args, **kwargs)
        added = term(_only(callback.seen), target(batch))
        module.log_dict({f"train/{name}": value for name, value in getattr(term, "losses", {}).items()})
        if returned is None:
            return added
        return returned | {"loss": returned["loss"] + added} if isinstance(returned, dict) else returned + added

    return training_step


def _only(seen: list[InteractionOutput]) -> InteractionOutput:
    """Return the one output of a step."""
    if len(seen) != 1:
        raise ValueError(
            f"a step must call the module's InteractionMoE once a batch, however it did {len(seen)} times; "
            "call the module itself, not its forward or interaction_views"
        )
    return seen[0]
