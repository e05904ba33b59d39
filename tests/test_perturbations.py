"""What a modality is replaced by, and that drawing fewer rows or modalities changes no expectation."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from i2moe import InteractionLosses, InteractionMoE, StaticReweighter
from i2moe.perturbations import Custom, Gaussian, Mean, Perturbation, Shuffle, Views, Zero, as_perturbation
from tests import oracle
from tests.covering import every_pair, in_turn

pytestmark = pytest.mark.usefixtures("double")

ALL = (Gaussian, Zero, Mean, Shuffle)


class Text(NamedTuple):
    tokens: Tensor
    mask: Tensor


def modalities(n_samples: int = 6) -> tuple[Any, ...]:
    """A vector, nested tokens with a mask, and a dict with nothing in it for one key."""
    return (
        torch.randn(n_samples, 3),
        Text(torch.randn(n_samples, 4, 2), torch.rand(n_samples, 4) > 0.5),
        {"signal": torch.randn(n_samples, 5), "length": torch.arange(n_samples), "more": None},
    )


def flat(modality: Any) -> list[Tensor]:
    if isinstance(modality, Tensor):
        return [modality]
    items = modality.values() if isinstance(modality, dict) else modality
    return [leaf for item in items if item is not None for leaf in flat(item)]


def assert_equal(found: Any, expected: Any) -> None:
    assert len(flat(found)) == len(flat(expected))
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


# --- views ---


@pytest.mark.parametrize("kind", ALL)
def test_a_view_replaces_one_modality_and_holds_the_others_themselves(kind: type[Perturbation]) -> None:
    real = modalities()
    views = kind().draw(real)
    assert views.rows is None
    assert views.replaced is None
    assert len(views.perturbed) == 3
    for i, j in product(range(3), range(3)):
        assert views.real[j] is real[j]
        assert (views.perturbed[i][j] is real[j]) == (i != j)


@pytest.mark.parametrize("kind", ALL)
def test_nesting_is_kept(kind: type[Perturbation]) -> None:
    real = modalities()
    _, text, rest = (views[i] for i, views in enumerate(kind().draw(real).perturbed))
    assert isinstance(text, Text)
    assert isinstance(rest, dict)
    assert rest.keys() == real[2].keys()
    assert rest["more"] is None
    for i in range(3):
        replaced = kind()(real[i])
        assert [x.shape for x in flat(replaced)] == [x.shape for x in flat(real[i])]
        assert [x.dtype for x in flat(replaced)] == [x.dtype for x in flat(real[i])]


@pytest.mark.parametrize("kind", [Gaussian, Zero, Mean])
def test_masks_and_integers_are_kept_themselves(kind: type[Perturbation]) -> None:
    _, text, rest = modalities()
    assert kind()(text).mask is text.mask
    assert kind()(rest)["length"] is rest["length"]


# Rows are drawn before anything is replaced, by the same code for all kinds.
@pytest.mark.parametrize(("kind", "fraction"), in_turn(ALL, [0.01, 0.3, 0.5, 0.99]))
def test_a_fraction_takes_rows_of_the_batch(kind: type[Perturbation], fraction: float) -> None:
    real = modalities(8)
    views = kind(fraction=fraction).draw(real)
    assert views.rows is not None
    rows = views.rows
    assert len(rows) == max(1, round(fraction * 8))
    assert len(set(rows.tolist())) == len(rows)
    for i, j in product(range(3), range(3)):
        kept = [leaf[rows] for leaf in flat(real[j])]
        if i != j:
            assert_equal(views.perturbed[i][j], kept)
        else:
            assert [x.shape for x in flat(views.perturbed[i][j])] == [x.shape for x in kept]


def test_the_mean_and_the_donors_come_from_the_whole_batch() -> None:
    real = (torch.randn(8, 3), torch.randn(8, 3))
    views = Mean(fraction=0.25).draw(real)
    for i in range(2):
        expected = real[i].mean(0).expand(2, 3)
        torch.testing.assert_close(views.perturbed[i][i], expected)

    donors = set()
    for _ in range(40):
        shuffled = Shuffle(fraction=0.25).draw(real).perturbed[0][0]
        assert isinstance(shuffled, Tensor)
        donors |= {int(torch.nonzero((real[0] == row).all(-1)).item()) for row in shuffled}
    assert donors == set(range(8))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("per_step", [1, 2])
def test_per_step_replaces_some_modalities_one_a_view(kind: type[Perturbation], per_step: int) -> None:
    real = modalities()
    views = kind(per_step=per_step).draw(real)
    assert views.replaced is not None
    assert views.replaced.shape == (per_step, 3)
    assert (views.replaced.sum(1) == 1).all()
    assert (views.replaced.sum(0) <= 1).all()
    for marks, view in zip(views.replaced.tolist(), views.perturbed, strict=True):
        for marked, modality, old in zip(marks, view, real, strict=True):
            if not marked:
                assert_equal(modality, old)
            else:
                assert not all(torch.equal(a, b) for a, b in zip(flat(modality), flat(old), strict=True))


def test_per_step_of_all_is_all() -> None:
    views = Zero(per_step=3).draw(modalities())
    assert views.replaced is None
    assert len(views.perturbed) == 3


# --- distributions ---


def test_gaussian_is_standard_normal(generator: torch.Generator) -> None:
    x = torch.full((500, 400), 7.0)
    noise = Gaussian(generator=generator)(x)
    assert isinstance(noise, Tensor)
    n = noise.numel()
    assert abs(noise.mean().item()) < 4 / n**0.5
    assert abs(noise.var().item() - 1) < 4 * (2 / n) ** 0.5
    assert abs((noise**4).mean().item() - 3) < 4 * (96 / n) ** 0.5
    assert abs((noise[1:] * noise[:-1]).mean().item()) < 4 / n**0.5
    below = (noise < 1).double().mean().item()
    assert below == pytest.approx(torch.special.ndtr(torch.tensor(1.0)).item(), abs=4 * 0.37 / n**0.5)


@pytest.mark.parametrize("kind", ALL)
def test_precision_is_kept(kind: type[Perturbation]) -> None:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        replaced = kind()(torch.randn(5, 3).to(dtype))
        assert isinstance(replaced, Tensor)
        assert replaced.dtype == dtype


def test_zero_is_zero() -> None:
    assert not Zero()(torch.randn(5, 3)).any()


def test_mean_is_the_mean_of_the_batch() -> None:
    x = torch.randn(5, 4, 3)
    torch.testing.assert_close(Mean()(x), x.mean(0).expand_as(x))


@pytest.mark.parametrize("kind", [Gaussian, Zero, Mean, Shuffle])
def test_a_replacement_carries_no_gradient(kind: type[Perturbation]) -> None:
    x = torch.randn(5, 3, requires_grad=True)
    replaced = kind()(x * 2)
    assert isinstance(replaced, Tensor)
    assert not replaced.requires_grad


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(0, 2**31))
def test_shuffle_gives_every_sample_another_one_once(n_samples: int, seed: int) -> None:
    source = torch.arange(n_samples)
    shuffled = Shuffle(generator=torch.Generator().manual_seed(seed))(source)
    assert isinstance(shuffled, Tensor)
    assert (shuffled != source).all()
    assert sorted(shuffled.tolist()) == source.tolist()


def test_every_other_sample_is_an_equally_likely_donor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted over all orders that could be drawn."""
    counts: Counter[tuple[int, int]] = Counter()
    for order in permutations(range(5)):
        monkeypatch.setattr(torch, "randperm", lambda n, order=order, **_: torch.tensor(order))
        shuffled = Shuffle()(torch.arange(5))
        assert isinstance(shuffled, Tensor)
        counts.update(enumerate(shuffled.tolist()))
    assert set(counts) == {(i, j) for i in range(5) for j in range(5) if i != j}
    assert set(counts.values()) == {120 // 4}


def test_shuffle_moves_the_tensors_of_a_modality_together() -> None:
    index = torch.arange(9)
    nested = {"a": index.double(), "b": (index, [index % 2 == 0, None]), "c": torch.stack([index, -index], 1)}
    shuffled: Any = Shuffle()(nested)
    donors = shuffled["b"][0]
    assert torch.equal(shuffled["a"], donors.double())
    assert torch.equal(shuffled["b"][1][0], donors % 2 == 0)
    assert torch.equal(shuffled["c"], torch.stack([donors, -donors], 1))


def test_modalities_are_shuffled_apart() -> None:
    index = torch.arange(50)
    views = Shuffle().draw((index, index))
    assert not torch.equal(views.perturbed[0][0], views.perturbed[1][1])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Shuffle, Mean])
