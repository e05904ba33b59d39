"""Run a model over data and collect what its experts say and do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from i2moe._tasks import Task, check_target, check_task, score
from i2moe._types import Modality
from i2moe.interpretation.faithfulness import falls
from i2moe.interpretation.observation import (
    Observation,
    call_by_signature,
    checksum,
    find_moe,
    generators_of,
    left_as_found,
    move,
    observe,
    unwrap,
)
from i2moe.interpretation.report import InteractionReport
from i2moe.moe import InteractionMoE, InteractionOutput
from i2moe.perturbations import Perturbation, Shuffle, as_perturbation

__all__ = ["explain"]


def explain(
    model: nn.Module,
    data: Iterable[Any],
    *,
    task: Task = "classification",
    outputs: slice = slice(None),
    class_names: Sequence[str] | None = None,
    call: Callable[[nn.Module, Any], object] | None = None,
    perturbation: str | Perturbation | Callable[[Tensor], Tensor] | None = None,
    n_draws: int = 4,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> InteractionReport:
    r"""Run a model over data and report which interactions its predictions come from.

    Besides the weights, their statistics and the experts' contributions, the report says whether the weights are
    *faithful*: how much the score of a sample, the probability of its true class, falls when a modality is replaced
    (comprehensiveness) or kept alone (sufficiency), and whether each expert's weight is high where the model behaves
    like the expert's interaction.

    The model is an `InteractionMoE` or any module that calls one once per batch, with encoders before it, say. Its
    `InteractionMoE` is observed where it stands: modalities are replaced at its inputs (the embeddings), encoders run
    once, and what the outer model makes of the output is left aside.

    Everything is left as it was: the training mode of each submodule, buffers, torch's random state on the CPU and the
    model's GPU, the generators of the perturbation and the loader. Results are on the CPU.

    Args:
        model: what to explain. Wrappers for several GPUs are unwrapped: each process explains its own data.
        data: batches `(modalities, target)`, from a `DataLoader` that does not shuffle, say. The modalities are what
            the model is called with: a tuple or list is spread if the model's forward takes as many arguments, a dict
            if its keys are their names; all else is handed over whole. A dict with the key "available" says which
            modalities each sample has. Targets are integers (B,) for classification,
            0 or 1 (B, C) for multilabel, values (B,) or (B, C) for regression.
        task: "classification" (outputs are logits of classes), "multilabel" (logits of labels; with one logit, binary
            classification) or "regression".
        outputs: which outputs of the prediction to explain, `heads["age"]` of a model with several `Heads`, say; the
            targets are theirs.
        class_names: the C outputs' names; "0", "1", ... by default, "output" if there is one.
        call: how to call the model with the modalities of a batch, where the rule above does not fit:
            `lambda model, modalities: model(*modalities)`.
        perturbation: what replaces a modality, as for `InteractionMoE`; the model's own by default, "shuffle" if it has
            none.
        n_draws: number of replacements that scores are averaged over; 0 leaves faithfulness out and costs one pass
            instead of 1 + 2 M n_draws (1 + 2 n_draws for two modalities).
        n_bootstrap: number of resamples of the samples behind each interval.
        confidence: of the intervals.
        seed: of the replacements and of the resampling; equal seeds give equal reports.

    Returns:
        The report.

    Raises:
        TypeError: if the model is no module.
        ValueError: if an argument is out of range, the model holds no or several `InteractionMoE`, the data is empty, a
            batch is not `(modalities, target)`, a target does not fit the task, or weights or predictions are not
            finite. The message names the batch. Errors of the model itself carry the batch as a note.

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
    check_task(task)
    _check_numbers(n_draws, n_bootstrap, confidence)
    model = unwrap(model)
    moe = find_moe(model)
    reader = _BatchReader(
        model=model,
        moe=moe,
        call=call if call is not None else call_by_signature,
        device=next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None),
        task=task,
        perturbation=_choose_perturbation(moe, perturbation),
        n_draws=n_draws,
        outputs=outputs,
    )

    generators = generators_of(reader.perturbation, data, getattr(data, "sampler", None))
    with left_as_found(model, reader.device, generators, seed):
        batches = [reader.read(index, batch) for index, batch in enumerate(data)]
    if not batches:
        raise ValueError(
            "data must yield at least one batch, however it is empty; a generator can be run through only once"
        )

    rows = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    return InteractionReport(
        task=task,
        modality_names=moe.modality_names,
        expert_names=moe.expert_names,
        interactions=moe.interactions,
        output_names=_name_outputs(class_names, rows["prediction"].shape[1]),
        weights=rows["weights"],
        expert_predictions=rows["expert_predictions"],
        prediction=rows["prediction"],
        target=rows["target"],
        comprehensiveness=rows.get("comprehensiveness"),
        sufficiency=rows.get("sufficiency"),
        checksums=rows["checksums"],
        available=rows.get("available"),
        n_bootstrap=n_bootstrap,
        confidence=confidence,
        seed=seed,
    )


