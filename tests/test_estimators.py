"""Estimators: what they learn, what they take, how they behave under scikit-learn's tools, and the command line."""

from __future__ import annotations

import importlib
import pickle
import runpy
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from i2moe import BackboneOutput, Teacher
from i2moe import __main__ as command_line
from i2moe.__main__ import main
from i2moe.estimators import InteractionClassifier, InteractionRegressor, Modalities, base
from i2moe.estimators.checks import warn_of_outliers
from i2moe.estimators.inputs import Standardizer
from i2moe.estimators.rows import split

QUICK: dict[str, Any] = {"hidden_dim": 16, "members": 1, "n_teachers": 0, "max_epochs": 3, "random_state": 0}
LEARNING: dict[str, Any] = {
    "hidden_dim": 16,
    "members": 1,
    "n_teachers": 0,
    "learning_rate": 0.01,
    "max_epochs": 12,
    "random_state": 0,
}
KINDS = {"unique": "uniqueness/0", "redundant": "redundancy", "xor": "synergy"}


def made(kind: str, n: int = 600, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Two modalities whose first feature tells the class: of one alone, of each, or of both together."""
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(n, 4)), generator.normal(size=(n, 3))
    first, second = generator.choice([-1, 1], size=(2, n))
    a[:, 0] += 3 * first
    if kind == "redundant":
        b[:, 0] += 3 * first
    elif kind == "xor":
        b[:, 0] += 3 * second
    return [a, b], (first if kind != "xor" else first * second) > 0


@cache
def fitted(kind: str) -> InteractionClassifier:
    return InteractionClassifier(
        hidden_dim=32, members=2, n_teachers=0, learning_rate=0.005, max_epochs=30, random_state=0
    ).fit(*made(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_name_the_interaction(kind: str) -> None:
    estimator = fitted(kind)
    Xs, y = made(kind, seed=1)
    weights = estimator.interaction_weights(Xs)
    assert weights.shape == (600, 4)
    assert np.allclose(weights.sum(1), 1)
    mean = dict(zip(estimator.expert_names_, weights.mean(0), strict=True))
    assert mean[KINDS[kind]] > 0.8
    assert estimator.score(Xs, y) > 0.97


def test_the_model_learns_from_networks_of_each_modality_and_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[Teacher] = []

    def kept(*arguments: Any) -> Teacher:
        taught.append(Teacher(*arguments))
        return taught[0]

    monkeypatch.setattr(base, "Teacher", kept)
    Xs, y = made("unique", 300)
    estimator = InteractionClassifier(**{**LEARNING, "n_teachers": 1}).fit(Xs, y)

    (teacher,) = taught
    assert [each.modality for each in teacher.specialists] == [0, 1, None]
    modalities, _ = estimator.to_tensors(Xs)
    soft = teacher(*modalities)
    right = [(found.argmax(1).numpy() == y).mean() for found in (soft.target, *soft.marginal_target.unbind(1))]
    assert right[0] > 0.95
    assert right[1] > 0.95
    assert right[2] < 0.7
    assert estimator.score(Xs, y) > 0.95


def test_teachers_of_a_backbone_with_a_loss_of_its_own_learn_from_samples_that_lack_a_modality() -> None:
    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(7, 2)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> BackboneOutput:
            return BackboneOutput(self.body(torch.cat([a, b], 1)), aux_loss=self.body.weight.square().sum())

    (a, b), y = made("redundant", 300)
    a[::2], b[1::3] = np.nan, np.nan
    some = ~np.isnan([a[:, 0], b[:, 0]]).all(0)
    estimator = InteractionClassifier(**{**LEARNING, "n_teachers": 1}, backbone=Backbone)
    estimator.fit([a[some], b[some]], y[some], sample_weight=np.linspace(1, 2, some.sum()))
    assert estimator.score([a[some], b[some]], y[some]) > 0.95


def test_probabilities_sum_to_one_and_those_of_the_modality_that_knows_are_right() -> None:
    Xs, y = made("unique", seed=1)
    together, alone = fitted("unique").predict_proba(Xs), fitted("unique").marginal_proba(Xs)
    assert together.shape == (600, 2)
    assert alone.shape == (600, 2, 2)
    assert np.allclose(together.sum(1), 1)
    assert np.allclose(alone.sum(2), 1)
    assert ((alone[:, 0].argmax(1) == 1) == y).mean() > 0.97
    assert 0.4 < ((alone[:, 1].argmax(1) == 1) == y).mean() < 0.6


def test_a_modality_alone_is_the_prediction_where_the_other_is_missing() -> None:
    a, b = made("unique", seed=1)[0]
    alone = fitted("unique").marginal_proba([a, b])
    assert np.allclose(alone[:, 0], fitted("unique").predict_proba([a, np.full_like(b, np.nan)]), atol=1e-6)
    assert np.isnan(fitted("unique").marginal_proba([a, np.full_like(b, np.nan)])[:, 1]).all()


def test_the_report_says_what_the_estimator_predicts() -> None:
    Xs, y = made("unique", seed=1)
    report = fitted("unique").report(Xs, y)
    assert report.output_names == ("False", "True")
    assert report.correct.double().mean() == pytest.approx(fitted("unique").score(Xs, y))
    assert np.allclose(report.weights, fitted("unique").interaction_weights(Xs), atol=1e-6)


@pytest.mark.parametrize("estimator", [InteractionClassifier, InteractionRegressor])
def test_reports_of_two_fits_are_compared(estimator: Any) -> None:
    y = Y if estimator is InteractionClassifier else 1000 + A[:, 0]
    first, second = (estimator(**QUICK | {"random_state": seed}).fit([A, B], y) for seed in (0, 1))
    other = estimator(**QUICK).fit([A[5:], B[5:]], y[5:])  # another mean of the target, another standardization
    reports = [each.report([A, B], y, n_draws=0) for each in (first, second, other)]
    for report in reports[1:]:
        assert reports[0].compare(report).qualities[1].score == report.quality.score


def test_the_model_goes_on_in_a_loop_of_ones_own() -> None:
    Xs, _ = made("unique", seed=1)
    modalities, available = fitted("unique").to_tensors(Xs)
    prediction = fitted("unique").model_(*modalities, available=available).prediction
    assert np.allclose(prediction.softmax(1).detach(), fitted("unique").predict_proba(Xs), atol=1e-6)


@pytest.mark.parametrize("labels", [["no", "yes"], [3, 7], [0.0, 1.0]])
def test_labels_come_back_as_they_were(labels: list[Any]) -> None:
    Xs, y = made("unique", n=80)
    target = np.array(labels)[y.astype(int)]
    estimator = InteractionClassifier(**QUICK).fit(Xs, target)
    assert estimator.classes_.tolist() == labels
    assert set(estimator.predict(Xs)) <= set(target)


def test_every_kind_of_input_says_the_same() -> None:
    (a, b), y = made("unique", n=80)
    expected = InteractionClassifier(**QUICK).fit([a, b], y).predict_proba([a, b])
    named: dict[str, Any] = QUICK | {"modality_names": ["0", "1"]}
    for Xs, target in (
        ({"0": a, "1": b}, list(y)),
        ([pd.DataFrame(a), pd.DataFrame(b)], pd.Series(y)),
        ([torch.from_numpy(a), torch.from_numpy(b)], torch.from_numpy(y)),
        (Modalities([a, b]), y),
        (Modalities({"1": b, "0": a}), y),
    ):
        estimator = InteractionClassifier(**named).fit(Xs, target)
        assert np.array_equal(estimator.predict_proba(Xs), expected), type(Xs)
    assert estimator.expert_names_[:2] == ("uniqueness/0", "uniqueness/1")


def test_data_frames_in_different_orders_are_warned_of() -> None:
    a, b = pd.DataFrame(A), pd.DataFrame(B)
    with pytest.warns(UserWarning, match="same index in another order"):
        Modalities([a, b[::-1]])
    assert Modalities([a[::-1], b[::-1]]).shape == (40, 2)
    assert Modalities([A, a, b.set_index(np.arange(40) + 1)]).shape == (40, 3)  # other labels: by position, as arrays


def test_columns_of_data_frames_are_those_of_fit() -> None:
    frames = {"t": pd.DataFrame(B, columns=list("wxyz")[: B.shape[1]]), "a": A}
    fitted = InteractionClassifier(max_epochs=1, n_teachers=0, members=None).fit(frames, Y)
    expected = fitted.predict_proba(frames)
    assert np.array_equal(fitted.predict_proba({"a": A, "t": frames["t"].to_numpy()}), expected)
    assert np.array_equal(fitted.predict_proba(Modalities(frames)[np.arange(len(A))]), expected)
    turned = {**frames, "t": frames["t"].iloc[:, ::-1]}
    last = frames["t"].columns[-1]
    message = f"modality 't' must have the columns of fit, in the same order, however it has '{last}' where fit had 'w'"
    for given in (turned, Modalities(turned), Modalities(turned)[:5]):
        with pytest.raises(ValueError, match=message):
            fitted.predict(given)


def test_pandas_missing_values_and_one_column() -> None:
    table = Modalities([pd.DataFrame({"u": pd.array([1, None, 3], dtype="Int64")}), [1, 2, 3]])
    assert np.array_equal(table.arrays[0], np.array([[1], [np.nan], [3]]), equal_nan=True)
    assert table.arrays[1].shape == (3, 1)


def test_the_same_seed_gives_the_same_model_and_leaves_random_states_alone() -> None:
    Xs, y = made("unique", n=80)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first, second = (InteractionClassifier(**QUICK).fit(Xs, y) for _ in range(2))
    other = InteractionClassifier(**QUICK | {"random_state": 1}).fit(Xs, y)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert np.array_equal(first.predict_proba(Xs), second.predict_proba(Xs))
    assert not np.array_equal(first.predict_proba(Xs), other.predict_proba(Xs))


def test_a_clone_has_the_parameters_and_leaves_encoders_untrained() -> None:
    encoders = [nn.Linear(4, 8), None]
    estimator = InteractionClassifier(encoders=encoders, dropout=0.3)
    assert estimator.encoders is encoders
    copied = clone(estimator).set_params(max_epochs=3, hidden_dim=16)
    assert copied.get_params()["dropout"] == 0.3
    assert copied.get_params().keys() - InteractionRegressor().get_params().keys() == {"class_weight"}
    before = encoders[0].weight.clone()  # type: ignore[union-attr]
    Xs, y = made("unique", n=60)
    copied.set_params(encoders=encoders).fit(Xs, y)
    assert torch.equal(encoders[0].weight, before)  # type: ignore[union-attr]
    assert is_classifier(estimator)
    assert is_regressor(InteractionRegressor())


def test_a_pickled_estimator_predicts_the_same() -> None:
    Xs, _ = made("xor", seed=1)
    again = pickle.loads(pickle.dumps(fitted("xor")))
    assert np.array_equal(again.predict_proba(Xs), fitted("xor").predict_proba(Xs))
    assert np.array_equal(again.interaction_weights(Xs), fitted("xor").interaction_weights(Xs))


def test_grid_search_and_cross_validation_take_modalities() -> None:
    Xs, y = made("unique", n=90)
    data = Modalities({"image": Xs[0], "text": Xs[1]})
    search = GridSearchCV(InteractionClassifier(**QUICK), {"hidden_dim": [4, 8]}, cv=2).fit(data, y)
    assert search.best_estimator_.modality_names_ == ("image", "text")
    assert search.predict(data).shape == (90,)
    assert len(cross_val_score(InteractionClassifier(**QUICK), data, y, cv=3)) == 3
    train, test, _, _ = train_test_split(data, y, random_state=0)
    assert (train.shape, test.shape) == ((67, 2), (23, 2))


def split_columns(table: np.ndarray) -> list[np.ndarray]:
    return [table[:, :4], table[:, 4:]]


def test_a_pipeline_splits_one_table_into_modalities() -> None:
    Xs, y = made("unique", n=90)
    estimator = InteractionClassifier(**QUICK)
    pipeline = make_pipeline(StandardScaler(), FunctionTransformer(split_columns), estimator)
    scores = cross_val_score(pipeline, np.hstack(Xs), y, cv=2)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        *(("-999 for missing", True), ("one large value", True), ("of a large unit", True), ("none", False)),
        *(("skewed", False), ("sparse", False), ("pixels", False)),
    ],
)
@pytest.mark.parametrize("shape", [(500, 4), (500, 3, 4), (500, 4, 2, 2)])
def test_values_far_from_all_others_are_warned_of(change: str, warned: bool, shape: tuple[int, ...]) -> None:
    draws = np.random.default_rng(0)
    x = draws.normal(size=shape)
    if change == "-999 for missing":
        x[draws.random(shape) < 0.05] = -999
    elif change == "one large value":
        x[7, 2] = 1e6
    elif change == "of a large unit":
        x = np.where(draws.random(shape) < 0.1, 999, 120 + 20 * x)
    elif change == "skewed":
        x = np.exp(2 * x)
    elif change == "pixels":
        x = np.clip(100 * (x - 1), 0, 255).round()
    elif change == "sparse":
        x = (x > 2).astype(float)
    x[3] = np.nan
    with pytest.warns(UserWarning, match="far from all others") if warned else nullcontext():
        warn_of_outliers(Modalities({"a": x, "b": draws.normal(size=(500, 2))}))


def test_fit_warns_of_values_far_from_all_others() -> None:
    a = A.copy()
    a[3, 0] = 1e6
    with pytest.warns(UserWarning, match="1 of modality 'image' have \\(columns 0\\)"):
        InteractionClassifier(n_teachers=0, max_epochs=1).fit({"image": a, "text": B}, np.arange(40) % 2)


def test_a_modality_that_no_sample_has_is_refused() -> None:
    Xs = {"image": A, "text": np.full_like(B, np.nan)}
    with pytest.raises(ValueError, match=r"\['text'\] are NaN in all 40; leave"):
        InteractionClassifier(**QUICK).fit(Xs, Y)
    Xs["text"] = np.where(np.arange(40)[:, None] < 10, B, np.nan)
    with pytest.raises(ValueError, match=r"\['text'\] are NaN in all 30; leave"):
        InteractionClassifier(**QUICK).fit(Xs, Y, sample_weight=np.arange(40) >= 10)


def test_rows_of_nan_are_missing_in_training_too() -> None:
    (a, b), y = made("redundant")
    a[:200], b[200:400] = np.nan, np.nan
    a[500, 2] = np.nan
    estimator = InteractionClassifier(**LEARNING).fit([a, b], y)
    weights = estimator.interaction_weights([a, b])
    assert np.allclose(weights[:200], [0, 1, 0, 0])
    assert np.allclose(weights[200:400], [1, 0, 0, 0])
    assert weights[400:, 3].mean() > 0.8
    assert estimator.score([a, b], y) > 0.97
    assert estimator.report([a, b], y).by_availability


def test_a_single_nan_counts_as_the_mean() -> None:
    a, b = (x[:5] for x in made("unique", seed=1)[0])
    standardize = fitted("unique").inputs_
    filled = a.copy()
    a[0, 1], filled[0, 1] = np.nan, standardize.means[0][0, 1]
    assert np.allclose(fitted("unique").predict_proba([a, b]), fitted("unique").predict_proba([filled, b]), atol=1e-6)


def test_features_are_standardized_whatever_their_scale() -> None:
    generator = np.random.default_rng(0)
    steps = generator.normal(5, 3, size=(50, 7, 2)).astype(np.float32)
    steps[..., 1] = 4.0
    steps[0, :3] = np.nan
    data = Modalities({"a": steps, "b": generator.normal(1e9, 1e-3, size=(50, 1))})
    (a, b), available = Standardizer.fit(data)(data)
    assert available.all()
    known = a[..., 0][~np.isnan(steps[..., 0])]
    assert abs(known.mean()) < 1e-5
    assert known.std(correction=0) == pytest.approx(1, abs=1e-5)
    assert not a[..., 1].any()
    assert not a[0, :3].any()
    assert b.std(correction=0) == pytest.approx(1, abs=1e-3)


def test_sequences_of_any_length() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(300) % 2
    signal = generator.normal(size=(300, 12, 2))
    signal[:, 3:9, 0] += np.where(y, 2.0, -2.0)[:, None]
    Xs = [signal, generator.normal(size=(300, 3))]
    estimator = InteractionClassifier(**LEARNING).fit(Xs, y)
    assert estimator.score(Xs, y) > 0.95
    assert estimator.predict([signal[:, :9], Xs[1]]).shape == (300,)


def test_three_modalities_have_five_weights() -> None:
    (a, b), y = made("unique", n=90)
    estimator = InteractionClassifier(**QUICK).fit([a, b, b[:, :1]], y)
    assert estimator.interaction_weights([a, b, b[:, :1]]).shape == (90, 5)


@pytest.mark.parametrize("n_targets", [0, 2])
def test_a_regressor_learns_one_target_and_several(n_targets: int) -> None:
    (a, b), _ = made("unique", n=400)
    y = 1000 + 50 * a[:, 0]
    y = np.stack([y, -y / 1e4], axis=1) if n_targets else y
    estimator = InteractionRegressor(**LEARNING | {"max_epochs": 30}).fit([a, b], y)
    assert estimator.predict([a, b]).shape == y.shape
    assert estimator.score([a, b], y) > 0.95
    assert estimator.marginal_predict([a, b]).shape == ((400, 2, 2) if n_targets else (400, 2))
    assert estimator.interaction_weights([a, b])[:, 0].mean() > 0.8
    report = estimator.report([a, b], y)
    assert np.allclose(report.contributions.sum(1), report.prediction, rtol=1e-3, atol=1e-3)
    if not n_targets:
        squared = ((estimator.predict([a, b]) - y) ** 2).mean()
        assert -report.score.mean() == pytest.approx(squared, rel=1e-3)
        replaced = np.concatenate([a[1:], a[:1]])
        rise = ((estimator.predict([replaced, b]) - y) ** 2).mean() - squared
        assert report.comprehensiveness is not None
        assert report.comprehensiveness[:, 0].mean() == pytest.approx(rise, rel=0.3)


def test_report_of_a_regression_is_in_units() -> None:
    generator = np.random.default_rng(0)
    Xs = [generator.normal(size=(200, 3)), generator.normal(size=(200, 2))]
    y = 1000 + 50 * Xs[0][:, 0]
    estimator = InteractionRegressor(**QUICK).fit(Xs, y)
    report = estimator.report(Xs, y, n_draws=0)

    assert report.marginals is not None
    assert report.predictions_without is not None
    np.testing.assert_allclose(report.marginals[..., 0], estimator.marginal_predict(Xs), rtol=1e-5)
    np.testing.assert_allclose(report.predictions_without[:, 0, 0], estimator.marginal_predict(Xs)[:, 1], rtol=1e-5)

    far = y + 1.7e9  # a clock's, of which float32 keeps two minutes
    shifted = InteractionRegressor(**QUICK).fit(Xs, far).report(Xs, far, n_draws=0)
    assert shifted.quality.score == pytest.approx(report.quality.score, abs=1e-4)
    assert (shifted.weights - report.weights).abs().max() < 1e-3


def test_a_sample_without_weight_changes_nothing() -> None:
    Xs, y = made("unique", n=120)
    wrong = np.concatenate([y, ~y])
    doubled = [np.concatenate([x, x]) for x in Xs]
    weight = np.repeat([1.0, 0.0], 120)
    weighted = InteractionClassifier(**QUICK).fit(doubled, wrong, sample_weight=weight)
    alone = InteractionClassifier(**QUICK).fit(Xs, y)
    assert np.array_equal(weighted.predict_proba(Xs), alone.predict_proba(Xs))

    kept = InteractionClassifier(**LEARNING)
    assert kept.fit(doubled, wrong, sample_weight=weight * 0.9 + 0.05).score(Xs, y) > 0.9


def test_balanced_weights_find_more_of_a_rare_class() -> None:
    generator = np.random.default_rng(0)
    y = (np.arange(300) % 15 == 0).astype(int)
    Xs = [generator.normal(size=(300, 2)) + y[:, None], generator.normal(size=(300, 2))]
    plain, balanced = (InteractionClassifier(**LEARNING, class_weight=w).fit(Xs, y) for w in (None, "balanced"))
    assert balanced.predict(Xs)[y == 1].mean() > plain.predict(Xs)[y == 1].mean() + 0.2
    priors = [float(found.model_.state_dict()["reweighter.prior"][1]) for found in (plain, balanced)]
    assert priors == pytest.approx([1 / 15, 0.5], abs=0.05)


def test_a_report_of_several_values_says_that_they_are_standardized() -> None:
    y = np.stack([1000 * A[:, 0], B[:, 0]], axis=1)
    report = InteractionRegressor(**QUICK).fit([A, B], y).report([A, B], y)
    assert report.output_names == ("0 (standardized)", "1 (standardized)")


def test_held_out_samples_are_of_every_class() -> None:
    target = torch.tensor([0] * 80 + [1] * 20 + [2])
    train, held_out = split(target, 0.2)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(101))
    assert torch.bincount(target[held_out], minlength=3).tolist()[:2] in ([16, 4], [15, 4], [16, 3])
    assert 2 in target[train]


class Sum(nn.Module):
    """A backbone of one's own."""

    def __init__(self, n_outputs: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(4, n_outputs)
        self.second = nn.Linear(3, n_outputs)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.first(a) + self.second(b)
        return total


def test_a_backbone_and_encoders_of_ones_own() -> None:
    Xs, y = made("unique", n=80)
    own = InteractionClassifier(**QUICK, backbone=Sum).fit(Xs, y)
    assert isinstance(own.model_.example_backbone, Sum)
    images = Xs[1].reshape(80, 1, 3, 1)
    encoders = {"image": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 5))}
    named = {"table": Xs[0], "image": images}
    estimator = InteractionClassifier(**QUICK, encoders=encoders).fit(named, y)
    assert estimator.predict(named).shape == (80,)


