"""Teacher: what it predicts, what a model learns from it, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2moe import ComputedReweighter, InteractionMoE, InteractionSupervision, Teacher
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


def bilinear() -> InteractionMoE:
    return InteractionMoE(lambda: nn.Bilinear(3, 4, C + 1), 2, reweighter="computed")


def batch(n: int = B) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3), torch.randn(n, 4)


@pytest.mark.parametrize("task", CRITERIA)
def test_it_predicts_the_mean(task: Task) -> None:
    models = [make(task), make(task)]
    turn: Callable[[Tensor], Tensor] = {
        "classification": lambda x: x.softmax(-1),
        "multilabel": torch.sigmoid,
        "regression": lambda x: x,
    }[task]
    teacher = Teacher(models).train()
    inputs, available = batch(), torch.tensor([[True, True], [True, False], [False, True]] * 2)

    soft = teacher(*inputs, available=available)

    outputs = [model(*inputs, available=available) for model in models]
    torch.testing.assert_close(soft.target, torch.stack([turn(out.prediction) for out in outputs]).mean(0))
    torch.testing.assert_close(soft.marginal_target, torch.stack([turn(out.marginals) for out in outputs]).mean(0))
    assert not soft.target.requires_grad
    assert soft.marginal_target.shape == (B, 2, C)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("task", CRITERIA)
def test_each_modality_alone_has_its_own_target(task: Task, members: int | None, per_sample: bool) -> None:
    out, criterion = make(task, members).eval()(*batch()), CRITERIA[task]
    joint, alone = Teacher([make(task)])(*batch())

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
    soft = Teacher([make(task)])(*batch())
    y = {"classification": torch.arange(B) % C, "multilabel": torch.ones(B, C), "regression": torch.randn(B, C)}[task]
    hard = F.one_hot(y, C).float() if task == "classification" else y
    supervise = InteractionSupervision(criterion)

    def gradient(loss: Tensor) -> Tensor:
        found: Tensor = torch.autograd.grad(loss, out.member_predictions, retain_graph=True)[0]
        return found

    loss = 0.8 * supervise(out, soft) + 0.2 * supervise(out, hard)
    torch.testing.assert_close(gradient(supervise(out, soft.mixed_with(y))), gradient(loss))
    torch.testing.assert_close(soft.mixed_with(y, 0.0), soft)


def test_students_of_one_teacher_agree_more_than_models_of_noisy_targets() -> None:
    inputs = batch(200)
    target = (inputs[0][:, 0] + inputs[1][:, 0] + 2 * torch.randn(200) > 0).long()

    def trained(teacher: Teacher | None = None) -> InteractionMoE:
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        supervise = InteractionSupervision(F.cross_entropy)
        for _ in range(80):
            loss = supervise(model.train()(*inputs), target if teacher is None else teacher(*inputs))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval()

    @torch.no_grad()
    def distance(a: InteractionMoE, b: InteractionMoE) -> float:
        new = batch(500)
        return float((a(*new).weights - b(*new).weights).abs().sum(1).mean())

    teacher = Teacher([trained() for _ in range(4)])
    assert distance(trained(teacher), trained(teacher)) < distance(trained(), trained())


def test_batches_take_their_rows_and_are_joined_again() -> None:
    soft = Teacher([make()])(*batch())
    torch.testing.assert_close(soft.take(torch.tensor([4, 1])).marginal_target, soft.marginal_target[[4, 1]])
    parts = [soft.take(rows) for rows in torch.arange(B).split(4)]
    torch.testing.assert_close(SoftTargets.cat(parts), soft)


def test_a_single_model_is_no_list() -> None:
    with pytest.raises(TypeError, match="models must be a list of models, however they are of type InteractionMoE"):
        Teacher(make())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: Teacher([]), "at least one"),
        (lambda: Teacher([make("regression"), make()]), "of one task"),
        (lambda: Teacher([make(), make(names=("1", "0"))]), "of the same modalities"),
        (lambda: Teacher([nn.Linear(2, 2)]), "one is of type Linear and does not"),
        (lambda: Teacher([make(), bilinear()])(*batch()), "their shapes are"),
        (lambda: Teacher([make()])(torch.full((B, 3), torch.nan), torch.zeros(B, 4)), "must be finite"),
        (lambda: Teacher([make()])(*batch()).mixed_with(torch.zeros(B).long(), 2.0), r"share must lie in \[0, 1\]"),
        (
            lambda: Teacher([make()])(*batch()).mixed_with(torch.zeros(B)),
            r"labels must be classes \(6,\) of an integer type, or \(6, 3\)",
        ),
        (
            lambda: InteractionSupervision(F.cross_entropy)(make()(*batch()), torch.rand(B, C), torch.rand(B, 1, C)),
            r"marginal_target must hold tensors \(B, M, ...\) = \(6, 2, ...\)",
        ),
        (
            lambda: InteractionSupervision(F.cross_entropy)(
                InteractionMoE(Fusion, 2, feature_dims=(3, 4))(*batch()), Teacher([make()])(*batch())
            ),
            "the model makes none",
        ),
    ],
)
def test_a_mistake_is_refused(run: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()
