"""The decomposition against closed forms, its identities, and an independent solver."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from i2moe.pid import PID, against_rest, estimate_pid, joint_distribution, kmeans, pid

TOLERANCE = 2e-6  # bits, what the solver is trusted with


def terms(found: PID) -> list[float]:
    return list(found.to_dict().values())


def gate(function: Callable[[int, int], int]) -> Tensor:
    """p(a, b, y) of y = function(a, b) for two fair coins."""
    joint = torch.zeros(2, 2, 2)
    for a in range(2):
        for b in range(2):
            joint[a, b, function(a, b)] = 0.25
    return joint


def random_joint(seed: int, *, shape: tuple[int, int, int] = (3, 4, 2), zeros: float = 0.0) -> Tensor:
    """A distribution far from uniform; a share `zeros` of its cells is impossible."""
    draw = torch.Generator().manual_seed(seed)
    joint = torch.rand(shape, generator=draw, dtype=torch.float64) ** 3
    joint *= torch.rand(shape, generator=draw) >= zeros
    joint[0, 0, 0] = joint[0, 0, 1] = 0.1  # two classes at least
    return joint / joint.sum()


def mutual_information(p: Tensor) -> float:
    """I(A; B) in bits of a table, by the definition: sum p log2 p / (p_a p_b)."""
    total = 0.0
    for a in range(p.shape[0]):
        for b in range(p.shape[1]):
            if p[a, b] > 0:
                total += float(p[a, b] * torch.log2(p[a, b] / (p[a].sum() * p[:, b].sum())))
    return total


@pytest.mark.parametrize(
    ("joint", "expected"),
    [
        (gate(lambda a, b: a ^ b), (0, 0, 0, 1)),
        (gate(lambda a, b: a), (0, 1, 0, 0)),
        (gate(lambda a, b: b), (0, 0, 1, 0)),
        (gate(lambda a, b: a & b), (0.75 * math.log2(4 / 3), 0, 0, 0.5)),
        (gate(lambda a, b: a | b), (0.75 * math.log2(4 / 3), 0, 0, 0.5)),
        (torch.diag_embed(torch.eye(2))[:, :] * 0.5, (1, 0, 0, 0)),
        (torch.full((2, 3, 2), 1 / 12), (0, 0, 0, 0)),
    ],
    ids=["xor", "first", "second", "and", "or", "copy", "independent"],
)
def test_gates_have_their_closed_forms(joint: Tensor, expected: tuple[float, ...]) -> None:
    assert terms(pid(joint)) == pytest.approx(expected, abs=TOLERANCE)


def test_two_bits_are_one_bit_each() -> None:
    """The target is the pair of two fair coins: each modality tells one bit alone, nothing is synergy."""
    joint = torch.zeros(2, 2, 4)
    for a in range(2):
        for b in range(2):
            joint[a, b, 2 * a + b] = 0.25
    assert terms(pid(joint)) == pytest.approx((0, 1, 1, 0), abs=TOLERANCE)


@pytest.mark.parametrize("erased", [0.2, 0.5, 0.8])
def test_a_degraded_modality_has_nothing_unique(erased: float) -> None:
    """X2 is X1 = Y, erased now and then: R = I(X2; Y) = 1 - erased, U1 = erased."""
    joint = torch.zeros(2, 3, 2)
    for y in range(2):
        joint[y, y, y] = 0.5 * (1 - erased)
        joint[y, 2, y] = 0.5 * erased
    assert terms(pid(joint)) == pytest.approx((1 - erased, erased, 0, 0), abs=TOLERANCE)


@pytest.mark.parametrize("zeros", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_terms_add_up_to_mutual_information(seed: int, zeros: float) -> None:
    joint = random_joint(seed, zeros=zeros)
    found = pid(joint)
    assert found.information_1 == pytest.approx(mutual_information(joint.sum(1)), abs=1e-12)
    assert found.information_2 == pytest.approx(mutual_information(joint.sum(0)), abs=1e-12)
    assert found.total == pytest.approx(mutual_information(joint.flatten(0, 1)), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), zeros=st.sampled_from([0.0, 0.3, 0.7]))
def test_no_term_is_negative(seed: int, zeros: float) -> None:
    assert min(terms(pid(random_joint(seed, zeros=zeros)))) >= 0


@pytest.mark.parametrize("seed", range(4))
def test_swapping_the_modalities_swaps_their_uniqueness(seed: int) -> None:
    joint = random_joint(seed)
    redundancy, unique_1, unique_2, synergy = terms(pid(joint))
    expected = (redundancy, unique_2, unique_1, synergy)
    assert terms(pid(joint.transpose(0, 1))) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("seed", range(3))
def test_names_of_values_do_not_matter(seed: int, axis: int) -> None:
    joint = random_joint(seed, zeros=0.3)
    order = torch.randperm(joint.shape[axis], generator=torch.Generator().manual_seed(seed))
    assert terms(pid(joint.index_select(axis, order))) == pytest.approx(terms(pid(joint)), abs=TOLERANCE)


@pytest.mark.parametrize("axis", range(3))
def test_values_that_never_occur_do_not_matter(axis: int) -> None:
    joint = random_joint(0)
    padded = torch.cat((joint, torch.zeros_like(joint.narrow(axis, 0, 1))), dim=axis)
    assert terms(pid(padded)) == pytest.approx(terms(pid(joint)), abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_a_split_value_tells_nothing_new(seed: int) -> None:
    joint = random_joint(seed)
    split = torch.cat((joint[:1] * 0.3, joint[:1] * 0.7, joint[1:]))
    assert terms(pid(split)) == pytest.approx(terms(pid(joint)), abs=TOLERANCE)


@pytest.mark.parametrize("zeros", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_only_the_pairs_decide_all_but_the_synergy(seed: int, zeros: float) -> None:
    """q(x1, x2, y) = p(x1, y) p(x2, y) / p(y) has the pairs of p, so the same R, U1, U2."""
    joint = random_joint(seed, zeros=zeros)
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True) / joint.sum((0, 1))
    assert terms(pid(independent))[:3] == pytest.approx(terms(pid(joint))[:3], abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_no_distribution_with_the_same_pairs_tells_less(seed: int) -> None:
    """Random steps inside the feasible set: I_q never falls below the optimum that the terms imply."""
    joint = random_joint(seed, shape=(3, 3, 2))
    optimum = pid(joint).total - pid(joint).synergy
    draw = torch.Generator().manual_seed(seed)
    for _ in range(200):
        x, z = (torch.randperm(3, generator=draw)[:2] for _ in range(2))
        y = int(torch.randint(2, (), generator=draw))
        square = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
        corner = joint[x[:, None], z, y]
        largest = corner[square < 0].min()
        joint[x[:, None], z, y] += square * largest * torch.rand((), generator=draw)
        assert mutual_information(joint.flatten(0, 1)) >= optimum - TOLERANCE


@pytest.mark.parametrize("zeros", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 4, 2), (3, 3, 3)])
def test_agrees_with_dit(shape: tuple[int, int, int], zeros: float) -> None:
    """The alternating projections of dit; its default, SLSQP, stops up to 0.1 bit short."""
    dit = pytest.importorskip("dit")
    pytest.importorskip("dit.pid")
    joint = random_joint(sum(shape), shape=shape, zeros=zeros)
    joint = torch.where(joint > 0, joint + 0.02, 0.0)  # near 0 the projections converge too slowly
    joint /= joint.sum()
    outcomes = torch.nonzero(joint)
    distribution = dit.Distribution([tuple(o) for o in outcomes.tolist()], joint[tuple(outcomes.T)].tolist())
    theirs = dit.pid.PID_BROJA(distribution, [[0], [1]], [2], method="admui")
    expected = [float(theirs.get_pi(node)) for node in (((0,), (1,)), ((0,),), ((1,),), ((0, 1),))]
    assert terms(pid(joint)) == pytest.approx(expected, abs=5e-6)


def test_takes_lists_arrays_and_single_precision() -> None:
    joint = random_joint(0)
    expected = pytest.approx(terms(pid(joint)), abs=1e-5)
    assert terms(pid(joint.numpy())) == expected
    assert terms(pid(joint.tolist())) == expected
    assert terms(pid(joint.float().requires_grad_())) == expected


def test_a_mixture_whose_parts_all_see_is_not_the_mean_of_its_parts() -> None:
    """Modality 1 decides one half, modality 2 the other: each knows the target half of the time."""
    first, second = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    for a in range(2):
        for b in range(2):
            first[a, b, a] = second[a, b, b] = 0.25
    whole = torch.zeros(4, 4, 2)
    whole[:2, :2], whole[2:, 2:] = first / 2, second / 2
    assert terms(pid(whole)) == pytest.approx((0.5, 0, 0, 0.5), abs=TOLERANCE)
    parts = PID.mean([pid(first), pid(second)], weights=[0.5, 0.5])
    assert terms(parts) == pytest.approx((0, 0.5, 0.5, 0), abs=TOLERANCE)


def test_printed_with_its_unit() -> None:
    assert str(PID(0.5, 0.25, 0.0, 0.125)) == "R 0.500 | U1 0.250 | U2 0.000 | S 0.125 | total 0.875 bits"


def test_against_rest_sums_to_the_pairs_of_one_modality() -> None:
    joint = torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    merged = against_rest(joint, 1)
    assert merged.shape == (3, 8, 2)
    torch.testing.assert_close(merged.sum(1), joint.sum((0, 2)))
    torch.testing.assert_close(merged[2].reshape(2, 4, 2), joint[:, 2])


def test_joint_distribution_counts() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b, y = (torch.randint(3, (50,), generator=draw) for _ in range(3))
    joint = joint_distribution(a, b, y)
    for i, j, k in torch.cartesian_prod(*[torch.arange(3)] * 3):
        assert float(joint[i, j, k]) == pytest.approx(int(((a == i) & (b == j) & (y == k)).sum()) / 50)


# Estimates


def coins(n: int, *, noise: float = 0.1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two fair coins, and features (n, 3) that show them at distance 4 under noise."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randint(2, (2, n), generator=draw)
    shown = [4.0 * coin[:, None] + noise * torch.randn(n, 3, generator=draw) for coin in (a, b)]
    return a, b, shown[0], shown[1]


def test_clusters_find_what_the_features_show() -> None:
    a, b, shown_1, shown_2 = coins(500)
    found = estimate_pid(shown_1, shown_2, a & b, n_clusters=(2,)).pids[0]
    assert terms(found) == pytest.approx(terms(pid(joint_distribution(a, b, a & b))), abs=TOLERANCE)


def test_few_values_are_counted_not_clustered() -> None:
    a, b, _, _ = coins(200)
    estimate = estimate_pid(a.float(), b.float(), a ^ b, n_clusters=(2, 5, 20))
    assert estimate.spread == pytest.approx(dict.fromkeys(estimate.spread, 0.0), abs=TOLERANCE)
    assert terms(estimate.pids[0]) == pytest.approx(terms(pid(joint_distribution(a, b, a ^ b))), abs=TOLERANCE)


def test_spread_is_the_range_over_the_numbers_of_clusters() -> None:
    draw = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 600, 2, generator=draw)
    estimate = estimate_pid(x, z, (x[:, 0] * z[:, 0] > 0).long(), n_clusters=(4, 6, 8))
    synergies = [found.synergy for found in estimate.pids]
    assert estimate.spread["synergy"] == pytest.approx(max(synergies) - min(synergies))
    assert estimate.spread["synergy"] > 0.05
    assert str(estimate).count("\n") == 7  # a title, two lines per number, the spread


def test_chance_grows_with_the_number_of_clusters() -> None:
    """The plug-in estimate of nothing: (k^2 - 1) (C - 1) / (2 n ln 2) bits on average, cells full."""
    draw = torch.Generator().manual_seed(0)
    x, z = torch.rand(2, 4000, 1, generator=draw)
    target = (x[:, 0] > 0.5).long()
    estimate = estimate_pid(x, z, target, n_clusters=(6, 12))
    for count, chance in zip(estimate.n_clusters, estimate.chance, strict=True):
        assert chance.total == pytest.approx((count**2 - 1) / (2 * 4000 * math.log(2)), rel=0.3)


def test_warns_where_chance_dominates() -> None:
    draw = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 60, 1, generator=draw)
    with pytest.warns(UserWarning, match="with 8 clusters of 60 samples"):
        estimate_pid(x, z, torch.arange(60) % 2, n_clusters=(8,))


def test_a_continuous_target_is_cut_at_its_quantiles() -> None:
    """x and y = exp(x) in four bins: two bits, all unique."""
    x = torch.randn(400, generator=torch.Generator().manual_seed(0))
    constant = torch.zeros(400)
    by_quarter = x.argsort().argsort() // 100
    found = estimate_pid(by_quarter, constant, x.exp(), n_clusters=(4,), n_bins=4).pids[0]
    assert terms(found) == pytest.approx((0, 2, 0, 0), abs=TOLERANCE)


def test_a_clustering_is_an_argument() -> None:
    a, b, shown_1, shown_2 = coins(300)

    def by_sign(features: Tensor, n_clusters: int) -> Tensor:
        return (features[:, 0] > 2).long()

    expected = terms(pid(joint_distribution(a, b, a | b)))
    found = estimate_pid(shown_1, shown_2, a | b, n_clusters=(7,), cluster=by_sign)
    assert terms(found.pids[0]) == pytest.approx(expected, abs=TOLERANCE)
    other = estimate_pid(shown_1, shown_2, a | b, n_clusters=(2,), cluster=partial(kmeans, seed=3))
    assert terms(other.pids[0]) == pytest.approx(expected, abs=TOLERANCE)


def test_equal_seeds_give_equal_estimates_and_leave_the_global_generators() -> None:
    _, _, shown_1, shown_2 = coins(300, noise=3.0)
    target = (shown_1[:, 0] > 2).long()
    before = torch.random.get_rng_state()
    first = estimate_pid(shown_1, shown_2, target, n_clusters=(3, 5))
    assert first == estimate_pid(shown_1, shown_2, target, n_clusters=(3, 5))
    assert torch.equal(before, torch.random.get_rng_state())


# What is refused


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        (torch.full((2, 2), 0.25), r"shape \(n_1, n_2, n_classes\), however: \(2, 2\)"),
        (torch.full((2, 2, 2, 2), 1 / 16), "against_rest"),
        (torch.zeros(0, 2, 2), r"however: \(0, 2, 2\)"),
        (torch.tensor([[[0.5, 0.7], [-0.2, 0.0]]]), "at least 0, however the smallest is -0.2"),
        (torch.ones(2, 2, 2), "sum to 1, however it sums to 8; divide counts"),
        (torch.tensor([[[0.5, math.nan], [0.5, 0.0]]]), "finite, however 1 of its 4"),
        (torch.tensor([[[0.5, 0.0], [0.5, 0.0]]]), "at least two classes, however of 2 only one"),
    ],
)
def test_what_is_no_distribution_is_refused(joint: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pid(joint)


@pytest.mark.parametrize("joint", [torch.ones(2, 2, 2, dtype=torch.complex64), [["a"]], None, [[1.0], [1.0, 2.0]]])
def test_what_holds_no_numbers_is_refused(joint: Tensor) -> None:
    with pytest.raises(TypeError, match="`joint` must be"):
        pid(joint)


@pytest.mark.parametrize("modality", [-1, 3])
def test_a_modality_that_does_not_exist_is_refused(modality: int) -> None:
    with pytest.raises(ValueError, match=rf"0..M-1 .* however: {modality}"):
        against_rest(torch.full((2, 2, 2, 2), 1 / 16), modality)


def test_labels_that_are_none_are_refused() -> None:
    labels = torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match=r"lengths are \{'labels_1': 3, 'labels_2': 3, 'target': 2\}"):
        joint_distribution(labels, labels, labels[:2])
    with pytest.raises(ValueError, match="`labels_2` must count from 0, however the smallest is -1"):
        joint_distribution(labels, labels - 1, labels)
    with pytest.raises(TypeError, match="`target` must hold integers, however its dtype is torch"):
        joint_distribution(labels, labels, labels.float())
    with pytest.raises(ValueError, match=r"shape \(n,\) with n > 0, however: \(3, 1\)"):
        joint_distribution(labels[:, None], labels, labels)


def test_samples_that_cannot_be_estimated_from_are_refused() -> None:
    x, y = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    bad = x.clone()
    bad[3, 1] = math.inf
    with pytest.raises(ValueError, match="`features_2` must be finite, however 1 of its 40"):
        estimate_pid(x, bad, y)
    with pytest.raises(ValueError, match="`features_1` must have shape"):
        estimate_pid(torch.empty(0, 3), x, y)
    with pytest.raises(ValueError, match="'features_1': 20, 'features_2': 19, 'target': 20"):
        estimate_pid(x, x[:19], y)
    with pytest.raises(ValueError, match="at least two classes, however it holds 1"):
        estimate_pid(x, x, torch.zeros(20, dtype=torch.long))
    with pytest.raises(TypeError, match="pass `n_bins`"):
        estimate_pid(x, x, y.float())
    with pytest.raises(ValueError, match="`n_bins` must be at least 2, however: 1"):
        estimate_pid(x, x, y.float(), n_bins=1)
    for counts in ((), (1,), (4, 21)):
        with pytest.raises(ValueError, match=r"numbers in 2..n, however: \("):
            estimate_pid(x, x, y, n_clusters=counts)


@pytest.fixture(params=["cvxpy", "clarabel"])
def absent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, request.param, None)
    return str(request.param)


@pytest.mark.usefixtures("absent")
def test_an_absent_solver_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r'pip install "i2moe\[pid\]"'):
        pid(gate(lambda a, b: a ^ b))


def test_absent_clustering_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"scikit-learn .* \"i2moe\[pid\]\""):
        kmeans(torch.randn(5, 2), 2)


@pytest.mark.filterwarnings("ignore:the true target must tell more")
def test_arrays_and_data_frames_are_taken() -> None:
    first, second, target = torch.randn(50, 2), torch.randn(50, 3), torch.arange(50) % 2
    index = range(100, 150)
    found = estimate_pid(
        pd.DataFrame(first.numpy(), index=index),
        second.numpy(),
        pd.Series(target.numpy(), index=index),
        n_clusters=(4,),
    )
    assert found == estimate_pid(first, second, target, n_clusters=(4,))
    assert torch.equal(kmeans(first.numpy(), 3), kmeans(first, 3))
    assert len(repr(found)) < 100
