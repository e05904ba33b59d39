"""Whole models with encoders inside: arguments that are one modality, token ids, positions, copies of encoders."""

from __future__ import annotations

import warnings
from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2moe import InteractionMoE, InteractionSupervision, Reweighter, calibrate, explain, interactions
from i2moe.interpretation.observation.observe import call_by_signature
from i2moe.moe.experts.sharing import share
from i2moe.moe.pruning import prune

INPUTS = {"text": ("ids", "mask"), "image": "pixels"}


class Whole(nn.Module):
    """A reader of token ids with positions, a mask and an option, beside pixels; called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.positions = nn.Embedding(6, 8)
        self.pixels = nn.Linear(5, 8)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None, pixels: Tensor | None = None) -> Any:
        assert pixels is not None
        mask = torch.ones_like(ids) if mask is None else mask
        embedded = self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device).unsqueeze(0))
        pooled = (embedded * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return SimpleNamespace(logits=self.head(torch.cat([pooled, self.pixels(pixels)], dim=-1)))


def make_batch(n: int = 6) -> dict[str, Tensor]:
    mask = (torch.arange(6) < torch.randint(1, 7, (n, 1))).long()
    return {"ids": torch.randint(20, (n, 6)), "mask": mask, "pixels": torch.randn(n, 5)}


def make_model(**kwargs: Any) -> InteractionMoE:
    return InteractionMoE(Whole, 2, modality_names=INPUTS, **({"reweighter": "computed"} | kwargs))


@pytest.mark.parametrize("members", [None, 1, 3])
def test_each_way_of_calling_is_the_same_and_everything_learns(members: int | None) -> None:
    model, batch = make_model(members=members), make_batch()
    torch.manual_seed(3)  # members divide the rows of one modality at random
    out = model(**batch)
    for each in (batch, UserDict(batch)):
        torch.manual_seed(3)
        assert torch.equal(model(each).prediction, out.prediction)
    InteractionSupervision(nn.functional.cross_entropy)(out, torch.randint(3, (6,))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("members", [None, 2])
def test_samples_do_not_depend_on_their_batch(members: int | None) -> None:
    model, batch = make_model(members=members).eval(), make_batch()
    some = model(**{name: x[:2] for name, x in batch.items()})
    torch.testing.assert_close(some.expert_predictions, model(**batch).expert_predictions[:2])


def test_ids_and_mask_are_filled_together() -> None:
    model, batch = make_model().eval(), make_batch()
    only_image = torch.tensor([[False, True]]).expand(6, -1)
    out = model(**batch, available=only_image)
    torch.testing.assert_close(out.prediction, model(**batch).marginals[:, 1])
    other = batch | {name: make_batch()[name] for name in ("ids", "mask")}
    assert torch.equal(model(**other, available=only_image).prediction, out.prediction)


def test_optional_arguments_may_be_left_out() -> None:
    model, batch = make_model().eval(), make_batch()
    unmasked = {"ids": batch["ids"], "pixels": batch["pixels"]}
    everywhere = model(**unmasked, mask=torch.ones_like(batch["ids"]))
    assert torch.equal(model(**unmasked).prediction, everywhere.prediction)
    assert torch.equal(model(**unmasked, mask=None).prediction, everywhere.prediction)


def test_paper_objective_moves_ids_and_mask_together() -> None:
    model = make_model(reweighter=lambda modalities: torch.full((6, 4), 0.25), perturbation="shuffle")
    out = model(**make_batch())
    assert out.views is not None
    assert out.views.shape == (6, 4, 3, 3)


def test_explained_and_pruned() -> None:
    model, batch, y = make_model(), make_batch(40), torch.randint(3, (40,))
    report = explain(model, [(UserDict(batch), y)])
    assert report.modality_names == ("text", "image")
    torch.testing.assert_close(report.weights, model.eval()(**batch).weights.detach())
    smaller = prune(model, keep=("uniqueness", "synergy"))
    assert smaller(**batch).weights.shape == (40, 3)


def test_a_batch_encoding_in_a_tuple_and_an_optional_argument_are_explained() -> None:
    class Nested(Whole):
        def forward(self, text: Any, pixels: Tensor | None = None) -> Any:  # type: ignore[override]
            return super().forward(**text, pixels=pixels)

    model = InteractionMoE(Nested, 2, reweighter="computed")
    batch, y = make_batch(40), torch.randint(3, (40,))
    text = UserDict({name: batch[name] for name in ("ids", "mask")})
    by_position = explain(model, [((text, batch["pixels"]), y)])
    assert torch.equal(by_position.weights, explain(model, [((dict(text), batch["pixels"]), y)]).weights)


class Encoding(UserDict[str, Any]):
    """As a `BatchEncoding` of Hugging Face: moved in place."""

    def to(self, device: Any) -> Encoding:
        self.data = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in self.items()}
        return self


def test_an_encoding_of_arrays_is_as_good_as_one_of_tensors() -> None:
    model, batch, y = make_model(), make_batch(40), torch.arange(40) % 3
    arrays = Encoding({name: x.numpy() for name, x in batch.items()})
    by_tensor, by_array = (explain(model, [(given, y)]) for given in (Encoding(batch), arrays))
    assert torch.equal(by_array.weights, by_tensor.weights)
    torch.testing.assert_close(calibrate(model, [(arrays, y)]), calibrate(model, [(Encoding(batch), y)]))
    whole = Whole()
    by_tensor, by_array = (interactions(whole, [(x, y)], [(x, y)], modality_names=INPUTS) for x in (batch, arrays))
    assert torch.equal(by_array.weights, by_tensor.weights)
    assert not any(isinstance(x, Tensor) for x in arrays.values())
    lists = Encoding({name: x.tolist() for name, x in batch.items()})
    with pytest.raises(TypeError, match="return_tensors='pt'"):
        explain(model, [(lists, y)])


@pytest.mark.parametrize("after", ["keyword", "position"])
def test_a_third_entry_goes_to_no_argument_that_means_something_else(after: str) -> None:
    class Scaled(nn.Module):
        def forward(self, a: Tensor, b: Tensor, scale: float = 1.0, labels: Any = None) -> Any:
            raise AssertionError

    class Marked(nn.Module):
        def forward(self, a: Tensor, b: Tensor, *, labels: Any = None) -> Any:
            raise AssertionError

    model = Scaled() if after == "position" else Marked()
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):  # handed over whole
        call_by_signature(model, tuple(torch.zeros(3, 2, 1)))


class TestSharing:
    def test_one_row_stands_for_all_rows_of_all_members(self) -> None:
        layer: Any = nn.Embedding(4, 3)
        members = share(layer, 2)
        nn.init.normal_(layer.member_factors.outputs)
        with members.running(2, n_rows=6):
            found = layer(torch.tensor([[0, 1]]))
        assert found.shape == (6, 2, 3)
        by_hand = layer.weight[:2] * layer.member_factors.outputs[0]
        torch.testing.assert_close(found[:3], by_hand.expand(3, -1, -1))

    def test_parts_that_are_common_keep_what_they_learned(self) -> None:
        class Pretrained(Whole):
            def __init__(self) -> None:
                super().__init__()
                self.words.common_to_experts = True  # type: ignore[assignment]

        model = InteractionMoE(Pretrained, 2, modality_names=INPUTS, reweighter="computed", members=2)
        backbone: Any = model.example_backbone
        assert not hasattr(backbone.words, "member_factors")
        assert hasattr(backbone.positions, "member_factors")
        ids = torch.randint(20, (3, 6))
        assert torch.equal(backbone.words(ids), backbone.words.weight[ids])

    def test_a_module_that_is_common_altogether_has_nothing_to_share(self) -> None:
        layer: Any = nn.Linear(2, 2)
        layer.common_to_experts = True
        with pytest.raises(ValueError, match=r"must have a linear, .* layer to share"):
            share(layer, 2)


class TestCopies:
    @staticmethod
    def large(width: int = 600_000) -> nn.Module:
        with torch.device("meta"):
            encoder = nn.Embedding(width, 10)
        model = Whole()
        model.add_module("encoder", encoder)
        return model

    def test_experts_that_carry_encoders_are_warned_of(self) -> None:
        with pytest.warns(
            UserWarning, match=r"each of the 4 has 6 million .* members=1, or put the encoders before"
        ) as found:
            InteractionMoE(self.large, 2, reweighter="computed")
        assert found[0].filename == __file__

    def test_no_false_alarm(self) -> None:
        """Of fusions, of encoders that experts share as modules, and of members."""
        shared = self.large()

        def around() -> nn.Module:
            model = Whole()
            model.add_module("encoder", shared)
            return model

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            InteractionMoE(around, 2, reweighter="computed")
            InteractionMoE(lambda: self.large(100_000), 2, reweighter="computed")


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"labels": torch.ones(6)},
                r"must go by the names .* however \['labels'\] are unknown; .* leave targets out",
            ),
            ({"ids": None, "mask": None, "pixels": None}, "must give at least one of the modalities"),
        ],
    )
    def test_calls(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_model()(**(make_batch() | changes))

    def test_by_position(self) -> None:
        with pytest.raises(ValueError, match="however 3 go by position"):
            make_model()(*make_batch().values())

    def test_a_modality_without_arguments_in_a_model_without_fill(self) -> None:
        model = InteractionMoE(Whole, 2, modality_names=INPUTS, reweighter=lambda modalities: torch.ones(6, 4) / 4)
        with pytest.raises(ValueError, match=r"it gives nothing of \['image'\]"):
            model(ids=torch.ones(6, 6, dtype=torch.long))

    @pytest.mark.parametrize(
        "names",
        [{"text": (), "image": "pixels"}, {"text": "ids", "image": "ids"}, {"text": "available", "image": "pixels"}],
    )
    def test_names(self, names: Any) -> None:
        with pytest.raises(ValueError, match="must give each modality arguments of its own"):
            InteractionMoE(Whole, 2, modality_names=names)

    def test_a_learned_reweighter_needs_numbers(self) -> None:
        with pytest.raises(TypeError, match="floating-point tensor in every modality"):
            make_model(reweighter=Reweighter(4), perturbation="shuffle")(**make_batch())
