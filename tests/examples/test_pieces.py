"""What the runner is put together from: metrics, encoders, fusions, the loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from scipy.stats import pearsonr
from sklearn import metrics as sk

from examples.reproduce.encoders import Encoders, ScreenEncoder
from examples.reproduce.fusions import FusionName, fusion_factory
from examples.reproduce.learner import task_loss
from examples.reproduce.metrics import is_better, measure
from examples.reproduce.settings import Settings
from i2moe import BackboneOutput


def test_metrics_of_classes_are_scikit_learns(generator: torch.Generator) -> None:
    logits = torch.randn(60, 4, generator=generator)
    targets = torch.randint(4, (60,), generator=generator)
    found = measure(["accuracy", "macro_f1", "micro_f1", "auroc", "loss"], "classification", logits, targets, 1.5)
    decided = logits.argmax(1)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(targets, decided))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, decided, average="macro"))
    assert found["micro_f1"] == pytest.approx(sk.f1_score(targets, decided, average="micro"))
    areas = sk.roc_auc_score(targets, logits.softmax(1), average="macro", multi_class="ovr")
    assert found["auroc"] == pytest.approx(areas, abs=1e-6)
    assert found["loss"] == 1.5


def test_the_auroc_leaves_out_classes_that_never_occur(generator: torch.Generator) -> None:
    logits, targets = torch.randn(50, 3, generator=generator), torch.arange(50) % 2
    areas = [sk.roc_auc_score(targets == c, logits.softmax(1)[:, c]) for c in (0, 1)]
    assert measure(["auroc"], "classification", logits, targets, 0.0)["auroc"] == pytest.approx(sum(areas) / 2)
    assert math.isnan(measure(["auroc"], "classification", logits, torch.zeros(50).long(), 0.0)["auroc"])
    two = measure(["auroc"], "classification", logits[:, :2], targets, 0.0)["auroc"]
    assert two == pytest.approx(sk.roc_auc_score(targets, logits[:, 1] - logits[:, 0]))


def test_metrics_of_labels_are_scikit_learns(generator: torch.Generator) -> None:
    logits = torch.randn(40, 5, generator=generator)
    targets = (torch.rand(40, 5, generator=generator) < 0.4).float()
    found = measure(["accuracy", "macro_f1", "micro_f1", "auroc"], "multilabel", logits, targets, 0.0)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, logits > 0, average="macro"))
    assert found["micro_f1"] == pytest.approx(sk.f1_score(targets, logits > 0, average="micro"))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(targets, logits), abs=1e-6)
    assert found["accuracy"] == pytest.approx(float(((logits > 0) == targets).double().mean()))


def test_metrics_of_values_are_scikit_learns(generator: torch.Generator) -> None:
    values = torch.randn(40, 1, generator=generator)
    targets = values + torch.randn(40, 1, generator=generator)
    found = measure(["mae", "r2", "correlation", "sign_accuracy"], "regression", values, targets, 0.0)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(targets, values))
    assert found["r2"] == pytest.approx(sk.r2_score(targets, values))
    assert found["correlation"] == pytest.approx(float(pearsonr(values[:, 0], targets[:, 0])[0]))
    assert found["sign_accuracy"] == pytest.approx(float(((values > 0) == (targets > 0)).double().mean()))


def test_what_is_better_depends_on_the_metric() -> None:
    assert is_better("loss", 0.1, 0.2)
    assert not is_better("r2", 0.1, 0.2)
    assert not is_better("auroc", float("nan"), None)
    with pytest.raises(ValueError, match="a metric must be one that"):
        measure(["luck"], "regression", torch.zeros(3, 1), torch.zeros(3, 1), 0.0)


def test_class_weights_weigh_the_loss() -> None:
    logits, targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    found = task_loss("classification", logits, targets, Settings(class_weights=(0.25, 0.75)))
    assert float(found) == pytest.approx(0.25 * math.log(1 + math.exp(-1)) + 0.75 * math.log(1 + math.exp(1)))


@pytest.mark.parametrize("fusion", get_args(FusionName))
@pytest.mark.parametrize("n_tokens", [1, 3])
def test_every_fusion_takes_what_the_encoders_give(fusion: FusionName, n_tokens: int) -> None:
    settings = Settings(hidden_dim=8, n_tokens=n_tokens, n_heads=2, encoder_dim=16, n_layers=1, n_experts=2)
    shapes = ((5,), (20, 3), (12, 14, 12), (3, 64, 32))
    encoders = Encoders("mosi", shapes, settings)
    assert encoders.n_tokens == n_tokens
    embeddings = encoders([torch.rand(4, *shape) for shape in shapes])
    build = fusion_factory(fusion, settings, n_modalities=4, n_tokens=n_tokens, n_outputs=6)
    output = build()(*embeddings)
    assert isinstance(output, BackboneOutput)
    assert output.prediction.shape == (4, 6)


def test_no_modality_is_cut_into_more_patches_than_it_has_features() -> None:
    assert Encoders("new", ((3,), (50,)), Settings(n_tokens=8)).n_tokens == 3
    with pytest.raises(ValueError, match="give it an encoder"):
        Encoders("new", ((2, 3, 4, 5), (50,)), Settings())


def test_screens_start_from_imagenet_where_its_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    first = ScreenEncoder(1024)
    assert first.start == "random"
    (tmp_path / "checkpoints").mkdir()
    weights = {f"features.{name}": value for name, value in first.features.state_dict().items()}
    convolutions = [int(name.split(".")[1]) for name, value in weights.items() if value.ndim == 4]
    assert convolutions == [0, 4, 8, 11, 15, 18, 22, 25]  # as torchvision numbers them
    torch.save(weights | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "checkpoints/vgg11_bn-6002323d.pth")
    second = ScreenEncoder(1024)
    assert second.start == "vgg11_bn-6002323d.pth"
    assert torch.equal(second.features[25].weight, first.features[25].weight)  # type: ignore[arg-type]
