"""The benchmark of known interactions: its baselines, its scores and its command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from statistics import mean

import pytest
import torch
from torch import Tensor

from examples.benchmarks.identify.__main__ import main
from examples.benchmarks.identify.coalitions import (
    benefits,
    confidence_score,
    entropy_score,
    macro_auroc,
    posterior_score,
    proper_subsets,
    weight_score,
)
from examples.benchmarks.identify.masking import interaction_parts, masked_predictions, shapley_interactions
from examples.benchmarks.identify.methods import METHODS
from examples.benchmarks.identify.networks import Embedding
from examples.benchmarks.identify.pointwise import as_weights, gaussian_surprisal, lattice, smaller_information
from examples.benchmarks.identify.predictors import Predictor, only, prior_log_likelihood
from examples.benchmarks.identify.running import run
from examples.benchmarks.identify.scores import Run, score, type_auroc
from examples.benchmarks.identify.settings import Settings
from examples.datasets.known import UNKNOWN, KnownInteractions
from examples.datasets.problems import GROUPS, PROBLEMS, draw
from tests.covering import in_turn

SMALL = Settings(n_train=600, n_validation=200, n_test=200, epochs=2, teachers=2, processes=1)


def known(interaction: list[int], mix: list[float] | None = None) -> KnownInteractions:
    """Samples of two modalities, of which nothing but the types matters."""
    n = len(interaction)
    return KnownInteractions(
        (torch.zeros(n, 1), torch.zeros(n, 1)),
        torch.zeros(n, dtype=torch.long),
        torch.tensor(interaction),
        torch.tensor(mix or [0.25] * 4),
        2,
        (False, False),
    )


# Pointwise information


def information(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, generator=generator), torch.randn(rows, 2, generator=generator)


def test_parts_add_up_as_a_decomposition_must() -> None:
    """u_0 + u_1 + s + r = i(x_0, x_1; y) and u_i + r = i(x_i; y), in every sample."""
    found, surprisal = information(50)
    for parts in (smaller_information(found), lattice(found, surprisal)):
        torch.testing.assert_close(parts.sum(1), found[:, 2])
        torch.testing.assert_close(parts[:, :2] + parts[:, 3:], found[:, :2])


def test_the_smaller_information_is_redundant() -> None:
    found, _ = information(50)
    torch.testing.assert_close(smaller_information(found)[:, 3], found[:, :2].min(1).values)


def test_of_three_modalities_the_second_best_is_redundant() -> None:
    parts = smaller_information(torch.tensor([[0.5, 0.75, 0.125, 1.0]]))
    assert parts.tolist() == [[0, 0.25, 0, 0.25, 0.5]]


def test_other_units_move_the_lattice() -> None:
    """Ten times the numbers: ln 10 more surprise, the same information."""
    found = torch.tensor([[0.7, 0.1, 0.9]])
    before, after = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0 + math.log(10), 1.0]])
    assert lattice(found, before)[0, 3] == pytest.approx(0.7)
    assert lattice(found, after)[0, 3] == pytest.approx(0.1)


def test_surprisal_is_that_of_a_normal_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    train, test = (torch.randn(n, 2, generator=generator) @ mixing.T for n in (20_000, 100))
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), scale_tril=mixing)
    torch.testing.assert_close(gaussian_surprisal(train, test), -normal.log_prob(test), atol=0.1, rtol=0.02)
    more = gaussian_surprisal(10 * train, 10 * test) - gaussian_surprisal(train, test)
    torch.testing.assert_close(more, torch.full((100,), 2 * math.log(10)), atol=1e-3, rtol=0)


def test_parts_become_weights() -> None:
    weights = as_weights(torch.tensor([[3.0, -5.0, 1.0], [-1.0, -3.0, -2.0], [0.0, 0.0, 0.0]]))
    assert weights.tolist() == [[0.75, 0.0, 0.25], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


# Interaction indices


def test_interactions_are_means_over_orders() -> None:
    """Grabisch and Roubens' index of a pair: its joint gain beyond the single ones, over random orders of blocks."""
    n_players = 4
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 2**n_players, generator=generator, dtype=torch.float64)
    found = shapley_interactions(values)
    torch.testing.assert_close(found, found.mT)
    torch.testing.assert_close(found.sum((1, 2)), values[:, -1] - values[:, 0])

    gains: list[Tensor] = []  # players 0 and 1 enter as one block "b"
    for order in permutations(("b", 2, 3)):
        before = sum(1 << player for player in order[: order.index("b")] if isinstance(player, int))
        v = {name: values[:, before | mask] for name, mask in (("none", 0), ("i", 1), ("j", 2), ("both", 3))}
        gains.append(v["both"] - v["i"] - v["j"] + v["none"])
    torch.testing.assert_close(2 * found[:, 0, 1], torch.stack(gains).mean(0))

    shapley = []
    for order in permutations(range(n_players)):
        before = sum(1 << player for player in order[: order.index(2)])
        shapley.append(values[:, before | 4] - values[:, before])
    torch.testing.assert_close(found[:, 2].sum(1), torch.stack(shapley).mean(0))


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ([0.5, 1.0, 0.5, 1.0], [0.5, 0, 0, 0]),  # modality 0 says everything
        ([0.5, 0.5, 1.0, 1.0], [0, 0.5, 0, 0]),
        ([0.5, 0.5, 0.5, 1.0], [0, 0, 0.5, 0]),  # only both
        ([0.5, 1.0, 1.0, 1.0], [0, 0, 0, 0.5]),  # each
    ],
)
def test_parts_of_pure_games(values: list[float], parts: list[float]) -> None:
    assert interaction_parts(shapley_interactions(torch.tensor([values]))).tolist() == [parts]


