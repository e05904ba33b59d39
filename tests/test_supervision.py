"""Supervision: the task loss of every expert and of each modality alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2moe import ComputedReweighter, InteractionMoE, InteractionSupervision, StaticReweighter
from i2moe.missing import ModalityDropout

B = 6
BOTH = pytest.mark.parametrize("members", [None, 3])


class Fusion(nn.Module):
    def __init__(self, n_outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, n_outputs))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.body(torch.cat([x, y], dim=-1))
        return output


def make(n_outputs: int = 3, **options: Any) -> InteractionMoE:
    return InteractionMoE(lambda: Fusion(n_outputs), 2, **({"reweighter": "computed"} | options))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(B, 3), torch.randn(B, 4)


def gradients(model: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_formula(members: int | None, training: bool) -> None:
    out, target = make(members=members).train(training)(*batch()), torch.randint(3, (B,))
    supervise = InteractionSupervision(F.cross_entropy)

    loss = supervise(out, target)

    each = out.expert_predictions.unsqueeze(2) if members is None else out.member_predictions
    alone = out.marginals.unsqueeze(2) if out.member_marginals is None else out.member_marginals
    assert each is not None
    assert (out.member_marginals is None) == (training or members is None)
    members_of = range(members or 1)
    expected = {
        "experts": torch.stack([F.cross_entropy(each[:, e, k], target) for e in range(4) for k in members_of]).mean(),
        "marginals": torch.stack(
            [F.cross_entropy(one, target) for i in range(2) for one in alone[:, i].unbind(1)]
        ).mean(),
    }
    torch.testing.assert_close(loss, expected["experts"] + expected["marginals"])
    torch.testing.assert_close(supervise.losses, {**expected, "supervision": loss})
    assert not any(term.requires_grad for term in supervise.losses.values())


@BOTH
def test_gradient_reaches_every_parameter(members: int | None) -> None:
    model = make(members=members)
    InteractionSupervision(F.cross_entropy)(model(*batch()), torch.randint(3, (B,))).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@BOTH
def test_an_absent_modality_teaches_nothing(members: int | None) -> None:
    available = torch.ones(B, 2, dtype=torch.bool)
    available[:, 0] = False
    (x, y), target = batch(), torch.randint(3, (B,))
    model = make(members=members, fill="learned")
    torch.manual_seed(2)  # members divide the rows of one modality at random
    out = model(torch.full_like(x, torch.nan), y, available=available)
    supervise = InteractionSupervision(F.cross_entropy)
    assert out.marginals is not None
    (gradient,) = torch.autograd.grad(supervise(out, target), out.marginals, retain_graph=True)
    assert not gradient[:, 0].any()
    assert (gradient[:, 1] != 0).all()
    supervise(out, target).backward()
    found = gradients(model)
    model.zero_grad()
    torch.manual_seed(2)
    supervise(model(torch.full_like(x, 7.0), y, available=available), target).backward()
    torch.testing.assert_close(found, gradients(model), rtol=0, atol=0)


@BOTH
@pytest.mark.parametrize("missing", [False, True])
def test_one_call_of_the_criterion_equals_one_for_each_expert(members: int | None, missing: bool) -> None:
    model = make(members=members)
    available = ModalityDropout(0.5)(torch.ones(B, 2, dtype=torch.bool)) if missing else None
    (x, y), target = batch(), torch.randint(3, (B,))
    found = []
    for per_sample in (True, False):
        torch.manual_seed(2)  # members divide the rows of one modality at random
        model.zero_grad()
        supervise = InteractionSupervision(F.cross_entropy, per_sample=per_sample)
        loss = supervise(model(x, y, available=available), target)
        loss.backward()
        found.append((loss, supervise.losses, gradients(model)))
    torch.testing.assert_close(*found)


@BOTH
def test_a_criterion_that_compares_samples_sees_one_batch_at_a_time(members: int | None) -> None:
    sizes = []

    def cox(risk: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        time, event = target
        sizes.append(len(time))
        later = time.unsqueeze(0) >= time.unsqueeze(1)
        log_sum = torch.where(later, risk.T, -torch.inf).logsumexp(1, keepdim=True)
        return -((risk - log_sum) * event.unsqueeze(1)).mean()

    model = make(1, reweighter=None, feature_dims=(3, 4), members=members, perturbation=None)
    target = (torch.rand(B), torch.ones(B))
    InteractionSupervision(cox, per_sample=False)(model(*batch()), target).backward()
    assert sizes == [B] * 4 * (members or 1)


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_nested_targets_reach_the_criterion(kind: Any) -> None:
    label, weight = torch.randint(3, (B,)), torch.rand(B, 2)
    target: Any = {"label": label, "weight": weight} if kind is dict else kind((label, weight))

    def criterion(prediction: Tensor, target: Any) -> Tensor:
        assert type(target) is kind
        label, weight = target.values() if isinstance(target, dict) else target
        assert len(prediction) == len(label) == len(weight)
        loss: Tensor = (F.cross_entropy(prediction, label, reduction="none") * weight.sum(1)).mean()
        return loss

    out = make()(*batch())
    found = [InteractionSupervision(criterion, per_sample=each)(out, target) for each in (True, False)]
    torch.testing.assert_close(*found)


def test_known_shares_teach_a_learned_reweighter() -> None:
    model = make(reweighter=None, feature_dims=(3, 4))
    target, shares = torch.randint(3, (B,)), torch.rand(B, 4).softmax(1)
    shares[0] = 0  # a row that counts nothing
    out = model(*batch())
    supervise = InteractionSupervision(F.cross_entropy)
    loss = supervise(out, target, target_weights=shares)
    assert sorted(supervise.losses) == ["experts", "supervision", "weights"]
    torch.testing.assert_close(supervise.losses["weights"], -(shares * out.weights.log()).sum(1).mean().detach())
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.reweighter.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: InteractionSupervision(nn.CrossEntropyLoss), TypeError, "must be a function"),  # type: ignore[arg-type]
        (lambda: InteractionSupervision("mse"), TypeError, "must be a function"),  # type: ignore[arg-type]
        (lambda: InteractionSupervision(F.mse_loss)(torch.ones(3), torch.ones(3)), TypeError, "a Tensor"),  # type: ignore[arg-type]
        (
            lambda: supervised(F.mse_loss, reduction="none"),
            ValueError,
            r"a scalar, however it returned shape \(24, 3\)",
        ),
        (lambda: supervised(F.mse_loss, target_weights=torch.ones(B, 4)), ValueError, "weights have no gradient"),
        (
            lambda: supervised(F.mse_loss, target_weights=torch.ones(B, 3)),
            ValueError,
            r"\(B, E\) = \(6, 4\) as",
        ),
    ],
)
def test_a_mistake_in_supervision_is_refused(run: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run()


def supervised(criterion: Any, target_weights: Tensor | None = None, **options: Any) -> Tensor:
    supervise = InteractionSupervision(lambda prediction, target: criterion(prediction, target, **options))
    return supervise(make()(*batch()), torch.ones(B, 3), target_weights=target_weights)


def test_its_name_shows_the_criterion() -> None:
    assert repr(InteractionSupervision(F.cross_entropy)) == "InteractionSupervision(cross_entropy)"
    assert "StaticReweighter" in repr(make(reweighter=StaticReweighter(4)))


# --- Training names the truth ---


def data(kind: str, interaction: str, n: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Draw two modalities and a label: the sign of the first, of both, or of their product."""
    random = torch.Generator().manual_seed(1)
    a, b = (torch.randint(2, (n,), generator=random) for _ in range(2))
    if interaction == "redundancy":
        b = a
    label = a ^ b if interaction == "synergy" else a
    return _features(kind, a), _features(kind, b), label


