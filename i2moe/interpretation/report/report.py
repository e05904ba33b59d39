"""InteractionReport: what a model's weights say about each sample and about the data, and whether it is true."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from i2moe._tasks import Task, check_task, decide, distances, is_correct, score
from i2moe.interpretation.faithfulness import agreement, evidence
from i2moe.interpretation.report import storage
from i2moe.interpretation.report.summary import availability, columns, summary
from i2moe.interpretation.statistics import WeightStatistics, plain
from i2moe.interpretation.warnings import usage_warnings
from i2moe.losses import Interaction

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["InteractionReport"]

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class InteractionReport:
    """What `explain` found: tensors with one row per sample, on the CPU, and statistics over them.

    N samples, E experts, M modalities, C outputs.

    Args:
        task: "classification", "multilabel" or "regression".
        modality_names: the M names.
        expert_names: the E names.
        interactions: the E interactions, a number being a modality's uniqueness.
        output_names: the C classes, labels or values.
        weights: (N, E), rows sum to 1.
        expert_predictions: (N, E, C), the experts' raw outputs (logits, or values in regression).
        prediction: (N, C), the model's raw output, the experts' contributions summed.
        target: (N,) classes, or (N, C) labels or values.
        comprehensiveness: (N, M), how much the score falls when a modality is replaced; None if not measured.
        sufficiency: (N, M), how much the score falls when a modality alone is kept; None if not measured. The score
            is the probability of the true class, the mean log-likelihood per label in nats, or the negative mean
            squared error: falls are positive where the modality is missed.
        available: (N, M) bool, which modalities each sample has; None where all have all. Falls are NaN for others.
        checksums: (N,), of the raw inputs, by which `stability` recognizes the data.
        n_bootstrap: number of resamples behind each interval.
        confidence: of the intervals.
        seed: of the replacements and the resampling.

    Raises:
        ValueError: if the tensors' shapes do not fit together.

    Example:
        >>> report = InteractionReport.example()
        >>> report.weights[0]
        tensor([0.8000, 0.1000, 0.0500, 0.0500])
        >>> report.correct.tolist()
        [True, True, True, False]
        >>> report.contributions.sum(1).allclose(report.prediction)
        True
    """

    task: Task
    modality_names: tuple[str, ...]
    expert_names: tuple[str, ...]
    interactions: tuple[Interaction, ...]
    output_names: tuple[str, ...]
    weights: Tensor
    expert_predictions: Tensor
    prediction: Tensor
    target: Tensor
    comprehensiveness: Tensor | None
    sufficiency: Tensor | None
    checksums: Tensor
    n_bootstrap: int = 1000
    confidence: float = 0.95
    seed: int = 0
    available: Tensor | None = None

    def __post_init__(self) -> None:
        check_task(self.task)
        n, e, m, c = len(self), len(self.expert_names), len(self.modality_names), len(self.output_names)
        shapes = {
            "weights": (n, e),
            "expert_predictions": (n, e, c),
            "prediction": (n, c),
            "target": (n,) if self.task == "classification" else (n, c),
            "comprehensiveness": (n, m),
            "sufficiency": (n, m),
            "checksums": (n,),
            "available": (n, m),
        }
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, however its shape is {tuple(tensor.shape)}")
        if n == 0 or len(self.interactions) != e:
            raise ValueError(
                f"a report must have samples and an interaction for each of {e} experts, "
                f"however it has {n} samples and the interactions {self.interactions}"
            )

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples, {self.task}, experts {self.expert_names})"

    @cached_property
    def contributions(self) -> Tensor:
        """(N, E, C), weight times prediction of each expert; they sum to the model's prediction."""
        return self.weights.unsqueeze(-1) * self.expert_predictions

    @cached_property
    def decision(self) -> Tensor:
        """(N,) predicted classes, (N, C) predicted labels (0 or 1), or (N, C) values."""
        return decide(self.task, self.prediction)

    @cached_property
    def correct(self) -> Tensor:
        """(N,) bool: the class is right, all labels are, or (regression) the squared error is at most the median."""
        return is_correct(self.task, self.prediction, self.target)

    @cached_property
    def score(self) -> Tensor:
        """(N,), what the falls are falls of: see `sufficiency`."""
        return score(self.task, self.prediction, self.target)

    @cached_property
    def entropy(self) -> Tensor:
        """(N,), of the weights, in nats: 0 if one expert decides alone, log E if all count the same."""
        weights = self.weights.clamp(min=0)
        return -torch.xlogy(weights, weights).sum(1)

    @cached_property
    def disagreement(self) -> Tensor:
        """(N,), the mean over pairs of experts of how far their predictions lie apart.

        Classification: total variation of their probabilities, in [0, 1]. Multi-label: difference of their
        probabilities, mean over labels, in [0, 1]. Regression: difference of their values, in the target's unit.
        """
        pairs = torch.combinations(torch.arange(len(self.expert_names))).tolist()
        apart = [distances(self.task, self.expert_predictions[:, a], self.expert_predictions[:, b]) for a, b in pairs]
        return torch.stack(apart).mean(0) if apart else torch.zeros(len(self))

    @cached_property
    def overall(self) -> WeightStatistics:
        """The weights over all samples."""
        return self._statistics(torch.ones(len(self), dtype=torch.bool))

    @cached_property
    def per_class(self) -> dict[str, WeightStatistics]:
        """The weights over the samples of each true class or with each label; empty in regression."""
        if self.task == "regression":
            return {}
        one_hot = self.target == 1
        if self.task == "classification":
            one_hot = self.target.unsqueeze(1) == torch.arange(len(self.output_names))
        return {name: self._statistics(one_hot[:, c]) for c, name in enumerate(self.output_names)}

    @cached_property
    def by_outcome(self) -> dict[str, WeightStatistics]:
        """The weights over right and wrong predictions (see `correct`); in regression over lower and higher error."""
        names = ("lower error", "higher error") if self.task == "regression" else ("correct", "wrong")
        return {names[0]: self._statistics(self.correct), names[1]: self._statistics(~self.correct)}

    @cached_property
    def by_availability(self) -> dict[str, WeightStatistics]:
        """The weights over the samples with the same modalities, "image+text" say, the most frequent first."""
        groups = self.by_group(availability(self)) if self.available is not None else {}
        return dict(sorted(groups.items(), key=lambda item: -item[1].n_samples))

    @cached_property
    def evidence(self) -> Tensor:
        r"""(N, E), how strongly the model behaves like each interaction when modalities are replaced.

        With comprehensiveness $c$ and sufficiency $s$: uniqueness i $c_i - \max_{j \ne i} c_j$ (i is needed, the others
        are not), synergy $\min_j s_j$ (none is enough alone), redundancy $-\max_j c_j$ (none is needed).

        Raises:
            ValueError: if faithfulness was not measured.
        """
        if self.comprehensiveness is None or self.sufficiency is None:
            raise ValueError("evidence must have been measured, however n_draws was 0; use explain(..., n_draws=4)")
        return evidence(self.comprehensiveness, self.sufficiency, self.interactions)

    @cached_property
    def agreement(self) -> Tensor:
        """(E,), rank correlation over samples between each expert's weight and its evidence.

        1: the weight ranks the samples as the model's behavior does. 0: it tells nothing about it. NaN where either is
        the same for all samples.

        Raises:
            ValueError: if faithfulness was not measured.
        """
        return agreement(self.weights, self.evidence)

    def by_group(self, groups: Sequence[Any] | Tensor) -> dict[Any, WeightStatistics]:
        """Return the weights over the samples of each group.

        Args:
            groups: one label per sample, in the data's order: a site, a subject, the true interaction.

        Raises:
            ValueError: if there is not one label per sample.

        Example:
            >>> report = InteractionReport.example()
            >>> report.by_group(["home", "lab", "lab", "lab"])["home"].n_samples
            1
        """
        labels = groups.tolist() if isinstance(groups, Tensor) else list(groups)
        if len(labels) != len(self):
            raise ValueError(f"groups must have a label for each of {len(self)} samples, however it has {len(labels)}")
        members: dict[Any, list[int]] = {}
        for index, label in enumerate(labels):
            members.setdefault(label, []).append(index)
        return {label: self._statistics(torch.tensor(indices)) for label, indices in members.items()}

    def usage_warnings(
        self,
        *,
        dead_below: float = 0.1,
        collapsed_above: float = 0.9,
        constant_below: float = 0.01,
        follow_class_above: float = 0.5,
        alike_below: float = 0.01,
    ) -> tuple[str, ...]:
        """Return what is suspicious about how the experts are used, in sentences.

        Args:
            dead_below: an expert is dead if its mean weight is below this share of an even one, 1 / E, and it is the
                largest for no sample.
            collapsed_above: the weights have collapsed if one expert's mean weight is above.
            constant_below: the weights are constant if no expert's standard deviation reaches this.
            follow_class_above: (classification) the weights follow the predicted class if it explains more than this
                share of their variance between samples. A reweighter that solves the task by itself does so: an expert
                per class instead of an expert per interaction.
            alike_below: the experts are alike if their mean disagreement is below (regression: in standard deviations
                of the predictions). The weights may then say truly which interaction a sample is, if they were taught
                to, but not which expert the prediction rests on.

        Example:
            >>> InteractionReport.example().usage_warnings(collapsed_above=0.3)[0]
            "the weights have collapsed onto 'uniqueness/image': its mean weight is 0.350"
        """
        return usage_warnings(
            self,
            dead_below=dead_below,
            collapsed_above=collapsed_above,
            constant_below=constant_below,
            follow_class_above=follow_class_above,
            alike_below=alike_below,
        )

    def summary(self) -> str:
        """Return a plain-text table of the weights, per class, by outcome, and of what replaced modalities cost.

        Example:
            >>> print(InteractionReport.example().summary().splitlines()[0])
            4 samples, classification, accuracy 0.750
        """
        return summary(self)

    def to_dict(self) -> dict[str, Any]:
        """Return what `summary` says as plain dicts, lists and numbers, ready for JSON; None for NaN.

        Values per sample are this object's attributes, and the rows of `to_pandas`.

        Example:
            >>> InteractionReport.example().to_dict()["per_class"]["cat"]["n_samples"]
            1
        """
        comprehensiveness, sufficiency = self.comprehensiveness, self.sufficiency
        return {
            "task": self.task,
            "n_samples": len(self),
            "modality_names": list(self.modality_names),
            "expert_names": list(self.expert_names),
            "mean_score": self.score.mean().item(),
            "overall": self.overall.to_dict(),
            "per_class": {name: group.to_dict() for name, group in self.per_class.items()},
            "by_outcome": {name: group.to_dict() for name, group in self.by_outcome.items()},
            "mean_entropy": self.entropy.mean().item(),
            "mean_disagreement": self.disagreement.mean().item(),
            "by_availability": {name: group.to_dict() for name, group in self.by_availability.items()},
            "comprehensiveness": None if comprehensiveness is None else plain(comprehensiveness.nanmean(0)),
            "sufficiency": None if sufficiency is None else plain(sufficiency.nanmean(0)),
            "agreement": None if comprehensiveness is None else plain(self.agreement),
            "usage_warnings": list(self.usage_warnings()),
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per sample; needs pandas.

        Raises:
            ImportError: without pandas.

        Example:
            >>> table = InteractionReport.example().to_pandas()
            >>> table[["target", "weight/synergy"]].round(2)
              target  weight/synergy
            0    cat            0.05
            1    dog            0.10
            2    dog            0.80
            3    dog            0.45
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas, however it is not installed; pip install pandas") from error
        return pandas.DataFrame(columns(self))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file, whole or not at all, without pickle.

        The file is a zip of `report.json` and one `.npy` member per tensor, which `numpy.load` reads as well.

        Args:
            path: where to; a file there is replaced.

        Example:
            >>> import tempfile
            >>> path = tempfile.mkdtemp() + "/report.npz"
            >>> InteractionReport.example().save(path)
            >>> InteractionReport.load(path)
            InteractionReport(4 samples, classification, experts (...))
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        facts = {name: value for name, value in values.items() if name not in tensors}
        storage.write(path, {"format": _FORMAT, **facts}, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> InteractionReport:
        """Read a report from a file that `save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: if there is no file.
            ValueError: if the file is damaged, of another kind or of a newer format.
        """
        facts, tensors = storage.read(path)
        if facts.get("format") != _FORMAT:
            raise ValueError(
                f"{os.fspath(path)} must have report format {_FORMAT}, however it has {facts.get('format')!r}; "
                "read it with the version of i2moe that wrote it"
            )
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
        del values["format"]
        try:
            return cls(**cast("dict[str, Any]", values | tensors))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} must hold a report, however {error}") from error

    @classmethod
    def example(cls) -> InteractionReport:
        """Return a small made-up report to try things on: four samples, an image, a text, two classes.

        Example:
            >>> InteractionReport.example().expert_names
            ('uniqueness/image', 'uniqueness/text', 'synergy', 'redundancy')
        """
        weights = torch.tensor(
            [[0.8, 0.1, 0.05, 0.05], [0.1, 0.3, 0.1, 0.5], [0.1, 0.05, 0.8, 0.05], [0.4, 0.15, 0.45, 0.0]]
        )
        margins = torch.tensor([[4.0, 1, 0, 2], [-1, -3, 0, -4], [0, 1, -5, 0], [2, -1, 3, 0]])
        expert_predictions = torch.stack([margins / 2, -margins / 2], dim=-1)
        return cls(
            task="classification",
            modality_names=("image", "text"),
            expert_names=("uniqueness/image", "uniqueness/text", "synergy", "redundancy"),
            interactions=(0, 1, "synergy", "redundancy"),
            output_names=("cat", "dog"),
            weights=weights,
            expert_predictions=expert_predictions,
            prediction=(weights.unsqueeze(-1) * expert_predictions).sum(1),
            target=torch.tensor([0, 1, 1, 1]),
            comprehensiveness=torch.tensor([[0.4, 0.0], [0.05, 0.1], [0.5, 0.4], [-0.2, 0.1]]),
            sufficiency=torch.tensor([[0.0, 0.4], [0.1, 0.05], [0.4, 0.5], [0.1, -0.2]]),
            checksums=torch.zeros(4, dtype=torch.float64),
        )

    def _statistics(self, members: Tensor) -> WeightStatistics:
        return WeightStatistics.of(
            self.weights[members], n_bootstrap=self.n_bootstrap, confidence=self.confidence, seed=self.seed
        )