@dataclass(frozen=True)
class _BatchReader:
    """Turns each batch into the report's rows."""

    model: nn.Module
    moe: InteractionMoE
    call: Callable[[nn.Module, Any], object]
    device: torch.device | None
    task: Task
    perturbation: Perturbation
    n_draws: int
    outputs: slice

    def read(self, index: int, batch: Any) -> dict[str, Tensor]:
        """Return the rows of batch number `index`, on the CPU."""
        with _named(index):
            modalities, target = _split(batch)
        with _noted(index):
            inputs = move(modalities, self.device)
            seen = observe(self.moe, lambda: self.call(self.model, inputs))
        with _named(index):
            rows = _checked_rows(seen.output, self.outputs)
            rows["target"] = check_target(self.task, target.detach().cpu(), rows["prediction"])
        with _noted(index):
            rows["checksums"] = checksum(modalities, len(target))
            if seen.available is not None:
                rows["available"] = seen.available.cpu()
            return rows | (self._measure(seen, rows) if self.n_draws > 0 else {})

    def _measure(self, seen: Observation, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        def score_of(modalities: tuple[Modality, ...]) -> Tensor:
            args, kwargs = seen.arrange(modalities)
            mask = {} if seen.available is None else {"available": seen.available}
            prediction = _as_rows(_kept(self.moe(*args, **kwargs, **mask).prediction))[:, self.outputs]
            return score(self.task, prediction, rows["target"])

        full = score(self.task, rows["prediction"], rows["target"])
        comprehensiveness, sufficiency = falls(
            score_of, full, seen.modalities, self.perturbation, self.n_draws, seen.available
        )
        return {"comprehensiveness": comprehensiveness, "sufficiency": sufficiency}


def _split(batch: Any) -> tuple[Any, Tensor]:
    """Take a batch apart, or say how to regroup it."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        found = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
        keys = f" with the keys {tuple(batch)}" if isinstance(batch, Mapping) else ""
        raise ValueError(
            f"a batch must be (modalities, target), however it is a {found}{keys}; "
            "regroup the batches: `(((a, b), y) for a, b, y in loader)`"
        )
    modalities, target = batch
    try:
        return modalities, torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"a batch must be (modalities, target) with a tensor as target, however the target is a "
            f"{type(target).__name__}; number class names, regroup the batches: `(((a, b), y) for a, (b, y) in loader)`"
        ) from error


def _checked_rows(output: InteractionOutput, outputs: slice) -> dict[str, Tensor]:
    """Return what the report keeps of an output, at least float32 and on the CPU.

    Raises:
        ValueError: if something is not finite, or the weights are no distribution.
    """
    rows = {
        "weights": _kept(output.weights),
        "expert_predictions": _as_rows(_kept(output.expert_predictions), n_leading=2)[..., outputs],
        "prediction": _as_rows(_kept(output.prediction))[..., outputs],
    }
    for name, tensor in rows.items():
        broken = (~tensor.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if broken:
            more = ", ..." if len(broken) > 10 else ""
            raise ValueError(
                f"{name} must be finite, however they hold NaN or infinity for {len(broken)} of {len(tensor)} samples "
                f"(rows {str(broken[:10])[1:-1]}{more}); look for NaN in these inputs, or for a diverged training"
            )
    weights = rows["weights"]
    if weights.min() < -1e-6 or (weights.sum(1) - 1).abs().max() > 1e-2:
        raise ValueError(
            "weights must be at least 0 and sum to 1 for each sample, however they lie in "
            f"[{weights.min():.3g}, {weights.max():.3g}] and sum to {weights.sum(1).min():.3g} to "
            f"{weights.sum(1).max():.3g}; end the reweighter with a softmax"
        )
    return rows


def _kept(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _as_rows(prediction: Tensor, n_leading: int = 1) -> Tensor:
    """Give predictions one output axis: (B,) becomes (B, 1)."""
    if prediction.ndim == n_leading:
        return prediction.unsqueeze(-1)
    if prediction.ndim > n_leading + 1:
        raise ValueError(
            "predictions must be (B,) or (B, C) to be explained, however a sample's shape is "
            f"{tuple(prediction.shape[n_leading:])}; flatten it in the backbone"
        )
    return prediction


@contextmanager
def _named(index: int) -> Iterator[None]:
    """Put the batch into the message of our own errors."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"in batch {index} of data: {error}") from error.__cause__


@contextmanager
def _noted(index: int) -> Iterator[None]:
    """Note the batch on errors of the model, whose type and message are not ours to change."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in batch {index} of data, which must yield (modalities, target)")
        raise


def _choose_perturbation(
    moe: InteractionMoE, perturbation: str | Perturbation | Callable[[Tensor], Tensor] | None
) -> Perturbation:
    if perturbation is not None:
        return as_perturbation(perturbation)
    return moe.perturbation if moe.perturbation is not None else Shuffle()


def _name_outputs(names: Sequence[str] | None, n_outputs: int) -> tuple[str, ...]:
    if names is None:
        return tuple(str(c) for c in range(n_outputs)) if n_outputs > 1 else ("output",)
    if len(names) != n_outputs or len(set(names)) != n_outputs:
        raise ValueError(f"class_names must be {n_outputs} different names, however they are {tuple(names)}")
    return tuple(str(name) for name in names)


def _check_numbers(n_draws: int, n_bootstrap: int, confidence: float) -> None:
    if n_draws < 0:
        raise ValueError(f"n_draws must be at least 0, however it is {n_draws}")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, however it is {n_bootstrap}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), however it is {confidence}")
