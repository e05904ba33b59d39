"""Which kind of interaction a sample is, read off the predictions of its modalities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from i2moe._common.checks import check_fraction
from i2moe._common.modalities import Array, as_tensor
from i2moe._common.names import interaction_names
from i2moe._common.tasks import Task
from i2moe.categorization.calibration import Calibrated, calibrated_near
from i2moe.categorization.checks import Predictions, read_predictions
from i2moe.categorization.distances import Distance, DistanceLike, as_distance, measure
from i2moe.categorization.thresholds import Halfway, LikeliestClass, Quantile, Threshold, to_reference, value_of

__all__ = ["Categories", "categorize", "interaction_degrees"]


@dataclass(frozen=True)
class Categories:
    """The interaction of each of B samples, one of K.

    Args:
        category: (B,) integers, positions in `names`.
        degrees: (B, K), how much of the multimodal confidence each interaction accounts for; rows sum to it.
        names: what the K numbers mean: ("uniqueness/<name 0>", ..., "synergy", "redundancy").
        agreement: (B,) bool, whether all modalities say the same.
        ambiguous: (B,) bool, whether some modality is undecided between its two likeliest classes.
        threshold: the distance up to which predictions counted as the same; None where no distance was used. Pass the
            training data's to categorize other data alike.
    """

    category: Tensor
    degrees: Tensor
    names: tuple[str, ...]
    agreement: Tensor
    ambiguous: Tensor
    threshold: float | None

    def __len__(self) -> int:
        return len(self.category)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {n}" for name, n in zip(self.names, self.count().tolist(), strict=True))
        return f"Categories({len(self)} samples: {counts}; {int(self.ambiguous.sum())} ambiguous)"

    def __getitem__(self, index: Array | slice) -> Categories:
        """Select samples, `categories[~categories.ambiguous]` say."""
        chosen = index if isinstance(index, slice) else torch.as_tensor(as_tensor(index))
        return self._map(lambda x: x[chosen])

    def to(self, device: torch.device | str) -> Categories:
        """Return a copy on a device."""
        return self._map(lambda x: x.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Categories:
        return replace(
            self,
            category=change(self.category),
            degrees=change(self.degrees),
            agreement=change(self.agreement),
            ambiguous=change(self.ambiguous),
        )

    def count(self, labels: Array | None = None, n_classes: int | None = None) -> Tensor:
        """Count the samples of each category (K,), or of each category and class (K, C) where labels are given.

        Args:
            labels: (B,) integers in [0, C).
            n_classes: C; the largest label + 1 if not given.

        Raises:
            ValueError: if the labels are not one per sample, or one is negative or not below `n_classes`.

        Example:
            >>> said = torch.tensor([[0, 0], [0, 1], [1, 0]])  # classes said by two modalities about three samples
            >>> found = categorize(torch.eye(2)[said], torch.eye(2)[[0, 0, 0]], threshold=0.5)
            >>> found.names
            ('uniqueness/0', 'uniqueness/1', 'synergy', 'redundancy')
            >>> found.count()
            tensor([1, 1, 0, 1])
        """
        n_categories = len(self.names)
        if labels is None:
            return torch.bincount(self.category, minlength=n_categories)
        labels = torch.as_tensor(as_tensor(labels)).to(self.category.device)
        if labels.shape != self.category.shape:
            raise ValueError(f"labels must be ({len(self)},), one per sample, however they are {tuple(labels.shape)}")
        n_classes = int(labels.max()) + 1 if n_classes is None else n_classes
        if bool((labels < 0).any()) or bool((labels >= n_classes).any()):
            raise ValueError(
                f"labels must lie in [0, {n_classes}), however they lie in [{labels.min()}, {labels.max()}]"
            )
        pairs = torch.bincount(self.category * n_classes + labels, minlength=n_categories * n_classes)
        return pairs.reshape(n_categories, n_classes)

    def by_agreement(self) -> Categories:
        """Split every category by whether the modalities agree: the finer 2 K classes.

        The names become "agreement/synergy", ..., "disagreement/redundancy". A sample's degrees move as a whole to its
        side. Disagreement with redundancy: the reference lies between modalities that are further from each other
        than from it, or several but not all modalities are right.

        Example:
            >>> found = categorize(torch.tensor([[[0.6, 0.4], [0.4, 0.6]]]), torch.tensor([[0.5, 0.5]]), threshold=0.3)
            >>> finer = found.by_agreement()
            >>> finer.names[int(finer.category)]
            'disagreement/redundancy'
        """
        zeros = torch.zeros_like(self.degrees)
        agreeing = self.agreement.unsqueeze(-1)
        sides = [torch.where(agreeing, self.degrees, zeros), torch.where(agreeing, zeros, self.degrees)]
        return replace(
            self,
            category=self.category + len(self.names) * (~self.agreement).long(),
            degrees=torch.cat(sides, dim=-1),
            names=tuple(f"{side}/{name}" for side in ("agreement", "disagreement") for name in self.names),
        )


def categorize(
    unimodal: Array,
    multimodal: Array,
    target: Array | None = None,
    *,
    distance: DistanceLike | None = None,
    threshold: Threshold = None,
    margin: float = 0.0,
    chance: float = 0.0,
    task: Task = "classification",
    modality_names: Sequence[str] | None = None,
) -> Categories:
    r"""Assign each sample to an interaction, by the predictions from each modality and from all together.

    One rule for any number of modalities M. A modality is *near* if its prediction is that of the reference. None near
    is synergy, one the uniqueness of that modality, two or more redundancy.

    What near means is the `threshold`. By default predictions are `Calibrated` and compared with what all modalities
    together predict. With a distance as threshold, near means $d(r, u_i) \le \theta$, and the reference r is the label,
    or without labels the multimodal prediction. `LikeliestClass()` is the published rule: for two modalities with
    labels, agree and right is redundancy, agree and wrong synergy, disagree the uniqueness of the right one.

    `degrees` are graded: with $q_i$ and $q_M$ the confidence of modality i and of the multimodal prediction in the
    right class (without labels: in the multimodal prediction's class), $q_i$ at most $q_M$, and sorted,

    $$q_M = \underbrace{(q_M - q_{(1)})}_{synergy} + \underbrace{(q_{(1)} - q_{(2)})}_{uniqueness\ of\ the\ best}
    + \underbrace{q_{(2)}}_{redundancy}$$

    Use predictions on samples that the classifiers were not trained on (`i2moe.mmoe.cross_predict`). On their training
    samples classifiers are right too often, and every sample looks redundant.

    Source: Yu et al., MMoE, EMNLP 2024, for two modalities; the count, the grading for more and `Calibrated` are ours.

    Args:
        unimodal: (B, M, C), or a list of M arrays (B, C), each modality's class probabilities, or outputs in
            regression. Arrays and data frames are taken wherever tensors are.
        multimodal: (B, C), those of all modalities together.
        target: (B,) classes, or (B,) or (B, C) values in regression; None where there is none.
        distance: a name or a `Distance`, see `as_distance`; L1 by default. `Calibrated` and
            `LikeliestClass` use none.
        threshold: when a modality is near: `Calibrated()`, `LikeliestClass()`, or the distance up to which it is, a
            number, `Halfway()` or a `Quantile`. None is `Calibrated()`, and `Quantile(0.5)` where a distance is given
            and in regression.
        margin: a sample is ambiguous if the two likeliest classes of some modality differ by no more than this in
            probability; the published code drops those within 0.10 from training.
        chance: confidence counts from here up; `1 / C` leaves out what guessing gives, and degrees then sum to the
            multimodal confidence above it.
        task: "classification" or "regression". In regression confidence is $2^{-d/\theta}$.
        modality_names: M names; ("0", "1", ...) by default.

    Returns:
        `Categories` of the B samples.

    Raises:
        TypeError: if a prediction is no numbers, or a distance no callable.
        ValueError: if probabilities do not sum to 1, shapes disagree, a label is out of range, a distance is negative
            or not finite, or an option is unknown.

    Example:
        >>> unimodal = torch.tensor([[[0.9, 0.1], [0.8, 0.2]], [[0.1, 0.9], [0.8, 0.2]], [[0.4, 0.6], [0.3, 0.7]]])
        >>> multimodal = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2]])
        >>> found = categorize(unimodal, multimodal)
        >>> [found.names[k] for k in found.category]
        ['redundancy', 'uniqueness/1', 'synergy']
        >>> found.degrees[2]
        tensor([0.1000, 0.0000, 0.4000, 0.3000])
    """
    given = read_predictions(unimodal, multimodal, target, task, modality_names)
    metric = as_distance("l1" if distance is None else distance)
    if task == "regression" and getattr(metric, "of_distributions", False):
        raise ValueError(
            f"a regression's distance must take any outputs, however {metric!r} takes distributions; use l1"
        )
    if threshold is None:
        threshold = Calibrated() if task == "classification" and distance is None else Quantile()
    if task == "regression" and isinstance(threshold, Calibrated | LikeliestClass | Halfway):
        raise ValueError(f"{threshold!r} must have classes to compare, however this is a regression; pass a number")
    near, agreement, theta = _compare(given, metric, threshold)
    confidences = _confidences(given, metric, theta)
    return Categories(
        category=_decide(near),
        degrees=interaction_degrees(*confidences, chance=chance),
        names=interaction_names(given.modality_names),
        agreement=agreement,
        ambiguous=_ambiguous(given, margin),
        threshold=theta,
    )


def interaction_degrees(unimodal: Array, multimodal: Array, *, chance: float = 0.0) -> Tensor:
    r"""Split the multimodal confidence into interactions, by order statistics; see `categorize`.

    Args:
        unimodal: (B, M), each modality's confidence in the right class. A modality surer than all together counts as
            sure as all together.
        multimodal: (B,), the confidence of all together.
        chance: confidence counts from here up.

    Returns:
        (B, M + 2), >= 0: uniqueness of each modality, synergy, redundancy. Rows sum to max(multimodal - chance, 0).

    Raises:
        ValueError: if shapes disagree or there are fewer than two modalities.

    Example:
        >>> interaction_degrees(torch.tensor([[0.5, 0.75, 0.25]]), torch.tensor([1.0]))
        tensor([[0.0000, 0.2500, 0.0000, 0.2500, 0.5000]])
    """
    unimodal, multimodal = torch.as_tensor(as_tensor(unimodal)), torch.as_tensor(as_tensor(multimodal))
    if unimodal.ndim != 2 or unimodal.shape[1] < 2 or multimodal.shape != unimodal.shape[:1]:
        raise ValueError(
            "confidences must be (B, M) with at least two modalities and (B,), "
            f"however they are {tuple(unimodal.shape)} and {tuple(multimodal.shape)}"
        )
    total = (multimodal - chance).clamp(min=0)  # (B,)
    each = torch.minimum((unimodal - chance).clamp(min=0), total.unsqueeze(-1))  # (B, M)
    top, position = each.topk(2, dim=-1)
    first, second = top.unbind(-1)
    uniqueness = torch.zeros_like(each).scatter(1, position[:, :1], (first - second).unsqueeze(-1))
    return torch.cat([uniqueness, torch.stack([total - first, second], dim=-1)], dim=-1)


def _compare(
    given: Predictions, distance: Distance, threshold: float | Calibrated | LikeliestClass | Quantile | Halfway
) -> tuple[Tensor, Tensor, float | None]:
    """Say which modalities (B, M) are near, which samples (B,) they agree on, and up to which distance."""
    if isinstance(threshold, Calibrated | LikeliestClass):
        classes = given.unimodal.argmax(-1)  # (B, M)
        agreement = (classes == classes[:, :1]).all(1)
        if isinstance(threshold, Calibrated):
            return calibrated_near(given, threshold.fraction), agreement, None
        return classes == given.reference.argmax(-1, keepdim=True), agreement, None

    distances = to_reference(given, distance)  # (B, M)
    theta = value_of(threshold, given, distance, distances)
    return distances <= theta, (_between(given.unimodal, distance) <= theta).flatten(1).all(1), theta


def _between(unimodal: Tensor, distance: Distance) -> Tensor:
    """Distances (B, M, M) between modalities, the larger of both directions."""
    n_samples, n_modalities, n_outputs = unimodal.shape
    shape = (n_samples, n_modalities, n_modalities, n_outputs)
    forth = measure(distance, unimodal.unsqueeze(2).expand(shape), unimodal.unsqueeze(1).expand(shape))
    return torch.maximum(forth, forth.transpose(1, 2))


def _confidences(given: Predictions, distance: Distance, theta: float | None) -> tuple[Tensor, Tensor]:
    """How sure each modality (B, M) and all together (B,) are of the reference, in [0, 1]."""
    if given.task == "classification":
        right = given.reference.argmax(-1)  # (B,)
        index = right.reshape(-1, 1, 1).expand(-1, given.unimodal.shape[1], 1)
        return given.unimodal.gather(2, index).squeeze(2), given.multimodal.gather(1, right.unsqueeze(1)).squeeze(1)

    scale = max(theta or 0.0, torch.finfo(given.unimodal.dtype).tiny)
    multimodal = measure(distance, given.reference, given.multimodal)
    return torch.exp2(-to_reference(given, distance) / scale), torch.exp2(-multimodal / scale)


def _decide(near: Tensor) -> Tensor:
    """Count near modalities (B, M): none is synergy, number M; one its uniqueness; more redundancy, M + 1."""
    n_modalities, n_near = near.shape[1], near.sum(1)
    category = torch.where(n_near == 1, near.long().argmax(-1), n_modalities + 1)
    return torch.where(n_near == 0, n_modalities, category)


def _ambiguous(given: Predictions, margin: float) -> Tensor:
    check_fraction(margin=margin)
    if given.task == "regression":
        return torch.zeros(given.unimodal.shape[0], dtype=torch.bool, device=given.unimodal.device)
    top = given.unimodal.topk(2, dim=-1).values
    # The rounding of 0.55 - 0.45 > 0.10 must not decide.
    return (top[..., 0] - top[..., 1] <= margin + 1e-6).any(1)
