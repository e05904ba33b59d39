"""Run a model over data and collect what its experts say and do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._common.names import check_names
from i2moe._common.passes import unwrap
from i2moe._common.tasks import Task
from i2moe.interpretation.observation.batches import BatchReader, check_batches, check_not_empty, warn_of_order
from i2moe.interpretation.observation.observe import (
    call_by_signature,
    device_of,
    find_moe,
    generators_of,
    preserve_state,
    prior_of,
    task_of,
)
from i2moe.interpretation.report import InteractionReport
from i2moe.interpretation.statistics import check_confidence
from i2moe.moe import InteractionMoE
from i2moe.perturbations import Perturbation, Shuffle, as_perturbation

__all__ = ["explain", "name_outputs"]


def explain(
    model: nn.Module,
    data: Iterable[Any],
    *,
    task: Task | None = None,
    outputs: slice = slice(None),
    class_names: Sequence[str] | None = None,
    call: Callable[[nn.Module, Any], object] | None = None,
    perturbation: str | Perturbation | Callable[[Tensor], Tensor] | None = None,
    n_draws: int = 4,
    drop_modalities: bool = True,
    confidence: float = 0.95,
    seed: int = 0,
) -> InteractionReport:
    r"""Run a model over data and report which interactions its predictions come from.

    The report has the weights, their statistics and the experts' contributions. It also tests whether the weights are
    *faithful*. The score of a sample is the probability of its true class. It may drop when a modality is replaced
    (comprehensiveness) or kept alone (sufficiency). An expert's weight should be high where these drops show its
    interaction.

    The model is an `InteractionMoE`, or any module that calls one once per batch, for example with encoders before it.
    Modalities are replaced at the inputs of the `InteractionMoE` (the embeddings), and encoders run once. What the
    outer model makes of the output is ignored.

    Everything is left as it was: the training mode of each submodule, buffers, torch's random state on the CPU and the
    model's GPU, the generators of the perturbation and the loader. Results are on the CPU.

    Args:
        model: what to explain. Wrappers for several GPUs are unwrapped: each process explains its own data.
        data: batches `(modalities, target)`, for example from a `DataLoader` that does not shuffle. The model is called
            with the modalities. A tuple or list is spread if the model's forward takes as many arguments, a dict if its
            keys are their names; all else is passed whole. The key "available" of a dict marks which modalities each
            sample has. Targets are integers (B,) for classification, 0 or 1 (B, C) for multilabel, values (B,) or
            (B, C) for regression. Arrays and data frames become tensors, floating ones of torch's default dtype.
        task: "classification" (outputs are logits of classes), "multilabel" (logits of labels; with one logit, binary
            classification) or "regression". None for that of computed weights, "classification" with other weights.
        outputs: which outputs of the prediction to explain, `heads["age"]` of a model with several `Heads`, say; the
            targets are theirs.
        class_names: the C outputs' names; "0", "1", ... by default, "output" if there is one.
        call: how to call the model with the modalities of a batch, where the rule above does not fit:
            `lambda model, modalities: model(*modalities)`.
        perturbation: what replaces a modality, as for `InteractionMoE`; the model's own by default, "shuffle" if it has
            none.
        n_draws: number of replacements that scores are averaged over; 0 leaves faithfulness out and costs one pass
            instead of 1 + 2 M n_draws (1 + 2 n_draws for two modalities).
        drop_modalities: predict also without one modality and without two, where the model has a fill: for
            `report.cost_of_dropping()`. M + M (M - 1) / 2 passes more, 2 for two modalities; a learned reweighter's
            model takes M more from four modalities on.
        confidence: of the intervals of the mean weights.
        seed: of the replacements; equal seeds give equal reports.

    Returns:
        The report.

    Raises:
        TypeError: if the model is no module, or the data are no batches.
        ValueError: if an argument is out of range, or the model holds no or several `InteractionMoE`. Also if the data
            is empty, a batch is not `(modalities, target)`, a target does not fit the task, or weights or predictions
            are not finite. The message names the batch. Errors of the model itself carry the batch as a note.

    Warns:
        UserWarning: if the loader shuffles, so that rows are in no known order. Also if samples came in batches of one
            and were replaced by themselves, by the mean of one sample say. This measures nothing: their
            comprehensiveness and sufficiency are NaN.

    Source: the local and global interpretation of I2MoE (ICML 2025); the measures of faithfulness of ERASER (ACL 2020).

    Example:
        >>> class Fusion(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(8 + 4, 3)
        ...     def forward(self, image, text):
        ...         return self.head(torch.cat([image, text], dim=-1))
        >>> model = InteractionMoE(Fusion, 2, modality_names=("image", "text"), feature_dims=(8, 4))
        >>> batches = [((torch.randn(16, 8), torch.randn(16, 4)), torch.randint(3, (16,))) for _ in range(5)]
        >>> report = explain(model, batches)
        >>> report
        InteractionReport(80 samples, classification, experts ('uniqueness/image', ...))
        >>> report.weights.shape, report.contributions.shape, report.comprehensiveness.shape
        (torch.Size([80, 4]), torch.Size([80, 4, 3]), torch.Size([80, 2]))
    """
    check_confidence(confidence)
    if not isinstance(n_draws, int | Integral) or n_draws < 0:
        raise ValueError(f"n_draws must be an integer of at least 0, however it is {n_draws!r}")
    check_batches(data)
    model = unwrap(model)
    moe = find_moe(model)
    task = task_of(moe, task)
    reader = BatchReader(
        model=model,
        moe=moe,
        call=call if call is not None else call_by_signature,
        device=device_of(model),
        task=task,
        perturbation=_choose_perturbation(moe, perturbation),
        n_draws=n_draws,
        outputs=outputs,
        drop_modalities=drop_modalities,
    )

    warn_of_order(data)
    generators = generators_of(reader.perturbation, data)
    with preserve_state(model, reader.device, generators, seed):
        batches = [reader.read(index, batch) for index, batch in enumerate(data)]
    check_not_empty(batches)

    # A batch's part of each tensor is let go as soon as it is joined: both at once would take twice the memory.
    rows: dict[str, Any] = {name: torch.cat([batch.pop(name) for batch in batches]) for name in list(batches[0])}
    if "available" in rows and rows["available"].all():
        del rows["available"]
    _warn_of_unmeasured(rows)
    return InteractionReport(
        task=task,
        modality_names=moe.modality_names,
        expert_names=moe.expert_names,
        interactions=moe.interactions,
        output_names=name_outputs(class_names, rows["prediction"].shape[1]),
        confidence=float(confidence),
        prior=prior_of(moe, rows["prediction"], outputs),
        **rows,
    )


def _choose_perturbation(
    moe: InteractionMoE, perturbation: str | Perturbation | Callable[[Tensor], Tensor] | None
) -> Perturbation:
    if perturbation is not None:
        return as_perturbation(perturbation)
    return moe.perturbation if moe.perturbation is not None else Shuffle()


def name_outputs(names: Sequence[str] | None, n_outputs: int) -> tuple[str, ...]:
    """Return the names of C outputs: those given, or numbers.

    Raises:
        ValueError: if they are not as many, or not different.
    """
    if names is None:
        return tuple(str(c) for c in range(n_outputs)) if n_outputs > 1 else ("output",)
    listed = names if isinstance(names, str | Mapping | set | frozenset) else [str(name) for name in names]
    return check_names("class_names", listed, n_outputs)


def _warn_of_unmeasured(rows: dict[str, Tensor]) -> None:
    if "comprehensiveness" not in rows:
        return
    n_unmeasured = int(rows["comprehensiveness"].isnan().all(1).sum())
    if n_unmeasured:
        warnings.warn(
            f"modalities must be replaced by something else to measure faithfulness, however {n_unmeasured} of "
            f"{len(rows['weights'])} samples came in batches of one and were replaced by themselves: their "
            "comprehensiveness and sufficiency are NaN; use larger batches or perturbation='zero'",
            stacklevel=3,
        )
