"""What a report says of dropping modalities: trained anew, and which pairs replace or need each other."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2moe.estimators import InteractionClassifier, InteractionRegressor
from i2moe.interpretation import InteractionReport
from tests.test_estimators import LEARNING
from tests.test_report_alone import made_up
from tests.test_report_html import page_of

NAMES = ("image", "text", "sound")


def made(kind: str, n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three modalities: text repeats the image, or the class is whether the signs of image and text differ."""
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1, 1], size=(n, 3))
    if kind == "duplicated":
        signs[:, 1] = signs[:, 0]
    Xs = {name: generator.normal(size=(n, 3)) for name in NAMES}
    for i, name in enumerate(NAMES):
        Xs[name][:, 0] += 4 * signs[:, i]
    return Xs, (signs[:, 0] if kind == "duplicated" else signs[:, 0] * signs[:, 1]) > 0


@cache
def retrained(kind: str) -> InteractionReport:
    train, test = made(kind, 400, seed=0), made(kind, 200, seed=1)
    return InteractionClassifier(**LEARNING).fit(*train).report(*test, retrain_on=train, n_draws=0)


def three(**changes: Any) -> InteractionReport:
    """A made-up report of three modalities, whose predictions without some of them are random."""
    torch.manual_seed(0)
    logits = torch.randn(100, 7, 2)
    report = replace(
        InteractionReport.example(),
        modality_names=NAMES,
        weights=torch.full((100, 4), 0.25),
        expert_predictions=logits[:, 6:].expand(100, 4, 2),
        prediction=logits[:, 6],
        target=torch.arange(100) % 2,
        comprehensiveness=None,
        sufficiency=None,
        checksums=torch.zeros(100),
        predictions_without=logits[:, :6],
    )
    return replace(report, **changes)


@pytest.mark.parametrize(("kind", "found"), [("duplicated", "redundant"), ("xor", "synergistic")])
def test_the_pair_that_was_made_is_found_and_no_other(kind: str, found: str) -> None:
    pairs = retrained(kind).pair_interactions()
    size = {"redundant": 0.5, "synergistic": -0.5}[found]
    assert pairs["image+text"].kind == found
    for name, pair in pairs.items():
        assert pair.interaction == pytest.approx(size if name == "image+text" else 0, abs=0.1)


@pytest.mark.parametrize("kind", ["duplicated", "xor"])
def test_trained_anew_without_what_is_needed_it_loses_half_and_without_the_rest_nothing(kind: str) -> None:
    for name, cost in retrained(kind).cost_of_dropping().items():
        lost = {"image+text"} if kind == "duplicated" else set(NAMES[:2]) | {"image+text", "image+sound", "text+sound"}
        assert cost.retrained is not None
        assert cost.retrained.cost == pytest.approx(0.5 if name in lost else 0, abs=0.1)


def test_a_model_that_never_learned_to_do_without_may_lose_more_than_one_trained_anew() -> None:
    report = made_up()
    anew = report.cost_of_dropping(refit=lambda kept: report.prediction)
    for name, cost in anew.items():
        assert cost.retrained is not None
        assert (cost.retrained.cost, cost.retrained.score) == (0, 1)
        assert cost.cost == report.cost_of_dropping()[name].cost
    assert anew["image"].cost > 0
    assert report.predictions_retrained is None


def test_refit_is_asked_for_what_is_kept() -> None:
    asked = []

    def refit(kept: tuple[str, ...]) -> np.ndarray:
        asked.append(kept)
        return np.eye(2)[np.arange(100) % 2]  # probabilities, in numpy

    report = three().with_retraining(refit)
    assert asked == [("text", "sound"), ("image", "sound"), ("image", "text"), ("sound",), ("text",), ("image",)]
    assert all(cost.retrained is not None and cost.retrained.score == 1 for cost in report.cost_of_dropping().values())


@pytest.mark.parametrize(
    "returned",
    [None, torch.zeros(400), torch.zeros(399, 2), torch.zeros(400, 2).long(), torch.full((400, 2), torch.inf)],
)
def test_what_are_no_predictions_is_refused(returned: Any) -> None:
    with pytest.raises(ValueError, match=r"refit\('text',\) must return"):
        made_up().cost_of_dropping(refit=lambda kept: returned)


