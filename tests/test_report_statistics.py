"""The statistics of a report: intervals, ranks, correlations, variance between groups."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from i2moe.interpretation import InteractionReport, WeightStatistics
from i2moe.interpretation.report.measures.faithfulness import agreement
from i2moe.interpretation.report.measures.quality import points, quality
from i2moe.interpretation.statistics import (
    correlation,
    explained_by_groups,
    group_statistics,
    mean_interval,
    rank_correlation,
    ranks,
    student_quantile,
)


class TestIntervals:
    @pytest.mark.parametrize(
        ("concentration", "n_samples", "at_least"),
        [
            # Weights between the experts (2), anywhere (1), and mostly on one expert (0.3).
            *[(2.0, n, 0.93) for n in (5, 10, 20, 50)],
            *[(1.0, n, 0.93) for n in (5, 10, 20, 50)],
            *[(0.3, n, 0.90) for n in (5, 10, 20, 50)],
            # Nearly all on one: the mean of a few samples is that of a coin.
            *[(0.1, n, at_least) for n, at_least in ((5, 0.85), (10, 0.92), (20, 0.93), (50, 0.93))],
        ],
    )
    def test_they_hold_the_true_mean_as_often_as_they_say(
        self, concentration: float, n_samples: int, at_least: float
    ) -> None:
        n_repeats = 2000
        weights = torch.distributions.Dirichlet(torch.full((4,), concentration)).sample((n_repeats * n_samples,))
        repeats = torch.arange(n_repeats).repeat_interleave(n_samples)
        found = group_statistics(weights[:, :1], repeats, n_repeats, confidence=0.95)
        covered = sum(float(group.low) <= 0.25 <= float(group.high) for group in found) / n_repeats
        assert at_least <= covered <= 0.985

    def test_they_are_students_on_the_scale_of_the_logit(self) -> None:
        weights = torch.tensor([[0.1], [0.4], [0.2], [0.3]], dtype=torch.float64)
        found = WeightStatistics.of(weights, confidence=0.95)
        error = math.sqrt((0.15**2 + 0.05**2) * 2 / 3) / 2
        margin = 3.182446 * error / (0.25 * 0.75)  # Student's t of three degrees of freedom
        low, high = (1 / (1 + math.exp(-(math.log(0.25 / 0.75) + sign * margin))) for sign in (-1, 1))
        assert found.low.item() == pytest.approx(low, abs=1e-6)
        assert found.high.item() == pytest.approx(high, abs=1e-6)

    def test_they_stay_between_0_and_1_and_hold_the_sample_mean(self) -> None:
        weights = torch.cat([torch.eye(4), torch.tensor([[1.0, 0, 0, 0]] * 3)])
        found = WeightStatistics.of(weights, confidence=0.999)
        assert (found.low >= 0).all()
        assert (found.high <= 1).all()
        assert (found.low < found.mean).all()
        assert (found.mean < found.high).all()

    def test_weights_that_do_not_vary_have_their_value(self) -> None:
        found = WeightStatistics.of(torch.tensor([[0.0, 0.3, 0.7]]).expand(30, 3).double(), confidence=0.95)
        for bound in (found.low, found.high):
            torch.testing.assert_close(bound, torch.tensor([0.0, 0.3, 0.7], dtype=torch.float64))

    def test_a_single_sample_says_nothing_about_others(self) -> None:
        found = WeightStatistics.of(torch.tensor([[0.2, 0.8]]), confidence=0.95)
        assert (found.low.tolist(), found.high.tolist()) == ([0, 0], [1, 1])

    def test_empty_groups_are_no_error(self) -> None:
        found = WeightStatistics.of(torch.zeros(0, 3), confidence=0.9)
        assert found.n_samples == 0
        assert found.to_dict()["mean"] == found.to_dict()["high"] == [None] * 3

    def test_groups_are_those_taken_one_by_one(self) -> None:
        weights, groups = torch.rand(50, 3, dtype=torch.float64).softmax(1), torch.randint(4, (50,))
        for group, found in enumerate(group_statistics(weights, groups, 4, confidence=0.9)):
            members = weights[groups == group]
            torch.testing.assert_close(found.mean, members.mean(0))
            torch.testing.assert_close(found.std, members.std(0, correction=0))
            assert found.n_samples == len(members)

    @pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
    def test_quantiles_equal_scipys(self, confidence: float) -> None:
        stats = pytest.importorskip("scipy.stats")
        for dof in (1, 2, 3, 9, 49, 10_000, 10_000_000):
            expected = stats.t.ppf((1 + confidence) / 2, dof)
            assert student_quantile(confidence, dof) == pytest.approx(expected, rel=1e-5)


class TestCorrelations:
    def test_ranks_share_ties(self) -> None:
        assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [3.0, 0.0, 3.0, 1.0, 3.0]

    def test_they_equal_scipys(self) -> None:
        stats = pytest.importorskip("scipy.stats")
        a = torch.randn(60, dtype=torch.float64).mul(2).round()  # with ties
        b = a + torch.randn(60, dtype=torch.float64)
        assert correlation(a, b) == pytest.approx(stats.pearsonr(a.tolist(), b.tolist())[0])
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a.tolist(), b.tolist())[0])

    def test_rounding_errors_of_a_constant_are_no_variation(self) -> None:
        constant = 0.25 + 1e-8 * torch.randn(100, dtype=torch.float64)
        assert math.isnan(rank_correlation(constant, torch.randn(100)))
        assert math.isnan(correlation(constant, torch.randn(100)))

    def test_one_huge_value_changes_no_rank(self) -> None:
        a = torch.rand(100, dtype=torch.float64)
        b = a.clone()
        a[a.argmax()] = 1e9
        assert rank_correlation(a, b) == pytest.approx(1)

    @pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 1e9, 1e200])
    def test_ranks_see_no_scale(self, scale: float) -> None:
        a, b = torch.randn(2, 50, dtype=torch.float64)
        assert rank_correlation(scale * a.exp(), b) == pytest.approx(rank_correlation(a, b))
        assert correlation(scale * a, b) == pytest.approx(correlation(a, b))


class TestAgreement:
    WEIGHTS = torch.cat([torch.zeros(50, 1), torch.ones(50, 1)]).double()

    def test_differences_that_mean_nothing_are_ties(self) -> None:
        weights, evidence = (self.WEIGHTS + 1e-9 * torch.rand(2, 100, 1, dtype=torch.float64)).unbind(0)
        assert agreement("classification", weights, evidence).item() == pytest.approx(1)

    @pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
    def test_squared_errors_have_no_scale_and_outliers_no_say(self, scale: float) -> None:
        weights = torch.linspace(0, 1, 100, dtype=torch.float64).unsqueeze(1)
        evidence = scale * weights
        evidence[-1] = 1e18
        assert agreement("regression", weights, evidence).item() == pytest.approx(1)


def test_the_interval_of_r2_is_as_wide_as_that_of_a_bootstrap() -> None:
    """A large target makes its error and its deviation large: the ratio of both varies less."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(1000, 1, generator=generator).exp() * torch.randn(1000, 1, generator=generator)
    predicted = 0.3 * target + 0.1 * torch.randn(1000, 1, generator=generator)
    found = quality("regression", predicted, target, 0.95)
    draws = [torch.randint(1000, (1000,), generator=generator) for _ in range(1000)]
    scores = torch.tensor([points("regression", predicted[rows], target[rows]).mean() for rows in draws])
    assert found.score == pytest.approx(
        1 - ((predicted - target).square().mean() / target.var(0, correction=0)).item(), abs=1e-6
    )
    assert found.high - found.low == pytest.approx((scores.quantile(0.975) - scores.quantile(0.025)).item(), rel=0.3)


