"""Calibration: factors that minimize the held-out loss, and nothing else that changes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2moe import ComputedReweighter, InteractionMoE, calibrate
from i2moe._common.tasks import Task
from i2moe.moe.weights.computed import mean_of_present
from i2moe.training import Batches

pytestmark = pytest.mark.usefixtures("double")

N = 40
LOSSES: dict[Task, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": F.cross_entropy,
    "multilabel": F.binary_cross_entropy_with_logits,
    "regression": F.mse_loss,
}


class Fusion(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.body, self.shape = (
            nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, max(1, *shape, 0))),
            shape,
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.body(torch.cat([x, y], dim=-1))
        return output.reshape(-1, *self.shape)


def make(task: Task = "classification", shape: tuple[int, ...] = (3,), **options: Any) -> InteractionMoE:
    return InteractionMoE(lambda: Fusion(*shape), 2, reweighter=ComputedReweighter(task), **options)


def batches(task: Task, shape: tuple[int, ...] = (3,), missing: bool = False) -> list[Any]:
    """Two batches of answers that the model's predictions follow, with much noise."""
    found = []
    for _ in range(2):
        x, y = torch.randn(N, 3), torch.randn(N, 4)
        target = {
            "classification": torch.randint(3, (N,)),
            "multilabel": torch.randint(2, (N, *shape)),
            "regression": torch.randn(N, *shape) + x[:, :1].reshape(-1, *(1,) * len(shape)),
        }[task]
        modalities: Any = (x, y)
        if missing:
            available = torch.rand(N, 2) < 0.7
            available[:, 0] |= ~available.any(1)
            modalities = {"x": torch.where(available[:, :1], x, torch.nan), "y": y, "available": available}
        found.append((modalities, target))
    return found


Rows = list[tuple[Tensor, Tensor]]


def rows_of(model: InteractionMoE, data: list[Any]) -> Rows:
    """Predictions, without factors, and answers of each modality alone and of both."""
    assert isinstance(model.reweighter, ComputedReweighter)
    assert model.reweighter.scale.numel() == 0
    found: list[Rows] = [[], [], []]
    for modalities, target in data:
        named = modalities if isinstance(modalities, dict) else dict(zip("xy", modalities, strict=True))
        with torch.no_grad():
            out = model(**named)
        assert out.marginals is not None
        assert out.available is not None
        joint = mean_of_present(out.expert_predictions, out.available, model.interactions)
        for i in range(2):
            found[i].append((out.marginals[:, i][out.available[:, i]], target[out.available[:, i]]))
        found[2].append((joint[out.available.all(1)], target[out.available.all(1)]))
    return [(torch.cat([p for p, _ in each]), torch.cat([y for _, y in each])) for each in found]


def scaled_loss(task: Task, prediction: Tensor, target: Tensor, factor: Tensor, center: Tensor) -> float:
    target = target if task == "classification" else target.to(prediction)
    return LOSSES[task](center + (prediction - center) * factor, target).item()