def test_what_three_modalities_say_alike_is_redundancy() -> None:
    parts = interaction_parts(shapley_interactions(torch.tensor([[0.0] + [1.0] * 7])))
    assert parts.argmax() == 4
    assert parts[0, :4].tolist() == pytest.approx([0] * 4, abs=1e-6)


def test_masked_modalities_come_from_one_other_sample() -> None:
    modalities, background = [torch.tensor([[1.0]]), torch.tensor([[10.0]])], [torch.zeros(5, 1), torch.zeros(5, 1)]
    generator = torch.Generator().manual_seed(0)
    found = masked_predictions(lambda x: x[0] + x[1], modalities, background, 2, generator)
    assert found.squeeze(2).tolist() == [[0, 1, 10, 11]]

    pairs = torch.arange(5.0).unsqueeze(1)  # both modalities of a sample hold its number, so their difference is 0
    found = masked_predictions(lambda x: (x[0] - x[1]).abs(), modalities, [pairs, pairs], 8, generator)
    assert found[0, 0] == 0


# Predictors


def test_likelihoods_of_classes_and_numbers() -> None:
    data = draw("two-modalities", 300, 0)
    predictor = Predictor(data, data, 0, SMALL)
    logits = predictor(data.modalities)
    expected = -torch.nn.functional.cross_entropy(logits, data.target, reduction="none")
    torch.testing.assert_close(predictor.log_likelihood(data), expected)

    numbers = draw("regression", 300, 0)
    predictor = Predictor(numbers, numbers, 0, SMALL)
    normal = torch.distributions.Normal(predictor(numbers.modalities).squeeze(1), predictor.variance**0.5)
    torch.testing.assert_close(predictor.log_likelihood(numbers), normal.log_prob(numbers.target))
    assert predictor.accuracy(numbers) == pytest.approx(1 - predictor.variance / float(numbers.target.var()), abs=0.01)


def test_priors_are_frequencies() -> None:
    train = replace(known([0] * 6), target=torch.tensor([0, 0, 0, 0, 0, 1]))
    test = replace(known([0] * 2), target=torch.tensor([0, 1]))
    assert prior_log_likelihood(train, test).exp().tolist() == pytest.approx([6 / 8, 2 / 8])  # one more of each


def test_the_best_epoch_is_kept() -> None:
    """Labels of noise: the validation loss rises with every epoch of memorizing, so the first is kept."""
    train, validation = draw("two-modalities", 300, 0), draw("two-modalities", 300, 1)
    noise = replace(train, target=torch.randint(2, (300,), generator=torch.Generator().manual_seed(0)))
    once, often = (Predictor(noise, validation, 0, replace(SMALL, epochs=n, learning_rate=0.02)) for n in (1, 12))
    assert often.variance <= once.variance


def test_a_predictor_of_one_modality_sees_no_other() -> None:
    data = draw("three-modalities", 10, 0)
    assert [x is data.modalities[1] for x in only(data, 1).modalities] == [True]


