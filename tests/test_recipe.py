"""The training recipe: the best epoch, the average of the parameters, calibration, and batches in memory."""

from __future__ import annotations

import math
import warnings
from functools import partial
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader

from i2moe import ComputedReweighter, InteractionMoE, InteractionSupervision, Specialist, Teacher, calibrate
from i2moe._common.tasks import Task
from i2moe.missing import ModalityDropout
from i2moe.moe.teacher import SoftTargets
from i2moe.training import Batches, fit


def test_batches_are_a_new_partition_each_epoch() -> None:
    batches = Batches((torch.arange(7),), torch.arange(7), batch_size=3, seed=0)
    epochs = [torch.cat([target for _, target in batches]).tolist() for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 2
    assert epochs[0] != epochs[1]
    assert all(torch.equal(modalities[0], target) for modalities, target in batches)


def test_batches_that_are_not_shuffled_keep_the_order() -> None:
    batches = Batches({"a": torch.arange(5)}, (torch.arange(5), torch.arange(5)), batch_size=2, shuffle=False)
    for _ in range(2):
        assert torch.cat([modalities["a"] for modalities, _ in batches]).tolist() == list(range(5))


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(1, 4, [1]), (4, 4, [4]), (5, 4, [5]), (6, 4, [4, 2]), (9, 4, [4, 5]), (3, 1, [1, 1, 1]), (2, 8, [2])],
)
def test_no_batch_but_the_only_one_is_of_a_sample_alone(n: int, size: int, sizes: list[int]) -> None:
    batches = Batches((torch.arange(n),), torch.arange(n), batch_size=size)
    assert [len(target) for _, target in batches] == sizes
    assert len(batches) == len(sizes)


