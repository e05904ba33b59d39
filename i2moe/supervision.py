"""Supervision of the weights: teach the reweighter, and the experts, what each sample's interaction is.

The interaction losses make experts differ, but nothing in them says for *which samples* an expert is the right one: the
task loss alone decides, and it is satisfied with any expert that predicts well. Here small probes learn what each
modality alone, and all together, say about the target; comparing them gives each sample's interactions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from i2moe._answers import make_answers
from i2moe._probes import Folds, Moments, Probes
from i2moe._shares import SMALL, columns, interaction_shares
from i2moe._supervision_checks import (
    check_available,
    check_factors,
    check_index,
    check_probes,
    check_shares,
    check_source,
)
from i2moe._tasks import Task
from i2moe._turns import Turns
from i2moe._types import Modality
from i2moe.losses import Interaction
from i2moe.moe import InteractionOutput
from i2moe.reweighting import _pool

__all__ = ["InteractionSupervision", "interaction_shares"]


class InteractionSupervision(nn.Module):
    r"""Supervise the weights of an `InteractionMoE` by what small probes find out about each sample.

    Probes predict the target from each modality alone and from all together, on pooled features without gradient. From
    their predictions `interaction_shares` makes the target weights t (B, E). The term to add to the loss is

    $$L = \underbrace{-\frac{1}{B} \sum_b c_b \sum_e t_{be} \log w_{be}}_{\text{weights}}
    + \underbrace{\frac{1}{B} \sum_b \sum_e \big( (1 - \sigma) t_{be} + \tfrac{\sigma}{E} \big)
    \ell(y_{be}, y_b)}_{\text{experts}} + L_{\text{probes}}$$

    with the confidence $c = \min(1, \lVert \delta_M \rVert^2 / V)$, the share of the target's variance V that the
    modalities explain for this sample: where nothing can be known about the target, nothing is said about
    interactions. Every expert learns most from the samples that it stands for, and, by the share $\sigma$, from all:
    weights that name one expert would otherwise leave each with its part of the data only, which costs accuracy. No
    gradient flows through t and c, nor from the probes into anything else.

    `loss = criterion(out.prediction, y) + 0.1 * out.interaction_loss + supervise(out, (a, b), y)`; it also works
    without perturbed views. Give the optimizer `supervise.parameters()` too.

    **Over-confident probes** are what breaks such a scheme: a probe that has memorized a sample finds the answer in
    every modality and calls everything redundant. So the probes are cross-fitted: a sample is judged by probes that
    were never trained on it. The joint prediction comes from a probe of the same kind and not from the model, which
    would make everything that only the model has memorized look like synergy. Folds come from the features themselves;
    where these change from epoch to epoch (encoders that are trained along, augmentation), pass `index`.

    **More than two modalities**: redundancy is what at least two modalities say each, uniqueness what the best one
    says beyond the second best, synergy what no single one says. So information in two of three modalities is
    redundancy, and information that takes two of three is synergy.

    **Missing modalities**: with `available`, a modality says nothing about a sample that lacks it, and its probe learns
    nothing from that sample.

    **Regression** measures ways in standard deviations of the target; **multilabel** stacks the labels' probabilities.

    Args:
        feature_dims: the M modalities' widths, as for `Reweighter`. None: no probes; hand in `unimodal` predictions
            at each call.
        n_outputs: number of outputs C.
        task: "classification" (integer targets (B,)), "multilabel" (0 or 1, (B, C)) or "regression" ((B,) or (B, C)).
        interactions: the model's, if it has not all experts: `model.interactions`.
        weights_weight: factor of the first term.
        experts_weight: factor of the second term.
        shared: the share sigma of the second term that all experts have alike, in [0, 1].
        every: with probes, every `every`-th call in training mode counts, beginning with the first, and stands for
            as many: it is multiplied. The others return 0, with gradients of 0. Shuffle the data; pass 1 where a step
            calls twice (LBFGS, SAM), recomputes (checkpointing) or is compiled, where all calls count.
        hidden_dim: width of the probes.
        n_folds: number of folds K of the cross-fitting; 1 for none.
        weight_decay: factor of the probes' squared weights, in their own loss.

    Attributes:
        losses: detached scalars of the last call that counted, by name, for a log; empty before the first.

    Raises:
        ValueError: if an argument is out of range or unknown.

    Example:
        >>> from i2moe import InteractionMoE
        >>> class Fusion(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(8 + 4, 3)
        ...     def forward(self, image, text):
        ...         return self.head(torch.cat([image, text], dim=-1))
        >>> model = InteractionMoE(Fusion, 2, feature_dims=(8, 4))
        >>> supervise = InteractionSupervision((8, 4), n_outputs=3)
        >>> optimizer = torch.optim.Adam([*model.parameters(), *supervise.parameters()])
        >>> image, text, y = torch.randn(16, 8), torch.randn(16, 4), torch.randint(3, (16,))
        >>> out = model(image, text)
        >>> loss = nn.functional.cross_entropy(out.prediction, y) + 0.1 * out.interaction_loss
        >>> (loss + supervise(out, (image, text), y)).backward()
        >>> sorted(supervise.losses)
        ['confidence', 'experts', 'probes', 'supervision', 'weights']
        >>> supervise.targets((image, text)).shape
        torch.Size([16, 4])
    """

    def __init__(
        self,
        feature_dims: Sequence[int] | None,
        n_outputs: int,
        task: Task = "classification",
        *,
        interactions: Sequence[Interaction] | None = None,
        weights_weight: float = 1.0,
        experts_weight: float = 1.0,
        shared: float = 0.75,
        every: int = 3,
        hidden_dim: int = 48,
        n_folds: int = 2,
        weight_decay: float = 1e-3,
    ) -> None:
        super().__init__()
        check_factors(weights_weight=weights_weight, experts_weight=experts_weight, weight_decay=weight_decay)
        if not 0 <= shared <= 1:
            raise ValueError(f"shared must lie in [0, 1], however it is {shared}")
        self._answers = make_answers(task, n_outputs)
        self.task = task
        self.n_outputs = n_outputs
        self.interactions: tuple[Interaction, ...] | None = None if interactions is None else tuple(interactions)
        self.weights_weight = weights_weight
        self.experts_weight = experts_weight
        self.shared = shared
        self.weight_decay = weight_decay
        self.losses: dict[str, Tensor] = {}
        self.answers: Moments = Moments(n_outputs)
        self.probes: Probes | None = None
        self.folds: Folds | None = None
        if feature_dims is not None:
            check_probes(feature_dims, every=every, hidden_dim=hidden_dim, n_folds=n_folds)
            self.folds = Folds(sum(feature_dims), n_folds)
            self.probes = Probes(feature_dims, n_outputs, hidden_dim, n_folds)
        self.feature_dims: tuple[int, ...] = () if feature_dims is None else tuple(feature_dims)
        self.turns: Turns = Turns(every)
        self._saw_values = False

    def forward(
        self,
        out: InteractionOutput,
        modalities: Sequence[Modality],
        target: Tensor,
        *,
        available: Tensor | None = None,
        index: Tensor | None = None,
        unimodal: Sequence[Tensor] | None = None,
        joint: Tensor | None = None,
        shares: Tensor | None = None,
    ) -> Tensor:
        """Return the term to add to the loss.

        Args:
            out: what the model made of the batch.
            modalities: M modalities, each (B, D), (B, T, D) or nested, in the model's order.
            target: (B,) or (B, C), see `task`.
            available: (B, M) bool, which modalities each sample has; None for all.
            index: (B,) integers, which sample of the data set each row is; assigns the folds.
            unimodal: where there are no probes, M predictions (B, C) from each modality alone: probabilities, or
                numbers in the target's units. A model is over-confident on the samples it was trained on: predict
                by cross-validation.
            joint: with `unimodal`, predictions (B, C) from all modalities; the model's own if not given.
            shares: (B, E), instead of probes and predictions: each sample's interactions as known from elsewhere,
                `categorize(...).degrees` or one-hot categories. What a row sums to, at most 1, is how much it counts.

        Returns:
            A scalar, 0 in calls that do not count (see `every`). In evaluation mode all calls count, the probes' loss
            is left out and nothing is updated.

        Raises:
            TypeError: if the modalities are no sequence, or one has no floating-point tensor.
            ValueError: if numbers of modalities, experts or outputs do not fit, if the target has not the form of the
                task, or if probabilities are none. Values (classes out of range, NaN, probabilities) are looked at
                in every call on the CPU, in the first call on other devices, where looking waits for the device, and
                never inside `torch.compile`.
        """
        with torch.autocast(target.device.type, enabled=False):
            self._check(out, target, index, unimodal, joint, shares)
            experts = self._flat(out.expert_predictions, 2)
            n_calls = 1
            if self.probes is not None:
                features = self._pool(modalities, available)
                n_calls = self.turns()
                if n_calls == 0:
                    return 0.0 * self.probes.vector.sum(dtype=torch.float32)
            answer = self._answers.answer(target).to(self.answers.mean)  # (B, C)
            standard = self.answers(answer, update=self.training)

            probes_loss = answer.new_zeros(())
            if shares is not None:
                confidence = shares.detach().to(self.answers.mean).sum(-1)
                t = shares.detach() / confidence.clamp_min(SMALL).unsqueeze(-1)
            elif self.probes is None:
                if joint is None:
                    joint = self._answers.predict(self._flat(out.prediction.detach()))
                t, confidence = self._targets(self._given(unimodal, joint), available)
            else:
                judges = self._judges(features, index)
                outputs = self.probes(features)
                if self.training:
                    known = standard if self.task == "regression" else answer
                    probes_loss = self._probes_loss(self.probes, outputs, known, judges, available)
                t, confidence = self._targets(self._judged(outputs.detach(), judges), available)

            weights = out.weights.to(torch.promote_types(out.weights.dtype, torch.float32))
            weights_loss = ((weights + SMALL).log() * (confidence.unsqueeze(-1) * t)).sum() * (-1 / len(t))
            responsibility = ((1 - self.shared) / len(t)) * t + self.shared / t.numel()
            experts_loss = self._answers.loss(experts, answer.unsqueeze(1), responsibility)
            total = n_calls * (self.weights_weight * weights_loss + self.experts_weight * experts_loss + probes_loss)

        terms = {"weights": weights_loss, "experts": experts_loss, "probes": probes_loss, "supervision": total}
        self.losses = {name: term.detach() for name, term in terms.items()} | {"confidence": confidence.mean()}
        return total

    @torch.no_grad()
    def targets(
        self,
        modalities: Sequence[Modality],
        *,
        available: Tensor | None = None,
        index: Tensor | None = None,
        unimodal: Sequence[Tensor] | None = None,
        joint: Tensor | None = None,
    ) -> Tensor:
        """Return the weights that each sample should have; no labels are needed.

        In training mode a sample is judged by the probes that were not trained on it, in evaluation mode by all.

        Args:
            modalities: as for the module itself.
            available: as for the module itself.
            index: as for the module itself.
            unimodal: as for the module itself.
            joint: with `unimodal`, predictions (B, C) from all modalities.

        Returns:
            (B, E), rows on the probability simplex; uniform where nothing is known about the target.

        Raises:
            TypeError: as for the module itself.
            ValueError: as for the module itself.
        """
        check_source(self.probes is not None, unimodal, joint)
        if self.probes is None:
            if joint is None:
                raise ValueError("joint must be given where there are no probes, however it is None")
            return self._targets(self._given(unimodal, joint), available)[0]
        features = self._pool(modalities, available)
        check_index(index, len(features))
        outputs = self.probes(features)
        return self._targets(self._judged(outputs, self._judges(features, index)), available)[0]

    def extra_repr(self) -> str:
        """Show the task and the factors."""
        return (
            f"task={self.task!r}, n_outputs={self.n_outputs}, weights_weight={self.weights_weight}, "
            f"experts_weight={self.experts_weight}, every={self.turns.every}"
        )

    def _pool(self, modalities: Sequence[Modality], available: Tensor | None) -> Tensor:
        """Average tokens, put the modalities side by side (B, D), zero where absent, without gradient."""
        widths = self.feature_dims
        if not isinstance(modalities, list | tuple):
            raise TypeError(
                f"modalities must be a tuple or list in the model's order, however they are a "
                f"{type(modalities).__name__}"
            )
        if len(modalities) != len(widths):
            raise ValueError(
                f"there must be a modality for each of feature_dims {widths}, however there are {len(modalities)}"
            )
        if any(modality is None for modality in modalities):
            raise ValueError(
                "modalities must all be tensors here, however one is None; pass zeros of its width, and available="
            )
        check_available(available, modalities)
        pooled = [_pool(i, modality).detach() for i, modality in enumerate(modalities)]
        if tuple(x.shape[-1] for x in pooled) != widths:
            raise ValueError(
                f"modalities must have widths {widths} (feature_dims), however they have "
                f"{tuple(x.shape[-1] for x in pooled)}; tokens are (B, T, D), the width is the last axis"
            )
        if available is not None:
            pooled = [x.where(there.unsqueeze(1), 0) for x, there in zip(pooled, available.unbind(1), strict=True)]
        return torch.cat(pooled, dim=-1).to(self.answers.mean)

    def _judges(self, features: Tensor, index: Tensor | None) -> Tensor:
        """How much each fold's probes count for each sample (K, B): in training those that never saw it, else all."""
        n_folds = 1 if self.folds is None else self.folds.n_folds
        if self.folds is None or n_folds == 1 or not self.training:
            return torch.full((n_folds, len(features)), 1 / n_folds, device=features.device)
        folds = self.folds(features) if index is None else index.remainder(n_folds)
        return (folds == torch.arange(n_folds, device=features.device).unsqueeze(1)).to(self.answers.mean)

    def _probes_loss(
        self, probes: Probes, outputs: Tensor, answer: Tensor, judges: Tensor, available: Tensor | None
    ) -> Tensor:
        """Mean task loss of every probe on the samples that it does not judge, and weight decay."""
        n_folds, n_samples = judges.shape
        weight = (1 - judges) * (n_folds / (n_folds - 1) / n_samples) if n_folds > 1 else judges / n_samples
        weight = weight.unsqueeze(1)  # (K, 1, B)
        if available is not None:
            weight = weight * torch.cat([available, torch.ones_like(available.narrow(1, 0, 1))], dim=1).mT
        loss = self._answers.loss(outputs, answer, weight)
        return loss + self.weight_decay * probes.squared_norm()

    def _judged(self, outputs: Tensor, judges: Tensor) -> Tensor:
        """What the judging probes predict (B, M + 1, C)."""
        outputs = (outputs * judges.view(len(judges), 1, -1, 1)).sum(0)
        return self._answers.predict(outputs).movedim(0, 1)

    def _given(self, unimodal: Sequence[Tensor] | None, joint: Tensor) -> Tensor:
        """Line predictions of the caller up like those of probes (B, M + 1, C)."""
        predictions = torch.stack([self._flat(x.detach()) for x in (*(unimodal or ()), joint)], dim=1)
        predictions = predictions.to(self.answers.mean)
        if self.task != "regression":
            return predictions
        standard: Tensor = self.answers(predictions.flatten(0, 1), update=False)
        return standard.view_as(predictions)

    def _targets(self, predictions: Tensor, available: Tensor | None) -> tuple[Tensor, Tensor]:
        """Target weights (B, E) and confidence (B,) of predictions (B, M + 1, C), the last of M + 1 being joint."""
        prior, variance = self.answers.mean, self.answers.variance
        if self.task == "regression":  # numbers are in standard deviations from the mean
            prior, variance = torch.zeros_like(prior), torch.ones_like(variance)
        unimodal = predictions[:, :-1]
        if available is not None:
            unimodal = unimodal.where(available.unsqueeze(-1), prior)
        shares, length = interaction_shares(unimodal, predictions[:, -1], prior)
        confidence = (length / variance.sum()).clamp(max=1)
        if self.interactions is None:
            return shares, confidence
        shares = shares[:, columns(self.interactions, shares.shape[1] - 2)]
        known = shares.sum(-1, keepdim=True)
        t = torch.where(known > SMALL, shares / known.clamp_min(SMALL), 1 / shares.shape[1])
        return t, confidence * known.squeeze(-1)

    def _flat(self, outputs: Tensor, n_leading: int = 1) -> Tensor:
        """Outputs (B, ..., C) at least in float32, also where a single output has no axis."""
        expected = (*outputs.shape[:n_leading], self.n_outputs)
        if outputs.shape != expected and (*outputs.shape, 1) != expected:
            raise ValueError(
                f"predictions must be {expected} (n_outputs={self.n_outputs}), however they are {tuple(outputs.shape)}"
            )
        return outputs.reshape(expected).to(torch.promote_types(outputs.dtype, torch.float32))

    def _check(
        self,
        out: InteractionOutput,
        target: Tensor,
        index: Tensor | None,
        unimodal: Sequence[Tensor] | None,
        joint: Tensor | None,
        shares: Tensor | None,
    ) -> None:
        if not isinstance(out, InteractionOutput):
            raise TypeError(f"out must be what the InteractionMoE returned, however it is a {type(out).__name__}")
        n_samples, n_experts = out.weights.shape
        self._answers.check_target(target, n_samples)
        check_index(index, n_samples)
        looks_at_values = self._looks_at_values(target)
        if looks_at_values:
            self._answers.check_values(target)
        if shares is not None:
            alone = self.probes is None and unimodal is None and joint is None
            check_shares(shares, out.weights, alone, looks_at_values)
            return
        n_modalities = len(unimodal or ()) if self.probes is None else len(self.feature_dims)
        expected = n_modalities + 2 if self.interactions is None else len(self.interactions)
        check_source(self.probes is not None, unimodal, joint)
        if n_experts != expected:
            raise ValueError(
                f"the model must have {expected} experts, two more than modalities, however it has {n_experts}; "
                "pass interactions=model.interactions where it has not all"
            )
        if looks_at_values:
            for i, predictions in enumerate(unimodal or ()):
                self._answers.check_predictions(predictions, f"unimodal[{i}]")
            if joint is not None:
                self._answers.check_predictions(joint, "joint")

    def _looks_at_values(self, target: Tensor) -> bool:
        """Always on the CPU; elsewhere it would wait for the device, so only at the first call."""
        if torch.compiler.is_compiling():
            return False
        first, self._saw_values = not self._saw_values, True
        return first or target.device.type == "cpu"
