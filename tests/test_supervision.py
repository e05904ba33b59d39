"""Supervision of the weights: shares, targets, gradients, cross-fitting, bad input."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2moe import InteractionLosses, InteractionMoE, InteractionOutput, InteractionSupervision
from i2moe._probes import Folds, Probes
from i2moe.supervision import interaction_shares

WIDTHS = (5, 3, 4)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Fusion(nn.Module):
    def __init__(self, widths: Sequence[int], n_outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(sum(widths), n_outputs)

    def forward(self, *modalities: Tensor) -> Tensor:
        prediction: Tensor = self.head(
            torch.cat([x.flatten(1, -2).mean(1) if x.ndim > 2 else x for x in modalities], -1)
        )
        return prediction


def modalities(n: int = 6, widths: Sequence[int] = WIDTHS) -> tuple[Tensor, ...]:
    return tuple(torch.randn(n, width) for width in widths)


def model(widths: Sequence[int] = WIDTHS, n_outputs: int = 3, **options: Any) -> InteractionMoE:
    options.setdefault("losses", InteractionLosses("regression" if n_outputs == 1 else "classification"))
    return InteractionMoE(lambda: Fusion(widths, n_outputs), len(widths), feature_dims=widths, **options)


def probabilities(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).softmax(-1)


def untied(supervise: InteractionSupervision) -> InteractionSupervision:
    """Probes that say something: their output weights start at zero."""
    assert supervise.probes is not None
    nn.init.normal_(output_weight(supervise.probes), std=1 / supervise.probes.speed)
    return supervise


def output_weight(probes: Probes) -> Tensor:
    return probes.unpack(probes.vector.detach())[5]


# --- shares -------------------------------------------------------------------------------------------------------


def slow_shares(unimodal: Tensor, joint: Tensor, prior: Tensor) -> tuple[list[list[float]], list[float]]:
    """The equations of `interaction_shares`, one number at a time."""
    shares, lengths = [], []
    for b in range(len(joint)):
        way = [float(joint[b, c] - prior[c]) for c in range(joint.shape[1])]
        length = sum(x * x for x in way)
        covered = []
        for i in range(unimodal.shape[1]):
            along = sum(float(unimodal[b, i, c] - prior[c]) * way[c] for c in range(len(way)))
            r = min(1.0, max(0.0, along / length))
            covered.append(6 * r**5 - 15 * r**4 + 10 * r**3)
        first, second = sorted(covered, reverse=True)[:2]
        row = [0.0] * len(covered) + [1 - first, second]
        row[covered.index(first)] = first - second
        shares.append(row)
        lengths.append(length)
    return shares, lengths


@pytest.mark.parametrize("n_modalities", [2, 3, 5])
def test_shares_equal_the_equations(n_modalities: int) -> None:
    unimodal, joint, prior = probabilities(20, n_modalities, 4), probabilities(20, 4), probabilities(4)
    shares, length = interaction_shares(unimodal, joint, prior)
    expected, lengths = slow_shares(unimodal, joint, prior)
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(length, torch.tensor(lengths, dtype=torch.float64))


@pytest.mark.parametrize("n_modalities", [2, 3, 5])
def test_shares_telescope_to_one(n_modalities: int) -> None:
    shares, _ = interaction_shares(probabilities(50, n_modalities, 3), probabilities(50, 3), probabilities(3))
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(50, dtype=torch.float64))
    assert ((shares[:, :n_modalities] > 0).sum(-1) <= 1).all()  # only the best modality is unique


def test_shares_follow_a_permutation_of_the_modalities() -> None:
    unimodal, joint, prior = probabilities(50, 4, 3), probabilities(50, 3), probabilities(3)
    order = torch.tensor([2, 0, 3, 1])
    shares, _ = interaction_shares(unimodal, joint, prior)
    permuted, _ = interaction_shares(unimodal[:, order], joint, prior)
    torch.testing.assert_close(permuted, shares[:, torch.cat((order, torch.tensor([4, 5])))])


def test_shares_do_not_depend_on_the_order_of_classes() -> None:
    unimodal, joint, prior = probabilities(50, 3, 4), probabilities(50, 4), probabilities(4)
    order = torch.randperm(4)
    torch.testing.assert_close(
        interaction_shares(unimodal[..., order], joint[:, order], prior[order]),
        interaction_shares(unimodal, joint, prior),
    )


KNOWS, CHANCE, WRONG = [1.0, 0.0], [0.3, 0.7], [0.0, 1.0]


@pytest.mark.parametrize(
    ("unimodal", "expected"),
    [
        ([KNOWS, CHANCE, CHANCE], [1, 0, 0, 0, 0]),
        ([CHANCE, CHANCE, KNOWS], [0, 0, 1, 0, 0]),
        ([CHANCE, CHANCE, CHANCE], [0, 0, 0, 1, 0]),
        ([KNOWS, KNOWS, KNOWS], [0, 0, 0, 0, 1]),
        ([KNOWS, CHANCE, KNOWS], [0, 0, 0, 0, 1]),  # two of three
        ([KNOWS, WRONG, CHANCE], [1, 0, 0, 0, 0]),  # who is misled says nothing
        ([WRONG, WRONG, WRONG], [0, 0, 0, 1, 0]),
    ],
)
def test_pure_cases(unimodal: list[list[float]], expected: list[float]) -> None:
    shares, length = interaction_shares(torch.tensor([unimodal]), torch.tensor([KNOWS]), torch.tensor(CHANCE))
    torch.testing.assert_close(shares, torch.tensor([expected]).float())
    torch.testing.assert_close(length, torch.tensor([0.7**2 * 2]))


def test_half_the_way_is_half() -> None:
    shares, _ = interaction_shares(torch.tensor([[[0.5], [0.0]]]), torch.tensor([[1.0]]), torch.tensor([0.0]))
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.0, 0.5, 0.0]]))


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("skew", [1.0, 5.0])
def test_chance_is_the_prior_whatever_the_classes(n_classes: int, skew: float) -> None:
    prior = torch.linspace(1, skew, n_classes).div(torch.linspace(1, skew, n_classes).sum())
    answer = F.one_hot(torch.arange(n_classes), n_classes).float()
    unimodal = torch.stack((prior.expand(n_classes, -1), answer), dim=1)
    shares, _ = interaction_shares(unimodal, answer, prior)
    torch.testing.assert_close(shares, torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(n_classes, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("start", [[1.0, 0.0], [0.5, 0.5]])
def test_small_errors_move_pure_shares_less_than_proportionally(start: list[float]) -> None:
    """Errors at the ends do not cancel, so they must not count to first order."""
    joint, prior = torch.tensor([[1.0, 0.0]]), torch.tensor([0.5, 0.5])
    exact = torch.tensor([[start, [0.5, 0.5]]])
    moved = {}
    for error in (0.01, 0.02):
        wrong = exact + error * torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]])
        moved[error] = float(
            (interaction_shares(wrong, joint, prior)[0] - interaction_shares(exact, joint, prior)[0]).abs().sum()
        )
    assert moved[0.02] > 7.5 * moved[0.01]  # third order
    assert moved[0.02] < 0.01


def test_nothing_known_is_uniform() -> None:
    shares, length = interaction_shares(probabilities(3, 2, 2), torch.full((3, 2), 0.5), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(shares, torch.full((3, 4), 0.25, dtype=torch.float64))
    assert (length == 0).all()


# --- targets ------------------------------------------------------------------------------------------------------

TASKS: list[tuple[str, int, Callable[[int], Tensor]]] = [
    ("classification", 3, lambda n: torch.randint(3, (n,))),
    ("multilabel", 3, lambda n: torch.randint(2, (n, 3)).float()),
    ("regression", 1, lambda n: 7 + 5 * torch.randn(n)),
    ("regression", 2, lambda n: 7 + 5 * torch.randn(n, 2)),
]
each_task = pytest.mark.parametrize(("task", "n_outputs", "draw"), TASKS)


@each_task
@pytest.mark.parametrize("training", [True, False])
def test_targets_lie_on_the_simplex(task: Any, n_outputs: int, draw: Callable[[int], Tensor], training: bool) -> None:
    supervise = untied(InteractionSupervision(WIDTHS, n_outputs, task)).train(training)
    t = supervise.targets(modalities(40))
    assert t.shape == (40, 5)
    assert not t.requires_grad
    assert (t >= 0).all()
    torch.testing.assert_close(t.sum(-1), torch.ones(40))


@each_task
def test_one_step_on_everything(task: Any, n_outputs: int, draw: Callable[[int], Tensor]) -> None:
    supervise, moe = untied(InteractionSupervision(WIDTHS, n_outputs, task)), model(n_outputs=n_outputs)
    x, target = modalities(12), draw(12)
    out = moe(*x)
    loss = supervise(out, x, target)
    (loss + 0.1 * out.interaction_loss).backward()

    assert loss.shape == ()
    for name, parameter in [*supervise.named_parameters(), *moe.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert set(supervise.losses) == {"weights", "experts", "probes", "supervision", "confidence"}
    assert all(value.ndim == 0 and not value.requires_grad for value in supervise.losses.values())
    torch.testing.assert_close(supervise.losses["supervision"], loss.detach())


def test_terms_equal_the_equations() -> None:
    supervise = InteractionSupervision(None, 3, weights_weight=2.0, experts_weight=0.5, shared=0.25).double().eval()
    moe, x, y = model().double(), tuple(part.double() for part in modalities(8)), torch.randint(3, (8,))
    unimodal, joint = [probabilities(8, 3) for _ in WIDTHS], probabilities(8, 3)
    supervise.answers.mean.copy_(torch.tensor([0.2, 0.3, 0.5]))
    supervise.answers.variance.copy_(torch.tensor([0.1, 0.2, 0.3]))
    out = moe(*x)
    loss = supervise(out, x, y, unimodal=unimodal, joint=joint)

    t, lengths = slow_shares(torch.stack(unimodal, 1), joint, supervise.answers.mean)
    weights_loss = experts_loss = 0.0
    for b in range(8):
        confidence = min(1.0, lengths[b] / 0.6)
        for e in range(5):
            weights_loss -= confidence * t[b][e] * float(out.weights[b, e].detach().log()) / 8
            log_p = float(out.expert_predictions[b, e].detach().log_softmax(-1)[y[b]])
            experts_loss -= (0.75 * t[b][e] + 0.25 / 5) * log_p / 8
    torch.testing.assert_close(float(loss.detach()), 2 * weights_loss + 0.5 * experts_loss)
    torch.testing.assert_close(float(supervise.losses["weights"]), weights_loss)
    torch.testing.assert_close(float(supervise.losses["experts"]), experts_loss)


def test_gradient_of_the_terms() -> None:
    supervise = InteractionSupervision(None, 3).double().eval()
    y, unimodal, joint = torch.randint(3, (4,)), [probabilities(4, 3) for _ in WIDTHS], probabilities(4, 3)
    out = model().double()(*(part.double() for part in modalities(4)))

    def term(weights: Tensor, experts: Tensor) -> Tensor:
        result: Tensor = supervise(
            replace(out, weights=weights, expert_predictions=experts), (), y, unimodal=unimodal, joint=joint
        )
        return result

    weights, experts = (
        probabilities(4, 5).requires_grad_(),
        torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(term, (weights, experts))


def test_no_gradient_reaches_features_or_predictions() -> None:
    supervise = untied(InteractionSupervision(WIDTHS, 3, weights_weight=0, experts_weight=0))
    x, y = tuple(part.requires_grad_() for part in modalities(8)), torch.randint(3, (8,))
    out = model()(*x)
    supervise(out, x, y).backward()
    assert all(part.grad is None or not part.grad.any() for part in x)

    given = InteractionSupervision(None, 3)
    unimodal = [probabilities(8, 3, dtype=torch.float32).requires_grad_() for _ in WIDTHS]
    given(
        replace(out, weights=out.weights.detach(), expert_predictions=out.expert_predictions.detach().requires_grad_()),
        x,
        y,
        unimodal=unimodal,
    ).backward()
    assert all(part.grad is None for part in unimodal)


def test_probes_learn_from_their_own_loss_alone() -> None:
    x, y = modalities(8), torch.randint(3, (8,))
    out = model()(*x)
    gradients = []
    for factor in (0.0, 3.0):
        torch.manual_seed(1)
        supervise = untied(InteractionSupervision(WIDTHS, 3, weights_weight=factor, experts_weight=factor))
        supervise(out, x, y).backward(retain_graph=True)
        gradients.append([parameter.grad for parameter in supervise.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_evaluation_changes_nothing() -> None:
    supervise, moe = untied(InteractionSupervision(WIDTHS, 3)).eval(), model().eval()
    x, y = modalities(8), torch.randint(3, (8,))
    before, rng = copy.deepcopy(supervise.state_dict()), torch.get_rng_state()
    supervise(moe(*x), x, y)
    torch.testing.assert_close(supervise.state_dict(), before)
    assert torch.equal(rng, torch.get_rng_state())
    assert supervise.losses["probes"] == 0


def test_targets_change_nothing_in_training_either() -> None:
    supervise = untied(InteractionSupervision(WIDTHS, 3))
    before = copy.deepcopy(supervise.state_dict())
    supervise.targets(modalities())
    torch.testing.assert_close(supervise.state_dict(), before)


def test_permuting_modalities_permutes_targets() -> None:
    unimodal, joint = (
        [probabilities(30, 3, dtype=torch.float32) for _ in WIDTHS],
        probabilities(30, 3, dtype=torch.float32),
    )
    supervise = InteractionSupervision(None, 3)
    t = supervise.targets((), unimodal=unimodal, joint=joint)
    swapped = supervise.targets((), unimodal=[unimodal[i] for i in (1, 2, 0)], joint=joint)
    torch.testing.assert_close(swapped, t[:, [1, 2, 0, 3, 4]])


def test_regression_targets_do_not_depend_on_the_unit() -> None:
    target, unimodal, joint = torch.randn(64), [torch.randn(64, 1) for _ in range(2)], torch.randn(64, 1)
    found = []
    for scale, shift in ((1.0, 0.0), (100.0, -40.0)):
        supervise = InteractionSupervision(None, 1, "regression")
        for _ in range(200):  # until the running moments have settled
            supervise.answers((target * scale + shift).unsqueeze(1), update=True)
        found.append(supervise.targets((), unimodal=[x * scale + shift for x in unimodal], joint=joint * scale + shift))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=0)


def test_subset_of_experts_keeps_the_shares_of_the_others() -> None:
    moe = model(experts=("synergy", "redundancy"))
    x, y = modalities(20), torch.randint(3, (20,))
    everything, some = (
        untied(InteractionSupervision(WIDTHS, 3)),
        InteractionSupervision(WIDTHS, 3, interactions=moe.interactions),
    )
    some.load_state_dict(everything.state_dict())
    all_shares, shares = everything.targets(x), some.targets(x)
    torch.testing.assert_close(shares, all_shares[:, 3:] / all_shares[:, 3:].sum(-1, keepdim=True))
    assert some(moe(*x), x, y).isfinite()


def test_tokens_and_nested_modalities_are_pooled_as_the_reweighter_does() -> None:
    tokens, mask = torch.randn(8, 7, 5), torch.ones(8, 7, dtype=torch.bool)
    supervise = untied(InteractionSupervision((5, 3), 3))
    other = torch.randn(8, 3)
    torch.testing.assert_close(supervise.targets(((tokens, mask), other)), supervise.targets((tokens.mean(1), other)))


def test_without_perturbed_views() -> None:
    supervise, moe = InteractionSupervision(WIDTHS, 3), model(perturbation=None)
    x = modalities(8)
    assert supervise(moe(*x), x, torch.randint(3, (8,))).isfinite()


def test_half_precision_outputs() -> None:
    supervise, moe = InteractionSupervision(WIDTHS, 3), model()
    x, y = modalities(8), torch.randint(3, (8,))
    with torch.autocast("cpu", torch.bfloat16):
        out = moe(*x)
        assert supervise(out, x, y).dtype == torch.float32


# --- cross-fitting ------------------------------------------------------------------------------------------------


def test_folds_are_the_same_for_equal_samples_and_even_in_size() -> None:
    x = torch.randn(4000, 6)
    folds = Folds(6, 3)(x)
    order = torch.randperm(4000)
    assert torch.equal(Folds(6, 3)(x[order]), folds[order])
    assert (folds.bincount(minlength=3) / 4000 - 1 / 3).abs().max() < 0.05


def test_folds_of_binary_features_are_even_too() -> None:
    x = torch.randint(2, (4000, 20)).float()
    assert (Folds(20, 2)(x).bincount(minlength=2) / 4000 - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("by_index", [True, False])
def test_a_sample_is_judged_by_probes_that_it_did_not_train(by_index: bool) -> None:
    """Other targets for the samples of one fold change the gradient of the other folds' probes only."""
    x, y, index = modalities(30), torch.randint(3, (30,)), torch.arange(30)
    supervise, out = untied(InteractionSupervision(WIDTHS, 3, every=1)), model()(*x)
    assert supervise.folds is not None
    folds = index % 2 if by_index else supervise.folds(torch.cat(x, -1))

    gradients = []
    for labels in (y, torch.where(folds == 0, (y + 1) % 3, y)):
        supervise.zero_grad()
        supervise(out, x, labels, index=index if by_index else None).backward(retain_graph=True)
        assert supervise.probes is not None
        assert supervise.probes.vector.grad is not None
        gradients.append(supervise.probes.unpack(supervise.probes.vector.grad.clone())[5].unflatten(0, (-1, 2)))
    assert torch.equal(gradients[0][:, 0], gradients[1][:, 0])  # fold 0's probes judge these samples
    assert not torch.equal(gradients[0][:, 1], gradients[1][:, 1])


