"""The example on missing modalities, on a few patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.benchmarks import not_at_random
from examples.datasets import find
from examples.datasets._interface import MultimodalData
from examples.missing_modalities import (
    PAIRS,
    SHARES,
    WAYS,
    Scores,
    Way,
    build,
    call,
    draw,
    measure,
    predict,
    tables,
    train,
)


@pytest.fixture(scope="module")
def patients() -> MultimodalData:
    data = find("support2").open()
    few = torch.arange(150)
    return replace(
        data, train=data.train.select(few), validation=data.validation.select(few), test=data.test.select(few)
    )


@pytest.mark.parametrize("name", ["zeros, no mask", "complete patients only", "mask, dropout 0.5"])
def test_a_way_is_trained_and_measured(patients: MultimodalData, name: str) -> None:
    scores = measure(train(patients, WAYS[name], 1, 0), patients.test, 0)
    assert len(scores.curve) == len(scores.curve_auroc) == len(SHARES)
    assert all(0 <= value <= 1 for value in (scores.everyone, scores.complete, scores.others, *scores.curve))
    assert scores.curve_auroc[0] == scores.everyone


@pytest.mark.parametrize("way", [Way(), Way(fill=None)])
def test_what_is_taken_away_is_not_seen(patients: MultimodalData, way: Way) -> None:
    model, test = build(patients, way).eval(), patients.test
    mask = test.available.clone()
    mask[:, 0] = False
    found = predict(model, test, mask)
    changed = [x + 5 if i == 0 else x for i, x in enumerate(test[range(len(test))].modalities)]
    with torch.no_grad():
        again = call(model, changed, mask).prediction.softmax(-1)[:, 1]
    assert torch.equal(found, again)
    assert not torch.equal(found, predict(model, test, test.available))


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    scores = Scores(0.7, 0.7, 0.7, [0.7] * len(SHARES), [0.7] * len(SHARES))
    path = tmp_path / "figure.png"
    draw({name: [scores] for name in WAYS}, path)
    assert path.stat().st_size > 10_000


def test_the_tables_compare_split_by_split() -> None:
    results = {
        name: [Scores(0.7, 0.7, 0.7, [0.1 * w + 0.2 * split] * len(SHARES), [0.5] * len(SHARES)) for split in range(2)]
        for w, name in enumerate(WAYS)
    }
    _, table, _ = tables(results)
    cells = dict(zip(table.columns[0].cells, table.columns[1].cells, strict=True))
    for one, other in PAIRS:
        gain = 0.1 * (list(WAYS).index(one) - list(WAYS).index(other))
        assert cells[f"{one} - {other}"] == f"{gain:.3f} ± 0.000"
    assert cells["zeros, no mask"] == "0.100 ± 0.141"


def test_weights_of_patients_whose_modality_is_missing_for_a_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(not_at_random, "RATES", ((0.75, 0.05),))
    not_at_random.main(not_at_random.Options(n_train=300, seeds=1, n_teachers=0))
    as_it_is, flag, complete = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert float(flag[-5]) > float(as_it_is[-5]) > float(complete[-5])  # accuracy without laboratory
    assert float(as_it_is[-3]) < min(float(flag[-3]), float(complete[-3]))  # weights right
    assert float(as_it_is[-1]) > 0  # warned