def _features(kind: str, bit: Tensor) -> Tensor:
    signs = (2.0 * bit - 1).unsqueeze(1)
    forms: dict[str, Tensor] = {
        "signs, float64": signs.double(),
        "bits, float16": (signs > 0).half(),
        "one-hot, duplicated": F.one_hot(bit, 2).float().repeat(1, 2),
        "tiny, with a constant": torch.cat((1e-6 * signs + 1e-6, torch.full_like(signs, 3.0)), dim=1),
        "huge, with noise": 1e6 * (signs + 0.1 * torch.randn(signs.shape, generator=torch.Generator().manual_seed(2))),
    }
    x = forms[kind].to(torch.float64)
    return ((x - x.mean(0)) / x.std(0).clamp(min=1e-12)).float()  # standardized, as the recipe says


TRUTH = {"uniqueness": "uniqueness/0", "redundancy": "redundancy", "synergy": "synergy"}
FEATURES = ["signs, float64", "bits, float16", "one-hot, duplicated", "tiny, with a constant", "huge, with noise"]
SCHEDULES = ["plain", "accumulated", "one at a time", "late class", "members"]


@pytest.mark.parametrize("interaction", TRUTH)
@pytest.mark.parametrize(("kind", "schedule"), list(zip(FEATURES, SCHEDULES, strict=True)))
def test_the_largest_weight_names_the_interaction(kind: str, schedule: str, interaction: str) -> None:
    x, y, label = data(kind, interaction)
    widths = x.shape[1] + y.shape[1]

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(widths, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            output: Tensor = self.body(torch.cat([x, y], dim=-1))
            return output

    model = InteractionMoE(Small, 2, reweighter="computed", members=4 if schedule == "members" else None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    supervise = InteractionSupervision(F.cross_entropy)
    size, n_steps = (1, 250) if schedule == "one at a time" else (32, 100)
    for step in range(n_steps):
        rows = torch.randint(len(x), (size,))
        if schedule == "late class" and step < 20:
            rows = rows[label[rows] == 0]
        supervise(model(x[rows], y[rows]), label[rows]).backward()
        if schedule != "accumulated" or step % 2:
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        weights = model(x, y).weights.mean(0)
    assert model.expert_names[int(weights.argmax())] == TRUTH[interaction]
    assert weights.max() > 0.6


@pytest.mark.parametrize("criterion", [F.mse_loss, nn.L1Loss(), partial(F.huber_loss, delta=0.5)])
def test_a_target_that_torch_would_repeat_is_refused(criterion: Any) -> None:
    out, y = make(1, reweighter=ComputedReweighter("regression"))(*batch()), torch.randn(B)
    with pytest.raises(ValueError, match=r"prediction's shape \(6, 1\), however its shape is \(6,\); reshape it"):
        InteractionSupervision(criterion)(out, y)
    assert InteractionSupervision(criterion)(out, y.unsqueeze(1)).ndim == 0
    own = InteractionSupervision(lambda prediction, target: criterion(prediction.squeeze(-1), target))
    torch.testing.assert_close(own(out, y), InteractionSupervision(criterion)(out, y.unsqueeze(1)))


@pytest.mark.parametrize("criterion", [F.cross_entropy, nn.CrossEntropyLoss()])
def test_labels_that_are_neither_classes_nor_probabilities_are_refused(criterion: Any) -> None:
    out, supervise = make(3, reweighter="computed")(*batch()), InteractionSupervision(criterion)
    for dtype in (torch.float32, torch.int32, torch.bool):
        with pytest.raises(ValueError, match=rf"integers of type torch.int64, however .* {dtype}; .* y.long\(\)"):
            supervise(out, torch.ones(B, dtype=dtype))
    for labels in (torch.zeros(B, 1).long(), torch.zeros(B, 1), torch.zeros(B, 3).long()):
        with pytest.raises(
            ValueError, match=r"classes of shape \(6,\), or .* \(6, 3\) .*; use y.squeeze\(1\), or y.argmax"
        ):
            supervise(out, labels)
    with pytest.raises(IndexError, match="out of bounds") as caught:
        supervise(out, torch.full((B,), 3))
    assert caught.value.__notes__ == ["predictions have shape ('B', 3); labels must count classes from 0"]
    for labels in (torch.full((B, 3), 1 / 3), torch.zeros(B).long(), torch.zeros(B, dtype=torch.uint8)):
        assert supervise(out, labels).ndim == 0
