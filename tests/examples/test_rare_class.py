"""The benchmark of a rare class."""

from __future__ import annotations

import pytest

from examples.benchmarks import rare_class
from examples.benchmarks.not_at_random import Options


def test_shares_of_variance_are_nearer_to_the_truth_than_mean_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rare_class, "FREQUENCIES", (0.04,))
    monkeypatch.setattr(rare_class, "KINDS", ("either",))
    rare_class.main(Options(n_train=800, seeds=1, n_teachers=0))
    as_is, balanced = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert float(as_is[-1]) < 0.1 < float(as_is[-2])
    assert int(as_is[-3].removesuffix("%")) > 90
    assert int(balanced[-3].removesuffix("%")) < 10
