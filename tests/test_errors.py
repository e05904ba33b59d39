"""A mistake is named before any backbone runs: what must hold, what was found, and the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2moe import (
    BackboneOutput,
    ComputedReweighter,
    InteractionLosses,
    InteractionMoE,
    InteractionSupervision,
    Reweighter,
    StaticReweighter,
    explain,
)
from i2moe.losses import cosine_redundancy, cosine_synergy, difference_uniqueness, triplet_uniqueness
from i2moe.perturbations import Custom, Gaussian, Perturbation, Shuffle, Zero, as_perturbation

pytestmark = pytest.mark.usefixtures("double")

ran: list[str] = []


class Spy(nn.Module):
    """A backbone that notes that it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        ran.append("ran")
        output: Tensor = self.layer(torch.cat([x, y], dim=-1))
        return output


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def make(factory: Any = Spy, n_modalities: Any = 2, **options: Any) -> InteractionMoE:
    return InteractionMoE(factory, n_modalities, **options)


def x(n_samples: int = 4, width: int = 3, **options: Any) -> Tensor:
    return torch.randn(n_samples, width, **options)


def y(n_samples: int = 4, width: int = 5, **options: Any) -> Tensor:
    return torch.randn(n_samples, width, **options)


def same() -> Callable[[], nn.Module]:
    backbone = Spy()
    return lambda: backbone


def narrow_reweighter(modalities: Any) -> Tensor:
    return torch.full((4, 3), 1 / 3)


NAMED: dict[str, Any] = {"modality_names": ("text", "image")}