def test_each_probe_sees_its_modality_only() -> None:
    probes = Probes(WIDTHS, 3, hidden_dim=8, n_folds=2)
    nn.init.normal_(output_weight(probes))
    x = modalities()
    before = probes(torch.cat(x, -1))
    after = probes(torch.cat((x[0], x[1] + 1, x[2]), -1))
    changed = (before != after).flatten(2).any(-1)  # (K, M + 1)
    assert torch.equal(changed, torch.tensor([[False, True, False, True]] * 2))


def probes_of(speed: float) -> Probes:
    torch.manual_seed(0)
    return Probes(WIDTHS, 3, hidden_dim=8, n_folds=2, speed=speed).double()


def weights_of(probes: Probes) -> Tensor:
    return probes.vector.detach() * probes.speed


def test_speed_changes_what_adam_does_and_nothing_else() -> None:
    slow, fast = probes_of(1.0), probes_of(4.0)
    x = torch.cat(modalities(), -1).double()
    torch.testing.assert_close(slow(x), fast(x))
    torch.testing.assert_close(slow.squared_norm(), fast.squared_norm())

    moved = {}
    for kind, rate in ((torch.optim.SGD, 0.1), (torch.optim.Adam, 1e-3)):
        for probes in (slow, fast) if kind is torch.optim.SGD else (probes_of(1.0), probes_of(4.0)):
            before, optimizer = weights_of(probes), kind(probes.parameters(), lr=rate)
            ((probes(x) - 1).square().sum() + probes.squared_norm()).backward()
            optimizer.step()
            moved[kind, probes.speed] = weights_of(probes) - before
    torch.testing.assert_close(moved[torch.optim.SGD, 4.0], moved[torch.optim.SGD, 1.0])
    torch.testing.assert_close(moved[torch.optim.Adam, 4.0], 4 * moved[torch.optim.Adam, 1.0], rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("n_folds", [1, 2])
def test_cross_fitting_keeps_memorized_samples_from_looking_redundant(n_folds: int) -> None:
    """With few samples in many dimensions a probe finds every label in noise; only one never trained there does not."""
    n = 100
    x, y = (torch.randn(n, 64), torch.randn(n, 64)), torch.randint(2, (n,))
    x[0][:, 0] = 4.0 * (2 * y - 1)  # all there is to know is unique to modality 0
    supervise, moe = InteractionSupervision((64, 64), 2, n_folds=n_folds), model((64, 64), 2, perturbation=None)
    optimizer = torch.optim.Adam(supervise.parameters(), lr=1e-2)
    out = moe(*x)
    for _ in range(200):
        optimizer.zero_grad()
        supervise(
            replace(out, weights=out.weights.detach(), expert_predictions=out.expert_predictions.detach()), x, y
        ).backward()
        optimizer.step()
    uniqueness, _, _, redundancy = supervise.targets(x).mean(0)
    assert (redundancy > uniqueness) == (n_folds == 1)


def test_shares_from_elsewhere_teach_the_weights_and_the_experts() -> None:
    x, y = modalities(), torch.randint(3, (6,))
    out = model()(*x)
    degrees = torch.rand(6, 5).softmax(-1) * torch.rand(6, 1)  # rows sum to less than 1: known in part
    supervise = InteractionSupervision(None, 3, shared=0.0)
    total = supervise(out, x, y, shares=degrees)

    t = degrees / degrees.sum(1, keepdim=True)
    nll = torch.stack([F.cross_entropy(out.expert_predictions[:, e], y, reduction="none") for e in range(5)], 1)
    expected = -(degrees * out.weights.log()).sum(1).mean() + (t * nll).sum(1).mean()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(supervise.losses["confidence"], degrees.sum(1).mean())


@pytest.mark.parametrize(
    ("probing", "shares", "message"),
    [
        (True, torch.eye(5)[[0] * 6], "shares must come from the caller or be found out here, however both"),
        (False, torch.eye(4)[[0] * 6], r"shares must be \(B, E\) = \(6, 5\) as the weights, however they are \(6, 4\)"),
        (False, torch.full((6, 5), 0.5), "shares must be at least 0 and sum to at most 1, however .* at most 2.5"),
        (False, -torch.eye(5)[[0] * 6], r"shares must be at least 0 .*, however they lie in \[-1"),
    ],
)
def test_shares_that_are_none(probing: bool, shares: Tensor, message: str) -> None:
    supervise = InteractionSupervision(WIDTHS if probing else None, 3)
    x = modalities()
    with pytest.raises(ValueError, match=message):
        supervise(model()(*x), x, torch.zeros(6, dtype=torch.long), shares=shares)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (torch.rand(6), ValueError, r"index must be integers \(B,\) = \(6,\), .*, however it is torch.float32"),
        (torch.arange(3), ValueError, r"index must be integers \(B,\) = \(6,\), .* \(3,\)"),
        ([0, 1, 2, 3, 4, 5], TypeError, "index must be a tensor of integers, however it is a list"),
    ],
)
def test_an_index_that_is_none(index: Any, error: type[Exception], message: str) -> None:
    supervise = InteractionSupervision(WIDTHS, 3)
    x = modalities()
    with pytest.raises(error, match=message):
        supervise(model()(*x), x, torch.zeros(6, dtype=torch.long), index=index)
    with pytest.raises(error, match=message):
        supervise.targets(x, index=index)