def test_embeddings_keep_vectors_and_learn_images_alone() -> None:
    shapes = [(5,), (100, 3), (1, 28, 28)]
    modalities = [torch.randn(2, *shape) for shape in shapes]
    plain, learned = Embedding(shapes), Embedding(shapes, convolutional=True)
    assert plain.widths == [5, 64, 784]
    assert [x.shape[1] for x in learned(modalities)] == learned.widths == [5, 64, 64]
    assert torch.equal(plain(modalities)[0], modalities[0])
    assert not Embedding([(5,), (1, 28, 28)]).learns
    assert learned.learns


# Scores


def test_scores_are_those_worked_out_by_hand() -> None:
    weights = torch.tensor([[0.75, 0.25, 0, 0], [0.25, 0.75, 0, 0], [0.75, 0.25, 0, 0], [0, 0, 1, 0]])
    found = score([Run(0.5, weights)] * 2, known([0, 1, 1, 2], [0.25, 0.5, 0.25, 0]), [weights.roll(1, 0)] * 2)
    assert found.accuracy == [0.5, 0.5]
    assert found.named == [0.75, 0.75]
    assert found.mix == [pytest.approx(0.1875)] * 2  # means 0.4375 0.3125 0.25 0
    assert found.calibration == [pytest.approx((abs(2 - 2.25) + 0) / 4)] * 2
    assert found.correlation == pytest.approx(1)
    assert found.mean_weights == [[0.75, 0.25, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], None]
    assert found.moved == {"mean": [0, 0], "samples": [pytest.approx((1 + 0.5 + 0.5 + 1) / 4)] * 2}


def test_samples_of_unknown_type_are_named_nothing() -> None:
    weights = torch.tensor([[0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 0, 0.5, 0.5]])
    found = score([Run(0.5, weights)], known([2, UNKNOWN, UNKNOWN], [math.nan] * 4))
    assert found.named == [1]
    assert found.auroc == [1]
    assert math.isnan(found.mix[0])


def test_auroc_is_a_mean_over_types() -> None:
    weights = torch.tensor([[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], [0.7, 0.3, 0, 0], [0.6, 0.4, 0, 0]])
    assert type_auroc(weights, torch.tensor([0, 1, 0, 1])) == 0.75
    assert math.isnan(type_auroc(weights, torch.tensor([0] * 4)))


# Methods


PHOTOGRAPHS_AND_SENSORS = ["digit-sums", "exchanged-sensors-0"]


# Three modalities and a regression change what a method does; images and sequences only what its encoders read.
@pytest.mark.parametrize(
    ("method", "name"),
    [
        *product(METHODS, ["three-modalities", "regression"]),
        *in_turn(list(METHODS), PHOTOGRAPHS_AND_SENSORS),
    ],
)
def test_every_method_weighs_every_kind_of_data(method: str, name: str) -> None:
    found = run(name, method, 0, replace(SMALL, epochs=1, n_train=200, n_validation=80, n_test=80))
    unknown = {"exact": ["exchanged-sensors-0"], "informed": ["exchanged-sensors-0"], "rules": PHOTOGRAPHS_AND_SENSORS}
    if name in unknown.get(method, []):  # the rules are not known
        assert bool(found.weights.isnan().all())
        return
    assert found.weights.shape == (80, 5 if name == "three-modalities" else 4)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(80))
    assert bool((found.weights >= 0).all())
    assert math.isnan(found.accuracy) == (method == "ceiling")


@pytest.mark.parametrize(
    ("method", "at_least"),
    [("ceiling", 0.98), ("informed", 0.95), ("told", 0.95), ("rules", 0.98), ("pointwise", 0.6), ("intershap", 0.5)],
)
def test_methods_name_what_is_easy(method: str, at_least: float) -> None:
    settings = replace(SMALL, n_train=3000, n_validation=500, n_test=500, epochs=8)
    found = run("two-modalities", method, 0, settings)
    truth = draw("two-modalities", 500, 1_000_000, "test").interaction
    assert float((found.weights.argmax(1) == truth).float().mean()) > at_least


def test_exact_weights_are_the_shares() -> None:
    test = draw("dense-gates", 200, 1_000_000, "test")
    assert test.exact is not None
    assert torch.equal(run("dense-gates", "exact", 0, SMALL).weights, test.exact.shares)


# The command