CONSTRUCTION: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "one modality": (lambda: make(n_modalities=1), ValueError, "n_modalities must be at least 2 .*, however it is 1"),
    "modalities that are no number": (
        lambda: make(n_modalities="2"),
        TypeError,
        "n_modalities must be an integer, however it is '2'",
    ),
    "one width": (
        lambda: make(feature_dims=8),
        ValueError,
        "feature_dims must give one width for each of 2 .* it is 8",
    ),
    "duplicate names": (
        lambda: make(modality_names=("a", "a")),
        ValueError,
        r"modality_names must be 2 different, .*, however they are \('a', 'a'\)",
    ),
    "missing name": (lambda: make(modality_names=("a",)), ValueError, r"must be 2 different, .*, however .*\('a',\)"),
    "too many names": (lambda: make(modality_names=("a", "b", "c")), ValueError, "must be 2 different, .*, however"),
    "empty name": (lambda: make(modality_names=("a", "")), ValueError, "not empty strings, however"),
    "name that is no string": (lambda: make(modality_names=("a", 1)), ValueError, "not empty strings, however"),
    "unknown perturbation": (
        lambda: make(perturbation="noise"),
        ValueError,
        "perturbation must be one of .*gaussian.*shuffle.*, however it is 'noise'",
    ),
    "perturbation that is no function": (
        lambda: make(perturbation=3),
        TypeError,
        r"perturbation must be a name, a Perturbation object such as .*, or a function .*, however it is 3",
    ),
    "perturbation class": (lambda: make(perturbation=Gaussian), TypeError, "object such as .*, however it is <class"),
    "unknown expert": (
        lambda: make(experts=("unity",)),
        ValueError,
        r"experts must be 'all' or some of .*'synergy'.*, however they are \('unity',\)",
    ),
    "expert twice": (lambda: make(experts=("synergy", "synergy")), ValueError, "each once, however they are"),
    "no expert": (lambda: make(experts=()), ValueError, r"experts must be 'all' or some of .*, however they are \(\)"),
    "expert of an unknown modality": (
        lambda: make(experts=("uniqueness/a",)),
        ValueError,
        "some of .*'uniqueness/0'.*, however",
    ),
    "unknown execution": (
        lambda: make(execution="parallel"),
        ValueError,
        "execution must be one of .*'batched'.*, however it is 'parallel'",
    ),
    "checkpointed vmap": (
        lambda: make(execution="vmap", checkpoint=True),
        ValueError,
        "checkpoint=True must run one expert at a time, however execution='vmap' .*; use execution='auto'",
    ),
    "fraction 0": (lambda: Gaussian(fraction=0), ValueError, r"fraction must lie in \(0, 1\], however it is 0"),
    "fraction above 1": (lambda: Zero(fraction=1.5), ValueError, r"fraction must lie in \(0, 1\], however it is 1.5"),
    "fraction nan": (lambda: Zero(fraction=float("nan")), ValueError, r"fraction must lie in \(0, 1\], however"),
    "per_step 0": (lambda: Shuffle(per_step=0), ValueError, "per_step must be at least 1, however it is 0"),
    "per_step above the modalities": (
        lambda: make(perturbation=Zero(per_step=3)),
        ValueError,
        "per_step must lie between 2 .* and the number of modalities 2, however it is 3",
    ),
    "per_step 1 with uniqueness": (
        lambda: make(perturbation=Zero(per_step=1)),
        ValueError,
        "per_step must lie between 2 .uniqueness contrasts two .*, however it is 1",
    ),
    "temperature 0": (
        lambda: Reweighter(4, temperature=0),
        ValueError,
        "temperature must be positive, however it is 0",
    ),
    "negative static temperature": (
        lambda: StaticReweighter(4, temperature=-1),
        ValueError,
        "temperature must be positive, however it is -1",
    ),
    "temperature nan": (lambda: Reweighter(4, temperature=float("nan")), ValueError, "must be positive, however"),
    "dropout 1": (lambda: Reweighter(4, dropout=1.0), ValueError, r"dropout must lie in \[0, 1\), however it is 1.0"),
    "no hidden unit": (
        lambda: Reweighter(4, hidden_dim=0),
        ValueError,
        "hidden_dim must be at least 1, however",
    ),
    "no layer": (lambda: Reweighter(4, n_layers=0), ValueError, "n_layers must be at least 1, however it is 0"),
    "no expert to weigh": (lambda: StaticReweighter(0), ValueError, "n_experts must be at least 1, however it is 0"),
    "width 0": (
        lambda: make(feature_dims=(3, 0)),
        ValueError,
        r"feature_dims must be widths of at least 1, however they are \(3, 0\)",
    ),
    "count of feature_dims": (
        lambda: make(feature_dims=(3, 4, 5)),
        ValueError,
        r"feature_dims must give one width for each of 2 modalities, however it is \(3, 4, 5\)",
    ),
    "feature_dims and reweighter": (
        lambda: make(feature_dims=(3, 5), reweighter=StaticReweighter(4)),
        ValueError,
        "feature_dims must be left out with a reweighter, however both are given; pass them to the reweighter",
    ),
    "reweighter of other experts": (
        lambda: make(reweighter=StaticReweighter(3)),
        ValueError,
        "reweighter must weigh the 4 experts, however its n_experts is 3",
    ),
    "module for a factory": (
        lambda: make(Spy()),
        TypeError,
        "backbone_factory must be a function .*, however it is a Spy; pass `lambda",
    ),
    "no factory": (lambda: make(None), TypeError, "backbone_factory must be a function .*, however it is a NoneType"),
    "factory of no module": (
        lambda: make(lambda: torch.relu),
        TypeError,
        "backbone_factory must return a torch.nn.Module, however for expert 'uniqueness/0' it returned a builtin",
    ),
    "factory of one module": (
        lambda: make(same()),
        ValueError,
        "must return a new module at each call, however it returned the same one twice; build the module inside",
    ),
    "losses class": (
        lambda: make(losses=InteractionLosses),
        TypeError,
        "losses must be an object called with the views, .*, however it is <class",
    ),
    "losses that are no function": (
        lambda: make(losses=0.5),
        TypeError,
        "losses must be an object .*, however it is",
    ),
    "unknown task": (
        lambda: InteractionLosses("ranking"),  # type: ignore[arg-type]
        ValueError,
        "task must be one of .*'multilabel', 'regression'.*, however it is 'ranking'",
    ),
    "unknown place of losses": (
        lambda: InteractionLosses(on="hidden"),  # type: ignore[arg-type]
        ValueError,
        "on must be 'prediction' or 'latent', however it is 'hidden'",
    ),
    "class of a reweighter": (
        lambda: make(reweighter=ComputedReweighter),
        ValueError,
        "reweighter must be 'computed', an object such as .*, however it is <class",
    ),
    "arguments of a reweighter exchanged": (
        lambda: Reweighter((3, 5), 4),  # type: ignore[arg-type]
        TypeError,
        r"n_experts must be an integer, however it is \(3, 5\)",
    ),
    "names in one string": (
        lambda: make(modality_names="ab"),
        ValueError,
        "modality_names must be a list of names, however it is 'ab'",
    ),
    "half a member": (
        lambda: make(members=1.5),
        ValueError,
        "members must be an integer of at least 1, .*, however they are 1.5",
    ),
    "margin 0": (lambda: InteractionLosses(margin=0), ValueError, "margin must be positive, however it is 0"),
}

CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "too few": (lambda: make()(x()), ValueError, r"must give the 2 modalities \('0', '1'\), however it gives 1"),
    "too many": (
        lambda: make()(x(), y(), y()),
        ValueError,
        "must give the 2 modalities .*, however it gives 3; a modality",
    ),
    "too few in a list": (lambda: make()([x()]), ValueError, "must give the 2 modalities .*, however it gives 1"),
    "nothing": (lambda: make()(), ValueError, "must give the 2 modalities .*, however it gives 0"),
    "unknown keyword": (
        lambda: make(**NAMED)(text=x(), audio=y()),
        ValueError,
        r"must be the modalities \('text', 'image'\), however \['image'\] are missing and \['audio'\] are unknown; set",
    ),
    "missing key": (
        lambda: make(**NAMED)({"text": x()}),
        ValueError,
        r"must be the modalities \('text', 'image'\), however \['image'\] are missing",
    ),
    "given twice": (
        lambda: make(**NAMED)(x(), y(), text=x()),
        ValueError,
        r"modalities \('text', 'image'\) must be given once, however the call has 2 positional ones and .*'text'",
    ),
    "an option of the backbone": (
        lambda: make(**NAMED)(x(), y(), verbose=True),
        ValueError,
        "however .*verbose",
    ),
    "different batch sizes": (
        lambda: make(**NAMED)(x(4), y(5)),
        ValueError,
        r"same batch size on axis 0, however their shapes are 'text' \(4, 3\), 'image' \(5, 5\)",
    ),
    "different batch sizes inside a modality": (
        lambda: make(**NAMED)((x(4), x(5)), y(4)),
        ValueError,
        r"same batch size on axis 0, however their shapes are 'text' \(4, 3\), 'text' \(5, 3\)",
    ),
    "different devices": (
        lambda: make(**NAMED)(x(), y(device="meta")),
        ValueError,
        r"must be on one device, however they are 'text' on cpu, 'image' on meta; move them",
    ),
    "empty batch": (
        lambda: make()(x(0), y(0)),
        ValueError,
        "must hold at least one sample, however axis 0 of the modalities is empty",
    ),
    "scalar": (
        lambda: make(**NAMED)(x(), torch.tensor(1.0)),
        ValueError,
        "modality 'image' must have a leading batch axis, however it holds a scalar tensor",
    ),
    "no tensor": (
        lambda: make(**NAMED)(x(), y().numpy()),
        TypeError,
        "modality 'image' must be a tensor or a nested tuple, list or dict of tensors, however it holds a ndarray",
    ),
    "number inside": (
        lambda: make(**NAMED)((x(), 3), y()),
        TypeError,
        "modality 'text' must be a tensor or .*, however it holds a int",
    ),
    "nothing inside": (
        lambda: make(**NAMED)(x(), (None, {})),
        ValueError,
        r"every modality must hold a tensor, however \['image'\] hold none",
    ),
    "integers and a Gaussian": (
        lambda: make()(x(), torch.ones(4, 5, dtype=torch.long)),
        TypeError,
        "must have a floating-point tensor to be replaced by Gaussian, however .*int64.*; embed it .*, or .*shuffle",
    ),
    "integers and the reweighter": (
        lambda: make(perturbation="shuffle")(x(), torch.ones(4, 5, dtype=torch.long)),
        TypeError,
        "must have a floating-point tensor in every modality, however modality 1 has none; embed it first, or use",
    ),
    "other widths": (
        lambda: make(feature_dims=(3, 4))(x(), y()),
        ValueError,
        r"must have widths \(3, 4\) \(feature_dims.*\), however they have \(3, 5\); tokens",
    ),
    "perturbation of another shape": (
        lambda: make(perturbation=lambda x: x[:, :1])(x(), y()),
        ValueError,
        r"a perturbation must keep the shape \(4, 3\), however Custom returned \(4, 1\)",
    ),
    "weights of another shape": (
        lambda: make(reweighter=narrow_reweighter)(x(), y()),
        ValueError,
        r"the weights of a reweighter must be \(B, E\) = \(4, 4\), however the shape is \(4, 3\)",
    ),
    "no perturbation for views": (
        lambda: make(perturbation=None).interaction_views(x(), y()),
        ValueError,
        "must have a perturbation, however perturbation=None; give",
    ),
    "batch norm in batches": (
        lambda: make(lambda: nn.Sequential(nn.BatchNorm1d(3), Spy()), execution="batched")(x(), y()),
        ValueError,
        "batched' must be able to stack .*, however layer '0' .BatchNorm1d. of expert .*; use execution='auto'",
    ),
}