@pytest.mark.parametrize("by_index", [True, False])
def test_cross_fitting_of_features_that_move_needs_the_index(by_index: bool) -> None:
    """Encoders are trained along. Without the index every step draws new folds, and no sample stays unknown to a probe.

    The guard is not complete with it either: what an encoder has memorized, it shows to all probes.
    """
    n = 100
    x, y = (torch.randn(n, 64), torch.randn(n, 64)), torch.randint(2, (n,))
    x[0][:, 0] = 4.0 * (2 * y - 1)  # all there is to know is unique to modality 0
    encoders = nn.ModuleList([nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32)) for _ in x])
    supervise, moe = InteractionSupervision((32, 32), 2, every=1), model((32, 32), 2, perturbation=None)
    modules = nn.ModuleList([encoders, moe, supervise])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
    for _ in range(150):
        rows = torch.randperm(n)[:50]
        z = [encoder(modality[rows]) for encoder, modality in zip(encoders, x, strict=True)]
        out = moe(*z)
        task, index = F.cross_entropy(out.prediction, y[rows]), rows if by_index else None
        optimizer.zero_grad()
        (task + supervise(out, z, y[rows], index=index)).backward()
        optimizer.step()

    z = [encoder(modality) for encoder, modality in zip(encoders, x, strict=True)]
    uniqueness, _, _, redundancy = supervise.targets(z, index=torch.arange(n) if by_index else None).mean(0)
    assert (redundancy > 0.8) == (not by_index)
    assert (uniqueness > 0.3) == by_index