def test_one_sample_has_no_other_to_be_replaced_by(kind: type[Perturbation]) -> None:
    x = torch.tensor([[3.0]])
    with pytest.warns(UserWarning, match="needs two samples to differ from the original, however the batch has 1"):
        torch.testing.assert_close(kind()(x), x)
    kind()(x.expand(2, 1))


# --- randomness ---


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("options", [{}, {"fraction": 0.5}, {"per_step": 2}, {"fraction": 0.5, "per_step": 2}])
def test_a_generator_is_the_only_source(kind: type[Perturbation], options: dict[str, Any]) -> None:
    real, before = modalities(), torch.get_rng_state()
    draws: list[list[Views]] = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(draws))
        before = torch.get_rng_state()
        perturbation = kind(**options, generator=torch.Generator().manual_seed(seed))
        draws.append([perturbation.draw(real), perturbation.draw(real)])
        assert torch.equal(torch.get_rng_state(), before)
    for first, second in zip(draws[0], draws[1], strict=True):
        assert_equal([list(view) for view in first.perturbed], [list(view) for view in second.perturbed])
    if kind in (Gaussian, Shuffle):
        leaves = [torch.cat([x.double().flatten() for x in flat(list(d[0].perturbed))]) for d in (draws[0], draws[2])]
        assert not torch.equal(*leaves)