@pytest.mark.parametrize(
    ("modalities", "target", "batch_size", "kind", "message"),
    [
        ((torch.zeros(5, 2),), torch.zeros(4), 2, ValueError, "row for each sample"),
        ((torch.zeros(0, 2),), torch.zeros(0), 2, ValueError, "row for each sample"),
        ((torch.zeros(5, 2),), torch.tensor(1), 2, ValueError, "row for each sample"),
        ((torch.zeros(5, 2),), torch.zeros(5), 0, ValueError, "batch_size must be at least 1"),
        ((2 * torch.zeros(5, 2, requires_grad=True),), torch.zeros(5), 2, ValueError, "must be data, .* detach"),
        (torch.zeros(5, 5), torch.zeros(5), 2, TypeError, "tuple or a dict"),
        ((torch.zeros(2, 2),), [0, 1], 2, TypeError, "however they hold int; convert"),
        ((torch.zeros(2, 2),), np.array(["a", "b"]), 2, TypeError, "however they hold ndarray"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    modalities: Any, target: Any, batch_size: int, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Batches(modalities, target, batch_size)


class Bias(nn.Module):
    """Predicts one number."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias


def towards(value: float, n: int = 4) -> tuple[tuple[torch.Tensor], torch.Tensor]:
    """One batch; a bias that learns it moves towards the value."""
    return (torch.zeros(n),), torch.full((n,), value)


def by_hand(lr: float, n_epochs: int, decay: float) -> list[float]:
    """Average a bias that moves towards 10, after each of so many steps of AdamW without weight decay."""
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([bias], lr=lr, weight_decay=0)
    averages: list[float] = []
    for n in range(n_epochs):
        optimizer.zero_grad()
        (bias - 10).square().mean().backward()
        optimizer.step()
        share = max(1 - decay, 9 / (n + 9)) if n else 1.0
        averages.append((1 - share) * (averages or [0.0])[-1] + share * bias.item())
    return averages


@pytest.mark.parametrize("decay", [0.99, 0.0])
def test_the_model_ends_at_the_average_that_loses_least(decay: float) -> None:
    """Trained towards 10 and tested at 0.5, and at 0.8 three times as much, a bias passes by on its way."""
    model, seen = Bias(), list[float]()
    held_out = [towards(0.5, n=2), towards(0.8, n=6)]
    adam = partial(torch.optim.AdamW, lr=0.1, weight_decay=0)
    losses = fit(model, [towards(10)], held_out, mse_loss, 20, optimizer=adam, decay=decay, after_epoch=seen.append)
    averages = by_hand(0.1, 20, decay)
    assert losses == seen == pytest.approx([((b - 0.5) ** 2 + 3 * (b - 0.8) ** 2) / 4 for b in averages], abs=1e-4)
    best = losses.index(min(losses))
    assert 0 < best < 19
    assert model.bias.item() == pytest.approx(averages[best], abs=1e-5)
    assert not model.training


def test_training_stops_where_the_loss_falls_too_little_and_keeps_the_lowest() -> None:
    """The loss falls towards 0, in the end by less than 0.1 an epoch."""
    model = Bias()
    sgd = partial(torch.optim.SGD, lr=0.05)
    losses = fit(model, [towards(1)], [towards(1)], mse_loss, 200, optimizer=sgd, decay=0, min_delta=0.1, patience=3)
    assert losses == sorted(losses, reverse=True)
    falls = [earlier - later for earlier, later in pairwise([1.0, *losses])]
    assert len(losses) < 40
    assert falls[-4] < 0.1 <= falls[0]
    assert (model.bias.item() - 1) ** 2 == pytest.approx(losses[-1])


def test_inputs_of_another_type_are_noted() -> None:
    for given, own in permutations([torch.float32, torch.float64]):
        batch = (torch.randn(8, 3, dtype=given), torch.randn(8, 2, dtype=given)), torch.arange(8) % 2
        with pytest.raises(RuntimeError) as caught:
            fit(make().to(own), [batch], [batch], InteractionSupervision(cross_entropy), 1)
        assert any(f"convert the inputs: x.to({own})" in note for note in caught.value.__notes__)


def test_without_patience_all_epochs_are_run() -> None:
    assert len(fit(Bias(), [towards(10)], [towards(0)], mse_loss, 12)) == 12
    assert len(fit(Bias(), [towards(10)], [towards(0)], mse_loss, 12, patience=2)) == 3


def test_a_divergence_is_warned_of_and_the_best_epoch_kept() -> None:
    model, losses = Bias(), iter([9.0, 1.0, 0.5, math.nan])  # the first is tried before training

    def loss_of(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return out.mean() if out.requires_grad else torch.tensor(next(losses))

    with pytest.warns(UserWarning, match=r"became nan in epoch 3: .* lower the learning rate"):
        found = fit(model, [towards(1)], [towards(1)], loss_of, 5, optimizer=partial(torch.optim.SGD, lr=1), decay=0)
    assert len(found) == 3
    assert model.bias.item() == -2


def make(task: Task = "classification", **options: Any) -> InteractionMoE:
    return InteractionMoE(lambda: nn.Bilinear(3, 2, 2), 2, reweighter=ComputedReweighter(task), **options)


def samples(n: int = 32) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    return (torch.randn(n, 3), torch.randn(n, 2)), torch.arange(n) % 2


def test_targets_in_large_units_are_warned_of_before_the_work() -> None:
    model = InteractionMoE(lambda: nn.Bilinear(3, 2, 1), 2, reweighter=ComputedReweighter("regression"))
    supervise = InteractionSupervision(mse_loss)

    def train(mean: float, deviation: float) -> None:
        modalities, _ = samples()
        batch = modalities, mean + deviation * torch.randn(32, 1)
        fit(model, [batch], [batch], supervise, 1, after_epoch=lambda _: pytest.fail("it trained"))

    for mean, deviation in ((0, 50), (50, 1)):
        with (
            pytest.warns(UserWarning, match=r"mean of about 0 .*; standardize them"),
            pytest.raises(BaseException, match="it trained"),
        ):
            train(mean, deviation)
    with pytest.raises(BaseException, match="it trained"):  # no warning, which would be an error
        train(1, 2)

    model = InteractionMoE(lambda: nn.Bilinear(3, 2, 2), 2, reweighter=ComputedReweighter("regression"))
    batch = samples()[0], torch.randn(32, 2) * torch.tensor([1.0, 0.05])
    with pytest.warns(UserWarning, match="deviations alike"):
        fit(model, [batch], [batch], supervise, 1)


@pytest.mark.parametrize(("scale", "shift"), [(30.0, 0.0), (1.0, 20.0), (0.01, 0.0)])
def test_modalities_in_other_units_are_warned_of(scale: float, shift: float) -> None:
    (a, b), y = samples()
    for units, expected in ((a, ()), (a * scale + shift, (0,))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            held_out = [((units, b), y)]
            fit(make(), held_out, held_out, InteractionSupervision(cross_entropy), n_epochs=1)
        found = [str(one.message) for one in caught if "values of about 1" in str(one.message)]
        assert len(found) == len(expected)
        assert all(repr(name) in message for name, message in zip(expected, found, strict=True))


def test_a_loss_that_does_not_train_the_marginals_is_warned_of() -> None:
    data = [samples()]
    with pytest.warns(UserWarning, match="use InteractionSupervision"):
        fit(make(), data, data, lambda out, y: cross_entropy(out.prediction, y), n_epochs=1)


def test_a_model_with_computed_weights_is_calibrated_on_held_out_data() -> None:
    supervise = InteractionSupervision(cross_entropy)
    held_out, others = ([samples(n)] for n in (40, 50))
    for data, calibrator in ((held_out, None), (others, partial(calibrate, data=others))):
        model = make()
        train = Batches(*samples(), batch_size=16)
        fit(model, train, held_out, supervise, n_epochs=1, calibrator=calibrator)
        assert isinstance(model.reweighter, ComputedReweighter)
        scale = model.reweighter.scale.clone()
        torch.testing.assert_close(calibrate(model, data), scale)


def test_a_model_learns_what_its_teachers_say() -> None:
    """The teachers were taught the opposite of the labels."""
    modalities = (torch.randn(64, 3), torch.randn(64, 2))
    label = (modalities[0][:, 0] * modalities[1][:, 0] > 0).long()
    adam = partial(torch.optim.AdamW, lr=0.05)

    def trained(model: Any, loss_of: Any, target: Any) -> Any:
        held_out = [(modalities, 1 - label)]
        fit(model, Batches(modalities, target, 16), held_out, loss_of, n_epochs=40, optimizer=adam, decay=0.5)
        return model

    specialists = [Specialist(lambda: nn.Bilinear(3, 2, 2), 2, modality) for modality in (0, 1, None)]
    teacher = Teacher([trained(specialist, cross_entropy, 1 - label) for specialist in specialists], "classification")
    soft = teacher(*modalities).mixed_with(label)
    student = trained(make(), InteractionSupervision(cross_entropy), soft)
    pairs: Any = [((modalities[0][i], modalities[1][i]), soft.take(i)) for i in range(64)]
    (target,) = (target for _, target in DataLoader(pairs, batch_size=64))
    torch.testing.assert_close(target, soft)
    assert isinstance(target, SoftTargets)
    assert (student.predict(*modalities).argmax(1) == 1 - label).double().mean() > 0.75


def test_batches_of_a_loader_are_called_by_position_and_of_dicts_by_name() -> None:
    (a, b), label = samples()
    supervise = InteractionSupervision(cross_entropy)
    pairs: Any = [((a[i], b[i]), int(label[i])) for i in range(32)]
    loader = DataLoader(pairs, batch_size=16)
    named = Batches({"input1": a.numpy(), "input2": b}, label.numpy(), 16, shuffle=False)
    first, second = make(), make(modality_names=("input1", "input2"))
    second.load_state_dict(first.state_dict())
    assert fit(first, loader, loader, supervise, 2) == pytest.approx(fit(second, named, named, supervise, 2), abs=1e-6)


def test_a_specialist_is_called_as_its_backbone() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Bilinear(3, 2, 2)

        def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            prediction: torch.Tensor = self.layer(*pair)
            return prediction

    (a, b), label = samples()
    fit(Specialist(Whole, 2, 0), Batches((a, b), label, 16), [((a, b), label)], cross_entropy, 1)
    available = torch.ones(32, 2, dtype=torch.bool)
    named = Specialist(lambda: nn.Bilinear(3, 2, 2), 2, 0, modality_names=("input1", "input2"))
    data = [({"input1": a, "input2": b, "available": available}, label)]
    fit(named, data, data, cross_entropy, 1)


def test_a_call_of_ones_own_drops_modalities_in_training() -> None:
    (a, b), label = samples()
    drop, seen = ModalityDropout(0.5), list[bool]()

    def call(model: nn.Module, inputs: Any) -> Any:
        available = torch.ones(len(label), 2, dtype=torch.bool)
        seen.append(model.training)
        return model(*inputs, available=drop(available) if model.training else available)

    data = [((a, b), label)]
    fit(make(), data, data, InteractionSupervision(cross_entropy), n_epochs=1, call=call)
    assert set(seen) == {True, False}


BATCH = towards(0)
SGD = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "one batch": ({"train": BATCH}, TypeError, "train must be batches"),
    "an iterator": ({"train": iter([BATCH])}, TypeError, "train must give its batches again in each epoch"),
    "no batch": ({"held_out": []}, ValueError, "held_out must yield at least one batch"),
    "no pair": ({"train": [(*BATCH, BATCH[1])]}, ValueError, "batch 0 of train: .* or use `Batches`"),
    "a list of labels": ({"held_out": [(BATCH[0], [0.0, 1.0])]}, ValueError, "of held_out: .* torch.as_tensor"),
    "no epoch": ({"n_epochs": 0}, ValueError, "n_epochs must be at least 1"),
    "no patience": ({"patience": 0}, ValueError, "patience must be at least 1"),
    "an average of nothing": ({"decay": 1.0}, ValueError, "decay must lie in"),
    "an optimizer": ({"optimizer": SGD}, TypeError, "optimizer must be a function .*, however it is an object of SGD"),
    "no loss": ({"loss_of": None}, TypeError, "loss_of must be a function"),
    "nothing to calibrate": ({"calibrator": calibrate}, ValueError, "calibrator must come with computed weights"),
    "a loss of each sample": ({"loss_of": partial(mse_loss, reduction="none")}, ValueError, "must return a scalar"),
    "a function": ({"model": Bias}, TypeError, "model must be a module"),
    "no finite loss": ({"held_out": [towards(math.nan)]}, ValueError, "held-out loss must be finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_trained_on_is_refused(case: str) -> None:
    wrong, kind, message = WRONG[case]
    right: dict[str, Any] = {"model": Bias(), "train": [BATCH], "held_out": [BATCH], "loss_of": mse_loss, "n_epochs": 1}
    with pytest.raises(kind, match=message):
        fit(**(right | wrong))


def test_a_task_that_the_weights_are_not_for_is_refused_before_training() -> None:
    modalities, _ = samples()
    data = [(modalities, torch.randn(32, 2))]

    def loss_of(out: Any, target: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nothing is trained")

    with pytest.raises(ValueError, match=r"batch 0 .* with ComputedReweighter\(task\)"):
        fit(make(), data, data, loss_of, n_epochs=1)


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("classification", torch.rand(32, 2)),
        ("classification", torch.tensor([[2.0, -1.0]]).expand(32, 2)),
        ("multilabel", torch.tensor([[2.0, -1.0]]).expand(32, 2)),
    ],
)
def test_soft_targets_of_another_task_are_refused(task: Any, target: torch.Tensor) -> None:
    modalities, label = samples()
    held_out = [(modalities, label if task == "classification" else torch.nn.functional.one_hot(label, 2).float())]
    train = [(modalities, SoftTargets(target, target.unsqueeze(1).expand(32, 2, 2)))]
    with pytest.raises(ValueError, match=f"soft targets must be of the model's task, {task}, however they"):
        fit(make(task), train, held_out, mse_loss, n_epochs=1)
    with pytest.raises(TypeError, match="held_out must have the samples' own targets"):
        fit(make(), train, train, InteractionSupervision(cross_entropy), n_epochs=1)


def test_a_criterion_in_place_of_a_loss_is_noted() -> None:
    data = [samples()]
    with pytest.raises(TypeError) as caught:
        fit(make(), data, data, cross_entropy, n_epochs=1)
    assert "InteractionSupervision(criterion)" in "".join(caught.value.__notes__)