def test_encoders_learn_from_the_experts_alone() -> None:
    """No gradient reaches an encoder through the probes, the targets or the confidence."""
    encoders = nn.ModuleList([nn.Linear(width, width) for width in WIDTHS])
    supervise, moe, x, y = untied(InteractionSupervision(WIDTHS, 3)), model(), modalities(), torch.randint(3, (6,))
    z = [encoder(modality) for encoder, modality in zip(encoders, x, strict=True)]
    out = moe(*z)
    passed, detached = ([*z], [modality.detach() for modality in z])
    gradients = [
        torch.autograd.grad(supervise.eval()(out, given, y), list(encoders.parameters()), retain_graph=True)
        for given in (passed, detached)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    assert all(gradient.any() for gradient in gradients[0])


def test_learns_a_known_interaction_end_to_end() -> None:
    n = 512
    sign, other = torch.randint(2, (2, n)) * 2.0 - 1
    unique = torch.rand(n) < 0.5  # half the samples: modality 0 knows; the others: both know
    a = torch.stack((sign, unique.float()), 1) + 0.1 * torch.randn(n, 2)
    b = torch.stack((torch.where(unique, other, sign), unique.float()), 1) + 0.1 * torch.randn(n, 2)
    y = (sign > 0).long()

    supervise, moe = InteractionSupervision((2, 2), 2), model((2, 2), 2, perturbation=None)
    optimizer = torch.optim.Adam([*supervise.parameters(), *moe.parameters()], lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        out = moe(a, b)
        (F.cross_entropy(out.prediction, y) + supervise(out, (a, b), y)).backward()
        optimizer.step()
    named = moe.eval()(a, b).weights.argmax(-1)
    assert (named == torch.where(unique, 0, 3)).float().mean() > 0.95


# --- life ---------------------------------------------------------------------------------------------------------


def test_state_survives_saving() -> None:
    supervise, moe = untied(InteractionSupervision(WIDTHS, 3)), model()
    x, y = modalities(16), torch.randint(3, (16,))
    supervise(moe(*x), x, y)
    loaded = InteractionSupervision(WIDTHS, 3)
    loaded.load_state_dict(supervise.state_dict())
    torch.testing.assert_close(loaded.targets(x), supervise.targets(x))
    assert "task='classification'" in repr(loaded)


def test_two_of_three_calls_rest() -> None:
    supervise, moe = untied(InteractionSupervision(WIDTHS, 3)), model()
    assert supervise.probes is not None
    x, y = modalities(16), torch.randint(3, (16,))
    out = moe(*x)
    assert supervise(out, x, y) > 0
    before = copy.deepcopy([*supervise.buffers()])
    for _ in range(2):
        rest = supervise(out, x, y)
        rest.backward()
        assert rest == 0
    assert supervise.probes.vector.grad is not None  # DDP waits for one
    assert not supervise.probes.vector.grad.any()
    assert all(parameter.grad is None for parameter in moe.parameters())
    assert all(map(torch.equal, supervise.buffers(), before))
    assert supervise.losses["supervision"] > 0
    assert supervise(out, x, y) > 0

    supervise.eval()
    assert all(supervise(out, x, y) > 0 for _ in range(2))


def test_a_call_that_counts_stands_for_those_that_rest() -> None:
    x, y = modalities(16), torch.randint(3, (16,))
    out = model()(*x)
    terms = []
    for every in (1, 3):
        torch.manual_seed(1)
        terms.append(InteractionSupervision(WIDTHS, 3, every=every)(out, x, y))
    torch.testing.assert_close(terms[1], 3 * terms[0])


def test_what_rests_survives_saving() -> None:
    supervise, out = untied(InteractionSupervision(WIDTHS, 3, every=3)), model()(*(x := modalities(16)))
    y = torch.randint(3, (16,))
    supervise(out, x, y)
    loaded = InteractionSupervision(WIDTHS, 3, every=3)
    loaded.load_state_dict(supervise.state_dict())
    assert [bool(loaded(out, x, y) > 0) for _ in range(4)] == [False, False, True, False]


def test_predictions_of_the_caller_never_rest() -> None:
    supervise, out = InteractionSupervision(None, 3), model()(*(x := modalities()))
    unimodal = [probabilities(6, 3, dtype=torch.float32) for _ in WIDTHS]
    assert all(supervise(out, x, torch.randint(3, (6,)), unimodal=unimodal) > 0 for _ in range(3))


def test_a_resting_call_refuses_what_others_refuse() -> None:
    supervise, out = InteractionSupervision(WIDTHS, 3), model()(*(x := modalities()))
    supervise(out, x, torch.randint(3, (6,)))
    with pytest.raises(ValueError, match="must have widths"):
        supervise(out, modalities(widths=(5, 4, 4)), torch.randint(3, (6,)))
    with pytest.raises(ValueError, match="predictions must be"):
        supervise(replace(out, expert_predictions=torch.zeros(6, 5, 4)), x, torch.randint(3, (6,)))


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_batches(n: int) -> None:
    supervise, x = InteractionSupervision(WIDTHS, 1, "regression"), modalities(n)
    out = model(n_outputs=1)(*x)
    assert supervise(out, x, torch.zeros(n)).isfinite()


def test_weights_of_exactly_zero_stay_finite() -> None:
    supervise, x = untied(InteractionSupervision(WIDTHS, 3)), modalities(4)
    out = model()(*x)
    weights = F.one_hot(torch.zeros(4, dtype=torch.long), 5).float().requires_grad_()
    supervise(replace(out, weights=weights), x, torch.randint(3, (4,))).backward()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


def test_traces_into_one_graph() -> None:
    supervise, x, y = untied(InteractionSupervision(WIDTHS, 3)), modalities(8), torch.randint(3, (8,))
    with torch.no_grad():
        out = model()(*x)
    expected = copy.deepcopy(supervise)(out, x, y) / supervise.turns.every  # compiled calls stand for themselves
    compiled = torch.compile(supervise, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(out, x, y), expected)
    assert all(compiled(out, x, y) > 0 for _ in range(3))  # counting calls would compile each anew


# --- bad input ----------------------------------------------------------------------------------------------------


def call(
    supervise: InteractionSupervision, target: Tensor, widths: Sequence[int] = WIDTHS, **options: Any
) -> InteractionOutput:
    x = modalities(6, widths)
    supervise(model(widths)(*x), x, target, **options)
    raise AssertionError("accepted")


CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("classification", torch.zeros(6), "must be integers"),
        ("classification", torch.zeros(6, 3, dtype=torch.long), "must be integers"),
        ("classification", torch.zeros(5, dtype=torch.long), r"\(B,\) = \(6,\)"),
        ("classification", CLASSES + 1, r"\[0, 3\).*from 1 to 3"),
        ("classification", CLASSES - 1, r"\[0, 3\).*from -1 to 1"),
        ("multilabel", CLASSES, r"\(B, C\) = \(6, 3\)"),
        ("multilabel", torch.full((6, 3), 0.5), "0 or 1"),
        ("regression", torch.zeros(6), r"\(6, 3\)"),
        ("regression", torch.zeros(6, 3, dtype=torch.long), "floating-point"),
        ("regression", torch.full((6, 3), torch.nan), "18 are NaN"),
    ],
)
@pytest.mark.parametrize("later", [False, True], ids=["first call", "later call"])
def test_targets_of_the_wrong_form(task: Any, target: Tensor, message: str, later: bool) -> None:
    supervise, x = InteractionSupervision(WIDTHS, 3, task), modalities()
    if later:
        good = {"classification": CLASSES, "multilabel": F.one_hot(CLASSES), "regression": torch.randn(6, 3)}
        supervise(model()(*x), x, good[task])
    with pytest.raises(ValueError, match=message):
        call(supervise, target)