@pytest.mark.parametrize(
    ("task", "shape", "options"),
    [
        ("classification", (3,), {"members": None}),
        ("classification", (3,), {"members": 2, "missing": True}),
        ("multilabel", (3,), {"members": 2}),
        ("multilabel", (1,), {"members": None, "missing": True}),
        ("regression", (2,), {"members": 2, "missing": True}),
        ("regression", (), {"members": None}),
    ],
)
def test_factors_minimize_the_loss(task: Task, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    missing = options.pop("missing", False)
    model = make(task, shape, modality_names=("x", "y"), **options)
    model(*batches(task, shape)[0][0])
    data = batches(task, shape, missing)
    plain = copy.deepcopy(model).eval()
    found = calibrate(model, data)
    assert found.shape == (3,)
    center = torch.zeros(())
    if task == "regression":
        center = cast(Tensor, model.reweighter.prior).reshape(shape)  # type: ignore[attr-defined]
    for (prediction, target), factor in zip(rows_of(plain, data), found, strict=True):
        grid = [scaled_loss(task, prediction, target, each, center) for each in torch.linspace(0.05, 20, 300)]
        assert scaled_loss(task, prediction, target, factor, center) <= min(grid) + 1e-9
    # What the model says from then on is scaled.
    modalities, _ = batches(task, shape)[0]
    model.eval()
    out, before = model(*modalities), plain(*modalities)
    for after, raw, factor in (
        (out.marginals[:, 0], before.marginals[:, 0], found[0]),
        (out.marginals[:, 1], before.marginals[:, 1], found[1]),
        (out.expert_predictions, before.expert_predictions, found[2]),
    ):
        torch.testing.assert_close(after, center + (raw - center) * factor)


@pytest.mark.parametrize("task", list(LOSSES))
def test_a_sample_of_weight_two_counts_as_two(task: Task) -> None:
    data = batches(task, missing=True)
    model = make(task, modality_names=("x", "y"))
    twice = [({k: v.repeat_interleave(2, 0) for k, v in x.items()}, y.repeat_interleave(2, 0)) for x, y in data[:1]]
    expected = calibrate(copy.deepcopy(model), twice + data[1:])
    weight = torch.cat([torch.full((N,), 2), torch.ones(N)])
    torch.testing.assert_close(calibrate(model, data, sample_weight=weight), expected)
    prior = cast("ComputedReweighter", model.reweighter).prior
    torch.testing.assert_close(prior, prior_of(task, twice + data[1:]))


def test_weights_of_samples_in_no_known_order_are_refused() -> None:
    x, y = batches("classification")[0][0]
    data = Batches((x, y), torch.randint(3, (N,)), batch_size=10)
    with pytest.raises(ValueError, match="give shuffle=False"):
        calibrate(make(), data, sample_weight=torch.ones(N))
    calibrate(make(), data)


def prior_of(task: Task, data: list[Any]) -> Tensor:
    target = torch.cat([y for _, y in data])
    return (F.one_hot(target, 3).double() if task == "classification" else target.double()).mean(0)


def test_all_else_stays_as_it_was() -> None:
    model = make(fill="mean")
    data = batches("classification")
    model(*data[0][0])
    next(iter(model.experts)).eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()

    first = calibrate(model, data)
    second = calibrate(nn.ModuleDict({"inner": model})["inner"], iter(data))

    assert torch.equal(first, second)
    assert torch.equal(model.state_dict()["reweighter.scale"], first)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    del state["reweighter.scale"], state["reweighter.prior"]
    torch.testing.assert_close({name: model.state_dict()[name] for name in state}, state, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_inside_another_is_called_as_asked() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.moe = nn.Linear(3, 3), make()

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            prediction: Tensor = self.moe(self.encoder(batch["x"]), batch["y"]).prediction
            return prediction

    data = [({"x": x, "y": y}, target) for (x, y), target in batches("classification")]
    model = Around()
    found = calibrate(model, data)
    assert torch.equal(found, calibrate(model, data, call=lambda model, batch: model(batch)))


def test_the_prior_of_a_calibrated_model_stays() -> None:
    model, data = make(), batches("classification")
    model.train()(*data[0][0])
    calibrate(model, data)
    before = model.state_dict()["reweighter.prior"].clone()
    model.train()(*data[0][0])
    assert torch.equal(model.state_dict()["reweighter.prior"], before)


def test_a_class_that_is_missing_is_warned_of() -> None:
    data = [(x, y.clamp(max=1)) for x, y in batches("classification")]
    with pytest.warns(UserWarning, match=r"above 0 for each class, however of \[2\] it is 0"):
        calibrate(make(), data)


def test_a_prior_that_is_known_better_is_taken() -> None:
    for task in LOSSES:
        model, prior = make(task), torch.tensor([0.2, 0.3, 0.5])
        reweighter = cast("ComputedReweighter", model.reweighter)
        scale = calibrate(model, batches(task), prior=prior)
        torch.testing.assert_close(reweighter.prior, prior)
        if task != "regression":
            torch.testing.assert_close(calibrate(model, batches(task)) > 0, scale > 0)
    with pytest.raises(ValueError, match="prior must hold a finite number for each of 3 outputs"):
        calibrate(make(), batches("classification"), prior=torch.ones(2))
    with pytest.raises(ValueError, match=r"prior must be at least 0 and sum to 1 .* divide counts by their sum"):
        calibrate(make(), batches("classification"), prior=torch.tensor([20, 30, 50]))
    with pytest.raises(ValueError, match="how frequent each label is, from 0 to 1"):
        calibrate(make("multilabel"), batches("multilabel"), prior=torch.tensor([0.2, 0.3, 5]))


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_category_that_stands_for_absence_is_warned_of(first: int) -> None:
    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4 + 3, 3)

        def forward(self, category: Tensor, x: Tensor) -> Tensor:
            output: Tensor = self.head(torch.cat([self.embed(category), x], dim=1))
            return output

    model = InteractionMoE(Embedding, 2, modality_names=("category", "x"), reweighter="computed")
    data = [((first + torch.arange(N) % 4, torch.randn(N, 3)), torch.randint(3, (N,)))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calibrate(model, data)
    assert ["'category'" in str(one.message) for one in caught] == [True] * (first < 2)


def test_a_backbone_that_returns_probabilities_is_warned_of() -> None:
    class Softmax(Fusion):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x, y).softmax(-1)

    model = InteractionMoE(lambda: Softmax(3), 2, reweighter="computed", members=1)
    with pytest.warns(UserWarning, match="leave the last softmax out"):
        calibrate(model, batches("classification"))


def test_a_modality_whose_samples_count_for_nothing_keeps_its_scale() -> None:
    model, ((modalities, target), _) = make(modality_names=("x", "y")), batches("classification")
    available = torch.ones(N, 2, dtype=torch.bool)
    available[20:, 1] = False
    weight = torch.arange(N).ge(20).double()
    held_out = [({"x": modalities[0], "y": modalities[1], "available": available}, target)]
    scale = calibrate(model, held_out, sample_weight=weight)
    assert scale[0] != 1
    assert scale[1:].tolist() == [1, 1]


def test_a_modality_that_nobody_has_keeps_its_scale() -> None:
    available = torch.tensor([[True, False]]).expand(N, -1)
    data = [({"x": torch.randn(N, 3), "y": torch.randn(N, 4), "available": available}, torch.randint(3, (N,)))]
    scale = calibrate(make(modality_names=("x", "y")), data)
    assert (scale == 1).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: calibrate(lambda x: x, []), TypeError, "must be a torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: calibrate(nn.Linear(2, 2), []), ValueError, "must be or hold one InteractionMoE"),
        (lambda: calibrate(learned(), []), ValueError, "however its weights come from a Reweighter"),
        (lambda: calibrate(make(), []), ValueError, "at least one batch, however it is empty"),
        (
            lambda: calibrate(make(), [(1, 2, 3)]),
            ValueError,
            r"must be \(modalities, target\), however .* of 3",
        ),
        (lambda: calibrate(make(), [(batches("regression")[0])]), ValueError, "must be class indices"),
        (
            lambda: calibrate(make(), [((torch.full((5, 3), torch.nan), torch.zeros(5, 4)), torch.zeros(5).long())]),
            ValueError,
            "in batch 0 of data: predictions must be finite",
        ),
        (lambda: calibrate(make("multilabel"), batches("regression")), ValueError, "must be 0 or 1"),
        (
            lambda: calibrate(make(), batches("classification"), sample_weight=torch.ones(N)),
            ValueError,
            "each of 80 samples, .* of shape .40,",
        ),
    ],
)
def test_a_mistake_in_calibration_is_refused(run: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run()


def learned() -> InteractionMoE:
    return InteractionMoE(lambda: Fusion(3), 2, feature_dims=(3, 4))
