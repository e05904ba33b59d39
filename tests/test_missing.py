"""Missing modalities: what is absent reaches nothing, what is there counts as ever."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import is_lazy

from i2moe import InteractionLosses, InteractionMoE, InteractionOutput, Reweighter, StaticReweighter
from i2moe._common.modalities import Modality, leaves, map_leaves
from i2moe.losses import Interaction
from i2moe.missing import Fill, LearnedFill, MeanFill, ModalityDropout, ShuffleFill, ZeroFill, as_fill
from i2moe.moe.experts import Execution
from i2moe.perturbations import Custom, Gaussian, Mean, Perturbation, Shuffle, Zero
from tests import oracle
from tests.covering import in_turn
from tests.test_moe import Synchronizations
from tests.zoo import EXECUTIONS, EXECUTIONS_WITH_CHECKPOINTS

pytestmark = pytest.mark.usefixtures("double")

FILLS = ("learned", "zero", "mean", "shuffle")
AVAILABLE = torch.tensor(
    [[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1]], dtype=torch.bool
)
B, M = AVAILABLE.shape


class Three(nn.Module):
    """Fuses a vector, tokens with a mask, and tokens."""

    def __init__(self, *between: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3 + 4 + 5, 6), *between, nn.Tanh(), nn.Linear(6, 3))

    def forward(self, a: Tensor, b: dict[str, Tensor], c: Tensor) -> Tensor:
        mask = b["mask"].unsqueeze(-1)
        tokens = (b["features"] * mask).sum(1) / mask.sum(1)
        output: Tensor = self.body(torch.cat([a, tokens, c.mean(1)], dim=-1))
        return output


def batch(n: int = B, device: str = "cpu") -> dict[str, Any]:
    mask = torch.arange(3, device=device) < torch.randint(1, 4, (n, 1), device=device)
    features = torch.randn(n, 3, 4, device=device)
    return {
        "a": torch.randn(n, 3, device=device),
        "b": {"features": features, "mask": mask},
        "c": torch.randn(n, 2, 5, device=device),
    }


def make(factory: Callable[[], nn.Module] = Three, **options: Any) -> InteractionMoE:
    torch.manual_seed(1)
    defaults: dict[str, Any] = {"modality_names": ("a", "b", "c"), "feature_dims": (3, 4, 5), "fill": "learned"}
    model = InteractionMoE(factory, M, **(defaults | options))
    for name, parameter in model.named_parameters():
        if name.startswith("fill") and not is_lazy(parameter):
            nn.init.normal_(parameter)
    return model


def polluted(modalities: dict[str, Any], available: Tensor, seed: int) -> dict[str, Any]:
    """Put garbage, NaN and infinity among it, where modalities are absent."""
    generator = torch.Generator().manual_seed(seed)

    def pollute(x: Tensor, absent: Tensor) -> Tensor:
        x = x.clone()
        shape = x[absent].shape
        if x.dtype == torch.bool:
            x[absent] = torch.rand(shape, generator=generator) < 0.5
        else:
            garbage = 1e3 * torch.randn(shape, generator=generator)
            garbage[torch.rand(shape, generator=generator) < 0.3] = float("nan")
            garbage[torch.rand(shape, generator=generator) < 0.3] = float("inf")
            x[absent] = garbage
        return x

    return {
        name: map_leaves(lambda x, absent=~available[:, i]: pollute(x, absent), modality)
        for i, (name, modality) in enumerate(modalities.items())
    }


def total(out: InteractionOutput) -> Tensor:
    assert out.interaction_loss is not None
    return out.prediction.square().sum() + out.interaction_loss + out.aux_loss


def results(model: InteractionMoE, modalities: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Outputs, gradients of parameters and inputs, and buffers after a training step."""
    inputs = map_leaves(lambda x: x.clone().requires_grad_(x.is_floating_point()), modalities)
    torch.manual_seed(2)
    out = model(**inputs, **options)
    model.zero_grad()
    torch.autograd.backward(total(out))
    return {
        "out": {name: value for name, value in out.to_dict().items() if name != "available"},
        "parameters": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "inputs": [x.grad for x in leaves(inputs) if x.requires_grad],
        "buffers": {name: x.clone() for name, x in model.named_buffers()},
    }