@pytest.mark.parametrize("n", [5, 30])
def test_samples_that_are_all_right_do_not_make_the_score_certain(n: int) -> None:
    prediction = torch.eye(2).repeat(n, 1)[:n]
    found = quality("classification", prediction, prediction.argmax(1), 0.95)
    assert (found.score, found.high) == (1, 1)
    assert found.low**n == pytest.approx(0.025)  # so likely are n right ones at this accuracy


@pytest.mark.parametrize("unknown", [None, math.nan, pd.NA])
def test_groups_must_be_known(unknown: Any) -> None:
    report = InteractionReport.example()
    for use in (report.by_group, report.clustered):
        with pytest.raises(ValueError, match="known for all samples, however 1 are NaN, NA or None"):
            use(["ann", "ann", "bob", unknown])


class TestVarianceBetweenGroups:
    @pytest.mark.parametrize(("n_samples", "n_groups"), [(12, 8), (50, 30), (200, 100), (400, 5)])
    def test_groups_at_random_explain_nothing_on_average(self, n_samples: int, n_groups: int) -> None:
        found = [
            explained_by_groups(torch.rand(n_samples, 4).softmax(1), torch.randint(n_groups, (n_samples,)))
            for _ in range(200)
        ]
        mean = torch.tensor(found).mean().item()
        assert abs(mean) < 4 * torch.tensor(found).std().item() / math.sqrt(200)

    def test_groups_that_decide_explain_everything(self) -> None:
        groups = torch.tensor([3, 9, 3, 9, 3])
        assert explained_by_groups((groups == 9).double().unsqueeze(1), groups) == pytest.approx(1)

    def test_where_nothing_can_be_said(self) -> None:
        assert math.isnan(explained_by_groups(torch.rand(4, 2), torch.arange(4)))
        assert math.isnan(explained_by_groups(torch.ones(4, 2), torch.tensor([0, 0, 1, 1])))