@pytest.mark.parametrize(
    ("unimodal", "message"),
    [
        ([torch.full((6, 3), 0.5)] * 3, r"unimodal\[0\].*sum to 1"),
        ([torch.randn(6, 3)] * 3, r"unimodal\[0\].*softmax"),
        ([torch.full((6, 4), 0.25)] * 3, r"\(6, 3\)"),
        ([torch.full((6, 3), 1 / 3)] * 2, "4 experts.*has 5"),
        ([torch.full((6, 3), 1 / 3)], "at least two modalities"),
        (None, "at least two modalities"),
    ],
)
def test_predictions_that_are_none(unimodal: list[Tensor] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(InteractionSupervision(None, 3), CLASSES, unimodal=unimodal)


def test_probes_and_predictions_at_once() -> None:
    with pytest.raises(ValueError, match="both are given"):
        call(InteractionSupervision(WIDTHS, 3), CLASSES, unimodal=[torch.full((6, 3), 1 / 3)] * 3)


def test_no_joint_prediction() -> None:
    with pytest.raises(ValueError, match="joint must be given"):
        InteractionSupervision(None, 3).targets((), unimodal=[probabilities(2, 3)] * 2)


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"5 experts.*has 4"):
        call(InteractionSupervision(WIDTHS, 3), CLASSES, widths=(5, 3))
    with pytest.raises(ValueError, match="n_outputs=4"):
        call(InteractionSupervision(WIDTHS, 4), CLASSES)
    with pytest.raises(ValueError, match="must have widths"):
        InteractionSupervision(WIDTHS, 3).targets(modalities(widths=(5, 4, 4)))
    with pytest.raises(ValueError, match="a modality for each"):
        InteractionSupervision(WIDTHS, 3).targets(modalities(widths=(5, 3)))
    with pytest.raises(TypeError, match="tuple or list"):
        InteractionSupervision(WIDTHS, 3).targets(dict(enumerate(modalities())))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="interactions must be among"):
        InteractionSupervision((2, 2), 3, interactions=(2, "synergy")).targets(modalities(widths=(2, 2)))


