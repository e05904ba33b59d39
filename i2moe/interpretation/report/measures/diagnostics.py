"""Diagnostics: what follows from a report's tensors, for each sample and over groups of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from i2moe._common.checks import is_unknown
from i2moe._common.tasks import Task, decide, distances, is_correct, probabilities, score
from i2moe.interpretation.report.measures.faithfulness import agreement, behavior_bounds, evidence, prior_outputs
from i2moe.interpretation.report.measures.quality import Quality, quality
from i2moe.interpretation.report.record import ReportRecord
from i2moe.interpretation.statistics import FEW_SAMPLES, WeightStatistics, group_statistics
from i2moe.moe.weights.shares import columns, interaction_shares

__all__ = ["Diagnostics", "group_by_availability"]

_BLOCK = 65_536  # samples


class Diagnostics(ReportRecord):
    """A record, and what follows from it; each is computed when it is first asked for."""

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
        """(N,), what drops when modalities are replaced: see `sufficiency`."""
        return score(self.task, self.prediction, self.target)

    @cached_property
    def gain(self) -> Tensor:
        """(N,), how much better the score is than without any modality, by the mean of the targets alone."""
        prior = prior_outputs(self.task, self.target, self.prediction.shape[1])
        return self.score - score(self.task, prior.expand_as(self.prediction), self.target)

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
        total = torch.zeros(len(self), dtype=self.expert_predictions.dtype)
        for a, b in pairs:
            total += distances(self.task, self.expert_predictions[:, a], self.expert_predictions[:, b])
        return total / max(1, len(pairs))

    @cached_property
    def overall(self) -> WeightStatistics:
        """The weights over all samples."""
        return WeightStatistics.of(self.weights, confidence=self.confidence, clusters=self.clusters)

    @cached_property
    def per_class(self) -> dict[str, WeightStatistics]:
        """The weights over the samples of each true class or with each label; empty in regression."""
        if self.task == "classification":
            return self._group(self.output_names, self.target)
        if self.task == "regression":
            return {}
        has = zip(self.output_names, (self.target == 1).unbind(1), strict=True)  # a sample may have several labels
        return {
            name: WeightStatistics.of(self.weights[rows], confidence=self.confidence, clusters=self.clusters_of(rows))
            for name, rows in has
        }

    @cached_property
    def by_outcome(self) -> dict[str, WeightStatistics]:
        """The weights over right and wrong predictions (see `correct`); in regression over lower and higher error."""
        names = ("lower error", "higher error") if self.task == "regression" else ("correct", "wrong")
        return self._group(names, (~self.correct).long())

    @cached_property
    def by_availability(self) -> dict[str, WeightStatistics]:
        """The weights over the samples with the same modalities, "image+text" say, the most frequent first."""
        if self.available is None:
            return {}
        groups = self._group(*group_by_availability(self.modality_names, self.available))
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
            raise ValueError("evidence must have been measured, however it was not; use explain(..., n_draws=4)")
        return evidence(self.comprehensiveness, self.sufficiency, self.interactions)

    @cached_property
    def agreement(self) -> Tensor:
        """(E,), rank correlation over samples between each expert's weight and its evidence.

        1: the weight ranks the samples as the model's behavior does. 0: it tells nothing about it. NaN where either is
        the same for all samples.

        Raises:
            ValueError: if faithfulness was not measured.
        """
        return agreement(self.task, self.weights, self.evidence)

    @cached_property
    def behavior_shares(self) -> Tensor:
        """(N, E), the share of each interaction in what the model predicts from each modality alone and from all.

        `i2moe.moe.weights.interaction_shares` of these predictions, with the prior of computed weights, or the mean
        prediction. No targets are used. NaN for a sample with one modality.

        Raises:
            ValueError: if the model cannot predict from one modality.
        """
        if self.marginals is None:
            raise ValueError(
                "behavior_shares must have predictions from each modality alone, however there are none; explain a "
                "model with a fill or with computed weights, with drop_modalities=True"
            )
        joint, prior = self._compared
        blocks = zip(self.marginals.split(_BLOCK), joint.split(_BLOCK), strict=True)  # not all in double precision
        shares = torch.cat([_shares(self.task, marginals.double(), joint, prior) for marginals, joint in blocks])
        single = self.marginals.isnan().any(2).logical_not().sum(1, keepdim=True) < 2
        return shares[:, columns(self.interactions, len(self.modality_names))].masked_fill(single, torch.nan)

    @cached_property
    def near_prior(self) -> Tensor:
        """(N,) bool, which predictions are near the prior: at most half of the usual distance from it.

        The usual distance is the root mean square over samples, of probabilities or values. Such a prediction has
        little that could be shared out, so that small differences decide about its weights.
        """
        return self._moved <= self._moved.mean() / 4

    @cached_property
    def variance_shares(self) -> Tensor:
        r"""(E,), the share of each interaction in how far predictions are from the prior.

        $\sum_n d_n w_n / \sum_n d_n$, with $w_n$ the weights of sample n, and $d_n$ the squared distance of its
        prediction from the prior. The sum of the distances is N times the predictions' variance where their mean is the
        prior. So predictions near the prior, whose weights say little, count little. NaN where there is no distance.
        """
        return self._moved @ self.weights.double() / self._moved.sum()

    @cached_property
    def faithfulness(self) -> Tensor:
        """(E,), rank correlation over samples between each expert's weight and its share of the model's behavior.

        1: the weight ranks the samples as `behavior_shares` do. 0: it tells nothing about them. NaN where either is the
        same for all samples.

        Raises:
            ValueError: if the model cannot predict from one modality.
        """
        return agreement(self.task, self.weights, self.behavior_shares.round(decimals=6))

    @cached_property
    def quality(self) -> Quality:
        """How good the model's predictions are."""
        return quality(self.task, self.prediction, self.target, self.confidence, self.clusters)

    @cached_property
    def quality_alone(self) -> dict[str, Quality]:
        """How good the predictions from each modality alone are, by its name; empty where the model makes none.

        Of the samples that have the modality; a modality that none has is left out.
        """
        if self.marginals is None:
            return {}
        found = {}
        for name, marginal in zip(self.modality_names, self.marginals.unbind(1), strict=True):
            known = ~marginal.isnan().any(1)
            if known.any():
                found[name] = quality(
                    self.task, marginal[known], self.target[known], self.confidence, self.clusters_of(known)
                )
        return found

    @cached_property
    def behavior(self) -> tuple[Tensor, Tensor]:
        """Between which shares of its knowledge, (E,) and (E,), the model behaves like each interaction.

        To compare with the mean weights: `i2moe.interpretation.report.measures.faithfulness.behavior_bounds`. NaN where
        faithfulness was not measured, of fewer than 20 samples, and where the score is not beyond chance above that of
        the targets' mean.
        """
        gain = self.gain
        known = len(gain) >= FEW_SAMPLES and bool(gain.mean() > 2 * gain.std() / len(gain) ** 0.5)
        if self.sufficiency is None or not known:
            unknown = torch.full((len(self.expert_names),), torch.nan, dtype=torch.float64)
            return unknown, unknown
        return behavior_bounds(gain, self.sufficiency, self.interactions)

    def by_group(self, groups: Sequence[Any] | Tensor) -> dict[Any, WeightStatistics]:
        """Return the weights over the samples of each group.

        Args:
            groups: one label per sample, in the data's order: a site, a subject, the true interaction.

        Raises:
            ValueError: if there is not one label per sample, or one is NaN, NA or None.

        Example:
            >>> from i2moe.interpretation import InteractionReport
            >>> InteractionReport.example().by_group(["home", "lab", "lab", "lab"])["home"].n_samples
            1
        """
        return self._group(*self._numbered(groups))

    def clustered(self, groups: Sequence[Any] | Tensor) -> Self:
        """Return the report with intervals for samples that belong together, windows of a person say.

        They say what another draw of people would give, not another draw of windows. Student's interval of the sums
        over each group, with as many degrees of freedom as there are groups, less one.

        Args:
            groups: one label per sample, in the data's order.

        Raises:
            ValueError: if there is not one label per sample, or one is NaN, NA or None.

        Source: Liang and Zeger, Longitudinal data analysis using generalized linear models, Biometrika 73 (1986).

        Example:
            >>> from i2moe.interpretation import InteractionReport
            >>> report = InteractionReport.example()
            >>> found = report.clustered(["ann", "ann", "bob", "bob"])
            >>> bool(found.overall.high[0] > report.overall.high[0])
            True
        """
        return replace(self, clusters=self._numbered(groups)[1])

    def clusters_of(self, rows: Tensor) -> Tensor | None:
        """Return what some samples belong to, by number or by a mask."""
        return None if self.clusters is None else self.clusters[rows]

    def _numbered(self, groups: Sequence[Any] | Tensor) -> tuple[tuple[Any, ...], Tensor]:
        labels: list[Any] = groups.tolist() if hasattr(groups, "tolist") else list(groups)
        if len(labels) != len(self):
            raise ValueError(f"groups must have a label for each of {len(self)} samples, however it has {len(labels)}")
        n_unknown = sum(map(is_unknown, labels))
        if n_unknown:
            raise ValueError(
                f"groups must be known for all samples, however {n_unknown} are NaN, NA or None; give these samples "
                "labels of their own"
            )
        numbers: dict[Any, int] = {}
        members = torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels])
        return tuple(numbers), members

    @cached_property
    def _compared(self) -> tuple[Tensor, Tensor]:
        """What weights compare: predictions (N, C) in probabilities or values, and the prior (C,)."""
        joint = probabilities(self.task, self.prediction.double())
        return joint, joint.mean(0) if self.prior is None else self.prior.double()

    @cached_property
    def _moved(self) -> Tensor:
        """(N,), squared distances of the predictions from the prior."""
        joint, prior = self._compared
        return (joint - prior).square().sum(1)

    def _group(self, names: Sequence[Any], groups: Tensor) -> dict[Any, WeightStatistics]:
        found = group_statistics(self.weights, groups, len(names), confidence=self.confidence, clusters=self.clusters)
        return dict(zip(names, found, strict=True))


def _shares(task: Task, marginals: Tensor, joint: Tensor, prior: Tensor) -> Tensor:
    """Return the shares (N, M + 2) of predictions, of marginals (N, M, C) in raw outputs; absent ones are the prior."""
    marginals = probabilities(task, marginals)
    return interaction_shares(torch.where(marginals.isnan(), prior, marginals), joint, prior)[0]


def group_by_availability(modality_names: Sequence[str], available: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Return the names of the patterns of available modalities (N, M), "image+text" say, and (N,) each sample's."""
    patterns, groups = (~available).unique(dim=0, return_inverse=True)  # sorted: the one with all modalities is first
    names = ["+".join(n for n, absent in zip(modality_names, p, strict=True) if not absent) for p in patterns.tolist()]
    return tuple(names), groups
