"""Specialists and their mean, the Teacher: what they predict, what a model learns from it, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2moe import BackboneOutput, ComputedReweighter, InteractionMoE, InteractionSupervision, Specialist, Teacher
from i2moe._common.tasks import Task
from i2moe.moe.teacher import SoftTargets

B, C = 6, 3
CRITERIA: dict[Task, Any] = {
    "classification": F.cross_entropy,
    "multilabel": F.binary_cross_entropy_with_logits,
    "regression": F.mse_loss,
}


class Fusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, C))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.body(torch.cat([x, y], dim=-1))
        return output


def make(task: Task = "classification", members: int | None = 1, names: tuple[str, str] = ("0", "1")) -> InteractionMoE:
    return InteractionMoE(Fusion, 2, modality_names=names, reweighter=ComputedReweighter(task), members=members)


class NamedFusion(Fusion):
    def forward(self, x: Any, y: Any = None) -> Tensor:
        return super().forward(**x) if isinstance(x, dict) else super().forward(x, y)


def specialists(n: int = 1, build: Callable[[], nn.Module] = Fusion, **options: Any) -> list[Specialist]:
    return [Specialist(build, 2, kind, **options) for kind in (0, 1, None) for _ in range(n)]


def teacher_of(each: list[Specialist] | None = None) -> Teacher:
    return Teacher(each or specialists(), "classification")


def bilinear() -> nn.Module:
    return nn.Bilinear(3, 4, C + 1)


def batch(n: int = B) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3), torch.randn(n, 4)


@pytest.mark.parametrize("task", CRITERIA)
def test_it_predicts_the_mean(task: Task) -> None:
    each = specialists(2)
    turn: Callable[[Tensor], Tensor] = {
        "classification": lambda x: x.softmax(-1),
        "multilabel": torch.sigmoid,
        "regression": lambda x: x,
    }[task]
    teacher = Teacher(each, task).train()
    inputs, available = batch(), torch.tensor([[True, True], [True, False], [False, True]] * 2)

    soft = teacher(*inputs, available=available)

    outputs = [turn(model.eval()(*inputs, available=available)) for model in each]
    torch.testing.assert_close(soft.target, torch.stack(outputs[4:]).mean(0))
    for modality in (0, 1):
        expected = torch.stack(outputs[2 * modality : 2 * modality + 2]).mean(0)
        torch.testing.assert_close(soft.marginal_target[:, modality], expected)
    assert not soft.target.requires_grad
    assert soft.marginal_target.shape == (B, 2, C)


def test_a_specialist_predicts_as_a_model_does_of_which_only_its_modality_is_available() -> None:
    model = InteractionMoE(Fusion, 2, reweighter="computed", members=1).eval()
    x, y = batch()
    for modality in (0, 1, None):
        specialist = Specialist(Fusion, 2, modality).eval()
        specialist.backbone = model.example_backbone
        available = torch.tensor([[modality != 1, modality != 0]]).expand(B, -1)
        torch.testing.assert_close(specialist(x, y), model(x, y, available=available).prediction)
    named = Specialist(NamedFusion, 2, 1, modality_names=("x", "y")).eval()
    torch.testing.assert_close(named({"x": x, "y": y}), named({"x": torch.zeros_like(x), "y": y}))
    torch.testing.assert_close(named(x=x, y=y), named({"x": x, "y": y}))


def test_a_sample_without_the_modality_teaches_nothing() -> None:
    specialist = Specialist(Fusion, 2, 0).eval()
    available = torch.tensor([[True, True], [False, True]] * 3)
    x, y = batch()
    x[1] = torch.nan
    prediction = specialist(x, y, available=available)
    assert (prediction[1::2] == 0).all()
    assert (prediction[::2] != 0).all()
    prediction[1::2].sum().backward()
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in specialist.parameters())


def test_what_a_backbone_returns_beside_the_prediction_is_kept() -> None:
    class WithLoss(Fusion):
        def forward(self, x: Tensor, y: Tensor) -> Any:
            return BackboneOutput(super().forward(x, y), aux_loss=torch.tensor(0.5))

    out = Specialist(WithLoss, 2, 0)(*batch(), available=torch.tensor([[False, True]]).expand(B, -1))
    assert out.aux_loss == 0.5
    assert (out.prediction == 0).all()
    assert teacher_of(specialists(1, WithLoss))(*batch()).target.shape == (B, C)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("task", CRITERIA)
def test_each_modality_alone_has_its_own_target(task: Task, members: int | None, per_sample: bool) -> None:
    out, criterion = make(task, members).eval()(*batch()), CRITERIA[task]
    joint, alone = Teacher(specialists(), task)(*batch())

    loss = InteractionSupervision(criterion, per_sample=per_sample)(out, joint, alone)

    experts = out.expert_predictions.unsqueeze(2) if members is None else out.member_predictions
    marginals = out.marginals.unsqueeze(2) if members is None else out.member_marginals
    ks = range(members or 1)
    expected = torch.stack([criterion(experts[:, e, k], joint) for e in range(4) for k in ks]).mean()
    expected += torch.stack([criterion(marginals[:, i, k], alone[:, i]) for i in range(2) for k in ks]).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("task", CRITERIA)
def test_targets_mixed_with_labels_give_the_mean_of_both_losses(task: Task) -> None:
    out, criterion = make(task)(*batch()), CRITERIA[task]
    soft = Teacher(specialists(), task)(*batch())
    y = {"classification": torch.arange(B) % C, "multilabel": torch.ones(B, C), "regression": torch.randn(B, C)}[task]
    hard = F.one_hot(y, C).float() if task == "classification" else y
    supervise = InteractionSupervision(criterion)

    def gradient(loss: Tensor) -> Tensor:
        found: Tensor = torch.autograd.grad(loss, out.member_predictions, retain_graph=True)[0]
        return found

    loss = 0.9 * supervise(out, soft) + 0.1 * supervise(out, hard)
    torch.testing.assert_close(gradient(supervise(out, soft.mixed_with(y))), gradient(loss))
    torch.testing.assert_close(soft.mixed_with(y, 0.0), soft)


def test_students_of_one_teacher_agree_more_than_models_of_noisy_targets() -> None:
    inputs = batch(200)
    target = (inputs[0][:, 0] + inputs[1][:, 0] + 2 * torch.randn(200) > 0).long()

    def train(model: Any, loss_of: Callable[[Any, Any], Tensor], targets: Any) -> Any:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(80):
            loss = loss_of(model.train()(*inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval()

    def student(targets: Any) -> InteractionMoE:
        found: InteractionMoE = train(make(), InteractionSupervision(F.cross_entropy), targets)
        return found

    @torch.no_grad()
    def distance(a: InteractionMoE, b: InteractionMoE) -> float:
        new = batch(500)
        return float((a(*new).weights - b(*new).weights).abs().sum(1).mean())

    soft = teacher_of([train(specialist, F.cross_entropy, target) for specialist in specialists(4)])(*inputs)
    assert distance(student(soft), student(soft)) < distance(student(target), student(target))


def test_classes_of_several_positions_are_on_the_second_axis() -> None:
    probabilities = torch.rand(B, C, C).softmax(1)
    labels = torch.randint(C, (B, C))
    soft = SoftTargets(probabilities, probabilities.unsqueeze(1))
    target = soft.mixed_with(labels, 1.0).target
    assert torch.equal(target.argmax(1), labels)
    assert torch.equal(soft.mixed_with(labels.numpy(), 1.0).target, target)  # type: ignore[arg-type]


def test_it_shows_what_it_predicts_from() -> None:
    assert "from 'x'" in repr(Specialist(Fusion, 2, 0, modality_names=("x", "y")))
    assert "from all" in repr(Specialist(Fusion, 2))


def test_specialists_stay_in_their_mode() -> None:
    each = specialists()
    each[0].train()
    each[1].eval()
    teacher_of(each)(*batch())
    assert [one.training for one in each] == [True, False, True]


def test_batches_take_their_rows_and_are_joined_again() -> None:
    soft = teacher_of()(*batch())
    torch.testing.assert_close(soft.take(torch.tensor([4, 1])).marginal_target, soft.marginal_target[[4, 1]])
    parts = [soft.take(rows) for rows in torch.arange(B).split(4)]
    torch.testing.assert_close(SoftTargets.cat(parts), soft)


def test_a_single_model_is_no_list() -> None:
    with pytest.raises(TypeError, match="specialists must be a list of modules, however they are a Specialist"):
        Teacher(Specialist(Fusion, 2), "classification")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: Specialist(Fusion, 2, 2), "modality must be a number from 0 to 1, or None, however it is 2"),
        (lambda: Teacher(specialists(), "ranking"), "task must be one of"),  # type: ignore[arg-type]
        (lambda: Teacher([], "classification"), r"there is none of \[None\]"),
        (lambda: Teacher(specialists()[1:], "classification"), r"there is none of \[0\]"),
        (lambda: Teacher(specialists()[:2], "classification"), r"there is none of \[None\]"),
        (lambda: Teacher([*specialists(), Specialist(Fusion, 3)], "classification"), "must have the same modalities"),
        (lambda: Teacher([make()], "classification"), "one is of type InteractionMoE; wrap the backbone"),
        (
            lambda: Teacher(specialists(1, lambda: nn.Bilinear(3, 4, 1)), "classification")(*batch()),
            r"logits of at least two classes, however they predict \(6, 1\)",
        ),
        (
            lambda: Teacher(specialists(), "regression")(*batch()).mixed_with(torch.zeros(B).long()),
            "build the teacher with the task of the labels",
        ),
        (lambda: teacher_of()(*batch()).mixed_with(torch.ones(B, C)), "build the teacher with the task of the labels"),
        (lambda: teacher_of()(*batch()).mixed_with(torch.full((B, C), torch.nan)), "labels must be finite"),
        (
            lambda: SoftTargets(torch.rand(B, 1), torch.rand(B, 2, 1)).mixed_with(torch.zeros(B).long()),
            r"labels must be \(6, 1\) as the teacher's",
        ),
        (lambda: specialists()[0](None, torch.zeros(B, 4)), r"give its fill an example, ZeroFill\(example=x\)"),
        (lambda: teacher_of()(*batch()).mixed_with(torch.full((B,), C)), "must be from 0 to 2"),
        (lambda: Teacher([*specialists(), Specialist(bilinear, 2)], "classification")(*batch()), "their shapes are"),
        (lambda: teacher_of()(torch.full((B, 3), torch.nan), torch.zeros(B, 4)), "must be finite"),
        (
            lambda: teacher_of()(*batch()).mixed_with(torch.zeros(B).long(), 2.0),
            r"share must lie in \[0, 1\]",
        ),
        (
            lambda: teacher_of()(*batch()).mixed_with(torch.zeros(B)),
            r"labels must be classes \(6,\) of an integer type, or \(6, 3\)",
        ),
        (
            lambda: InteractionSupervision(F.cross_entropy)(make()(*batch()), torch.rand(B, C), torch.rand(B, 1, C)),
            r"marginal_target must hold tensors \(B, M, ...\) = \(6, 2, ...\)",
        ),
        (
            lambda: InteractionSupervision(F.cross_entropy)(
                InteractionMoE(Fusion, 2, feature_dims=(3, 4))(*batch()), teacher_of()(*batch())
            ),
            "the model makes none",
        ),
    ],
)
def test_a_mistake_is_refused(run: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()