DEFAULTS: dict[str, Any] = {"feature_dims": WIDTHS, "n_outputs": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_outputs": 1}, "at least 2"),
        ({"n_outputs": 0, "task": "regression"}, "at least 1"),
        ({"task": "ranking"}, "task must be"),
        ({"feature_dims": (3,)}, "at least two modalities"),
        ({"feature_dims": (3, 0)}, "positive widths"),
        ({"n_folds": 0}, "n_folds"),
        ({"hidden_dim": 0}, "hidden_dim"),
        ({"every": 0}, "every"),
        ({"weights_weight": -1.0}, "weights_weight"),
        ({"experts_weight": float("nan")}, "experts_weight"),
        ({"shared": 1.5}, "shared"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InteractionSupervision(**(DEFAULTS | options))


def test_masks_and_gaps_that_do_not_fit() -> None:
    supervise, x, y = InteractionSupervision(WIDTHS, 3), modalities(), torch.zeros(6, dtype=torch.long)
    out = model()(*x)
    for available in (torch.ones(6, 3), torch.ones(6, 2, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"available must be bool \(B, M\) = \(6, 3\), however it is"):
            supervise(out, x, y, available=available)
    with pytest.raises(ValueError, match="however one is None; pass zeros of its width, and available="):
        supervise(out, (x[0], None, x[2]), y)