class TestClusters:
    def test_samples_on_their_own_are_clusters_of_one(self) -> None:
        values, weights = torch.randn(50), torch.rand(50, 4).softmax(1)
        alone = torch.arange(50)
        assert mean_interval(values, 0.9, clusters=alone) == pytest.approx(mean_interval(values, 0.9))
        groups = torch.arange(50) % 3
        for plain, clustered in zip(
            group_statistics(weights, groups, 3, confidence=0.9),
            group_statistics(weights, groups, 3, confidence=0.9, clusters=alone),
            strict=True,
        ):
            torch.testing.assert_close((clustered.low, clustered.high), (plain.low, plain.high))

    def test_copies_of_samples_are_no_more_samples(self) -> None:
        values, weights = torch.randn(20), torch.rand(20, 4).softmax(1)
        copies = torch.arange(20).repeat_interleave(7)
        assert mean_interval(values[copies], 0.95, clusters=copies) == pytest.approx(mean_interval(values, 0.95))
        once = WeightStatistics.of(weights, confidence=0.95)
        often = WeightStatistics.of(weights[copies], confidence=0.95, clusters=copies)
        torch.testing.assert_close((often.low, often.high), (once.low, once.high))

    def test_intervals_hold_the_mean_of_another_draw_of_people(self) -> None:
        torch.manual_seed(0)
        held = {True: 0, False: 0}
        for _ in range(300):
            person = torch.arange(12).repeat_interleave(20)
            values = torch.randn(12)[person] + 0.5 * torch.randn(240)
            for clusters in (person, None):
                _, low, high = mean_interval(values, 0.95, clusters=clusters)
                held[clusters is None] += low < 0 < high
        assert held[False] > 0.91 * 300
        assert held[True] < 0.6 * 300

    def test_one_cluster_says_nothing_about_others(self) -> None:
        found = WeightStatistics.of(torch.rand(9, 2).softmax(1), confidence=0.95, clusters=torch.zeros(9).long())
        assert (found.low.tolist(), found.high.tolist()) == ([0, 0], [1, 1])
        assert all(map(math.isnan, mean_interval(torch.randn(9), 0.95, clusters=torch.zeros(9).long())[1:]))


MANY = """
import time
from pathlib import Path
import torch
from i2moe.interpretation import InteractionReport

torch.set_num_threads(1)
n, e, c = 200_000, 4, 7
weights, predictions = torch.rand(n, e).softmax(1), torch.rand(n, e, c)
report = InteractionReport(
    task="classification", modality_names=("a", "b"), interactions=(0, 1, "synergy", "redundancy"),
    expert_names=("uniqueness/a", "uniqueness/b", "synergy", "redundancy"), output_names=tuple("abcdefg"),
    weights=weights, expert_predictions=predictions, prediction=(weights.unsqueeze(-1) * predictions).sum(1),
    target=torch.randint(c, (n,)), comprehensiveness=torch.rand(n, 2), sufficiency=torch.rand(n, 2),
    checksums=torch.rand(n), available=None, marginals=torch.randn(n, 2, c),
)
start = time.process_time()
report.summary(), report.to_dict(), report.by_group(report.target)
seconds = time.process_time() - start
# Of this program: ru_maxrss would also count the process that started it.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(seconds, int(peak.split()[1]) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
def test_many_samples_take_seconds_and_bounded_memory() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", MANY], cwd=root, capture_output=True, text=True, check=True)
    seconds, gigabytes = map(float, done.stdout.split())
    assert seconds < 4  # of the processor
    assert gigabytes < 0.7  # of which torch takes 0.25