@pytest.mark.parametrize("kind", ALL)
def test_without_a_generator_the_global_one_decides(kind: type[Perturbation]) -> None:
    real = modalities()
    draws: list[Views] = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(kind(fraction=0.5, per_step=2).draw(real))
    assert_equal([list(view) for view in draws[0].perturbed], [list(view) for view in draws[1].perturbed])


# --- fewer rows and modalities, the same expectation ---


class Mixes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, *given: Tensor) -> Tensor:
        output: Tensor = self.body(torch.cat(given, dim=-1))
        return output


def loss_and_gradients(
    task: Any, perturbation: Perturbation, batch: tuple[Tensor, ...], available: Tensor | None
) -> Tensor:
    """The interaction losses of all experts and the gradient of their mean, in one vector."""
    torch.manual_seed(1)
    losses, fill = InteractionLosses(task), None if available is None else "zero"
    reweighter = StaticReweighter(5)
    model = InteractionMoE(Mixes, 3, perturbation=perturbation, losses=losses, reweighter=reweighter, fill=fill)
    out = model(*batch, available=available)
    assert out.interaction_loss is not None
    out.interaction_loss.backward()
    gradients = [p.grad.flatten() for p in model.experts.parameters() if p.grad is not None]
    return torch.cat([torch.stack(list(out.interaction_losses.values())).detach(), *gradients])