def test_the_command_prints_and_saves_all_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, figure = tmp_path / "new" / "scores.json", tmp_path / "figure.png"
    data = ("noisy-and", "noisy-and/reversed", "exchanged-sensors-0")
    main(replace(SMALL, data=data, method=("exact", "ceiling"), seeds=2, json=file, figure=figure))

    out = capsys.readouterr().out
    assert all(word in out for word in (*data, "exact", "ceiling", "100.0 (100.0)"))
    content = json.loads(file.read_text())
    assert content["settings"]["n_train"] == 600
    results = content["results"]
    assert list(results) == list(data)
    assert results["noisy-and"]["exact"]["named"] == [1, 1]
    assert results["noisy-and"]["exact"]["moved"] is None
    assert results["noisy-and/reversed"]["exact"]["moved"] == {"mean": [0, 0], "samples": [0, 0]}
    assert results["exchanged-sensors-0"]["exact"]["named"] == [None, None]
    assert mean(results["noisy-and"]["ceiling"]["named"]) > 0.5
    assert figure.stat().st_size > 1000


@pytest.mark.parametrize("settings", [replace(SMALL, data=("xor",)), replace(SMALL, method=("oracle",))])
def test_unknown_names_of_data_and_methods_are_refused(settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"must be .*, however: '(xor|oracle)'"):
        main(settings)


def test_groups_hold_problems() -> None:
    assert [len(GROUPS[name]) for name in ("known", "harder")] == [14, 12]
    assert {name.partition("/")[0] for group in GROUPS.values() for name in group} <= set(PROBLEMS)


# Coalition benefit


def subset_predictions(n: int, n_modalities: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    n_subsets = len(proper_subsets(n_modalities))
    log_subsets = torch.randn(n, n_subsets, 4, generator=generator).log_softmax(-1)
    log_full = (2 * torch.randn(n, 4, generator=generator)).log_softmax(-1)
    return log_subsets, log_full, torch.randint(4, (n,), generator=generator)


def test_proper_subsets_are_all_but_none_and_the_whole() -> None:
    assert proper_subsets(2) == [(0,), (1,)]
    assert [len(proper_subsets(n_modalities)) for n_modalities in (3, 4)] == [2**3 - 2, 2**4 - 2]


def test_benefits_and_posterior_scores_by_loops() -> None:
    log_subsets, log_full, target = subset_predictions(20, 3)
    events, scores = benefits(log_subsets, log_full, target), posterior_score(log_subsets, log_full)
    for b in range(20):
        for s in range(6):
            losses = [-float(log_full[b, y]) for y in range(4)], [-float(log_subsets[b, s, y]) for y in range(4)]
            helps = [full - alone > 0.01 for full, alone in zip(*losses, strict=True)]
            assert bool(events[b, s]) == helps[target[b]]
            believed = sum(float(log_full[b, y].exp()) for y in range(4) if helps[y])
            assert float(scores[b, s]) == pytest.approx(believed, abs=1e-6)


def test_the_posterior_score_is_the_best_where_the_posterior_is_right() -> None:
    log_subsets, log_full, _ = subset_predictions(20_000, 2)
    target = torch.multinomial(log_full.exp(), 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    events, scores = benefits(log_subsets, log_full, target), posterior_score(log_subsets, log_full)
    for s in range(2):
        for low in (0.0, 0.2, 0.4, 0.6, 0.8):
            rows = (scores[:, s] >= low) & (scores[:, s] < low + 0.2)
            n = int(rows.sum())
            assert float(events[rows, s].float().mean()) == pytest.approx(float(scores[rows, s].mean()), abs=3 / n**0.5)
    others = [macro_auroc(found, events) for found in (confidence_score(log_full, 2), entropy_score(log_full, 2))]
    assert macro_auroc(scores, events) > 0.75 > max(others)


def test_weights_score_what_a_subset_keeps() -> None:
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]])  # uniqueness 0, 1, 2, synergy, redundancy
    expected = [0.35, 0.45, 0.55, 0.55, 0.65, 0.75]
    assert weight_score(weights)[0].tolist() == pytest.approx(expected)


def test_confidence_and_entropy() -> None:
    log_full = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()
    assert confidence_score(log_full, 2).tolist() == [[0.5, 0.5], [1, 1]]
    assert entropy_score(log_full, 2).tolist() == [[pytest.approx(math.log(2))] * 2, [0, 0]]


def test_subsets_without_both_outcomes_are_left_out() -> None:
    events = torch.tensor([[True, True, False], [False, True, False]])
    scores = torch.tensor([[0.9, 0.0, 0.9], [0.1, 0.9, 0.1]])
    assert macro_auroc(scores, events) == 1
    assert math.isnan(macro_auroc(scores, torch.ones(2, 3, dtype=torch.bool)))