@pytest.mark.parametrize(("run", "kind", "message"), CONSTRUCTION.values(), ids=CONSTRUCTION.keys())
def test_a_mistake_in_construction(run: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"(?s){message}"):
        run()


@pytest.mark.parametrize(("run", "kind", "message"), CALLS.values(), ids=CALLS.keys())
def test_a_mistake_in_a_call_is_found_before_a_backbone_runs(
    run: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"(?s){message}"):
        run()
    assert ran == []


def test_the_spy_notices_a_backbone_that_runs() -> None:
    make()(x(), y())
    assert ran


def test_other_widths_than_those_of_the_first_batch() -> None:
    model = make()
    model(x(), y())
    ran.clear()
    with pytest.raises(ValueError, match=r"must have widths \(8,\) .*, however they have \(9,\)"):
        model(x(width=4), y())
    assert ran == []


@pytest.mark.parametrize("train", [True, False])
def test_another_number_of_outputs_than_the_backbones(train: bool) -> None:
    model = make(reweighter=ComputedReweighter(n_outputs=7)).train(train)
    with pytest.raises(ValueError, match=r"n_outputs must be .* of the backbone, however it is 7 and .* returned 3"):
        model(x(), y())


@pytest.mark.parametrize("members", [None, 2])
def test_a_width_that_the_backbone_cannot_take_is_named_with_the_inputs(members: int | None) -> None:
    model = make(reweighter="computed", members=members)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        model(x(width=4), y())
    assert ", 4), (" in caught.value.__notes__[0]
    if members:
        assert "layer 'layer' must get inputs with 8 features, however they have 9" in str(caught.value)


@pytest.mark.parametrize("target", [torch.zeros(3).long(), torch.tensor(1), [1, 0, 1, 0], (torch.zeros(4), 2.0)])
def test_a_target_without_a_row_for_each_sample(target: Any) -> None:
    out = make(reweighter="computed")(x(), y())
    with pytest.raises(ValueError, match=r"target must hold tensors \(B, ...\) = \(4, ...\)"):
        InteractionSupervision(nn.functional.cross_entropy)(out, target)