def test_progress_shows_the_held_out_loss(capsys: pytest.CaptureFixture[str]) -> None:
    InteractionClassifier(**QUICK, progress="rich").fit(*made("unique", n=60))
    assert "held-out loss" in capsys.readouterr().out


A, B = made("unique", n=40)[0]
Y = made("unique", n=40)[1]
WRONG: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "one array": (A, Y, {}, "must be a list or dict of arrays"),
    "one modality": ([A], Y, {}, "at least 2 modalities"),
    "unequal rows": ([A, B[1:]], Y, {}, "a row for each sample"),
    "target rows": ([A, B], Y[1:], {}, "one target for each of 40"),
    "infinite": ([A, np.where(B > 1, np.inf, B)], Y, {}, "must be finite"),
    "nothing there": ([np.full_like(A, np.nan), np.full_like(B, np.nan)], Y, {}, "must have a modality"),
    "one class": ([A, B], np.zeros(40, int), {}, "at least two classes"),
    "unknown class": ([A, B], np.where(Y, 1.0, np.nan), {}, "must be known for all samples"),
    "words": ([A, B.astype(str).astype(object) + "x"], Y, {}, "encode categories"),
    "none": ([A, None], Y, {}, "rows of NaN"),
    "names": ({"a": A, "b": B}, Y, {"modality_names": ["a", "c"]}, "must be the 2"),
    "fraction": ([A, B], Y, {"validation_fraction": 1.0}, "between 0 and 1"),
    "too few": ([A[:3], B[:3]], Y[:3], {}, "to hold out"),
    "epochs": ([A, B], Y, {"max_epochs": 0}, "max_epochs must be at least 1"),
    "bar": ([A, B], Y, {"progress": True}, "progress must be"),
    "encoders": ([A, B], Y, {"encoders": [None]}, "one for each"),
    "encoder's output": ([A, B], Y, {"encoders": [None, nn.Unflatten(1, (3, 1))]}, "must return vectors"),
    "images": ([A, B.reshape(40, 1, 3, 1)], Y, {}, "default encoders"),
    "encoders of another kind": ([A, B], Y, {"encoders": 3}, "one for each"),
    "half a batch": ([A, B], Y, {"batch_size": 2.5}, "batch_size must be an integer, however it is 2.5"),
    "fewer teachers than none": ([A, B], Y, {"n_teachers": -1}, "n_teachers must be an integer of at least 0"),
    "words for a number": ([A, B], Y, {"patience": "a"}, "patience must be an integer"),
    "members": ([A, B], Y, {"members": 1.5}, "members must be an integer"),
    "no rate": ([A, B], Y, {"dropout": None}, r"dropout must lie in \[0, 1\), however it is None"),
    "no fraction": ([A, B], Y, {"validation_fraction": "a"}, "between 0 and 1, however it is 'a'"),
    "learning rate": ([A, B], Y, {"learning_rate": -1.0}, "learning_rate must be a finite number of at least 0"),
    "weight decay": ([A, B], Y, {"weight_decay": float("nan")}, "weight_decay must be a finite number"),
    "device": ([A, B], Y, {"device": "gpu"}, "device must be one that torch can use, .* however it is 'gpu'"),
    "class weight": ([A, B], Y, {"class_weight": "even"}, "class_weight must be 'balanced', .* however it is 'even'"),
    "negative class weight": (
        [A, B],
        Y,
        {"class_weight": {True: -1, False: 1}},
        "class_weight must have finite",
    ),
    "names in one string": ([A, B], Y, {"modality_names": "ab"}, "modality_names must be a list of names"),
    "a name twice": ([A, B], Y, {"modality_names": ("a", "a")}, "modality_names must be 2 different"),
    "values for classes": ([A, B], A[:, 0], {}, "y must be one class for each sample.*InteractionRegressor"),
    "one-hot classes": ([A, B], np.eye(2)[Y.astype(int)], {}, r"y must be one class.*y.argmax\(1\)"),
    "mixed classes": ([A, B], np.array(["a", 1] * 20, dtype=object), {}, "all numbers or all strings"),
    "a class each": ([A, B], np.arange(40), {}, "of 40 classes; give more samples"),
    "complex": ([A + 1j, B], Y, {}, "its dtype is complex128"),
    "too large": ([A * 1e300, B], Y, {}, "whose deviation is finite, however 4 of its features"),
    "sequences of many lengths": ([[[1.0, 2.0], [3.0]] * 20, B], Y, {}, "up to one length with NaN"),
    "backbone's outputs": ([A, B], Y, {"backbone": lambda: Sum(5)}, "C = 2 outputs"),
    "empty": ([A, B[:, :0]], Y, {}, "must have samples and features"),
    "encoder that is none": ([A, B], Y, {"encoders": [None, 3]}, "must be a torch.nn.Module or a function"),
    "encoder of no modality": ([A, B], Y, {"encoders": {"c": None}}, "must be for the modalities"),
    "backbone and encoders": ([A, B], Y, {"backbone": Sum, "encoders": [None, None]}, "must come without encoders"),
}


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize("case", WRONG)
def test_errors_say_what_must_hold(case: str) -> None:
    Xs, y, arguments, message = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=message):
        InteractionClassifier(**QUICK | arguments).fit(Xs, y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y.astype(str), "must be numbers for a regression"),
        (np.full(len(Y), 3.0), r"at least two values, however all are \[3.0\]"),
        (np.where(Y, np.inf, 0), "finite values"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(y: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InteractionRegressor(**QUICK).fit([A, B], y)


def test_modalities_show_their_names_and_shapes() -> None:
    assert repr(Modalities({"a": A, "b": B})) == "Modalities({'a': (40, 4), 'b': (40, 3)})"
    with pytest.raises(ValueError, match="names must be those of the 2 modalities"):
        Modalities([A, B], names=["a"])
    with pytest.raises(ValueError, match="names must be left out with a dict"):
        Modalities({"a": A, "b": B}, names=["x", "y"])


def test_values_far_off_those_of_fit_are_refused() -> None:
    estimator = InteractionClassifier(**QUICK).fit([A, B], Y)
    far = np.where(np.arange(40)[:, None] == 3, 1e300, A)
    with pytest.raises(ValueError, match=r"modality '0' must have values in the range .* 1 rows \(3\)"):
        estimator.predict([far, B])


@pytest.mark.parametrize("weight", [[1.0], np.full(40, -1.0), np.zeros(40), np.full(40, np.nan), ["a"] * 40])
def test_wrong_sample_weights_are_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match="sample_weight must be 40"):
        InteractionClassifier(**QUICK).fit([A, B], Y, sample_weight=weight)


def test_targets_whose_deviation_is_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match="y must have values whose deviation is finite"):
        InteractionRegressor(**QUICK).fit([A, B], A[:, 0] * 1e300)


