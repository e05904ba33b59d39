"""Categories against hand-written truth tables, degrees against their identity, distances against slow oracles."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import pairwise, permutations, product
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from i2moe import categorize
from i2moe._common.names import expert_colors
from i2moe.categorization import (
    KL,
    L1,
    L2,
    Calibrated,
    Cosine,
    Distance,
    Halfway,
    JensenShannon,
    LikeliestClass,
    Quantile,
    TotalVariation,
    as_distance,
    fit_threshold,
    interaction_degrees,
    sensitivity,
)

mpl.use("Agg")

DISTANCES: list[Distance] = [L1(), L2(), Cosine(), KL(), JensenShannon(), TotalVariation()]

# What is hand-written: classes said by the modalities, label -> category.
TWO_MODALITIES_TWO_CLASSES = {
    ((0, 0), 0): "redundancy",
    ((0, 0), 1): "synergy",
    ((0, 1), 0): "uniqueness/0",
    ((0, 1), 1): "uniqueness/1",
    ((1, 0), 0): "uniqueness/1",
    ((1, 0), 1): "uniqueness/0",
    ((1, 1), 0): "synergy",
    ((1, 1), 1): "redundancy",
}
TWO_MODALITIES_LABEL_0_OF_3 = {
    (0, 0): "redundancy",
    (0, 1): "uniqueness/0",
    (0, 2): "uniqueness/0",
    (1, 0): "uniqueness/1",
    (2, 0): "uniqueness/1",
    (1, 1): "synergy",
    (1, 2): "synergy",
    (2, 1): "synergy",
    (2, 2): "synergy",
}
THREE_MODALITIES_LABEL_0 = {
    (0, 0, 0): "redundancy",
    (0, 0, 1): "redundancy",
    (0, 1, 0): "redundancy",
    (1, 0, 0): "redundancy",
    (0, 1, 1): "uniqueness/0",
    (1, 0, 1): "uniqueness/1",
    (1, 1, 0): "uniqueness/2",
    (1, 1, 1): "synergy",
}


def probabilities(seed: int, *shape: int, sharpness: float = 2.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(shape, generator=draw, dtype=torch.float64)).softmax(-1)


def said(classes: Any, n_classes: int, sureness: float = 0.9) -> Tensor:
    """Probabilities that put `sureness` on the given classes."""
    hot = F.one_hot(torch.as_tensor(classes), n_classes).double()
    return hot * sureness + (1 - hot) * (1 - sureness) / (n_classes - 1)


def names_of(found: Any) -> list[str]:
    return [found.names[k] for k in found.category]


@pytest.mark.parametrize("sureness", [0.6, 0.9, 1.0])
def test_two_modalities_two_classes(sureness: float) -> None:
    classes = torch.tensor([list(key[0]) for key in TWO_MODALITIES_TWO_CLASSES])
    target = torch.tensor([key[1] for key in TWO_MODALITIES_TWO_CLASSES])
    found = categorize(said(classes, 2, sureness), said(target, 2), target, threshold=LikeliestClass())
    assert names_of(found) == list(TWO_MODALITIES_TWO_CLASSES.values())
    assert found.agreement.tolist() == [a == b for a, b in classes.tolist()]


@pytest.mark.parametrize(("table", "n_classes"), [(TWO_MODALITIES_LABEL_0_OF_3, 3), (THREE_MODALITIES_LABEL_0, 2)])
def test_enumeration_of_all_answers_for_every_label(table: dict[tuple[int, ...], str], n_classes: int) -> None:
    """Relabelling the classes moves no sample."""
    for names in permutations(range(n_classes)):
        classes = torch.tensor(list(table))
        renamed = torch.tensor(names)[classes]
        target = torch.full((len(table),), names[0])
        found = categorize(said(renamed, n_classes), said(target, n_classes), target, threshold=LikeliestClass())
        assert names_of(found) == list(table.values())


@pytest.mark.filterwarnings("ignore:the predictions should tell more")
@given(st.integers(0, 2**20), st.integers(2, 5), st.integers(2, 4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_degrees_sum_to_the_multimodal_confidence(seed: int, n_modalities: int, n_classes: int, labels: bool) -> None:
    unimodal, multimodal = probabilities(seed, 20, n_modalities, n_classes), probabilities(seed + 1, 20, n_classes)
    target = torch.randint(n_classes, (20,), generator=torch.Generator().manual_seed(seed)) if labels else None
    found = categorize(unimodal, multimodal, target)
    confidence = multimodal.max(-1).values if target is None else multimodal[torch.arange(20), target]
    torch.testing.assert_close(found.degrees.sum(-1), confidence)
    assert found.degrees.min() >= 0
    assert (found.degrees[:, :n_modalities] > 0).sum(-1).max() <= 1  # unique is one modality at most


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.floats(0, 1), st.floats(0, 0.6))
@settings(deadline=None)
def test_degrees_are_the_differences_of_sorted_confidences(each: list[float], together: float, chance: float) -> None:
    found = interaction_degrees(
        torch.tensor([each], dtype=torch.float64), torch.tensor([together], dtype=torch.float64), chance=chance
    )[0].tolist()
    total = max(together - chance, 0)
    q = sorted((min(max(x - chance, 0), total) for x in each), reverse=True)
    assert found[-2] == pytest.approx(total - q[0])
    assert found[-1] == pytest.approx(q[1])
    assert sum(found[:-2]) == pytest.approx(q[0] - q[1])
    assert found[each.index(max(each))] == pytest.approx(q[0] - q[1])


@pytest.mark.parametrize("n_modalities", [2, 3, 4])
def test_with_certain_predictions_the_largest_degree_names_the_category(n_modalities: int) -> None:
    classes = torch.tensor(list(product(range(3), repeat=n_modalities)))
    target = torch.zeros(len(classes), dtype=torch.long)
    found = categorize(said(classes, 3, 1.0), said(target, 3, 1.0), target, threshold=LikeliestClass())
    assert torch.equal(found.degrees.argmax(-1), found.category)
    torch.testing.assert_close(found.degrees.max(-1).values, torch.ones(len(classes), dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:the predictions should tell more")
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_permuting_modalities_permutes_uniqueness(order: tuple[int, ...], labels: bool) -> None:
    unimodal, multimodal = probabilities(0, 200, 3, 3), probabilities(1, 200, 3)
    target = torch.randint(3, (200,), generator=torch.Generator().manual_seed(2)) if labels else None
    before = categorize(unimodal, multimodal, target)
    after = categorize(unimodal[:, list(order)], multimodal, target)
    columns = [*order, 3, 4]
    torch.testing.assert_close(after.degrees, before.degrees[:, columns])
    moved = torch.tensor([columns.index(k) for k in range(5)])
    assert torch.equal(after.category, moved[before.category])


def test_without_labels_certain_predictions_give_the_categories_of_labels() -> None:
    """The multimodal prediction stands in for the label."""
    classes = torch.tensor(list(product(range(3), repeat=3)))
    truth = torch.zeros(len(classes), dtype=torch.long)
    with_labels = categorize(said(classes, 3, 1.0), said(truth, 3, 1.0), truth, threshold=LikeliestClass())
    for distance in DISTANCES:
        without = categorize(said(classes, 3, 1.0), said(truth, 3, 1.0), distance=distance, threshold=0.01)
        assert torch.equal(without.category, with_labels.category)
        assert torch.equal(without.agreement, with_labels.agreement)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("distance", ["l1", "l2", "total_variation"])
def test_halfway_lies_between_guessing_and_certainty(n_classes: int, distance: str) -> None:
    """Along the line from uniform to certain, these distances are near from the middle on."""
    middle = (1 + 1 / n_classes) / 2
    right = torch.tensor([1.0, middle + 0.01, middle - 0.01, 1 / n_classes], dtype=torch.float64)
    first = torch.cat([right.unsqueeze(1), ((1 - right) / (n_classes - 1)).unsqueeze(1).expand(4, n_classes - 1)], 1)
    target = torch.zeros(4, dtype=torch.long)
    guess = torch.full((4, n_classes), 1 / n_classes, dtype=torch.float64)
    found = categorize(torch.stack([guess, first], 1), guess, target, distance=distance, threshold=Halfway())
    assert names_of(found) == ["uniqueness/1", "uniqueness/1", "synergy", "synergy"]


def test_a_guess_that_happens_to_be_right_is_near_by_class_only() -> None:
    unimodal = torch.tensor([[[0.95, 0.05], [0.55, 0.45]], [[0.95, 0.05], [0.9, 0.1]], [[0.45, 0.55], [0.55, 0.45]]])
    target, multimodal = torch.zeros(3, dtype=torch.long), torch.tensor([[0.9, 0.1]]).expand(3, 2)
    by_class = categorize(unimodal, multimodal, target, threshold=LikeliestClass())
    assert names_of(by_class) == ["redundancy", "redundancy", "uniqueness/1"]
    surely = categorize(unimodal, multimodal, target, threshold=Halfway())
    assert names_of(surely) == ["uniqueness/0", "redundancy", "synergy"]


def copies(accuracies: tuple[float, ...], prior: float = 0.5, n: int = 600) -> tuple[Tensor, Tensor, Tensor]:
    """Draw labels, what modalities predict of which each is right by its accuracy, and the posterior given all."""
    draw = torch.Generator().manual_seed(0)
    target = (torch.rand(n, generator=draw) < prior).long()
    accuracy = torch.tensor(accuracies, dtype=torch.float64)
    wrong = torch.rand(n, len(accuracies), generator=draw) > accuracy
    base = torch.tensor([1 - prior, prior], dtype=torch.float64)
    likelihoods = said((target.unsqueeze(1) + wrong) % 2, 2, 1.0) * (2 * accuracy - 1).unsqueeze(1)
    likelihoods = likelihoods + (1 - accuracy).unsqueeze(1)  # (B, M, C), of what each modality shows
    unimodal, multimodal = likelihoods * base, likelihoods.prod(1) * base
    return unimodal / unimodal.sum(-1, keepdim=True), multimodal / multimodal.sum(-1, keepdim=True), target


def sharpened(probabilities: Tensor, power: float) -> Tensor:
    return (power * probabilities.log()).softmax(-1)


def share_of(found: Any, name: str) -> float:
    return float((found.category == found.names.index(name)).double().mean())


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("accuracies", [(0.66, 0.63), (0.9, 0.85), (0.58, 0.57), (0.65, 0.65, 0.65), (0.66,) * 5])
def test_noisy_copies_of_a_label_are_no_synergy(accuracies: tuple[float, ...], labels: bool) -> None:
    """Synergy there is none, by construction; the other rules find some, Halfway most where copies are weak."""
    unimodal, multimodal, target = copies(accuracies)
    assert share_of(categorize(unimodal, multimodal, target if labels else None), "synergy") <= 0.01
    both_wrong = math.prod(1 - accuracy for accuracy in accuracies)
    by_class = categorize(unimodal, multimodal, target, threshold=LikeliestClass())
    assert share_of(by_class, "synergy") == pytest.approx(both_wrong, abs=0.05)
    if max(accuracies) < 0.75:
        assert share_of(categorize(unimodal, multimodal, target, threshold=Halfway()), "synergy") == 1


@pytest.mark.parametrize("confidence", [0.55, 0.75, 0.99, 1.0])
def test_a_modality_at_chance_is_not_near_however_confident(confidence: float) -> None:
    """Two modalities guess, together they are right: synergy; with one that knows, the uniqueness of that one."""
    draw = torch.Generator().manual_seed(0)
    target, guess = torch.randint(2, (600,), generator=draw), torch.randint(2, (600, 2), generator=draw)
    guesses, knows = said(guess, 2, confidence), said(target, 2, 0.95)
    assert share_of(categorize(guesses, knows, target), "synergy") >= 0.99
    one_knows = torch.stack([guesses[:, 0], knows], dim=1)
    assert share_of(categorize(one_knows, knows, target), "uniqueness/1") >= 0.99


@pytest.mark.parametrize("prior", [0.5, 0.2])
def test_one_weak_modality_beside_a_guess_is_unique(prior: float) -> None:
    unimodal, multimodal, target = copies((0.5, 0.7), prior)
    overfitted = torch.stack([sharpened(probabilities(27, 600, 2), 3.0), unimodal[:, 1]], dim=1)
    assert share_of(categorize(overfitted, multimodal, target), "uniqueness/1") >= 0.98


@pytest.mark.parametrize("power", [0.3, 3.0])
def test_with_labels_overconfidence_moves_no_sample(power: float) -> None:
    unimodal, multimodal, target = copies((0.8, 0.7))
    expected = categorize(unimodal, multimodal, target)
    found = categorize(sharpened(unimodal, power), sharpened(multimodal, power), target)
    assert (found.category == expected.category).double().mean() >= 0.99


def test_a_wrong_label_does_not_decide_the_category_of_its_sample() -> None:
    draw = torch.Generator().manual_seed(0)
    truth, guess = torch.randint(2, (600,), generator=draw), torch.randint(2, (600,), generator=draw)
    wrong = torch.rand(600, generator=draw) < 0.1
    unimodal, multimodal = torch.stack([said(truth, 2), said(guess, 2)], dim=1), said(truth, 2)
    found = categorize(unimodal, multimodal, (truth + wrong) % 2)
    assert share_of(found[wrong], "uniqueness/0") == share_of(found, "uniqueness/0") == 1


@pytest.mark.filterwarnings("ignore:the predictions should tell more")
@pytest.mark.parametrize("n_samples", [1, 2, 50])
@pytest.mark.parametrize("n_classes", [2, 7])
def test_calibration_is_finite_for_few_and_certain_predictions(n_samples: int, n_classes: int) -> None:
    classes = torch.arange(n_samples) % n_classes
    unimodal, multimodal = said(classes, n_classes, 1.0).unsqueeze(1).expand(-1, 2, -1), said(classes, n_classes, 1.0)
    for target in (None, classes, torch.zeros_like(classes)):
        with torch.inference_mode():
            found = categorize(unimodal.half().contiguous(), multimodal, target)
        assert len(found) == n_samples
    assert share_of(categorize(unimodal, multimodal, classes), "redundancy") == 1


@pytest.mark.parametrize("labels", [torch.arange(200) % 2, torch.zeros(200, dtype=torch.long)])
def test_equal_predictions_are_redundant_whatever_they_are_worth(labels: Tensor) -> None:
    """Any weights of the same sum are as likely: a part of them must not be cut off."""
    wrong = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.3
    same = said((labels + wrong) % 2, 2, 0.99)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = categorize(torch.stack([same, same], dim=1), same, labels)
    if labels.any():
        assert share_of(found, "redundancy") == 1
        assert not caught
    else:
        assert "the categories are noise" in str(caught[0].message)
        assert caught[0].filename == __file__


def test_predictions_at_chance_are_warned_of() -> None:
    unimodal, multimodal = probabilities(28, 300, 2, 3), probabilities(29, 300, 3)
    target = torch.arange(300) % 3
    with pytest.warns(UserWarning, match=r"gain .* nats on 300 samples: the categories are noise"):
        categorize(unimodal, multimodal, target)
    categorize(unimodal, said(target, 3, 0.4), target)
    categorize(unimodal, multimodal)


def test_finer_classes_say_who_agrees() -> None:
    unimodal = torch.tensor(
        [
            [[0.9, 0.1], [0.9, 0.1]],  # both near
            [[0.1, 0.9], [0.1, 0.9]],  # both far, together
            [[0.9, 0.1], [0.1, 0.9]],  # one near
            [[0.6, 0.4], [0.6, 0.4]],  # both far, together
            [[0.5, 0.5], [0.01, 0.99]],  # both far, apart
        ]
    )
    found = categorize(unimodal, torch.tensor([[0.9, 0.1]]).expand(5, 2), threshold=0.2)
    finer = found.by_agreement()
    assert names_of(finer) == [
        "agreement/redundancy",
        "agreement/synergy",
        "disagreement/uniqueness/0",
        "agreement/synergy",
        "disagreement/synergy",
    ]
    torch.testing.assert_close(finer.degrees.sum(-1), found.degrees.sum(-1))
    assert torch.equal(finer.category % 4, found.category)
    assert (finer.degrees[finer.agreement, 4:] == 0).all()
    assert (finer.degrees[~finer.agreement, :4] == 0).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_a_quantile_is_the_share_of_near_modalities(share: float) -> None:
    unimodal, multimodal = probabilities(3, 400, 2, 3), probabilities(4, 400, 3)
    found = categorize(unimodal, multimodal, threshold=Quantile(share))
    assert found.threshold is not None
    distances = (unimodal - multimodal.unsqueeze(1)).abs().sum(-1)
    assert float((distances <= found.threshold).double().mean()) == pytest.approx(share, abs=0.005)
    again = categorize(unimodal[:7], multimodal[:7], threshold=found.threshold)
    assert torch.equal(again.category, found.category[:7])


@pytest.mark.parametrize("arguments", [{"distance": "l1"}, {"task": "regression"}])
def test_the_default_distance_threshold_is_the_median(arguments: dict[str, Any]) -> None:
    unimodal, multimodal = probabilities(3, 100, 2, 3), probabilities(4, 100, 3)
    default = categorize(unimodal, multimodal, **arguments)
    median = categorize(unimodal, multimodal, **arguments, threshold=Quantile(0.5))
    assert default.threshold == median.threshold
    assert torch.equal(default.category, median.category)


@pytest.mark.filterwarnings("ignore:the predictions should tell more")
@pytest.mark.parametrize("target", [None, torch.arange(100) % 3])
def test_the_default_without_a_distance_is_calibrated(target: Tensor | None) -> None:
    unimodal, multimodal = probabilities(3, 100, 2, 3), probabilities(4, 100, 3)
    default = categorize(unimodal, multimodal, target)
    assert default.threshold is None
    assert torch.equal(default.category, categorize(unimodal, multimodal, target, threshold=Calibrated(0.5)).category)


def test_raising_the_threshold_only_brings_modalities_nearer() -> None:
    unimodal, multimodal = probabilities(5, 300, 3, 4), probabilities(6, 300, 4)
    n_near = [
        categorize(unimodal, multimodal, threshold=theta).category.apply_(lambda k: {3: 0, 4: 2}.get(k, 1))
        for theta in (0.0, 0.3, 0.6, 1.0, 2.0)
    ]
    assert all(bool((low <= high).all()) for low, high in pairwise(n_near))
    assert (n_near[-1] == 2).all()


def test_fit_threshold_finds_the_gap() -> None:
    """Right modalities lie 0.2 from the multimodal prediction, wrong ones 1.8: any distance between is perfect."""
    target = torch.arange(40) % 2
    unimodal = torch.stack([said(target, 2, 0.9), said(torch.arange(40) // 2 % 2, 2, 0.9)], dim=1)
    theta = fit_threshold(unimodal, said(target, 2, 1.0), target)
    assert 0.2 - 1e-9 <= theta < 1.8
    found = categorize(unimodal[target == 0], said(target, 2, 1.0)[target == 0], threshold=theta)
    assert set(names_of(found)) == {"uniqueness/0", "redundancy"}


@pytest.mark.filterwarnings("ignore:the predictions should tell more")
@pytest.mark.parametrize(("margin", "expected"), [(0.0, [True, False, False]), (0.1, [True, True, False])])
def test_samples_within_the_margin_are_ambiguous(margin: float, expected: list[bool]) -> None:
    second = torch.tensor([[0.5, 0.5], [0.55, 0.45], [0.56, 0.44]])
    unimodal = torch.stack([said([0, 0, 0], 2).float(), second], dim=1)
    found = categorize(unimodal, said([0, 0, 0], 2), torch.tensor([0, 0, 0]), margin=margin)
    assert found.ambiguous.tolist() == expected
    assert len(found[~found.ambiguous]) == expected.count(False)


def test_counts_per_category_and_class() -> None:
    classes = torch.tensor([key[0] for key in TWO_MODALITIES_TWO_CLASSES])
    target = torch.tensor([key[1] for key in TWO_MODALITIES_TWO_CLASSES])
    found = categorize(said(classes, 2), said(target, 2), target, threshold=LikeliestClass())
    assert found.count().tolist() == [2, 2, 2, 2]
    assert torch.equal(found.count(target.numpy(), 3), found.count(target, 3))
    assert repr(found) == "Categories(8 samples: uniqueness/0 2, uniqueness/1 2, synergy 2, redundancy 2; 0 ambiguous)"
    assert found.count(target, 3).tolist() == [[1, 1, 0]] * 4
    with pytest.raises(ValueError, match="labels must lie in"):
        found.count(target, 1)
    with pytest.raises(ValueError, match="one per sample"):
        found.count(target[:2])


def test_regression_with_and_without_targets() -> None:
    unimodal = torch.tensor([[[1.0], [1.1]], [[1.0], [5.0]], [[4.0], [-2.0]], [[7.0], [7.0]]])
    target = torch.ones(4)
    found = categorize(unimodal, target.unsqueeze(1), target, threshold=0.2, task="regression")
    assert names_of(found) == ["redundancy", "uniqueness/0", "synergy", "synergy"]
    assert found.agreement.tolist() == [True, False, False, True]
    torch.testing.assert_close(found.degrees.sum(-1), torch.ones(4))
    free = categorize(unimodal, target.unsqueeze(1), threshold=0.2, task="regression", distance="l2")
    assert torch.equal(free.category, found.category)
    shifted = categorize(unimodal + 3, target.unsqueeze(1) + 3, target + 3, threshold=0.2, task="regression")
    assert torch.equal(shifted.category, found.category)


def slow(distance: Distance, p: list[float], q: list[float]) -> float:
    """The definitions, term by term."""
    pairs = list(zip(p, q, strict=True))
    match distance:
        case L1():
            return sum(abs(a - b) for a, b in pairs)
        case TotalVariation():
            return sum(max(a - b, 0) for a, b in pairs)
        case L2():
            return math.dist(p, q)
        case Cosine():
            return 1 - sum(a * b for a, b in pairs) / (math.hypot(*p) * math.hypot(*q))
        case KL():
            return sum(a * math.log(a / max(b, 1e-12)) for a, b in pairs if a > 0)
        case JensenShannon():
            middle = [(a + b) / 2 for a, b in pairs]
            return (slow(KL(), p, middle) + slow(KL(), q, middle)) / 2
    raise AssertionError(distance)


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_distances_equal_their_definitions(distance: Distance) -> None:
    p, q = probabilities(7, 40, 4), probabilities(8, 40, 4)
    p[0], q[0] = torch.eye(4)[0], torch.eye(4)[1]  # nothing in common
    expected = [slow(distance, a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    assert distance(p, q).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_distances_are_zero_at_the_same_and_positive_elsewhere(distance: Distance) -> None:
    p, q = probabilities(9, 100, 3), probabilities(10, 100, 3)
    assert distance(p, p).abs().max() < 1e-12
    assert distance(p, q).min() > 0
    if not isinstance(distance, KL):
        torch.testing.assert_close(distance(p, q), distance(q, p))


@pytest.mark.parametrize("root", [L1(), L2(), TotalVariation(), lambda p, q: JensenShannon()(p, q).sqrt()])
def test_triangle_inequality(root: Distance) -> None:
    p, q, r = (probabilities(seed, 500, 3) for seed in (11, 12, 13))
    assert (root(p, r) <= root(p, q) + root(q, r) + 1e-12).all()


def test_any_callable_is_a_distance() -> None:
    unimodal, multimodal = probabilities(14, 50, 2, 3), probabilities(15, 50, 3)
    by_function = categorize(unimodal, multimodal, distance=lambda p, q: (p - q).abs().sum(-1))
    assert torch.equal(by_function.category, categorize(unimodal, multimodal, distance="l1").category)


@pytest.mark.filterwarnings("ignore:the predictions should tell more")
@pytest.mark.parametrize("target", [None, torch.arange(60) % 3])
def test_arrays_and_data_frames_are_taken(target: Tensor | None) -> None:
    unimodal, multimodal = probabilities(16, 60, 2, 3), probabilities(17, 60, 3)
    expected = categorize(unimodal, multimodal, target)
    labels = None if target is None else target.numpy()
    found = categorize(unimodal.numpy(), multimodal.numpy(), labels)
    frames = categorize(
        unimodal.tolist(), pd.DataFrame(multimodal.numpy()), None if target is None else pd.Series(labels)
    )
    assert torch.equal(found.category, expected.category)
    assert torch.equal(frames.category, expected.category)
    listed = categorize(list(unimodal.unbind(1)), multimodal, target)
    framed = categorize([pd.DataFrame(of_one.numpy()) for of_one in unimodal.unbind(1)], multimodal, target)
    assert torch.equal(listed.degrees, expected.degrees)
    assert torch.equal(framed.degrees, expected.degrees)
    chosen = pd.Series(found.category.numpy() == 3)
    assert torch.equal(found[chosen].degrees, expected[expected.category == 3].degrees)


def test_degrees_of_arrays_and_data_frames() -> None:
    each, together = torch.rand(9, 3), torch.rand(9)
    frames = interaction_degrees(pd.DataFrame(each.numpy(), index=range(5, 14)), pd.Series(together.numpy()))
    assert torch.equal(frames, interaction_degrees(each, together))


@pytest.mark.parametrize("n_classes", [2, 5, 50, 1000])
def test_a_softmax_in_half_precision_is_taken(n_classes: int) -> None:
    logits = 3 * torch.randn(2000, 3, n_classes, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.bfloat16, torch.float16):
        rounded = logits.to(dtype).softmax(-1)
        for p in (rounded, rounded.float()):
            assert len(categorize(p[:, :2], p[:, 2], threshold=0.5)) == 2000


def test_sensitivity_compares_settings() -> None:
    multimodal = probabilities(19, 200, 3)
    by_name = {"linear": probabilities(18, 200, 2, 3), "deep": probabilities(20, 200, 2, 3)}
    found = sensitivity(by_name, multimodal, distances=("l1", TotalVariation()), thresholds=(0.5, Quantile(0.4)))
    assert len(found.settings) == 8
    assert found.category.shape == (8, 200)
    torch.testing.assert_close(found.fractions.sum(-1), torch.ones(8))
    torch.testing.assert_close(found.agreement, found.agreement.T)
    assert (found.agreement.diagonal() == 1).all()
    assert (found.kappa.diagonal() == 1).all()
    assert (found.kappa <= found.agreement + 1e-12).all()
    assert set(found.by_factor()) == {"classifiers", "distance", "threshold"}
    expected = categorize(by_name["linear"], multimodal, distance="l1", threshold=0.5).category
    assert torch.equal(found.category[0], expected)


@pytest.mark.filterwarnings("ignore:the predictions should tell more")
def test_where_classes_are_compared_the_distance_makes_no_difference() -> None:
    target = torch.arange(90) % 3
    for threshold in (Calibrated(), LikeliestClass()):
        found = sensitivity(probabilities(21, 90, 2, 3), probabilities(22, 90, 3), target, thresholds=(threshold,))
        assert found.by_factor() == {"distance": 1.0}


def test_sensitivity_plot_has_a_bar_per_setting_and_category() -> None:
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgba

    found = sensitivity(probabilities(23, 50, 2, 3), probabilities(24, 50, 3))
    axes = found.plot()
    assert len(axes.patches) == len(found.settings) * len(found.names)
    widths = sum(patch.get_width() for patch in axes.patches)  # type: ignore[attr-defined]
    assert widths == pytest.approx(len(found.settings), rel=1e-5)
    drawn = [patch.get_facecolor() for patch in axes.patches[:: len(found.settings)]]
    assert drawn == [to_rgba(color) for color in expert_colors(found.names).values()]
    assert found.plot(axes) is axes
    plt.close("all")


GOOD = probabilities(25, 6, 2, 3), probabilities(26, 6, 3), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u, m, y: categorize(u.log(), m, y), "softmax"),
        (lambda u, m, y: categorize(u * 0.9, m, y), "sum to 1"),
        (lambda u, m, y: categorize(u, m * 2, y), "multimodal must be at least 0"),
        (lambda u, m, y: categorize(u / 0, m, y), "finite"),
        (lambda u, m, y: categorize(u[:, :1], m, y), "at least two modalities"),
        (lambda u, m, y: categorize(u[:, 0], m, y), "must be \\(B, M, C\\)"),
        (lambda u, m, y: categorize(u[:0], m[:0], y[:0]), "at least one sample"),
        (lambda u, m, y: categorize(u, m[:5], y), "multimodal must be"),
        (lambda u, m, y: categorize(u[..., :1], m[..., :1], y), "at least two classes"),
        (lambda u, m, y: categorize(u, m, y[:5]), "one row for each of the 6"),
        (lambda u, m, y: categorize(u, m, y.double()), "class indices .* of torch.float64"),
        (lambda u, m, y: categorize(u, m, y + 1), "lie in \\[0, 3\\)"),
        (lambda u, m, y: categorize(u, m, y - 1), "lie in \\[0, 3\\)"),
        (lambda u, m, y: categorize(u, m, distance="manhattan"), "must be one of"),
        (lambda u, m, y: categorize(u, m, distance=lambda p, q: (p - q)[..., 0]), "not be negative"),
        (lambda u, m, y: categorize(u, m, distance=lambda p, q: (p - p).sum(-1) / 0), "must be finite"),
        (lambda u, m, y: categorize(u, m, distance=lambda p, q: p - q), "reduce the last axis"),
        (lambda u, m, y: categorize(u, m, threshold=-0.1), "threshold must be"),
        (lambda u, m, y: categorize(u, m, threshold="halfway"), "threshold must be"),  # type: ignore[arg-type]
        (lambda u, m, y: fit_threshold(u, m, y, n_candidates=0), "n_candidates must be at least 1"),
        (lambda u, m, y: categorize(u, m, threshold=float("nan")), "threshold must be"),
        (lambda u, m, y: categorize(u, m, margin=-1), "margin must lie"),
        (lambda u, m, y: categorize(u, m, task="ranking"), "task must be"),  # type: ignore[arg-type]
        (lambda u, m, y: categorize(u, m, modality_names=("a", "a")), "different, not empty"),
        (lambda u, m, y: categorize(u, m, task="regression", distance="kl"), "takes distributions"),
        (lambda u, m, y: categorize(u, m, y, task="regression"), "shape \\(6, 3\\)"),
        (lambda u, m, y: categorize(u / 0, m, task="regression"), "finite"),
        (lambda u, m, y: categorize(u, m, y.unsqueeze(1).expand(6, 3) / 0.0, task="regression"), "target must be fin"),
        (lambda u, m, y: interaction_degrees(u[:, :, 0], m), "confidences must be"),
        (lambda u, m, y: sensitivity(u, m, distances=()), "at least one"),
        (lambda u, m, y: Quantile(1.5), "q must lie"),
        (lambda u, m, y: Calibrated(-0.1), "fraction must lie"),
        (lambda u, m, y: categorize(u, m, task="regression", threshold=Halfway()), "classes to compare"),
    ],
)
def test_bad_values_are_refused(change: Callable[[Tensor, Tensor, Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(*GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u, m, y: categorize("abc", m), "must be a tensor or an array"),
        (lambda u, m, y: categorize(u, m, pd.Series(list("abcabc"))), "number classes 0, 1"),
        (lambda u, m, y: categorize(u, m, distance=L1), "an object called"),  # type: ignore[arg-type]
        (lambda u, m, y: categorize(u, m, distance=lambda p, q: 0.0), "must return a tensor"),  # type: ignore[arg-type]
        (lambda u, m, y: as_distance(3), "must be a name"),  # type: ignore[arg-type]
    ],
)
def test_bad_types_are_refused(change: Callable[[Tensor, Tensor, Tensor], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        change(*GOOD)
