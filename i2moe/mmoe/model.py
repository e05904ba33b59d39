"""MMoE: an expert per category of interaction, and a router between them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from i2moe._inputs import bind, check_modalities
from i2moe._types import Modality, leaves
from i2moe.categorization import Categories, Halfway, categorize
from i2moe.mmoe._factories import RouterFactory, category_names_of, check_factories, check_names
from i2moe.mmoe.aggregation import Aggregation, AggregationLike, as_aggregation
from i2moe.mmoe.conversion import as_interaction_moe
from i2moe.mmoe.fitting import Fitting, Recipe, check_categories, stages_of
from i2moe.mmoe.predictors import Predictor, as_predictor, predict
from i2moe.mmoe.report import MMoEReport, make_report
from i2moe.mmoe.routing import check_weights
from i2moe.mmoe.stages import OnProgress, fingerprint_of, run_stages
from i2moe.mmoe.tasks import Classification, Task
from i2moe.mmoe.training import in_batches
from i2moe.moe import InteractionMoE, InteractionOutput
from i2moe.reweighting import Reweighter

__all__ = ["MMoE"]


class MMoE(nn.Module):
    r"""Categorize samples by their interaction, train an expert for each category, and route between them.

    1. A classifier per modality and a multimodal baseline are trained.
    2. `categorize` tells from their predictions which interaction each training sample is.
    3. An expert per category starts from the baseline and is trained on the samples of its category.
    4. A router learns the category from the raw modalities.

    With router weights $w$ and experts' predictions $p_k$, the default aggregation is $p(x) = \sum_k w_k(x)\, p_k(x)$.

    `fit` does all of it. Calling the model is differentiable, and its parts are usable one by one, for a loop of your
    own: `categorize`, `i2moe.mmoe.cross_predict`, `focal_loss`, `train_router`, the aggregations.

    Source: Yu et al., MMoE: Enhancing Multimodal Models with Mixtures of Multimodal Interaction Experts, EMNLP 2024.
    Here for any number of modalities, any architecture, and with categories from predictions on held-out folds.

    Args:
        baseline: builds the multimodal model: called without arguments, returns a module called with the M modalities
            (outputs (B, C), logits in classification), a scikit-learn-like estimator, or an `i2moe.mmoe.Expert`.
        n_modalities: number of modalities M, at least 2.
        task: the number of classes, or `Classification(n_classes)` or `Regression(n_outputs)`.
        unimodal: M functions, each builds a modality's classifier, called like the baseline with its modality alone.
            None if `fit` is given the unimodal predictions or the categories.
        experts: called with a category's name, builds its expert, trained from scratch; None copies the trained
            baseline.
        router: builds the router, which maps the tuple of modalities to weights (B, K); by default a `Reweighter`.
        categorizer: called with unimodal (B, M, C) and multimodal (B, C) predictions and the target, returns
            `Categories`, whose ambiguous samples are left out of the experts' and the router's training. By default
            `categorize` with `threshold=Halfway()`, in regression with its own. As published:
            `functools.partial(categorize, margin=0.1)`.
        aggregation: a name in `i2moe.mmoe.AGGREGATIONS` or a function of predictions (B, K, C) and weights (B, K).
        modality_names: M names; ("0", "1", ...) by default.
        category_names: the names of the categorizer's categories; those of `categorize` by default.

    Attributes:
        expert_names: the K names of the categories.
        fallback: (K,) bool, which categories had too few samples for an expert and are left to the baseline.
        categories: the training samples' `Categories`, after `fit`.

    Raises:
        TypeError: if a factory is no callable or builds no predictor.
        ValueError: if numbers do not fit together or a name is unknown.

    Example:
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
        >>> image, text = torch.randn(400, 4), torch.randn(400, 2)
        >>> target = (image[:, 0] + text[:, 0] > 0).long()
        >>> model = model.fit((image, text), target, Recipe(Training(n_epochs=2), n_folds=2, min_samples=1))
        >>> out = model(image, text)
        >>> out.prediction.shape, out.weights.shape, out.expert_predictions.shape
        (torch.Size([400, 2]), torch.Size([400, 4]), torch.Size([400, 4, 2]))
    """

    fallback: Tensor

    def __init__(
        self,
        baseline: Callable[[], object],
        n_modalities: int,
        task: Task | int,
        *,
        unimodal: Sequence[Callable[[], object]] | None = None,
        experts: Callable[[str], object] | None = None,
        router: RouterFactory | None = None,
        categorizer: Callable[[Tensor, Tensor, Tensor], Categories] | None = None,
        aggregation: AggregationLike = "router",
        modality_names: Sequence[str] | None = None,
        category_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.modality_names: tuple[str, ...] = check_names(n_modalities, modality_names)
        self.expert_names: tuple[str, ...] = category_names_of(self.modality_names, category_names)
        self.task: Task = Classification(task) if isinstance(task, int) else task
        self.categorizer = categorizer
        self.aggregation: Aggregation = as_aggregation(aggregation)
        self.categories: Categories | None = None
        self._factories = check_factories(baseline, unimodal, experts, router, n_modalities)

        self.unimodal: nn.ModuleList = nn.ModuleList(
            self.build_unimodal(i) for i in range(len(self._factories.unimodal))
        )
        self.baseline: nn.Module = self.build_baseline()
        self.experts: nn.ModuleList = nn.ModuleList(self.build_expert(k) for k in range(len(self.expert_names)))
        self.router: Callable[[tuple[Modality, ...]], Tensor] = self.build_router()
        self.register_buffer("fallback", torch.zeros(len(self.expert_names), dtype=torch.bool))

    @property
    def n_modalities(self) -> int:
        """Number of modalities M."""
        return len(self.modality_names)

    @property
    def fine_tunes(self) -> bool:
        """Whether experts start from the baseline."""
        return self._factories.experts is None

    def fit(
        self,
        modalities: Sequence[Modality] | Mapping[str, Modality],
        target: Tensor,
        recipe: Recipe | None = None,
        *,
        unimodal_predictions: Tensor | None = None,
        multimodal_predictions: Tensor | None = None,
        categories: Categories | None = None,
        groups: Tensor | None = None,
        seed: int = 0,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        progress: OnProgress | None = None,
    ) -> Self:
        """Train all parts from the start, in stages: classifiers, baseline, categories, experts, router.

        The result depends on the arguments and the seed alone. With a folder for checkpoints, a call that was cut off
        is taken up by the same call after the last finished stage, with the same result as in one go. The
        model's own arguments (factories, categorizer) are not recognized: use another folder when you change them.
        Checkpoints of estimators are pickles: load none you do not trust.

        Args:
            modalities: the M modalities of N samples, or a dict of them by name, on the device to train on.
            target: (N,) classes, or (N, C) values.
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
                given twice or not at all, or checkpoints come from other data or settings.

        Warns:
            UserWarning: if a category is too rare for an expert.
        """
        recipe = Recipe() if recipe is None else recipe
        if not isinstance(recipe, Recipe):
            raise TypeError(f"recipe must be a Recipe, however it is {recipe!r}; Recipe(Training(n_epochs=...))")
        bound = self._bind((modalities,))
        known = {"unimodal": unimodal_predictions, "multimodal": multimodal_predictions}
        fitting = Fitting(self, bound, target, recipe, groups, unimodal_predictions, multimodal_predictions, categories)
        self._check(fitting)
        tensors: dict[str, list[Tensor]] = {"modalities": leaves(bound), "target": [target]}
        tensors |= {name: [values] for name, values in (known | {"groups": groups}).items() if values is not None}
        if categories is not None:
            tensors["categories"] = [categories.category, categories.ambiguous]
        run_stages(
            stages_of(fitting),
            seed=seed,
            folder=checkpoint_dir,
            fingerprint=fingerprint_of(tensors) | {"recipe": repr(recipe), "task": repr(self.task)}
            if checkpoint_dir is not None
            else None,
            progress=progress,
            devices=[fitting.device] if fitting.device.type == "cuda" else (),
        )
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
            TypeError: if a modality is not made of tensors.
            ValueError: if modalities are missing, unknown or do not fit together, or shapes disagree.
        """
        modalities = self._bind(args, kwargs)
        weights = self.router(modalities)
        baseline = self.baseline(modalities) if bool(self.fallback.any()) else None
        predictions = torch.stack(
            [
                expert(modalities) if baseline is None or not missing else baseline
                for expert, missing in zip(self.experts, self.fallback.tolist(), strict=True)
            ],
            dim=1,
        )
        check_weights(weights, predictions.shape[0], len(self.expert_names))
        return InteractionOutput(
            prediction=self.aggregation(predictions, weights),
            weights=weights,
            expert_predictions=predictions,
            aux_loss=predictions.new_zeros(()),
            interaction_loss=None,
            interaction_losses={},
            views=None,
        )

    def categorize(self, unimodal: Tensor, multimodal: Tensor, target: Tensor) -> Categories:
        """Categorize samples from predictions (B, M, C) and (B, C), as `fit` does."""
        if self.categorizer is not None:
            found = self.categorizer(unimodal, multimodal, target)
        elif self.task.higher_is_better:
            found = categorize(unimodal, multimodal, target, threshold=Halfway())
        else:
            found = categorize(unimodal, multimodal, target, task="regression")
        numbered = category_names_of(tuple(str(i) for i in range(self.n_modalities)), None)
        return replace(found, names=category_names_of(self.modality_names, None)) if found.names == numbered else found

    def report(
        self,
        modalities: Sequence[Modality] | Mapping[str, Modality],
        target: Tensor,
        *,
        unimodal_predictions: Tensor | None = None,
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
            ValueError: if there are neither unimodal classifiers, nor their predictions, nor categories.
        """
        bound = self._bind((modalities,))
        self.task.check_target(target, leaves(bound)[0].shape[0])
        self.eval()
        with torch.no_grad():
            outputs = [self(batch) for batch in in_batches(bound, batch_size)]
        baseline = predict(cast("Predictor", self.baseline), bound, "baseline")
        if categories is None:
            unimodal = self.predict_unimodal(bound) if unimodal_predictions is None else unimodal_predictions
            categories = self.categorize(unimodal, baseline, target)
        check_categories(categories, len(target), self.expert_names)
        return make_report(
            self.task,
            target,
            baseline,
            torch.cat([output.expert_predictions for output in outputs]),
            torch.cat([output.weights for output in outputs]),
            torch.cat([output.prediction for output in outputs]),
            categories,
            self.fallback,
        )

    def to_interaction_moe(self) -> InteractionMoE:
        r"""Return an `InteractionMoE` that starts as a copy of these experts and this router.

        For `i2moe.explain`, and to train on end to end with interaction losses. It mixes logits, so its class
        probabilities are the experts' weighted geometric mean, $\propto \prod_k p_k^{w_k}$, not their mean.

        Raises:
            TypeError: if the router is no module.
            ValueError: if the categories are not uniqueness of each modality, synergy and redundancy.
        """
        return as_interaction_moe(self)

    def predict_unimodal(self, modalities: Sequence[Modality] | Mapping[str, Modality]) -> Tensor:
        """Return the predictions (B, M, C) of the unimodal classifiers.

        Raises:
            ValueError: if there are none.
        """
        if not len(self.unimodal):
            raise ValueError(
                "there must be unimodal classifiers, their predictions or categories, however MMoE was built with "
                "unimodal=None; pass unimodal_predictions or categories"
            )
        bound = self._bind((modalities,))
        return torch.stack(
            [
                predict(cast("Predictor", classifier), (bound[i],), f"unimodal/{self.modality_names[i]}")
                for i, classifier in enumerate(self.unimodal)
            ],
            dim=1,
        )

    def build_unimodal(self, i: int) -> Predictor:
        """Build an untrained classifier of modality i."""
        return as_predictor(self._factories.unimodal[i](), self.task, f"what unimodal[{i}] builds")

    def build_baseline(self) -> Predictor:
        """Build an untrained baseline."""
        return as_predictor(self._factories.baseline(), self.task, "what baseline builds")

    def build_expert(self, k: int) -> Predictor:
        """Build an expert of category k: a copy of the baseline as it is now, or what the factory builds."""
        if self._factories.experts is None:
            return cast("Predictor", copy.deepcopy(self.baseline))
        return as_predictor(self._factories.experts(self.expert_names[k]), self.task, "what experts builds")

    def build_router(self) -> Callable[[tuple[Modality, ...]], Tensor]:
        """Build an untrained router."""
        return Reweighter(len(self.expert_names)) if self._factories.router is None else self._factories.router()

    def extra_repr(self) -> str:
        """Show the experts' names and the task."""
        return f"expert_names={self.expert_names}, task={self.task}"

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> tuple[Modality, ...]:
        modalities, _ = bind(self.modality_names, args, kwargs or {})
        check_modalities(self.modality_names, modalities)
        return modalities

    def _check(self, fitting: Fitting) -> None:
        n_samples = leaves(fitting.modalities)[0].shape[0]
        if not isinstance(fitting.target, Tensor):
            raise TypeError(f"target must be a tensor, however it is a {type(fitting.target).__name__}")
        self.task.check_target(fitting.target, n_samples)
        sources = {
            "unimodal classifiers": len(self.unimodal) > 0,
            "unimodal_predictions": fitting.unimodal is not None,
            "categories": fitting.categories is not None,
        }
        if sum(sources.values()) != 1:
            given = [name for name, there in sources.items() if there]
            raise ValueError(
                "categories must come from one source, unimodal classifiers (MMoE(unimodal=...)), "
                f"unimodal_predictions or categories, however {given or 'none'} are given"
            )
        if fitting.unimodal is not None:
            if fitting.unimodal.ndim != 3 or fitting.unimodal.shape[1] != self.n_modalities:
                raise ValueError(
                    f"unimodal_predictions must be (N, M, C) with M = {self.n_modalities}, "
                    f"however they are {tuple(fitting.unimodal.shape)}"
                )
            for i, predictions in enumerate(fitting.unimodal.unbind(1)):
                self.task.check_predictions(predictions, n_samples, f"unimodal_predictions of modality {i}")
        if fitting.multimodal is not None:
            self.task.check_predictions(fitting.multimodal, n_samples, "multimodal_predictions")
        if fitting.categories is not None:
            check_categories(fitting.categories, n_samples, self.expert_names)
        if fitting.groups is not None and tuple(fitting.groups.shape) != (n_samples,):
            raise ValueError(
                f"groups must be ({n_samples},), one integer per sample, however they are {tuple(fitting.groups.shape)}"
            )