@pytest.mark.parametrize("perturbation", ["shuffle", "mean"])
def test_views_of_one_sample_warn_in_training_and_in_reports(perturbation: str) -> None:
    words = rf"{perturbation} needs two samples .*, however the batch has 1; .* larger batches, or another perturbation"
    model = make(perturbation=perturbation)
    with pytest.warns(UserWarning, match=words):
        model(x(1), y(1))
    alone = [((x(1), y(1)), torch.tensor([label])) for label in (0, 1)]
    with pytest.warns(UserWarning, match="came in batches of one"), pytest.warns(UserWarning, match=words):
        explain(model, alone, perturbation=perturbation)


@pytest.mark.parametrize("function", [cosine_synergy, cosine_redundancy])
def test_cosine_of_one_output_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    message = "at least two outputs, however there is one, .*; use InteractionLosses\\('regression'\\), or two logits"
    with pytest.raises(ValueError, match=message):
        function(torch.randn(4, 3, 1))
    with pytest.raises(ValueError, match=message):
        InteractionLosses()(torch.randn(4, 4, 3))
    with pytest.raises(ValueError, match=message):
        make(lambda: nn.Sequential(Join(), nn.Linear(8, 1)))([x(), y()])


class Join(nn.Module):
    def forward(self, modalities: list[Tensor]) -> Tensor:
        return torch.cat(modalities, dim=-1)


@pytest.mark.parametrize("function", [triplet_uniqueness, difference_uniqueness])
def test_uniqueness_of_one_replaced_view_is_refused(function: Callable[[Tensor, int], Tensor]) -> None:
    with pytest.raises(ValueError, match="at least two replaced modalities, however there is 1; raise per_step"):
        function(torch.randn(4, 2, 3), 0)


def test_losses_of_other_experts_are_refused() -> None:
    criterion = InteractionLosses()
    with pytest.raises(ValueError, match=r"one expert per interaction .*, however their shape is \(2, 3, 3, 5\)"):
        criterion(torch.randn(2, 3, 3, 5))
    with pytest.raises(ValueError, match=r"interactions must be 'synergy', .* below 2, however .*'unity'"):
        criterion(torch.randn(2, 2, 3, 5), (0, "unity"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"interactions must be .*, however"):
        criterion(torch.randn(2, 2, 3, 5), (0, 2))
    with pytest.raises(ValueError, match=r"interactions must be .*, however"):
        criterion(torch.randn(2, 2, 3, 5), (0, -1))
    with pytest.raises(ValueError, match=r"at least one replaced view, however their shape is \(2, 2, 1, 5\)"):
        criterion(torch.randn(2, 2, 1, 5))
    with pytest.raises(ValueError, match=r"views must .*, however their shape is \(2, 4\)"):
        criterion(torch.randn(2, 4))


def test_losses_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one number for each of 4 experts, \(E,\), however they returned shape \(\)"):
        make(losses=lambda views, interactions=None, replaced=None: views.mean())(x(), y())


def test_a_missing_latent_is_named() -> None:
    with pytest.raises(ValueError, match="must have one, however a backbone returned none; return BackboneOutput"):
        make(losses=InteractionLosses(on="latent"))(x(), y())


def test_a_latent_of_some_experts_is_missing() -> None:
    returned = iter([True, False, True, False])

    class Sometimes(Spy):
        def __init__(self) -> None:
            super().__init__()
            self.has_latent = next(returned)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            output = super().forward(x, y)
            return BackboneOutput(output, latent=output) if self.has_latent else output

    with pytest.raises(ValueError, match="must have one, however a backbone returned none"):
        make(Sometimes, losses=InteractionLosses(on="latent"))(x(), y())


def test_names_of_perturbations_are_listed() -> None:
    with pytest.raises(ValueError, match=r"\('gaussian', 'zero', 'mean', 'shuffle'\), however it is 'Gaussian'"):
        as_perturbation("Gaussian")


def test_a_perturbation_must_say_how() -> None:
    with pytest.raises(NotImplementedError):
        Perturbation()(torch.randn(4, 3))
    with pytest.raises(ValueError, match="per_step must be at most the number of modalities 2, however it is 3"):
        Custom(torch.relu, per_step=3).draw((x(), y()))
