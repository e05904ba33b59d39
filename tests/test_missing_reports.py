"""Reports where modalities are missing."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2moe import InteractionMoE, InteractionOutput, InteractionSupervision, explain
from i2moe.interpretation import InteractionReport
from i2moe.interpretation.report.measures.faithfulness import agreement, evidence

AVAILABLE = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)
TARGET = torch.tensor([0, 1, 0, 1, 0, 1])
N, M = AVAILABLE.shape
NAMES = ("a", "b", "c")
NAN = float("nan")


class Sum(nn.Module):
    """Adds the modalities up, as the logits (z, -z)."""

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        z = (a + b + c).squeeze(-1)
        return torch.stack([z, -z], dim=-1)


def make() -> InteractionMoE:
    torch.manual_seed(0)
    return InteractionMoE(
        Sum, M, modality_names=NAMES, feature_dims=(1, 1, 1), fill="zero", perturbation="zero"
    ).double()


def values() -> Tensor:
    return torch.randn(N, M, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def batches(x: Tensor, available: Tensor = AVAILABLE) -> list[Any]:
    columns = dict(zip(NAMES, x.split(1, dim=1), strict=True))
    parts = torch.arange(N).split(4)
    return [
        ({name: column[rows] for name, column in columns.items()} | {"available": available[rows]}, TARGET[rows])
        for rows in parts
    ]


def report_of(x: Tensor, **options: Any) -> InteractionReport:
    return explain(make(), batches(x), **options)


def probability(x: Tensor, target: int, keep: list[int]) -> float:
    z = sum(float(x[i]) for i in keep)
    logits = torch.tensor([z, -z], dtype=torch.float64)
    return float(logits.softmax(0)[target])


def test_falls_are_those_of_what_is_there() -> None:
    x, report = values(), report_of(values())
    assert report.comprehensiveness is not None
    assert report.sufficiency is not None
    for b, j in ((b, j) for b in range(N) for j in range(M)):
        present = [i for i in range(M) if AVAILABLE[b, i]]
        if j not in present:
            assert report.comprehensiveness[b, j].isnan()
            assert report.sufficiency[b, j].isnan()
            continue
        full = probability(x[b], int(TARGET[b]), present)
        without = probability(x[b], int(TARGET[b]), [i for i in present if i != j])
        alone = probability(x[b], int(TARGET[b]), [j])
        assert report.comprehensiveness[b, j].item() == pytest.approx(full - without)
        assert report.sufficiency[b, j].item() == pytest.approx(full - alone)


def test_what_stands_in_an_absent_modality_changes_no_report() -> None:
    x = values()
    garbage = torch.where(AVAILABLE, x, torch.full_like(x, NAN))
    found, expected = report_of(garbage), report_of(x)
    for field in (field.name for field in fields(InteractionReport) if field.name != "checksums"):
        one, other = getattr(found, field), getattr(expected, field)
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == other


def test_weights_by_availability_the_most_frequent_first() -> None:
    report = report_of(values())
    groups = report.by_availability
    assert {name: group.n_samples for name, group in groups.items()} == {"a+b+c": 2, "a+b": 2, "b+c": 1, "a": 1}
    sizes = [group.n_samples for group in groups.values()]
    assert sizes == sorted(sizes, reverse=True)
    torch.testing.assert_close(groups["a+b"].mean, report.weights[[1, 5]].double().mean(0))
    assert groups["a"].mean[1:3].tolist() == [0, 0]
    assert explain(InteractionMoE(Sum, M, feature_dims=(1, 1, 1)).double(), batches_without()).by_availability == {}


def batches_without() -> list[Any]:
    return [(tuple(values().split(1, dim=1)), TARGET)]


def test_text_table_and_file_name_the_patterns(tmp_path: Path) -> None:
    report = report_of(values())
    rows = [line.split() for line in report.summary().splitlines()]
    start = next(i for i, row in enumerate(rows) if row[:3] == ["available", "samples", "correct"])
    assert [row[0] for row in rows[start + 1 : start + 5]] == list(report.by_availability)
    assert [float(row[2]) for row in rows[start + 1 : start + 5]] == [
        pytest.approx(report.correct[torch.tensor(members)].double().mean().item(), abs=1e-3)
        for members in ([0, 4], [1, 5], [2], [3])
    ]
    alone = replace(report, marginals=report.expert_predictions[:, :3].masked_fill(~AVAILABLE.unsqueeze(2), torch.nan))
    assert alone.to_pandas()["alone/c"].isna().tolist() == (~AVAILABLE[:, 2]).tolist()
    table = report.to_pandas()
    assert table["available/c"].tolist() == AVAILABLE[:, 2].tolist()
    assert table["comprehensiveness/c"].isna().tolist() == (~AVAILABLE[:, 2]).tolist()
    assert list(report.to_dict()["by_availability"]) == list(report.by_availability)
    report.save(tmp_path / "report.pt")
    loaded = InteractionReport.load(tmp_path / "report.pt")
    assert loaded.available is not None
    assert torch.equal(loaded.available, AVAILABLE)


def test_means_are_over_the_samples_that_have_a_modality() -> None:
    report = report_of(values())
    assert report.comprehensiveness is not None
    expected = [report.comprehensiveness[AVAILABLE[:, j], j].mean().item() for j in range(M)]
    assert report.to_dict()["comprehensiveness"] == pytest.approx(expected)


def test_evidence_is_between_what_is_there() -> None:
    c = torch.tensor([[0.5, 0.1, NAN], [0.3, NAN, NAN], [0.1, 0.4, 0.2]])
    s = torch.tensor([[0.2, 0.6, NAN], [0.0, NAN, NAN], [0.7, 0.3, 0.5]])
    found = evidence(c, s, (0, 1, 2, "synergy", "redundancy"))
    expected = torch.tensor(
        [[0.4, -0.4, NAN, 0.2, -0.5], [NAN, NAN, NAN, NAN, NAN], [-0.3, 0.2, -0.2, 0.3, -0.4]],
    )
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_agreement_leaves_out_samples_without_evidence() -> None:
    weights = torch.tensor([[0.1, 0.2], [0.9, 0.2], [0.5, 0.3], [0.7, 0.3]])
    shown = torch.tensor([[1.0, NAN], [NAN, NAN], [2.0, NAN], [3.0, NAN]])
    found = agreement("classification", weights, shown)
    assert found[0].item() == pytest.approx(1)
    assert math.isnan(found[1].item())


def test_modalities_may_be_left_out_of_a_batch() -> None:
    x = values()
    a, b = (x[:, [i]] for i in (0, 1))
    given = explain(make(), [({"a": a, "b": b}, TARGET)], n_draws=0)
    mask = torch.tensor([True, True, False]).expand(N, M)
    masked = explain(make(), [({"a": a, "b": b, "c": b, "available": mask}, TARGET)], n_draws=0)
    torch.testing.assert_close(given.prediction, masked.prediction, rtol=0, atol=0)
    assert list(given.by_availability) == ["a+b"]


def test_an_outer_model_passes_the_mask_on() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moe = make()

        def forward(self, x: Tensor, available: Tensor) -> Tensor:
            prediction: Tensor = self.moe(*x.split(1, dim=1), available=available).prediction
            return prediction

    found = explain(Outer(), [((values(), AVAILABLE), TARGET)], n_draws=0)
    torch.testing.assert_close(found.weights, report_of(values(), n_draws=0).weights)
    assert list(found.by_availability)[:2] == ["a+b+c", "a+b"]


# --- supervision ---


def supervised(x: Tensor, available: Tensor | None) -> tuple[Tensor, list[Tensor | None], InteractionOutput]:
    torch.manual_seed(3)
    model = InteractionMoE(lambda: Weighted(M), M, reweighter="computed").double()
    out = model(*x.split(1, dim=1), available=available)
    loss = InteractionSupervision(nn.functional.cross_entropy)(out, TARGET)
    torch.autograd.backward(loss)
    return loss.detach(), [parameter.grad for parameter in model.parameters()], out


class Weighted(nn.Module):
    """A linear layer on all modalities."""

    def __init__(self, n_modalities: int) -> None:
        super().__init__()
        self.layer = nn.Linear(n_modalities, 2)

    def forward(self, *modalities: Tensor) -> Tensor:
        logits: Tensor = self.layer(torch.cat(modalities, dim=-1))
        return logits


def test_supervision_never_sees_what_is_absent() -> None:
    x = values()
    found, expected = (
        supervised(torch.where(AVAILABLE, x, torch.full_like(x, garbage)), AVAILABLE) for garbage in (NAN, 7.0)
    )
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_supervision_with_everything_available_is_that_without_a_mask() -> None:
    everything = torch.ones_like(AVAILABLE)
    torch.testing.assert_close(supervised(values(), everything)[0], supervised(values(), None)[0], rtol=0, atol=0)


def test_an_absent_modality_has_no_uniqueness_and_a_single_one_nothing_else() -> None:
    weights = supervised(values(), AVAILABLE)[2].weights
    assert not weights[:, :M][~AVAILABLE].any()
    assert weights[3].tolist() == [1, 0, 0, 0, 0]
    torch.testing.assert_close(weights.sum(1), torch.ones(N).double())