def test_samples_with_nothing_left_are_not_counted() -> None:
    report = made_up()
    half = report.prediction.masked_fill((torch.arange(400) < 100).unsqueeze(1), torch.nan)
    cost = report.cost_of_dropping(refit=lambda kept: half)["image"]
    assert cost.retrained is not None
    assert (cost.n_samples, cost.retrained.n_samples) == (400, 300)


def test_where_nothing_is_left_there_is_a_note_and_no_cost() -> None:
    report = made_up()
    with pytest.warns(UserWarning, match="returned NaN for each"):
        report = report.with_retraining(lambda kept: torch.full((400, 2), torch.nan))
    assert all(cost.retrained is None for cost in report.cost_of_dropping().values())
    assert "trained anew -: too few samples" in report.summary()


def test_copies_are_trained_on_the_samples_that_have_something_left(tmp_path: Path) -> None:
    Xs, y = made("duplicated", 60, seed=0)
    Xs["image"][3:] = np.nan  # no training without the two others
    whole = InteractionClassifier(**LEARNING | {"max_epochs": 1}).fit(Xs, y)
    with pytest.warns(UserWarning, match=r"the 3 that do are not enough|returned NaN for each"):
        report = whole.report(Xs, y, retrain_on=(Xs, y), n_draws=0)
    costs = report.cost_of_dropping()
    assert costs["text+sound"].n_samples == 3
    assert [name for name, cost in costs.items() if cost.retrained is None] == ["text+sound"]
    assert "samples with nothing left are not counted" in report.summary()

    only = {name: x if name == "text" else np.full_like(x, np.nan) for name, x in Xs.items()}
    with pytest.warns(UserWarning, match="returned NaN for each"):
        report = whole.report(only, y, retrain_on=(Xs, y), n_draws=0)
    assert list(report.cost_of_dropping()) == ["image", "sound", "image+sound"]
    assert "there is no row" in report.summary()
    assert "a dash means that too few are left" in page_of(report, tmp_path).text


def test_the_interaction_of_a_pair_is_what_both_cost_less_what_each_costs() -> None:
    report = three()
    costs = report.cost_of_dropping()
    for name, pair in report.pair_interactions().items():
        a, b = name.split("+")
        assert pair.interaction == pytest.approx(costs[name].cost - costs[a].cost - costs[b].cost)
        assert pair.costs == pytest.approx((costs[a].cost, costs[b].cost, costs[name].cost))
        assert pair.low < pair.interaction < pair.high


def test_pairs_without_an_interaction_are_rarely_called_one() -> None:
    """At most one report in twenty names a pair, where there is none."""
    torch.manual_seed(0)
    named = 0
    for _ in range(200):
        right = torch.rand(100, 7) < 0.7
        logits = torch.stack([right.float(), 1 - right.float()], dim=2)
        report = three(target=torch.zeros(100).long(), prediction=logits[:, 6], predictions_without=logits[:, :6])
        named += any(pair.kind != "neither" for pair in report.pair_interactions().values())
    assert named < 0.05 * 200 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_only_samples_with_both_modalities_tell_of_a_pair() -> None:
    available = torch.ones(100, 3).bool()
    available[:30, 0] = False
    pairs = three(available=available).pair_interactions()
    assert [pair.n_samples for pair in pairs.values()] == [70, 70, 100]
    available[:90, 0] = False
    assert list(three(available=available).pair_interactions()) == ["text+sound"]


def test_a_pair_without_which_the_score_rises_is_neither() -> None:
    report = three()
    right = torch.nn.functional.one_hot(report.target, 2).float()
    assert report.predictions_without is not None
    without = report.predictions_without.clone()
    pair = 3  # a, b, c, then a and b
    without[:, pair] = right
    report = replace(report, prediction=torch.where(torch.arange(100).unsqueeze(1) % 4 == 0, -right, right))
    found = replace(report, predictions_without=without).pair_interactions()["image+text"]
    assert found.costs[2] < 0
    assert found.kind == "neither"
    assert f"rises by {-found.costs[2]:.3f} without both" in found.sentence()
    none = replace(found, costs=(-1e-9, 0.0, 4e-4)).sentence()
    assert "does not change without image, does not change without text, and does not change without both" in none


