"""The trained model that is shipped: small, the one its command makes, and good enough for a report."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from examples.datasets.watch import CLASS_NAMES, load_watch
from examples.models import watch
from i2moe import explain


def test_a_report_without_training() -> None:
    test = load_watch().test
    report = explain(watch.load_model(), [(test.modalities, test.labels)], class_names=CLASS_NAMES, n_draws=1)
    assert float(report.correct.double().mean()) > 0.6  # seven classes, people that are new to the model
    assert float(report.faithfulness.min()) > 0.5


def test_the_file_is_what_the_command_makes() -> None:
    """In form; the numbers depend on the machine."""
    stored, made = load_file(watch.FILE), watch.train(n_epochs=1).state_dict()
    assert {name: (x.shape, x.dtype) for name, x in stored.items()} == {
        name: (x.shape, x.dtype) for name, x in made.items()
    }
    assert all(x.isfinite().all() for x in stored.values())
    assert watch.FILE.stat().st_size < 300_000


def test_loading_leaves_no_mode_of_training() -> None:
    model = watch.load_model()
    test = load_watch().test
    with torch.no_grad():
        first, again = (model(*(x[:4] for x in test.modalities)) for _ in range(2))
    assert torch.equal(first.prediction, again.prediction)
