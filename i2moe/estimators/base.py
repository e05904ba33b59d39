"""What the estimators share: hyper-parameters, fitting, and what a fitted model says about samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from i2moe._common.modalities import as_tensor
from i2moe._common.randomness import seeded
from i2moe._common.tasks import Task, certain
from i2moe.estimators.checks import (
    check_arguments,
    check_device,
    check_groups,
    check_present,
    check_targets,
    check_weight,
    warn_of_outliers,
)
from i2moe.estimators.inputs import Modalities, ModalityArrays, Standardizer
from i2moe.estimators.network import Encoder, Fusion, choose_encoders, make_encoder
from i2moe.estimators.progress import progress_bar
from i2moe.estimators.retraining import retraining
from i2moe.estimators.rows import Rows, SampleLoss, Shuffled, call, split, weighted, weighted_plain
from i2moe.interpretation import InteractionReport, explain
from i2moe.interpretation.calibration import calibrate
from i2moe.interpretation.observation.observe import checksum, device_of, move
from i2moe.missing import ModalityDropout
from i2moe.moe import InteractionMoE
from i2moe.moe.teacher import Specialist, Teacher
from i2moe.moe.weights.computed import ComputedReweighter
from i2moe.training import fit

__all__ = ["InteractionEstimator"]


@dataclass(kw_only=True, eq=False, repr=False)
class InteractionEstimator(BaseEstimator, ABC):
    """The base of `InteractionClassifier` and `InteractionRegressor`, which describe the arguments."""

    backbone: Callable[[], nn.Module] | None = None
    encoders: Sequence[Encoder] | Mapping[str, Encoder] | None = None
    modality_names: Sequence[str] | None = None
    hidden_dim: int = 64
    members: int | None = 4
    n_teachers: int = 8
    dropout: float = 0.1
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    batch_size: int = 64
    max_epochs: int = 200
    patience: int = 15
    validation_fraction: float = 0.15
    modality_dropout: float = 0.3
    device: str | torch.device = "cpu"
    progress: Literal["rich"] | None = None
    random_state: int | np.random.RandomState | None = None

    _task: ClassVar[Task]

    def fit(self, Xs: ModalityArrays, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Train on samples.

        Args:
            Xs: a list or dict of M arrays (N, D) or (N, T, D), or `Modalities`. A row of NaN: the sample lacks this
                modality. A single NaN counts as the mean of its feature.
            y: (N,), the targets; for a regression (N, C) too.
            sample_weight: (N,), how much each sample counts; None for all the same. 0 leaves it out.
            groups: (N,), what samples belong to, a person say: samples held out are of other groups than those trained
                on. Give it where predictions are for new groups. None for samples on their own.

        Returns:
            The estimator.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if data or arguments do not fit, or no sample has a modality; the message says what must hold.

        Warns:
            UserWarning: if a feature has values far from all others, as where -999 stands for a missing value.
        """
        check_arguments(self)
        modalities = Modalities(Xs).ordered(self.modality_names)
        if len(modalities.arrays) < 2:
            raise ValueError("Xs must hold at least 2 modalities, however it holds 1; split its columns into groups")
        available = modalities.available()
        n = len(modalities)
        targets, weight, labels = check_targets(y, n), check_weight(sample_weight, n), check_groups(groups, n)
        counts = np.flatnonzero(weight)
        check_present(modalities, available[counts])
        warn_of_outliers(modalities[counts])
        return self._fit(
            modalities[counts], targets[counts], weight[counts], None if labels is None else labels[counts]
        )

    def _fit(self, modalities: Modalities, targets: np.ndarray, weight: np.ndarray, groups: np.ndarray | None) -> Self:
        """Train on samples that were checked; all may lack a modality."""
        if hasattr(self, "model_"):  # a fit that fails shall leave no old model beside new units
            delattr(self, "model_")
        self._has_groups = groups is not None
        target, weight = self._learn_target(targets, weight)
        device = check_device(self.device)
        with seeded(int(check_random_state(self.random_state).randint(2**31 - 1)), device):
            rows = split(target, self.validation_fraction, groups)
            self.inputs_ = Standardizer.fit(modalities[rows[0].numpy()])
            data = Rows(*self.inputs_(modalities), target, torch.from_numpy(weight / weight.mean()).float())
            share = data.weight.double() / data.weight.sum()
            # Few groups are held out, and may be of few classes: all samples say better how frequent these are.
            prior = None if groups is None else share @ certain(self._task, target, self._n_outputs)
            train, held_out = map(data.take, rows)
            model = self._make_model(train)
            n_specialists = self.n_teachers * (model.n_modalities + 1)
            with progress_bar(self.progress, (1 + n_specialists) * self.max_epochs) as after_epoch:
                run = partial(self._train, device=device, after_epoch=after_epoch)
                if n_specialists:
                    train = train.taught_by(self._teacher(train, held_out, run), device)
                drop = ModalityDropout(self.modality_dropout if model.n_modalities > 2 else 0.0, rows=0.5)
                calibrator = partial(
                    calibrate,
                    data=list(held_out.for_reports()),
                    call=call,
                    sample_weight=held_out.weight,
                    prior=prior,
                )
                losses = run(model, train, held_out, weighted(self._loss()), drop=drop, calibrator=calibrator)
        self.model_ = model
        self.modality_names_ = self.model_.modality_names
        self.expert_names_ = self.model_.expert_names
        self.held_out_losses_ = losses
        self.n_iter_ = len(losses)
        return self

    def interaction_weights(self, Xs: ModalityArrays) -> np.ndarray:
        """Return how much each interaction counts for each sample, (N, E); the columns are `expert_names_`."""
        return self._run(Xs, lambda *inputs: call(self.model_, inputs).weights).numpy()

    def to_tensors(self, Xs: ModalityArrays) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return what `model_` takes: M standardized tensors (N, ...), and which modalities are there, (N, M) bool.

        `model_(*modalities, available=available)` is the call.
        """
        check_is_fitted(self, "model_")
        return self.inputs_(Modalities(Xs))

    def report(
        self,
        Xs: ModalityArrays,
        y: Any,
        *,
        retrain_on: tuple[Any, ...] | None = None,
        n_draws: int = 4,
        confidence: float = 0.95,
    ) -> InteractionReport:
        """Report on samples that the model was not trained on, see `i2moe.explain`.

        A single target of a regression is in its unit. Several are in deviations of each.

        Args:
            Xs: as for `fit`.
            y: their targets.
            retrain_on: what `fit` was called with, `(Xs, y)`, `(Xs, y, sample_weight)` or with groups too: copies of
                the estimator are trained on it, one without each modality and without each pair, where others are left.
                The report then has what such a model loses beside what this one does. Samples with nothing left are
                left out. None for no training.
            n_draws: number of replacements that measures of faithfulness are averaged over; 0 leaves them out.
            confidence: of the intervals.

        Warns:
            UserWarning: if a copy cannot be trained on the samples that have something left.
        """
        if retrain_on is not None and (not isinstance(retrain_on, tuple) or len(retrain_on) not in (2, 3, 4)):
            raise TypeError(
                "retrain_on must be a tuple (Xs, y), (Xs, y, sample_weight) or (Xs, y, sample_weight, groups), however "
                f"it is a {type(retrain_on).__name__}"
                + (f" of {len(retrain_on)}" if hasattr(retrain_on, "__len__") else "")
            )
        check_is_fitted(self, "model_")
        if retrain_on is not None and self._has_groups and len(retrain_on) < 4:
            raise ValueError(
                "retrain_on must hold the groups that fit was called with, however it is a tuple of "
                f"{len(retrain_on)}; give (Xs, y, None, groups), or sample weights in place of None"
            )
        Xs = Modalities(Xs)
        modalities, available = self.to_tensors(Xs)
        target = self._code_target(check_targets(y, len(available)))
        data = Rows(modalities, available, target, torch.ones(len(target)))
        found = explain(
            self.model_,
            data.for_reports(),
            task=self._task,
            class_names=self._output_names(),
            call=call,
            n_draws=n_draws,
            confidence=confidence,
        )
        given = list(map(as_tensor, Xs.ordered(self.modality_names_).arrays))
        found = replace(found, checksums=checksum(given, len(target)))  # what the model got depends on its fit
        return self._in_report(
            found if retrain_on is None else found.with_retraining(retraining(self, Xs, *retrain_on))
        )

    def _in_report(self, report: InteractionReport) -> InteractionReport:
        """Return the report in the units of the target."""
        return report

    @abstractmethod
    def _raw_predictions(self, other: InteractionEstimator, Xs: ModalityArrays) -> Tensor:
        """Return another's predictions as raw outputs of this one's model, (N, C)."""

    @abstractmethod
    def _learn_target(self, y: np.ndarray, weight: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Look at the targets, and return them coded, and the samples' weights."""

    @abstractmethod
    def _code_target(self, y: np.ndarray) -> Tensor:
        """Return targets as the model takes them: (N,) classes or (N, C) values."""

    @abstractmethod
    def _loss(self) -> SampleLoss:
        """Return the loss of each sample."""

    @property
    @abstractmethod
    def _n_outputs(self) -> int:
        """Number of outputs C."""

    @abstractmethod
    def _output_names(self) -> list[str] | None:
        """Names of the outputs."""

    def _predictions(self, Xs: ModalityArrays) -> Tensor:
        """Return the model's predictions, (N, C) in float64, without weights."""
        return self._run(Xs, lambda modalities, available: self.model_.predict(*modalities, available=available))

    def _marginals(self, Xs: ModalityArrays) -> Tensor:
        """Return the model's predictions from each modality alone, (N, M, C) in float64; NaN where it is absent."""

        def marginals(modalities: tuple[Tensor, ...], available: Tensor) -> Tensor:
            alone: Tensor = call(self.model_, (modalities, available)).marginals
            return alone.masked_fill(~available.unsqueeze(-1), torch.nan)

        return self._run(Xs, marginals)

    def _run(self, Xs: ModalityArrays, function: Callable[[tuple[Tensor, ...], Tensor], Tensor]) -> Tensor:
        """Return what a function of the modalities, and of which are there, returns for samples, in float64."""
        modalities, available = self.to_tensors(Xs)
        nothing = torch.zeros(len(available))
        with torch.no_grad():
            self.model_.eval()
            batches = Rows(modalities, available, nothing, nothing).for_reports()
            device = device_of(self.model_)
            return torch.cat([function(*move(inputs, device)).cpu().double() for inputs, _ in batches])

    def _teacher(self, train: Rows, held_out: Rows, run: Callable[..., list[float]]) -> Teacher:
        """Train specialists of each modality and of all; none sees what is held out to calibrate the model."""
        build, n_modalities = self._factory(train), len(train.modalities)
        specialists = []
        for modality in (*range(n_modalities), None) * self.n_teachers:
            specialist = Specialist(build, n_modalities, modality, modality_names=self.inputs_.names)
            run(specialist, train, held_out, weighted_plain(self._loss()))
            specialists.append(specialist)
        return Teacher(specialists, self._task)

    def _train(
        self,
        model: nn.Module,
        train: Rows,
        held_out: Rows,
        loss_of: Callable[[Any, Any], Tensor],
        *,
        device: torch.device,
        after_epoch: Callable[[float], None],
        drop: Callable[[Tensor], Tensor] = lambda available: available,
        calibrator: Callable[[nn.Module], object] | None = None,
    ) -> list[float]:
        """Train a model on some rows, stop by others, and return the losses on these."""
        return fit(
            model.to(device),
            Shuffled(train, self.batch_size, drop),
            [batch.for_training() for batch in held_out.batches()],
            loss_of,
            self.max_epochs,
            optimizer=partial(torch.optim.AdamW, lr=self.learning_rate, weight_decay=self.weight_decay),
            patience=self.patience,
            min_delta=1e-3,
            calibrator=calibrator,
            call=call,
            after_epoch=after_epoch,
        )

    def _factory(self, data: Rows) -> Callable[[], nn.Module]:
        """Return what builds the backbone."""
        if self.backbone is not None and self.encoders is not None:
            raise ValueError("a backbone must come without encoders, however both are given; put them inside it")
        if self.backbone is not None:
            return self.backbone
        names = self.inputs_.names
        sample = tuple(modality[:2] for modality in data.modalities)
        encoders = choose_encoders(self.encoders, names)

        def build() -> nn.Module:
            made = [
                make_encoder(name, encoder, x, self.hidden_dim)
                for name, encoder, x in zip(names, encoders, sample, strict=True)
            ]
            modules, widths = zip(*made, strict=True)
            return Fusion(modules, widths, self._n_outputs, hidden_dim=self.hidden_dim, dropout=self.dropout)

        return build

    def _make_model(self, data: Rows) -> InteractionMoE:
        names = self.inputs_.names
        model = InteractionMoE(
            self._factory(data),
            len(names),
            modality_names=names,
            reweighter=ComputedReweighter(self._task),
            members=self.members,
        )
        sample = tuple(modality[:2] for modality in data.modalities)
        with torch.no_grad():
            shape = model.eval()(*sample).prediction.shape
        if shape != (len(sample[0]), self._n_outputs):
            raise ValueError(
                f"the backbone must return (B, C) with C = {self._n_outputs} outputs, however it returned "
                f"{tuple(shape)} for B = {len(sample[0])}"
            )
        return model