DRAWN: dict[str, dict[str, Any]] = {
    "half": {"fraction": 0.5},
    "quarter": {"fraction": 0.25},
    "two modalities": {"per_step": 2},
    "both": {"fraction": 0.5, "per_step": 2},
}
AVAILABLE: dict[str, list[list[int]] | None] = {
    "complete": None,
    "some missing": [[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]],
    "one complete row": [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
}


@pytest.mark.parametrize(("task", "drawn", "rows"), every_pair([*oracle.TERMS], [*DRAWN], [*AVAILABLE]))
def test_expected_losses_and_gradients_are_those_of_all(
    task: str, drawn: str, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over every order that could be drawn, of 4 rows and 3 modalities, is exact."""
    batch, options, available = tuple(torch.randn(4, 3) for _ in range(3)), DRAWN[drawn], AVAILABLE[rows]
    mask = None if available is None else torch.tensor(available).bool()
    expected = loss_and_gradients(task, Zero(), batch, mask)
    of_rows = list(permutations(range(4))) if "fraction" in options else [()]
    of_modalities = list(permutations(range(3))) if "per_step" in options else [()]

    found = []
    for order, replaced in product(of_rows, of_modalities):
        orders = {4: order, 3: replaced}
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randperm", lambda n, orders=orders, **_: torch.tensor(orders[n]))
            found.append(loss_and_gradients(task, Zero(**options), batch, mask))

    torch.testing.assert_close(torch.stack(found).mean(0), expected, rtol=0, atol=1e-9)
    assert torch.stack(found).std(0).max() > 1e-3


@pytest.mark.parametrize("experts", ["synergy", "redundancy"])
def test_one_modality_a_step_suffices_without_uniqueness(experts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = tuple(torch.randn(4, 3) for _ in range(3))
    torch.manual_seed(1)
    model = InteractionMoE(Mixes, 3, perturbation="zero", experts=experts, reweighter=StaticReweighter(1))
    expected = model(*batch).interaction_loss
    model.perturbation = Zero(per_step=1)
    found = []
    for order in permutations(range(3)):
        monkeypatch.setattr(torch, "randperm", lambda n, order=order, **_: torch.tensor(order))
        found.append(model(*batch).interaction_loss)
    torch.testing.assert_close(torch.stack(found).mean(), expected, rtol=0, atol=1e-9)


def test_rows_and_modalities_are_drawn_uniformly(generator: torch.Generator) -> None:
    rows: Counter[int] = Counter()
    replaced = torch.zeros(3)
    perturbation = Zero(fraction=0.5, per_step=2, generator=generator)
    for _ in range(1200):
        views = perturbation.draw((torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4, 1)))
        assert views.rows is not None
        assert views.replaced is not None
        rows.update(views.rows.tolist())
        replaced += views.replaced.sum(0)
    assert all(abs(rows[i] - 600) < 4 * 300**0.5 for i in range(4))
    assert (replaced - 800).abs().max() < 4 * 270**0.5


# --- of the user's own ---


def test_a_function_is_a_perturbation() -> None:
    def negated(x: Tensor) -> Tensor:
        return -x

    x = torch.randn(4, 3)
    perturbation = as_perturbation(negated)
    assert isinstance(perturbation, Custom)
    assert torch.equal(perturbation(x), -x)


def test_a_subclass_defines_replace_alone() -> None:
    class Constant(Perturbation):
        def replace(self, x: Tensor) -> Tensor:
            return torch.full_like(x, 2.0)

    views: Views = Constant(fraction=0.5).draw((torch.randn(4, 3), torch.randn(4, 2)))
    assert torch.equal(views.perturbed[1][1], torch.full((2, 2), 2.0))  # type: ignore[arg-type]
    assert as_perturbation(constant := Constant()) is constant


@pytest.mark.parametrize("options", [{}, {"fraction": 0.5}, {"per_step": 2}])
def test_a_module_is_trained_with_the_model(options: dict[str, Any]) -> None:
    learned = Custom(nn.Linear(3, 3), **options)
    model = InteractionMoE(Mixes, 3, perturbation=learned, losses=InteractionLosses("regression"))
    out = model(*(torch.randn(4, 3) for _ in range(3)))
    assert out.interaction_loss is not None
    out.interaction_loss.backward()
    names = [name for name, _ in model.named_parameters() if name.startswith("perturbation")]
    assert names == ["perturbation.function.weight", "perturbation.function.bias"]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned.parameters())


@pytest.mark.parametrize("name", ["gaussian", "zero", "mean", "shuffle"])
def test_a_name_is_the_perturbation_of_that_name(name: str) -> None:
    assert type(as_perturbation(name)).__name__.lower() == name


def test_a_function_that_changes_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a perturbation must leave the batch as it is, .* changed it in place"):
        as_perturbation(lambda x: x.zero_()).draw((torch.ones(3, 2), torch.ones(3, 2)))