def assert_identical(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


PERTURBATIONS: dict[str, Callable[[], Perturbation]] = {
    "gaussian": Gaussian,
    "zero": Zero,
    "mean": Mean,
    "shuffle": Shuffle,
    "half": lambda: Gaussian(fraction=0.5),
    "two a step": lambda: Shuffle(per_step=2),
    "both": lambda: Gaussian(fraction=0.6, per_step=2),
    "custom": lambda: Custom(lambda x: x.flip(-1) + x.mean(0)),
}


# --- what is absent reaches nothing ---


# Modalities are filled and views drawn before experts run: neither can interact with the execution.


@pytest.mark.parametrize(
    ("fill", "execution", "checkpoint"), [(fill, *how) for fill, how in in_turn(FILLS, EXECUTIONS_WITH_CHECKPOINTS)]
)
def test_what_stands_in_an_absent_modality_changes_nothing(fill: str, execution: Execution, checkpoint: bool) -> None:
    models = [make(fill=fill, execution=execution, checkpoint=checkpoint) for _ in range(2)]
    modalities = batch()
    found, expected = (
        results(model, polluted(modalities, AVAILABLE, seed), available=AVAILABLE) for seed, model in enumerate(models)
    )
    assert_identical(found, expected)
    assert all(x.isfinite().all() for x in (*found["parameters"].values(), *found["inputs"]))
    found, expected = (
        model.eval()(**polluted(modalities, AVAILABLE, seed), available=AVAILABLE).prediction
        for seed, model in enumerate(models)
    )
    assert_identical(found, expected)


@pytest.mark.parametrize(("perturbation", "task"), in_turn([*PERTURBATIONS], [*oracle.TERMS]))
def test_what_stands_in_an_absent_modality_changes_no_loss_under_any_perturbation(perturbation: str, task: Any) -> None:
    models = [make(perturbation=PERTURBATIONS[perturbation](), losses=InteractionLosses(task)) for _ in range(2)]
    modalities = batch()
    found, expected = (
        results(model, polluted(modalities, AVAILABLE, seed), available=AVAILABLE) for seed, model in enumerate(models)
    )
    assert_identical(found, expected)
    for i, x in enumerate(found["inputs"]):
        assert not x[~AVAILABLE[:, i]].any()
        assert x[AVAILABLE[:, i]].flatten(1).any(1).all()


@pytest.mark.parametrize(("perturbation", "execution"), in_turn([*PERTURBATIONS], EXECUTIONS))
def test_all_available_is_no_mask_bit_for_bit(perturbation: str, execution: Execution) -> None:
    everything = torch.ones(B, M, dtype=torch.bool)
    modalities = batch()
    models = [
        make(fill=fill, perturbation=PERTURBATIONS[perturbation](), execution=execution)
        for fill in ("zero", "zero", None)
    ]
    masked = results(models[0], modalities, available=everything)
    assert_identical(results(models[1], modalities), masked)
    assert_identical(results(models[2], modalities), masked)


@pytest.mark.parametrize("task", ["regression", "released_regression"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_available_is_no_mask_for_every_loss(task: Any, dtype: torch.dtype) -> None:
    everything = torch.ones(B, M, dtype=torch.bool)
    views = torch.randn(B, M + 2, M + 1, 2, 3).to(dtype)
    losses = InteractionLosses(task)
    assert_identical(losses(views, available=everything), losses(views))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_every_execution_gives_the_same_step_with_missing_modalities(execution: Execution) -> None:
    modalities = batch()
    expected, found = (
        results(make(execution=mode, perturbation="zero"), modalities, available=AVAILABLE)
        for mode in ("sequential", execution)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# --- views, weights, losses ---


@pytest.mark.parametrize("perturbation", ["gaussian", "zero", "mean", "shuffle"])
def test_an_absent_modality_is_never_perturbed(perturbation: str) -> None:
    out = make(perturbation=perturbation)(**batch(), available=AVAILABLE)
    views = out.views
    for b, i in product(range(B), range(M)):
        same = torch.allclose(views[b, :, 0], views[b, :, 1 + i])
        assert same != bool(AVAILABLE[b, i])


def masked_softmax(logits: Tensor, available: Tensor, interactions: Sequence[Interaction]) -> Tensor:
    rows = []
    for b in range(len(available)):
        counts = [not isinstance(i, int) or bool(available[b, i]) for i in interactions]
        row = logits[b].masked_fill(~torch.tensor(counts), -torch.inf) if any(counts) else logits[b]
        rows.append(row.softmax(0))
    return torch.stack(rows)


@pytest.mark.parametrize("experts", ["all", ("uniqueness",), ("synergy", "redundancy"), ("uniqueness/a",)])
def test_uniqueness_of_the_absent_is_masked_before_the_softmax(experts: Any) -> None:
    model = make(experts=experts).eval()
    logits: list[Tensor] = []
    model.reweighter.mlp.register_forward_hook(lambda *call: logits.append(call[-1]))  # type: ignore[attr-defined]
    weights = model(**batch(), available=AVAILABLE).weights
    torch.testing.assert_close(weights, masked_softmax(logits[0], AVAILABLE, model.interactions), rtol=0, atol=1e-12)
    for e, i in enumerate(model.interactions):
        if isinstance(i, int) and experts != ("uniqueness/a",):
            assert not weights[~AVAILABLE[:, i], e].any()


def test_a_weight_that_takes_all_leaves_the_others_even() -> None:
    reweighter = StaticReweighter(5)
    with torch.no_grad():
        reweighter.logits[0] = 1e4
    weights = make(reweighter=reweighter)(**batch(), available=AVAILABLE).weights
    third = 1 / 3
    assert weights[2].tolist() == pytest.approx([0, 0.25, 0.25, 0.25, 0.25])
    assert weights[5].tolist() == pytest.approx([0, 0, third, third, third])
    assert weights[0].tolist() == pytest.approx([1, 0, 0, 0, 0])


def loss_by_loops(views: Tensor, interaction: Interaction, terms: oracle.Terms, available: Tensor) -> float:
    """Average over the samples with two modalities at least, and their views of modalities that are there."""
    found = []
    for b, there in enumerate(available.tolist()):
        present = [j for j in range(len(there)) if there[j]]
        if len(present) < 2:
            continue
        real = views[b, 0]
        for j in present:
            if isinstance(interaction, str):
                found.append(terms[interaction](real, views[b, 1 + j]))
            elif interaction in present and j != interaction:
                found.append(terms["uniqueness"](real, views[b, 1 + interaction], views[b, 1 + j]))
    return oracle.mean(found) if found else 0.0


@pytest.mark.parametrize("task", list(oracle.TERMS))
@pytest.mark.parametrize("n_modalities", [2, 3, 4])
def test_losses_average_over_what_exists(task: Any, n_modalities: int) -> None:
    available = torch.rand(12, n_modalities) < 0.6
    views = torch.randn(12, n_modalities + 2, n_modalities + 1, 3)
    found = InteractionLosses(task)(views, available=available)
    interactions = (*range(n_modalities), "synergy", "redundancy")
    expected = [
        loss_by_loops(views[:, e], interaction, oracle.TERMS[task], available)
        for e, interaction in enumerate(interactions)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_token_axes_are_more_samples_of_the_same_availability() -> None:
    views = torch.randn(B, M + 2, M + 1, 4, 3)
    losses = InteractionLosses()
    rows = views.movedim(3, 1).flatten(0, 1)
    found = losses(views, available=AVAILABLE)
    torch.testing.assert_close(found, losses(rows, available=AVAILABLE.repeat_interleave(4, dim=0)))


@pytest.mark.parametrize("task", list(oracle.TERMS))
def test_fewer_drawn_views_average_to_those_that_exist(task: Any) -> None:
    views, losses = torch.randn(B, M + 2, M + 1, 3), InteractionLosses(task)
    drawn = []
    for pair in combinations(range(M), 2):
        replaced = nn.functional.one_hot(torch.tensor(pair), M).bool()
        chosen = views[:, :, [0, *(1 + j for j in pair)]]
        drawn.append(losses(chosen, (0, 1, 2, "synergy", "redundancy"), replaced, AVAILABLE))
    torch.testing.assert_close(torch.stack(drawn).mean(0), losses(views, available=AVAILABLE))


def test_a_sample_with_one_modality_has_no_interaction_loss() -> None:
    model, modalities = make(perturbation="zero"), batch()
    inputs = map_leaves(lambda x: x.requires_grad_(x.is_floating_point()), modalities)
    loss = model(**inputs, available=AVAILABLE).interaction_loss
    gradients = torch.autograd.grad(loss, [x for x in leaves(inputs) if x.requires_grad])
    several = AVAILABLE.sum(1) > 1
    for i, gradient in enumerate(gradients):
        rows = gradient.flatten(1).any(1)
        assert rows.tolist() == (several & AVAILABLE[:, i]).tolist()


def test_where_no_term_exists_the_loss_is_zero_and_so_is_its_gradient() -> None:
    model, alone = make(), torch.eye(M, dtype=torch.bool)
    out = model(**batch(M), available=alone)
    assert out.interaction_loss is not None
    assert out.interaction_loss.item() == 0
    torch.autograd.backward(out.interaction_loss)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_custom_losses_get_what_is_available() -> None:
    seen = []

    def spy(views: Tensor, interactions: Any, replaced: Any, available: Tensor) -> Tensor:
        seen.append(available)
        return views.mean((0, 2, 3))

    make(losses=spy)(**batch(), available=AVAILABLE)
    assert_identical(seen, [AVAILABLE])


# --- left out altogether ---


def example() -> list[Fill]:
    modalities = batch(2)
    return [LearnedFill(example=modalities[name]) for name in ("a", "b", "c")]


@pytest.mark.parametrize(("absent", "kind"), in_turn(["a", "b", "c"], FILLS))
def test_a_modality_left_out_is_absent_in_every_sample(absent: str, kind: str) -> None:
    kinds: dict[str, Callable[[Any], Fill]] = {
        "learned": LearnedFill,
        "zero": ZeroFill,
        "mean": MeanFill,
        "shuffle": ShuffleFill,
    }
    modalities = batch()
    fills = [kinds[kind](map_leaves(lambda x: x[:1], modality)) for modality in modalities.values()]
    model = make(fill=fills).eval()
    mask = torch.tensor([name != absent for name in modalities]).expand(B, M)
    expected = model(**modalities, available=mask).prediction
    given = {name: modality for name, modality in modalities.items() if name != absent}
    assert_identical(model(**given).prediction, expected)
    assert_identical(model(**given, **{absent: None}).prediction, expected)
    positional = [given.get(name) for name in modalities]
    assert_identical(model(*positional).prediction, expected)
    assert_identical(model(*positional, available=torch.ones(B, M, dtype=torch.bool)).prediction, expected)


def test_a_vector_is_left_out_without_an_example() -> None:
    model = make().eval()
    modalities = batch()
    mask = torch.tensor([False, True, True]).expand(B, M)
    expected = model(**modalities, available=mask).prediction
    del modalities["a"]
    assert_identical(model(**modalities).prediction, expected)


@pytest.mark.parametrize("style", ["dict", "list"])
def test_a_modality_may_be_left_out_of_one_argument_for_all(style: str) -> None:
    class Pair(nn.Module):
        def forward(self, pair: Any) -> Tensor:
            x, y = pair.values() if isinstance(pair, dict) else pair
            product: Tensor = x * y[:, :3]
            return product

    model = InteractionMoE(Pair, 2, modality_names=("x", "y"), feature_dims=(3, 5), fill="learned")
    x = torch.randn(4, 3)
    assert model({"x": x} if style == "dict" else [x, None]).prediction.shape == (4, 3)


# --- fills ---


def test_a_learned_vector_stands_in_for_absent_rows_and_learns_from_them_alone() -> None:
    fill = LearnedFill(example=torch.empty(0, 2, 3))
    nn.init.normal_(fill.vector)
    x, present = torch.randn(3, 2, 3), torch.tensor([True, False, True])
    filled = fill(x, present)
    assert_identical(filled[1], fill.vector.expand(2, 3))
    assert_identical(filled[present], x[present])
    filled[:, :, 0].sum().backward()
    assert fill.vector.grad is not None
    assert fill.vector.grad.tolist() == [2, 0, 0]


def test_every_fill_vector_takes_part_in_every_step() -> None:
    model = make()
    assert set(results(model, batch())["parameters"]) == {name for name, _ in model.named_parameters()}


def test_the_mean_is_over_present_rows_and_tokens_and_moves() -> None:
    fill, present = MeanFill(example=torch.empty(0, 2, 1), momentum=0.25), torch.tensor([True, True, False])
    batches = [torch.randn(3, 2, 1) for _ in range(6)]
    mean = 0.0
    for n, x in enumerate(batches, start=1):
        new = x[:2].mean().item()
        mean += max(1 / n, 0.25) * (new - mean)
        assert fill(x, present)[2, 0].item() == pytest.approx(mean)
    fill.eval()
    assert fill(torch.randn(3, 2, 1), present)[2, 1].item() == pytest.approx(mean)
    fill.train()(torch.randn(3, 2, 1), torch.zeros(3, dtype=torch.bool))
    assert fill.vector.item() == pytest.approx(mean)


def test_the_mean_of_large_batches_in_half_precision() -> None:
    fill, x = MeanFill(example=torch.zeros(1, 1)), torch.full((1024, 1), 100.0, dtype=torch.float16)
    fill(x, torch.arange(1024) > 0)  # a sum of 102,300, more than float16 holds
    assert fill.vector.tolist() == [100]


def test_padded_tokens_leave_the_mean() -> None:
    tokens, mask = torch.randn(3, 4, 2), torch.arange(4) < torch.tensor([[1], [3], [2]])
    fill, present = MeanFill(example=(tokens, mask)), torch.tensor([True, True, False])
    fill((torch.where(mask.unsqueeze(-1), tokens, torch.nan), mask), present)
    torch.testing.assert_close(fill.vector, (tokens[0, 0] + tokens[1, :3].mean(0)) / 2)


@pytest.mark.parametrize("training", [True, False])
def test_donors_have_the_modality_and_give_all_of_it(training: bool) -> None:
    fill, present = ShuffleFill().train(training), torch.tensor([False, True, False, True, False])
    numbers = torch.arange(5)
    donors = set()
    for _ in range(20):
        filled: Any = fill((numbers.double().requires_grad_(), numbers), present)
        assert_identical(filled[0].detach(), filled[1].double())
        assert filled[1][present].tolist() == [1, 3]
        donors |= {tuple(filled[1][~present].tolist())}
    assert {donor for row in donors for donor in row} == {1, 3}
    assert (len(donors) > 1) == training


def test_without_a_donor_there_is_zero() -> None:
    nothing = torch.zeros(2, dtype=torch.bool)
    values, mask = ShuffleFill()((torch.full((2, 3), torch.nan), torch.zeros(2, 3).bool()), nothing)
    assert not values.any()
    assert mask.all()


def test_a_fill_of_the_users_own() -> None:
    class Minus(Fill):
        def fill_values(self, modality: Modality, present: Tensor) -> Modality:
            filled: Modality = map_leaves(lambda x: x.new_full((), -2), modality)
            return filled

    assert Minus()(torch.ones(2), torch.tensor([True, False])).tolist() == [1, -2]


def test_evaluation_draws_nothing() -> None:
    model, modalities = make(fill="shuffle").eval(), batch()
    state = torch.get_rng_state()
    model(**modalities, available=AVAILABLE)
    assert torch.equal(state, torch.get_rng_state())


# --- dropping modalities ---


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
def test_modality_dropout_drops_its_share_and_leaves_one_modality(p: float, generator: torch.Generator) -> None:
    available = torch.rand(4000, 4, generator=generator) < 0.7
    available[~available.any(1)] = True
    dropout = ModalityDropout(p, generator=generator)
    left = dropout(available)
    assert f"p={p}" in repr(dropout)
    assert not (left & ~available).any()
    assert left.any(1).all()
    n = available.sum(1)
    expected = sum((1 - p) * k * (n == k).sum() + p**k * (n == k).sum() for k in range(1, 5))  # p^k lose all, keep one
    assert left.sum().item() == pytest.approx(float(expected), rel=0.04)
    assert_identical(ModalityDropout(p).eval()(available), available)


def test_modality_dropout_leaves_a_share_of_the_samples_whole(generator: torch.Generator) -> None:
    available = torch.ones(4000, 4, dtype=torch.bool)
    left = ModalityDropout(0.5, rows=0.25, generator=generator)(available)
    assert left.all(1).float().mean().item() == pytest.approx(0.75 + 0.25 * 0.5**4, abs=0.02)
    dropped = left[~left.all(1)].sum(1).float().mean().item()
    assert dropped == pytest.approx((4 * 0.5 + 0.5**4 - 4 * 0.5**4) / (1 - 0.5**4), rel=0.05)  # none lost: keep one
    assert "rows=0.25" in repr(ModalityDropout(0.5, rows=0.25))
    assert_identical(ModalityDropout(0.5, rows=0.0)(available), available)


# --- errors ---


def test_a_sample_without_any_modality_is_an_error() -> None:
    nobody = AVAILABLE.clone()
    nobody[[2, 5]] = False
    with pytest.raises(ValueError, match=r"every sample must have a modality, however 2 of 7 have none \(rows 2, 5\)"):
        make()(**batch(), available=nobody)
    modalities = batch()
    with pytest.raises(ValueError, match=r"must have a modality, however 1 of 7 have none \(rows 4\)"):
        make()(b=modalities["b"], c=modalities["c"], available=AVAILABLE)


@pytest.mark.parametrize(
    ("options", "given", "error", "words"),
    [
        ({}, {"available": AVAILABLE.int()}, TypeError, "available must be a bool tensor"),
        ({}, {"available": AVAILABLE.tolist()}, TypeError, "available must be a bool tensor"),
        ({}, {"available": AVAILABLE[:, :2]}, ValueError, r"must have shape \(B, M\) = \(7, 3\), however"),
        ({}, {"available": AVAILABLE.to("meta")}, ValueError, "must be on the modalities' device cpu"),
        ({}, {"c": None, "b": None, "a": None}, ValueError, "at least one of the modalities"),
        ({"fill": None}, {"available": AVAILABLE}, ValueError, "must have a fill .* fill='learned'"),
        ({"fill": None}, {"c": None}, ValueError, "must have a fill .* fill='learned'"),
        (
            {"fill": "zero", "feature_dims": None},
            {"c": None},
            ValueError,
            r"must have a known shape.*ZeroFill\(example=x",
        ),
        ({}, {"c": torch.randn(B, 2, 4)}, ValueError, r"must be 5 wide .* are \[4\] wide"),
    ],
)
def test_a_mistake_in_a_call_is_refused(options: Any, given: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make(**options)(**(batch() | given))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"fill": "median"}, ValueError, "fill must be one of"),
        ({"fill": ["zero", "zero"]}, ValueError, "one Fill for each of 3 modalities"),
        ({"fill": ZeroFill()}, TypeError, "single ZeroFill; give a list"),
        ({"fill": [1, 2, 3]}, TypeError, "must be a name or a Fill object"),
        ({"modality_names": ("a", "b", "available")}, ValueError, "must not be 'available'"),
        ({"reweighter": StaticReweighter(5), "fill": None}, ValueError, "feature_dims must be left out"),
    ],
)
def test_a_mistake_in_building_is_refused(options: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make(**options)


def test_mistakes_in_fills_and_dropout_are_refused() -> None:
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\)"):
        ModalityDropout(1.0)
    with pytest.raises(ValueError, match=r"rows must lie in \[0, 1\], however it is 1.5"):
        ModalityDropout(0.5, rows=1.5)
    with pytest.raises(TypeError, match="must have a floating-point tensor to be filled by a vector"):
        LearnedFill(example=torch.ones(2, dtype=torch.long))


def test_zeros_fill_integers_by_one() -> None:
    filled = ZeroFill()(torch.tensor([3, 4]), torch.tensor([True, False]))
    assert isinstance(filled, Tensor)
    assert filled.tolist() == [3, 1]


# --- the life of a model ---


def test_a_model_that_never_fills_keeps_its_state() -> None:
    assert not [name for name in make(fill=None).state_dict() if "fill" in name]
    assert not [name for name in make(fill="zero").state_dict() if "fill" in name]
    names = [name for name in make().state_dict() if "fill" in name]
    assert names == ["fill.0.vector", "fill.1.vector", "fill.2.vector"]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("used", [False, True])
def test_a_lazy_model_is_saved_loaded_and_learns(fill: str, used: bool) -> None:
    with warnings.catch_warnings():
        model, other = (copy.deepcopy(make(fill=fill, feature_dims=None)) for _ in range(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    modalities = batch()
    for _ in range(3):
        torch.autograd.backward(total(model(**modalities, available=AVAILABLE)))
        optimizer.step()
    if fill == "learned":
        assert all(p.any() for p in model.fill.parameters())  # type: ignore[union-attr]
    if used:
        other(**modalities, available=AVAILABLE)
    other.load_state_dict(model.state_dict())
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found, expected = (m.eval()(**modalities, available=AVAILABLE).prediction for m in (twin, model))
        assert_identical(found, expected)


def test_a_state_of_a_sized_model_fits_a_lazy_one() -> None:
    model, lazy = make(), make(feature_dims=None)
    lazy.load_state_dict(model.state_dict())
    assert lazy.state_dict().keys() == model.state_dict().keys()
    assert type(as_fill("learned", 3)) is LearnedFill


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_missing_modalities_work_under_autocast_and_in_half_precision(dtype: torch.dtype) -> None:
    model = make().float()
    modalities = map_leaves(lambda x: x.float() if x.is_floating_point() else x, batch())
    with torch.autocast("cpu", dtype=dtype):
        out = model(**modalities, available=AVAILABLE)
    assert out.interaction_loss is not None
    assert out.interaction_loss.dtype == torch.float32
    half = map_leaves(lambda x: x.to(dtype) if x.is_floating_point() else x, modalities)
    assert model.to(dtype)(**half, available=AVAILABLE).prediction.dtype == dtype


# --- without synchronization, compiled, exported, elsewhere ---


@pytest.mark.parametrize(("fill", "execution"), in_turn(FILLS, EXECUTIONS))
def test_a_step_never_waits_for_the_device(fill: str, execution: Execution) -> None:
    model = make(fill=fill, execution=execution, perturbation=Shuffle(fraction=0.5, per_step=2))
    modalities = batch()
    with Synchronizations() as count:
        torch.autograd.backward(total(model(**modalities, available=ModalityDropout(0.3)(AVAILABLE))))
        model.eval()(**modalities, available=AVAILABLE)
    assert count.found == []


# Each modality has a fill of its own, so that one model compiles three of them.
@pytest.mark.parametrize("left_out", [False, True])
def test_training_with_missing_modalities_compiles_into_one_graph_once(left_out: bool) -> None:
    torch._dynamo.reset()
    drawn = Shuffle(fraction=0.5, per_step=2)
    model = (
        make(execution="vmap")
        if left_out
        else make(fill=["zero", "mean", "shuffle"], checkpoint=True, perturbation=drawn)
    )
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for seed in range(2):
        modalities = batch() | ({"a": None} if left_out else {})
        mask = torch.ones_like(AVAILABLE) if left_out else AVAILABLE.roll(seed, 0)
        torch.autograd.backward(total(compiled(**modalities, available=mask)))
    assert counter.frame_count == 1


def test_a_model_compiled_once_equals_the_eager_one_where_modalities_are_missing() -> None:
    torch._dynamo.reset()
    models = [make(perturbation="zero") for _ in range(2)]
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    runs: list[Any] = [models[0], torch.compile(models[1], fullgraph=True, backend=counter)]
    for seed in range(2):
        modalities, mask = batch(), AVAILABLE.roll(seed, 0)
        found = []
        for model, run in zip(models, runs, strict=True):
            model.reweighter.eval()  # type: ignore[attr-defined]
            model.zero_grad()
            out = run(**modalities, available=mask)
            torch.autograd.backward(total(out))
            found.append((out.to_dict(), {name: p.grad for name, p in model.named_parameters()}))
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-9)
    assert counter.frame_count == 1
    with pytest.raises(RuntimeError, match="every sample must have a modality"):
        runs[1](**batch(), available=torch.zeros_like(AVAILABLE))


def test_evaluation_is_exported_for_any_batch() -> None:
    model = make().eval()
    size = torch.export.Dim("batch", min=2)
    axes = map_leaves(lambda x: {0: size}, tuple(batch().values()))
    shapes = {"args": axes, "available": {0: size}}
    exported = torch.export.export(model, tuple(batch().values()), {"available": AVAILABLE}, dynamic_shapes=shapes)
    modalities, mask = batch(4), AVAILABLE[:4]
    found = exported.module()(*modalities.values(), available=mask)
    torch.testing.assert_close(found.prediction, model(**modalities, available=mask).prediction)


@pytest.mark.parametrize(("fill", "execution"), in_turn(FILLS, EXECUTIONS))
def test_a_step_is_made_on_a_cuda_device(fill: str, execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: None)
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            model = make(fill=fill, execution=execution)
        mask = torch.ones(B, M, dtype=torch.bool, device="cuda")
        for perturbation in (Gaussian(), Shuffle(fraction=0.5, per_step=2)):
            model.perturbation = perturbation
            out = model(**batch(device="cuda"), available=mask)
        left_out = model(**batch(device="cuda") | {"a": None}, available=mask)
        evaluated = model.eval()(**batch(device="cuda"), available=mask)
    assert model.experts.vmap_refusals == {}
    assert {x.prediction.device.type for x in (out, left_out, evaluated)} == {"cuda"}
    assert all(loss.device.type == "cuda" for loss in out.losses.values())


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_step_has_gradients_on_another_device(checkpoint: bool) -> None:
    with torch.device("meta"):
        model = make(lambda: Three(nn.BatchNorm1d(6)), checkpoint=checkpoint)
        mask = torch.ones(B, M, dtype=torch.bool)
    torch.autograd.backward(total(model(**batch(device="meta"), available=mask)))
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in model.parameters())


def test_computed_weights_take_the_widths_of_modalities_that_a_first_call_leaves_out() -> None:
    def fuse() -> nn.Module:
        return nn.Bilinear(4, 3, 2)

    model = InteractionMoE(fuse, 2, reweighter="computed", feature_dims=(4, 3)).eval()
    x = torch.randn(5, 4)
    expected = model(x, torch.zeros(5, 3), available=torch.tensor([[True, False]]).expand(5, -1))
    torch.testing.assert_close(model(x, None).prediction, expected.prediction)
    with pytest.raises(ValueError, match="feature_dims must be left out with a reweighter"):
        InteractionMoE(fuse, 2, reweighter=Reweighter(4), feature_dims=(4, 3))


def test_an_error_of_a_fill_names_the_modality_where_it_is_taken_away() -> None:
    class Fails(ZeroFill):
        def fill_values(self, modality: Any, present: Tensor) -> Any:
            if not present.any():
                raise ValueError("nothing to fill with")
            return super().fill_values(modality, present)

    model = InteractionMoE(lambda: nn.Bilinear(2, 2, 3), 2, reweighter="computed", fill=[ZeroFill(), Fails()])
    with pytest.raises(ValueError, match="nothing to fill with") as caught:
        model(torch.randn(4, 2), torch.randn(4, 2))
    assert caught.value.__notes__ == ["in modality '1'"]
