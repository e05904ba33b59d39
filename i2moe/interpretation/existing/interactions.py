"""Explain a model that is trained already and knows nothing of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor, nn

from i2moe._common.checks import look_up
from i2moe._common.modalities import as_tensor, map_leaves
from i2moe._common.passes import unwrap
from i2moe._common.tasks import Task, check_target, check_task, score
from i2moe.interpretation.existing.calling import Form, Predictor, Returns, function_of, raw_outputs
from i2moe.interpretation.existing.marginals import Apart, Background, Fitted, Marginals, Replaced
from i2moe.interpretation.existing.rows import absent_rows, concatenate, is_number, n_rows
from i2moe.interpretation.explain import name_outputs
from i2moe.interpretation.observation.batches import (
    check_batches,
    check_not_empty,
    in_batch,
    noted,
    split_batch,
    warn_of_order,
)
from i2moe.interpretation.observation.observe import checksum, device_of, generators_of, preserve_state
from i2moe.interpretation.report import InteractionReport
from i2moe.interpretation.report.record import dropped_subsets
from i2moe.interpretation.statistics import check_confidence
from i2moe.moe.model import InteractionMoE
from i2moe.moe.names import select_experts
from i2moe.moe.weights.shares import interaction_shares

__all__ = ["interactions"]

_BY_NAME: dict[str, Callable[[], Marginals]] = {"fitted": Fitted, "replaced": Replaced}


def interactions(
    model: Any,
    data: Iterable[Any],
    background: Iterable[Any],
    *,
    task: Task = "classification",
    marginals: Literal["fitted", "replaced"] | Marginals | Any = "fitted",
    modality_names: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    class_names: Sequence[str] | None = None,
    call: Callable[[Any, Any], object] | None = None,
    returns: Returns | None = None,
    drop_modalities: bool = True,
    confidence: float = 0.95,
    seed: int = 0,
) -> InteractionReport:
    r"""Report which interactions the predictions of a trained model come from, though it has no experts.

    Where the model has experts of `InteractionMoE`, use `explain`. This is for all other models: a fusion module as it
    is, a classifier of Hugging Face, gradient boosting over several arrays. It is not changed, and not trained further.

    The weights are the `i2moe.moe.weights.interaction_shares` of the model's prediction and of predictions from each
    modality alone, its *marginals*. The model was probably never trained without a modality, so its marginals have to
    be made:

    * `"fitted"`: a linear head for each modality, fitted on the background, reads what the model says of this modality
      next to R background samples. On known interactions it names far more of them than "replaced".
    * `"replaced"`: the mean of what the model says of a modality next to R background samples. It needs no targets,
      and says how the model behaves on combinations that it may never have seen.
    * an estimator in scikit-learn's manner: a copy is fitted to each modality, and the model is not asked.
    * an object: `Fitted(n_references=16)`, `Replaced(...)`, or one of your own with the methods of `Marginals`.

    Args:
        model: a module; a function of the modalities; or an object with `predict_proba` (in regression `predict`), that
            takes a list or dict of arrays. Modules are evaluated without gradient and left as they were.
        data: batches `(modalities, target)` to explain, as for `explain`. Modalities may be tensors, arrays or data
            frames, also nested (token ids and mask), in a tuple, list or dict. A module gets arrays of numbers as
            tensors, all other models get what comes.
        background: batches `(modalities, target)` of other samples of the same kind, that the model was not trained on:
            some hundreds, those of early stopping say.
        task: what the model predicts: "classification", "multilabel" or "regression".
        marginals: see above.
        modality_names: names for modalities in order. Or where batches are dicts, which keys belong to which modality:
            `{"text": ("input_ids", "attention_mask"), "image": "pixel_values"}`; by default each key is a modality.
        class_names: the C outputs' names.
        call: how to call the model with the modalities of a batch where the rule of `explain` does not fit:
            `lambda model, modalities: model(*modalities)[0]`.
        returns: "raw" (logits) or "probabilities". By default they are probabilities where all of the first outputs lie
            in [0, 1] and, for classes, rows sum to 1.
        drop_modalities: predict also without one modality and without two, in the same way, for
            `report.cost_of_dropping()`. For two modalities this costs nothing.
        confidence: of the intervals of the mean weights.
        seed: of what is drawn; equal seeds give equal reports.

    Returns:
        The report of `explain`, with `report.basis` set. There are no experts: each interaction has the model's own
        prediction. Where modalities are dropped, `comprehensiveness` and `sufficiency` are drops of the score against
        predictions that are made as the marginals are.

    Raises:
        TypeError: if the model cannot be called, returns no array or is an `InteractionMoE`, or a batch holds no
            arrays.
        ValueError: if batches are not `(modalities, target)`, differ in form or lack a modality, the background is too
            small, or outputs are not finite or do not fit the targets. The message names the batch. Also if tuples come
            in the order of `modality_names`, and the model's arguments have these names in another one.

    Warns:
        UserWarning: if the loader shuffles, so that rows are in no known order.

    Note:
        The model is run M R times on each batch, with R references, and as often on the background, never on more rows
        than a batch has; 6 R times for three modalities that are dropped too, 14 R times for four. For large models
        `Fitted(n_references=8)` will do, and `drop_modalities=False`.

    Example:
        >>> class Fusion(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(8 + 4, 3)
        ...     def forward(self, image, text):
        ...         return self.head(torch.cat([image, text], dim=-1))
        >>> def batch():
        ...     return {"image": torch.randn(50, 8), "text": torch.randn(50, 4)}, torch.randint(3, (50,))
        >>> report = interactions(Fusion(), data=[batch()], background=[batch(), batch()])
        >>> report
        InteractionReport(50 samples, classification, experts ('uniqueness/image', 'uniqueness/text', ...))
        >>> report.weights.shape, report.marginals.shape
        (torch.Size([50, 4]), torch.Size([50, 2, 3]))
    """
    check_task(task)
    check_confidence(confidence)
    check_batches(data)
    check_batches(background, "background")
    alone = _as_marginals(marginals)
    model = unwrap(model) if isinstance(model, nn.Module) else model
    if isinstance(model, InteractionMoE):
        raise TypeError(
            "model must be one without interaction experts, however it is an InteractionMoE; use explain(model, data), "
            "which reports its own weights"
        )
    warn_of_order(data)
    module = model if isinstance(model, nn.Module) else nn.Module()
    device = device_of(module)

    with preserve_state(module, device, generators_of(data, background), seed):
        known = [_read("background", index, batch) for index, batch in enumerate(background)]
        check_not_empty(known, "background")
        first = known[0][0]
        form = Form.of(first, modality_names)
        predict = Predictor(function_of(model, task), form, first, call, task, returns, device)
        seen = (_predict("data", index, predict, *_read("data", index, batch)) for index, batch in enumerate(data))
        begun = list(islice(seen, 1))  # a mistake in the data is found before marginals are made
        check_not_empty(begun)
        found = (_predict("background", index, predict, *batch) for index, batch in enumerate(known))
        held_out, joint, answers = zip(*found, strict=True)
        modalities = [concatenate(same) for same in zip(*held_out, strict=True)]
        kept = _choices(len(form.names), drop_modalities)
        known_joint = torch.cat(joint)
        most_rows = max(map(len, answers))
        alone.fit(Background(predict, modalities, known_joint, torch.cat(answers), kept, most_rows))
        rows = [
            (predicted, alone(modalities, predicted), target, _checksum(modalities, len(target)))
            for modalities, predicted, target in chain(begun, seen)
        ]
    from_all, compared, target, checksums = (torch.cat(part) for part in zip(*rows, strict=True))
    n_modalities = len(form.names)
    weights, _ = interaction_shares(compared[:, :n_modalities], compared[:, -1], alone.prior)
    kept_as = torch.float64 if task == "regression" else torch.float32  # values may be large beside their deviation
    prediction, reduced = (raw_outputs(task, each).to(kept_as) for each in (from_all, compared[:, :-1]))
    without = _without(reduced, kept, n_modalities) if drop_modalities else None
    full = score(task, prediction, target).unsqueeze(1)
    expert_names, of_experts = select_experts(form.names, "all")
    return InteractionReport(
        task=task,
        modality_names=form.names,
        expert_names=expert_names,
        interactions=of_experts,
        output_names=name_outputs(class_names, prediction.shape[1]),
        weights=weights.float(),
        expert_predictions=prediction.unsqueeze(1).repeat(1, len(expert_names), 1),
        prediction=prediction,
        target=target,
        comprehensiveness=None if without is None else full - _scores(task, without[:, :n_modalities], target),
        sufficiency=None if without is None else full - _scores(task, reduced[:, :n_modalities], target),
        checksums=checksums,
        confidence=float(confidence),
        marginals=reduced[:, :n_modalities],
        predictions_without=without,
        prior=known_joint.mean(0),  # of what `prediction` is; marginals may be scaled
        basis=f"computed from a model without experts; {alone.basis()}",
    )


def _choices(n_modalities: int, drop_modalities: bool) -> list[tuple[int, ...]]:
    """The choices of modalities to predict from: each alone, and what is left where some are dropped."""
    alone = [(i,) for i in range(n_modalities)]
    left = [_left(subset, n_modalities) for subset in dropped_subsets(n_modalities)] if drop_modalities else []
    return list(dict.fromkeys([*alone, *left]))


def _left(subset: tuple[int, ...], n_modalities: int) -> tuple[int, ...]:
    return tuple(i for i in range(n_modalities) if i not in subset)


def _without(reduced: Tensor, kept: list[tuple[int, ...]], n_modalities: int) -> Tensor:
    """Take from predictions (N, K, C) those without each of the S `dropped_subsets`, (N, S, C)."""
    positions = [kept.index(_left(subset, n_modalities)) for subset in dropped_subsets(n_modalities)]
    return reduced[:, positions]


def _scores(task: Task, raw: Tensor, target: Tensor) -> Tensor:
    """How good predictions (N, M, C) are, (N, M)."""
    return torch.stack([score(task, each, target) for each in raw.unbind(1)], dim=1)


def _as_marginals(marginals: object) -> Marginals:
    if isinstance(marginals, str):
        return look_up("marginals", marginals, _BY_NAME)()
    if isinstance(marginals, Marginals) and not isinstance(marginals, type):
        return marginals
    if isinstance(marginals, type) or not hasattr(marginals, "fit"):
        raise TypeError(
            "marginals must be a name, an object such as Fitted(n_references=16), or an estimator with fit and "
            f"predict_proba, however they are {marginals!r}"
        )
    return Apart(marginals)


def _read(source: str, index: int, batch: Any) -> tuple[Any, Tensor]:
    with in_batch(index, source):
        return split_batch(batch)


def _predict(
    source: str, index: int, predict: Predictor, held: Any, target: Tensor
) -> tuple[list[Any], Tensor, Tensor]:
    """Return the M modalities of a batch, the prediction from all of them (B, C), and the checked target."""
    with noted(index, source), in_batch(index, source):
        modalities = predict.form.split(held)
        _check_rows(predict.form.names, modalities, len(target) if target.ndim else 0)
        predicted = predict(modalities)
        outputs = raw_outputs(predict.task, predicted)
        return modalities, predicted, check_target(predict.task, target.cpu(), outputs.shape, outputs.dtype)


def _check_rows(names: Sequence[str], modalities: Sequence[Any], n_samples: int) -> None:
    given = {name: modality for name, modality in zip(names, modalities, strict=True) if modality is not None}
    sizes = {name: n_rows(modality) for name, modality in given.items()}
    if any(size != n_samples for size in sizes.values()):
        raise ValueError(
            f"all modalities must have a row for each of {n_samples} targets, however their numbers of rows are {sizes}"
        )
    for name in names:
        n_absent = absent_rows(given[name]) if name in given else n_samples
        if n_absent:
            raise ValueError(
                f"every sample must have every modality, however {n_absent} of {n_samples} lack {name!r} (None, or NaN "
                "throughout); drop these samples, or fill them in as in the model's training"
            )


def _checksum(modalities: Sequence[Any], n_samples: int) -> Tensor:
    """Sum the numbers of each sample; texts and categories count by a hash."""

    def numbers_of(array: Any) -> Tensor:
        if is_number(array):
            found: Tensor = as_tensor(array)
            return found
        rows = getattr(array, "values", array).tolist()
        return torch.tensor([crc32(repr(row).encode()) / 2**32 for row in rows])

    return checksum(map_leaves(numbers_of, list(modalities)), n_samples)
