"""MMoE: an expert per category of interaction, and a router between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Self, cast

import torch
from torch import Tensor

from i2moe._common.checks import check_shape
from i2moe._common.modalities import Array, leaves
from i2moe._common.names import check_modality_names, check_names, interaction_names
from i2moe._common.passes import evaluating
from i2moe.categorization import Categories
from i2moe.mmoe.conversion import as_interaction_moe
from i2moe.mmoe.fitting import OnProgress, Recipe, check_categories, read_data, run_stages, stages_of
from i2moe.mmoe.parts.aggregation import Aggregation, AggregationLike, as_aggregation
from i2moe.mmoe.parts.factories import Factories, Router, check_factories
from i2moe.mmoe.parts.objectives import Classification, Objective
from i2moe.mmoe.parts.parts import Categorizer, Modalities, Parts
from i2moe.mmoe.parts.predictors import Predictor, predict
from i2moe.mmoe.parts.training import in_batches
from i2moe.mmoe.report import MMoEReport, make_report
from i2moe.moe import InteractionMoE, InteractionOutput

__all__ = ["MMoE"]


def _as_objective(objective: Any) -> Objective:
    if isinstance(objective, Integral):
        return Classification(int(objective))
    if isinstance(objective, type) or not hasattr(objective, "check_target"):
        raise TypeError(
            "objective must be the number of classes, Classification(n_classes) or Regression(n_outputs), however it "
            f"is {objective!r}"
        )
    found: Objective = objective
    return found


class MMoE(Parts):
    r"""Categorize samples by their interaction, train an expert for each category, and route between them.

    1. A classifier per modality and a multimodal baseline are trained.
    2. `categorize` finds from their predictions which interaction each training sample is.
    3. An expert per category starts from the baseline and is trained on the samples of its category.
    4. A router learns the category from the raw modalities.

    With router weights $w$ and experts' predictions $p_k$, the default aggregation is $p(x) = \sum_k w_k(x)\, p_k(x)$.

    `fit` does all of it. Calling the model is differentiable, and its parts are usable one by one, for a loop of your
    own: `categorize`, `i2moe.mmoe.cross_predict`, `focal_loss`, `train_router`, the aggregations. The model's methods
    take arrays of numpy and series and data frames of pandas too.

    Source: Yu et al., MMoE: Enhancing Multimodal Models with Mixtures of Multimodal Interaction Experts, EMNLP 2024.
    Here for any number of modalities, any architecture, and with categories from predictions on held-out folds.

    Args:
        baseline: builds the multimodal model: called without arguments, returns a module called with the M modalities
            (outputs (B, C), logits in classification), a scikit-learn-like estimator, or an `i2moe.mmoe.Expert`.
        n_modalities: number of modalities M, at least 2.
        objective: the number of classes, or `Classification(n_classes)` or `Regression(n_outputs)`.
        unimodal: M functions, each builds a modality's classifier, called like the baseline with its modality alone.
            None if `fit` is given the unimodal predictions or the categories.
        experts: called with a category's name, builds its expert, trained from scratch; None copies the trained
            baseline.
        router: builds the router, which maps the tuple of modalities to weights (B, K); by default a `Reweighter`.
        categorizer: called with unimodal (B, M, C) and multimodal (B, C) predictions and the target, returns
            `Categories`, whose ambiguous samples are left out of the experts' and the router's training; `categorize`
            by default. As published: `partial(categorize, threshold=LikeliestClass(), margin=0.1)`.
        aggregation: a name in `i2moe.mmoe.AGGREGATIONS` or a function of predictions (B, K, C) and weights (B, K).
        modality_names: M names; ("0", "1", ...) by default.
        category_names: the names of the categorizer's categories; those of `categorize` by default.

    Attributes:
        expert_names: the K names of the categories.
        fallback: (K,) bool, which categories had too few samples for an expert and are left to the baseline.
        fitted: bool, whether `fit` has ended; part of the `state_dict`.
        categories: the training samples' `Categories`, after `fit`.

    Raises:
        TypeError: if a factory is no callable or builds no predictor.
        ValueError: if numbers do not fit together or a name is unknown.

    Example:
        >>> from torch import nn
        >>> from i2moe.mmoe import Recipe, Training
        >>> class Fusion(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(4 + 2, 2)
        ...     def forward(self, image, text):
        ...         return self.head(torch.cat([image, text], dim=-1))
        >>> model = MMoE(Fusion, 2, 2, unimodal=[lambda: nn.Linear(4, 2), lambda: nn.Linear(2, 2)])
        >>> model.expert_names
        ('uniqueness/0', 'uniqueness/1', 'synergy', 'redundancy')
        >>> image, text = torch.randn(2, 400, 4, generator=torch.Generator().manual_seed(0))
        >>> text, target = text[:, :2], (image[:, 0] * text[:, 0] + image[:, 1] + text[:, 1] > 0).long()
        >>> quick = Training(n_epochs=2, learning_rate=1e-2)
        >>> model = model.fit((image, text), target, Recipe(quick, n_folds=2, min_samples=1))
        >>> out = model(image, text)
        >>> out.prediction.shape, out.weights.shape, out.expert_predictions.shape
        (torch.Size([400, 2]), torch.Size([400, 4]), torch.Size([400, 4, 2]))
    """

    def __init__(
        self,
        baseline: Callable[[], object],
        n_modalities: int,
        objective: Objective | int,
        *,
        unimodal: Sequence[Callable[[], object]] | None = None,
        experts: Callable[[str], object] | None = None,
        router: Callable[[], Router] | None = None,
        categorizer: Categorizer | None = None,
        aggregation: AggregationLike = "router",
        modality_names: Sequence[str] | None = None,
        category_names: Sequence[str] | None = None,
    ) -> None:
        names = check_modality_names(n_modalities, modality_names)
        categories = interaction_names(names)
        if category_names is not None:
            categories = check_names("category_names", category_names, max(len(category_names), 2))
        factories = Factories(_as_objective(objective), categories, baseline, tuple(unimodal or ()), experts, router)
        super().__init__(check_factories(factories, n_modalities), names, categorizer)
        self.aggregation: Aggregation = as_aggregation(aggregation)

    def fit(
        self,
        modalities: Modalities,
        target: Array,
        recipe: Recipe | None = None,
        *,
        unimodal_predictions: Array | None = None,
        multimodal_predictions: Array | None = None,
        categories: Categories | None = None,
        groups: Array | None = None,
        seed: int = 0,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        progress: OnProgress | None = None,
    ) -> Self:
        """Train all parts from the start, in stages: classifiers, baseline, categories, experts, router.

        The result depends on the arguments and the seed alone: every stage seeds torch, numpy and `random`, which
        layers and estimators draw from, and puts their states back. With a folder for checkpoints, a call that was cut
        off is taken up by the same call after the last finished stage, with the same result as in one go. The model's
        own arguments (factories, categorizer) are not recognized: use another folder when you change them. Checkpoints
        of estimators are pickles: load none you do not trust.

        Args:
            modalities: the M modalities of N samples, or a dict of them by name. Tensors are on the device to train on,
                arrays go to the model's.
            target: (N,) integer classes, or (N, C) values.
            recipe: how each part is trained; `Recipe()` by default.
            unimodal_predictions: (N, M, C), instead of training unimodal classifiers.
            multimodal_predictions: (N, C), for the categories instead of the baseline's.
            categories: of the N samples, where they are known.
            groups: (N,) integers, samples that belong together (one patient's, say): they stay in one fold.
            seed: decides everything random.
            checkpoint_dir: a folder for one checkpoint per stage.
            progress: called with a `Progress` at the start and end of every stage and after every epoch.

        Returns:
            The model, in evaluation mode.

        Raises:
            TypeError: if a modality or the target has the wrong type.
            ValueError: if shapes disagree, labels are out of range, predictions are no probabilities, categories are
                given twice or not at all or are all ambiguous, or checkpoints come from other data or settings.

        Warns:
            UserWarning: if a category is too rare for an expert.
        """
        known = {"unimodal": unimodal_predictions, "multimodal": multimodal_predictions, "groups": groups}
        data = read_data(self, modalities, target, recipe, known, categories)
        self.fitted.fill_(False)
        run_stages(
            stages_of(self, data),
            seed=seed,
            folder=checkpoint_dir,
            fingerprint=None if checkpoint_dir is None else data.fingerprint(self.objective),
            progress=progress,
            device=data.device,
        )
        self.fitted.fill_(True)
        return self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> InteractionOutput:
        """Predict.

        Args:
            *args: the M modalities, or one list, tuple or dict of them.
            **kwargs: the modalities by name.

        Returns:
            `prediction` (B, C), `weights` (B, K) of the router and `expert_predictions` (B, K, C); predictions are
            probabilities in classification.

        Raises:
            TypeError: if a modality is not made of tensors or arrays.
            ValueError: if modalities are missing, unknown or do not fit together, or shapes disagree.
        """
        modalities = self.bind(args, kwargs)
        weights = self.router(modalities)
        baseline = self.baseline(modalities) if bool(self.fallback.any()) else None
        predictions = torch.stack(
            [
                expert(modalities) if baseline is None or not falls_back else baseline
                for expert, falls_back in zip(self.experts, self.fallback.tolist(), strict=True)
            ],
            dim=1,
        )
        check_shape("the weights of a router", weights, tuple(predictions.shape[:2]), "(B, K)")
        return self._output(predictions, weights)

    def predict(self, modalities: Modalities, *, batch_size: int = 1024) -> InteractionOutput:
        """Predict a data set as `forward` does, in evaluation mode and without gradient, some samples at a time.

        Raises:
            ValueError: as `forward`, and if the model is not fitted.
        """
        if not bool(self.fitted):
            raise ValueError("an MMoE must be fitted first, however it is not; call fit, or load a fitted state_dict")
        bound = self.bind((modalities,))
        with evaluating(self):
            outputs = [self(batch) for batch in in_batches(bound, batch_size)]
            predictions = torch.cat([output.expert_predictions for output in outputs])
            return self._output(predictions, torch.cat([output.weights for output in outputs]))

    def report(
        self,
        modalities: Modalities,
        target: Array,
        *,
        unimodal_predictions: Array | None = None,
        categories: Categories | None = None,
        batch_size: int = 1024,
    ) -> MMoEReport:
        """Compare baseline, experts, router and oracle, by category and overall.

        Args:
            modalities: the M modalities of B samples, held out from training.
            target: (B,) classes, or (B, C) values.
            unimodal_predictions: (B, M, C), where there are no unimodal classifiers.
            categories: of the B samples, where they are known.
            batch_size: samples predicted at a time.

        Raises:
            ValueError: if the model is not fitted, or there are neither unimodal classifiers, nor their predictions,
                nor categories.
        """
        bound = self.bind((modalities,))
        target = self.objective.check_target(self.to_tensor(target), leaves(bound)[0].shape[0])
        out = self.predict(bound, batch_size=batch_size)
        baseline = predict(cast("Predictor", self.baseline), bound, "baseline", batch_size=batch_size)
        if categories is None:
            given = self.to_tensor(unimodal_predictions)
            if given is None:
                given = self.predict_unimodal(bound, batch_size=batch_size)
            categories = self.categorize(given, baseline, target)
        check_categories(categories, len(target), self.expert_names)
        return make_report(self.objective, target, baseline, out, categories, self.fallback)

    def to_interaction_moe(self) -> InteractionMoE:
        r"""Return an `InteractionMoE` that starts as a copy of these experts and this router.

        For `i2moe.explain`, and to train on end to end with interaction losses. It mixes logits, so its class
        probabilities are the experts' weighted geometric mean, $\propto \prod_k p_k^{w_k}$, not their mean.

        Raises:
            TypeError: if the router is no module.
            ValueError: if the categories are not uniqueness of each modality, synergy and redundancy.
        """
        return as_interaction_moe(self)

    def extra_repr(self) -> str:
        """Show the experts' names and the objective."""
        return f"expert_names={self.expert_names}, objective={self.objective}"

    def _output(self, predictions: Tensor, weights: Tensor) -> InteractionOutput:
        return InteractionOutput(
            prediction=self.aggregation(predictions, weights),
            weights=weights,
            expert_predictions=predictions,
            aux_loss=predictions.new_zeros(()),
        )