@pytest.mark.parametrize("misleads", ["where image is absent", "where image is there"])
def test_a_modality_of_noise_is_in_no_pair(misleads: str) -> None:
    """Text never helps. Where it changes the score in one case alone, both costs do not add up."""
    report = three()
    right = torch.nn.functional.one_hot(report.target, 2).float()
    wrong = torch.where(torch.arange(100).unsqueeze(1) % 4 == 0, -right, right)
    worse = torch.where(torch.arange(100).unsqueeze(1) % 2 == 0, -right, right)
    assert report.predictions_without is not None
    without = report.predictions_without.clone()
    if misleads == "where image is absent":  # without image .5, without both .75, else 1: below 0
        prediction, (without[:, 0], without[:, 1], without[:, 3]) = right, (worse, right, wrong)
    else:  # with both .75, without text 1, without image .5 as without both: above 0
        prediction, (without[:, 0], without[:, 1], without[:, 3]) = wrong, (worse, right, worse)
    found = replace(report, prediction=prediction, predictions_without=without).pair_interactions()["image+text"]
    assert (found.high < 0) if misleads == "where image is absent" else (found.low > 0)
    assert found.kind == "neither"


def test_two_modalities_are_no_pair_among_others() -> None:
    assert made_up().pair_interactions() == {}


def test_text_page_and_file_have_both(tmp_path: Path) -> None:
    report = retrained("duplicated")
    sentence = (
        "image and text are redundant, they partly replace each other: on the 200 samples that have both, the accuracy "
        "does not change without image, does not change without text, and falls by 0.540 without both"
    )
    summary = report.summary()
    assert "trained anew" in summary
    assert sentence in summary
    page = page_of(report, tmp_path)
    assert "trained anew falls by" in page.text
    assert sentence.replace("0.540", "54.0 pp") in page.text
    report.save(tmp_path / "report.pt")
    assert InteractionReport.load(tmp_path / "report.pt").to_dict() == report.to_dict()
    plain = report.to_dict()
    assert plain["cost_of_dropping"]["image"]["retrained"]["n_samples"] == 200
    assert plain["pair_interactions"]["image+text"]["kind"] == "redundant"


def test_a_regression_trained_anew_is_in_units() -> None:
    generator = np.random.default_rng(0)
    Xs = [generator.normal(size=(300, 2)), generator.normal(size=(300, 2))]
    y = 1000 + 50 * Xs[0][:, 0]
    Xs[1][:100] = np.nan  # these have nothing left without the first
    report = InteractionRegressor(**LEARNING).fit(Xs, y).report(Xs, y, retrain_on=(Xs, y, None), n_draws=0)
    assert report.predictions_retrained is not None
    assert report.predictions_retrained[:100, 0].isnan().all()
    cost = report.cost_of_dropping()
    assert cost["0"].retrained is not None
    assert cost["1"].retrained is not None
    assert (cost["0"].retrained.n_samples, cost["1"].retrained.n_samples) == (200, 300)
    assert cost["0"].retrained.score < 0.1
    assert cost["1"].retrained.score > 0.9


def test_copies_may_have_seen_fewer_classes_and_no_others() -> None:
    Xs, y = made("xor", 60, seed=0)
    names = np.array(["no", "yes"])[y.astype(int)]
    names[:20] = "maybe"
    whole = InteractionClassifier(**LEARNING | {"max_epochs": 1}).fit(Xs, names)
    rest = {name: x[20:] for name, x in Xs.items()}
    report = whole.report(Xs, names, retrain_on=(rest, names[20:]), n_draws=0)
    assert report.cost_of_dropping()["image"].retrained is not None
    with pytest.raises(ValueError, match="y must be of the classes"):
        whole.report(Xs, names, retrain_on=(Xs, np.where(names == "no", "never", names)), n_draws=0)