def test_tensors_with_a_gradient_are_taken() -> None:
    Xs = [torch.tensor(A, requires_grad=True), torch.tensor(B)]
    weight = torch.ones(40, requires_grad=True)
    found = InteractionClassifier(**QUICK).fit(Xs, torch.tensor(Y), sample_weight=weight)
    assert np.array_equal(found.predict_proba(Xs), InteractionClassifier(**QUICK).fit([A, B], Y).predict_proba([A, B]))


@pytest.mark.parametrize("retrain_on", [True, ([A, B],), [A, B]])
def test_what_cannot_be_trained_on_is_refused(retrain_on: Any) -> None:
    with pytest.raises(TypeError, match=r"retrain_on must be a tuple \(Xs, y\)"):
        fitted("unique").report([A, B], Y, retrain_on=retrain_on)


def test_inputs_unlike_those_of_fit_are_refused() -> None:
    with pytest.raises(NotFittedError):
        InteractionClassifier().predict([A, B])
    for Xs, message in (
        ([A, B, B], "must be the 2"),
        ([A, B[:, :2]], "3 features as in fit"),
        ([A, B[:, :, None]], "2 axes"),
        ({"0": A}, "must be the 2"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted("unique").predict(Xs)
    with pytest.raises(ValueError, match="as in fit"):
        fitted("unique").report([A, B], np.full(40, 7))


def test_the_command_line_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (a, b), y = made("unique", n=120)
    out = tmp_path / "report.html"
    for target in (np.where(y, "yes", "no"), a[:, 0]):
        np.savez(tmp_path / "data.npz", image=a, text=b, y=target)
        main(["report", str(tmp_path / "data.npz"), "--target", "y", "--out", str(out), "--max-epochs", "2"])
        printed = capsys.readouterr().out
        assert "uniqueness/image" in printed
        assert ("accuracy" if target.dtype.kind == "U" else "mean squared error") in printed
        assert "uniqueness" in out.read_text(encoding="utf-8")

    main(["report", str(tmp_path / "data.npz"), "--target", "y", "--out", str(out), "--max-epochs", "2", "--retrain"])
    assert "trained anew" in capsys.readouterr().out


def test_the_command_line_hints_at_classes_that_are_floating_point_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", image=A, text=B, y=Y.astype(float))
    arguments = ["report", str(tmp_path / "data.npz"), "--target", "y", "--out", str(tmp_path / "report.html")]
    arguments += ["--max-epochs", "1"]
    main(arguments)
    printed = capsys.readouterr()
    assert "mean squared error" in printed.out
    assert "the 2 different values of 'y'" in printed.err
    main([*arguments, *printed.err.split("say ")[1].split()])
    printed = capsys.readouterr()
    assert "accuracy" in printed.out
    assert printed.err == ""


def test_the_command_line_takes_numbers_as_a_modality(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=A, b=B[:, 0], y=Y)
    options = ["--target", "y", "--out", str(tmp_path / "r.html"), "--max-epochs", "1", "--n-teachers", "0"]
    main(["report", str(tmp_path / "data.npz"), *options])
    assert (tmp_path / "r.html").exists()


def test_a_fit_that_fails_leaves_no_old_model_with_new_units() -> None:
    regressor = InteractionRegressor(**QUICK).fit([A, B], A[:, 0])
    with pytest.raises(ValueError, match="validation_fraction must leave samples"):
        regressor.set_params(validation_fraction=0.001).fit([A, B], 1000 * A[:, 0])
    with pytest.raises(NotFittedError):
        regressor.predict([A, B])


class TestGroups:
    """Samples of one person are not parted."""

    @pytest.mark.parametrize("classes", [True, False])
    def test_no_group_is_in_both_parts(self, classes: bool) -> None:
        generator = np.random.default_rng(0)
        groups, y = generator.integers(20, size=400), generator.integers(3, size=400)
        target = torch.tensor(y) if classes else torch.randn(400, 1)
        held_out = set()
        for seed in range(5):
            torch.manual_seed(seed)
            train, rest = split(target, 0.15, groups)
            assert sorted([*train.tolist(), *rest.tolist()]) == list(range(400))
            assert not {*groups[train]} & {*groups[rest]}
            assert 0.05 < len(rest) / 400 < 0.3
            held_out.add(frozenset(groups[rest]))
        assert len(held_out) > 1  # drawn at random
        assert 0.7 < len(split(target, 0.8, groups)[1]) / 400 < 0.9

    @pytest.mark.parametrize("classes", [True, False])
    @pytest.mark.parametrize("fraction", [0.01, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.99])
    def test_the_fraction_is_held_out(self, fraction: float, classes: bool) -> None:
        groups = np.repeat(np.arange(20), 10)
        target = torch.arange(200) % 2 if classes else torch.randn(200, 1)
        held_out = len(split(target, fraction, groups)[1]) / 200
        assert held_out == pytest.approx(min(max(fraction, 0.05), 0.95))

    def test_a_class_in_held_out_groups_alone_is_refused(self) -> None:
        target = torch.tensor([0, 0, 1, 1])
        with pytest.raises(ValueError, match="each class must be in groups to train on, however class number"):
            split(target, 0.5, np.array([0, 0, 1, 1]))
        with pytest.raises(ValueError, match="at least two"):
            split(target, 0.5, np.zeros(4))

    def test_calibration_is_for_new_people(self) -> None:
        """Each person has features of his own, by which a network knows the class of whom it was trained on."""
        generator = np.random.default_rng(0)
        people, of_people = np.repeat(np.arange(40), 20), generator.integers(2, size=40)
        marks, y = generator.normal(size=(40, 30)), of_people[people]
        a = marks[people] + 0.1 * generator.normal(size=(800, 30))
        b = generator.normal(size=(800, 2))
        b[:, 0] += y - 0.5
        known, new = (
            (InteractionClassifier(**LEARNING).fit([a, b], y, groups=g)) for g in (None, [f"p{i}" for i in people])
        )
        reweighters: list[Any] = [known.model_.reweighter, new.model_.reweighter]
        mark, sign = reweighters[1].scale[:2]
        assert reweighters[0].scale[0] > 1  # it recognizes those it was calibrated on
        assert mark < 0.5 < sign  # marks of new people say nothing
        taught = InteractionClassifier(**LEARNING | {"n_teachers": 2}).fit([a, b], y, groups=people)
        reweighter: Any = taught.model_.reweighter
        assert reweighter.scale[0] < 0.5  # nor do teachers know those who are held out

    def test_the_prior_is_that_of_all_samples(self) -> None:
        """Each person has one class: those held out are of few."""
        person = np.arange(40) % 8
        model = InteractionClassifier(**QUICK).fit([A, B], person % 4, groups=person).model_
        reweighter: Any = model.reweighter
        assert reweighter.prior.tolist() == [0.25] * 4

    def test_unknown_groups_are_refused(self) -> None:
        for unknown in (None, np.nan, pd.NA):
            groups = np.array(["p"] * 39 + [unknown], dtype=object)
            with pytest.raises(ValueError, match="groups must be known for all samples, however 1 are NaN, NA or None"):
                InteractionClassifier(**QUICK).fit([A, B], Y, groups=groups)

    def test_copies_need_the_groups_too(self) -> None:
        groups = np.arange(40) % 8
        fitted = InteractionClassifier(**QUICK).fit([A, B], Y, groups=groups)
        with pytest.raises(ValueError, match="retrain_on must hold the groups"):
            fitted.report([A, B], Y, retrain_on=([A, B], Y, groups))

    def test_the_report_trains_copies_with_groups(self) -> None:
        groups = np.arange(40) % 8
        fitted_on = [A, B], Y, None, groups
        report = InteractionClassifier(**QUICK).fit(*fitted_on).report([A, B], Y, retrain_on=fitted_on, n_draws=0)
        assert report.predictions_retrained is not None

    @pytest.mark.parametrize("groups", [np.arange(39), np.zeros((40, 2)), 3])
    def test_wrong_groups_are_refused(self, groups: Any) -> None:
        with pytest.raises(ValueError, match="groups must have a label for each of 40 samples"):
            InteractionClassifier(**QUICK).fit([A, B], Y, groups=groups)

    def test_the_command_line_reports_on_other_groups(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.savez(tmp_path / "data.npz", a=A, b=B, y=Y, person=np.arange(40) // 5)
        options = ["--target", "y", "--groups", "person", "--out", str(tmp_path / "r.html"), "--max-epochs", "1"]
        main(["report", str(tmp_path / "data.npz"), *options, "--n-teachers", "0"])
        assert "10 samples of 2 groups, classification" in capsys.readouterr().out  # of eight people
        assert "person" not in (tmp_path / "r.html").read_text()
        with pytest.raises(SystemExit):
            main(["report", str(tmp_path / "data.npz"), *options, "--modalities", "a", "person"])


def test_help_of_the_command_line_has_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for default in ("report.html", "0.25", "200", "all others"):
        assert f"default: {default})" in printed
    assert "None" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.npz", "--target", "z"], "are not"),
        (["none.npz", "--target", "y"], "there is no file"),
        (["words.npz", "--target", "y"], "encode categories"),
        (["text.txt", "--target", "y"], "must be an .npz file"),
        (["one.npy", "--target", "y"], "must be an .npz file"),
        (["data.npz", "--target", "y", "--modalities", "a", "y"], "must not hold target or groups"),
        (["data.npz", "--target", "y", "--out", "no/such/folder.html"], "a folder that exists"),
        (["data.npz", "--target", "y", "--test-fraction", "1.5"], "must lie between 0 and 1"),
        (["short.npz", "--target", "y"], "one target for each of 40 samples"),
        (["scalar.npz", "--target", "y"], "one target for each of 40 samples"),
        (["data.npz", "--target", "y", "--modalities", "a"], "at least two modalities"),
        (["image.npz", "--target", "y"], "array 'b' has shape (40, 2, 2, 3)"),
        (["rare.npz", "--target", "y"], "hold some of each class out"),
        (["broken.npz", "--target", "y"], "must be an .npz file"),
        (["empty.npz", "--target", "y"], "must be an .npz file"),
        (["data.npz", "--target", "y", "--seed", "-1"], "--seed must be from 0"),
        (["data.npz", "--target", "y", "--out", "."], "--out must be a file"),
        (["infinite.npz", "--target", "y"], "holds infinity in 1 rows (39)"),
        (["unknown.npz", "--target", "y"], "y must be known for all samples"),
    ],
)
def test_errors_of_the_command_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", a=A, b=B, y=Y)
    np.savez(tmp_path / "words.npz", a=A, b=B.astype(str).astype("U3") + "x", y=Y)
    np.savez(tmp_path / "short.npz", a=A, b=B, y=Y[:9])
    np.savez(tmp_path / "image.npz", a=A, b=np.zeros((40, 2, 2, 3)), y=Y)
    np.savez(tmp_path / "scalar.npz", a=A, b=B, y=3)
    np.savez(tmp_path / "rare.npz", a=A, b=B, y=np.arange(40))
    np.save(tmp_path / "one.npy", A)
    (tmp_path / "text.txt").write_text("a,b\n")
    (tmp_path / "broken.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:200])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "infinite.npz", a=np.where(np.arange(40)[:, None] == 39, np.inf, A), b=B, y=Y)
    np.savez(tmp_path / "unknown.npz", a=A, b=B, y=np.where(np.arange(40) == 39, np.nan, Y))
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / arguments[0]), *arguments[1:]])
    assert message in capsys.readouterr().err


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("i2moe.estimators")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    runpy.run_path(command_line.__file__)  # which needs it for a report alone
    with pytest.raises(ImportError, match=r"pip install 'i2moe\[sklearn\]'"):
        importlib.import_module("i2moe.estimators")


def test_not_worse_than_a_linear_model() -> None:
    generator = np.random.default_rng(0)
    Xs = [generator.normal(size=(600, 5)), generator.normal(size=(600, 5))]
    y = (np.hstack(Xs) @ generator.normal(size=10) + generator.normal(size=600)) > 0
    linear = LogisticRegression().fit(np.hstack(Xs)[:400], y[:400]).score(np.hstack(Xs)[400:], y[400:])
    estimator = InteractionClassifier(
        hidden_dim=32, members=2, n_teachers=0, learning_rate=0.005, max_epochs=30, random_state=0
    )
    assert estimator.fit([x[:400] for x in Xs], y[:400]).score([x[400:] for x in Xs], y[400:]) > linear - 0.03
