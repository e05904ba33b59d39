"""`interactions`: models without experts, explained by marginals that are fitted or replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from examples.datasets.mixtures import Mixture
from i2moe import InteractionMoE, interactions
from i2moe.interpretation import InteractionReport
from i2moe.interpretation.existing import Fitted, Replaced
from i2moe.interpretation.existing.heads import Head
from i2moe.moe.weights import interaction_shares
from i2moe.training import Batches


def batches(n_samples: int, seed: int, size: int = 100) -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
    """Samples of two numbers each: the class is that of the sum's sign."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n_samples, 2, generator=generator).unbind()
    y = (a[:, 0] + b[:, 0] > 0).long()
    return [((a[rows], b[rows]), y[rows]) for rows in torch.arange(n_samples).split(size)]


class Knowing(nn.Module):
    """Predict by a known rule; the first number of each modality counts as much as `weights` say."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))
        self.dropout = nn.Dropout(0.9)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        z = self.weights[0] * a[:, 0] + self.weights[1] * b[:, 0]
        logits: Tensor = self.dropout(torch.stack([-z, z], dim=1))
        return logits


def probabilities(a: Any, b: Any) -> Any:
    """The same as a function of arrays, which looks at modality a alone."""
    p = 1 / (1 + np.exp(-4 * np.asarray(a)[:, 0]))
    return np.stack([1 - p, p], axis=1)


class TestWeights:
    def test_they_are_shares_of_the_models_own_predictions(self) -> None:
        model, data = Knowing(2.0, 0.5), batches(60, seed=1)
        report = interactions(model, data, batches(50, seed=2), marginals="replaced")
        assert report.marginals is not None
        (a, b), _ = data[0]
        joint = model.eval()(a, b)
        torch.testing.assert_close(report.prediction.softmax(1), joint.softmax(1).detach())
        held_out = [model(*modalities).softmax(1).detach() for modalities, _ in batches(50, seed=2)]
        shares, _ = interaction_shares(
            report.marginals.softmax(2), joint.softmax(1).detach(), torch.cat(held_out).mean(0)
        )
        torch.testing.assert_close(report.weights, shares, atol=1e-5, rtol=1e-4)

    def test_replaced_marginals_are_means_over_all_of_a_small_background(self) -> None:
        """With as many references as the background holds, the mean over it, by hand."""
        model, ((a, b), y) = Knowing(1.0, -1.0), batches(7, seed=1)[0]
        (other_a, other_b), other_y = batches(5, seed=2)[0]
        report = interactions(model, [((a, b), y)], [((other_a, other_b), other_y)], marginals=Replaced(5))
        model.eval()
        for i in range(7):
            alone_a = torch.stack([model(a[i : i + 1], other_b[k : k + 1]).softmax(1)[0] for k in range(5)]).mean(0)
            alone_b = torch.stack([model(other_a[k : k + 1], b[i : i + 1]).softmax(1)[0] for k in range(5)]).mean(0)
            assert report.marginals is not None
            torch.testing.assert_close(report.marginals[i].softmax(1), torch.stack([alone_a, alone_b]).detach())

    @pytest.mark.parametrize("marginals", ["fitted", "replaced"])
    def test_a_model_of_one_modality_has_its_uniqueness(self, marginals: Any) -> None:
        report = interactions(Knowing(9.0, 0.0), batches(100, seed=1), batches(200, seed=2), marginals=marginals)
        assert report.overall.mean[0] > 0.9

    def test_fitted_marginals_name_known_interactions_where_replaced_ones_do_not(self) -> None:
        torch.manual_seed(0)
        train, test, held_out = (Mixture()(n, seed) for n, seed in ((4_000, 0), (500, 1), (500, 2)))
        model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for rows in torch.cat([torch.randperm(4_000) for _ in range(8)]).split(100):
            loss = nn.functional.cross_entropy(model(torch.cat(train.modalities, 1)[rows]), train.target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        def call(model: nn.Module, modalities: tuple[Tensor, ...]) -> Tensor:
            logits: Tensor = model(torch.cat(modalities, dim=1))
            return logits

        named = {}
        for marginals in ("fitted", "replaced"):
            report = interactions(
                model,
                [(test.modalities, test.target)],
                [(held_out.modalities, held_out.target)],
                call=call,
                marginals=marginals,
            )
            named[marginals] = (report.weights.argmax(1) == test.interaction).double().mean().item()
        assert named["fitted"] > 0.85
        assert named["fitted"] > named["replaced"] + 0.1

    def test_regression_and_labels(self) -> None:
        data = [((a, b), a[:, :1] + b[:, :1]) for (a, b), _ in batches(200, seed=1)]
        found = interactions(lambda a, b: a[:, 0] + b[:, 0], data, data, task="regression")
        assert found.marginals is not None
        torch.testing.assert_close(
            found.marginals[:, 0].float(), torch.cat([a[:, :1] for (a, _), _ in data]), atol=0.15, rtol=0
        )
        assert found.quality.score == pytest.approx(1)

        labels = [((a, b), torch.stack([a[:, 0] > 0, b[:, 0] > 0], 1).long()) for (a, b), _ in batches(200, seed=1)]
        found = interactions(lambda a, b: 9 * torch.stack([a[:, 0], b[:, 0]], 1), labels, labels, task="multilabel")
        assert found.quality_alone["0"].score == pytest.approx(0.75, abs=0.05)

    def test_equal_seeds_give_equal_reports(self) -> None:
        weights = [
            interactions(Knowing(1, 1), batches(60, 1), batches(60, 2), marginals=Replaced(4), seed=seed).weights
            for seed in (0, 0, 1)
        ]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_so_they_do_with_an_estimator_that_draws_from_numpy(self) -> None:
        forest = RandomForestClassifier(4)
        data, background = batches(60, 1), batches(60, 2)
        first, second = (interactions(Knowing(1, 1), data, background, marginals=forest) for _ in range(2))
        assert torch.equal(first.weights, second.weights)


class TestModels:
    def test_a_module_is_left_as_it_was(self) -> None:
        model = Knowing(1.0, 1.0).train()
        model.dropout.eval()
        state = torch.get_rng_state()
        interactions(model, batches(60, 1), batches(60, 2))
        assert model.training
        assert not model.dropout.training
        assert torch.equal(torch.get_rng_state(), state)
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_functions_of_arrays_get_arrays_and_data_frames_get_frames(self) -> None:
        def arrays(seed: int) -> list[Any]:
            return [((a.numpy(), b.numpy()), y.numpy()) for (a, b), y in batches(200, seed)]

        report = interactions(probabilities, arrays(1), arrays(2))
        assert report.overall.mean[0] > 0.9

        def of_frames(modalities: Mapping[str, pd.DataFrame]) -> Any:
            assert list(modalities["left"].columns) == ["x", "y"]
            return probabilities(modalities["left"], modalities["right"])

        frames = [
            (
                {
                    name: pd.DataFrame(x.numpy(), columns=["x", "y"])
                    for name, x in zip(("left", "right"), xs, strict=True)
                },
                y,
            )
            for xs, y in batches(200, 1)
        ]
        again = interactions(of_frames, frames, frames)
        assert again.modality_names == ("left", "right")

    def test_gradient_boosting_and_estimators_as_marginals(self) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        (train, y), (test, z), (held_out, w) = (batches(400, seed, size=400)[0] for seed in (0, 1, 2))
        table = HistGradientBoostingClassifier(max_iter=30).fit(np.hstack(train), y.numpy())

        class Classifier:
            def predict_proba(self, Xs: list[Any]) -> Any:
                return table.predict_proba(np.hstack(Xs))

        report = interactions(Classifier(), [(test, z)], [(held_out, w)], marginals=LogisticRegression())
        assert "LogisticRegression for each modality" in report.basis
        assert report.quality.score > 0.85
        assert all(0.6 < quality.score < 0.9 for quality in report.quality_alone.values())

    def test_outputs_of_hugging_face_and_of_backbones(self) -> None:
        from types import SimpleNamespace

        plain = interactions(Knowing(1, 1), batches(60, 1), batches(60, 2))
        named = interactions(
            Knowing(1, 1),
            batches(60, 1),
            batches(60, 2),
            call=lambda model, modalities: SimpleNamespace(logits=model(*modalities)),
        )
        assert torch.equal(plain.weights, named.weights)

    def test_token_ids_and_mask_are_one_modality(self) -> None:
        """They are replaced together: no mask comes to stand by the ids of another sample."""

        def predict(ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
            assert torch.equal(mask.sum(1), ids[:, 0])  # each sample's first id is its length
            z = ids[:, 0] - 3.0 + 0 * image[:, 0]
            return torch.stack([-z, z], dim=1)

        def batch(seed: int) -> tuple[dict[str, Tensor], Tensor]:
            generator = torch.Generator().manual_seed(seed)
            length = torch.randint(1, 6, (100, 1), generator=generator)
            ids = torch.cat([length, torch.randint(9, (100, 4), generator=generator)], dim=1)
            mask = (torch.arange(5) < length).long()
            return {"ids": ids, "mask": mask, "image": torch.randn(100, 3)}, (length[:, 0] > 3).long()

        names = {"text": ("ids", "mask"), "image": "image"}
        report = interactions(predict, [batch(1)], [batch(2)], modality_names=names)
        assert report.modality_names == ("text", "image")
        assert report.overall.mean[0] > 0.9


def test_a_loader_that_shuffles_is_warned_of() -> None:
    modalities, target = batches(60, 1)[0]
    with pytest.warns(UserWarning, match="give shuffle=False"):
        interactions(lambda a, b: a, Batches(modalities, target, batch_size=30), batches(60, 2))


def test_data_frames_are_the_same_samples_as_arrays() -> None:
    arrays = [(tuple(x.numpy() for x in modalities), y) for modalities, y in batches(60, 1)]
    frames = [(tuple(map(pd.DataFrame, modalities)), y) for modalities, y in arrays]
    by_array, by_frame = (interactions(probabilities, data, data) for data in (arrays, frames))
    assert by_array.compare(by_frame).distance == 0
    other = interactions(probabilities, [(tuple(2 * x for x in frames[0][0]), frames[0][1])], frames)
    with pytest.raises(ValueError, match="same samples"):
        by_frame.compare(other)


def test_texts_and_categories_tell_samples_apart() -> None:
    def of_lengths(modalities: Any) -> Any:
        n = modalities[0]["word"].str.len().to_numpy() + len(modalities[1][0])
        return np.stack([n, 20 - n], axis=1) / 20

    def batch(word: str, text: str) -> Any:
        table = pd.DataFrame({"word": ["a", word] * 20, "n": range(40)})
        return [((table, np.array([text] * 40, dtype=object)), np.arange(40) % 2)]

    report, *others = (
        interactions(of_lengths, batch(*each), batch(*each)) for each in (("bc", "x"), ("cd", "x"), ("bc", "y"))
    )
    assert report.compare(report).distance == 0
    steps = torch.tensor([[0.2, 0.3, 0.5, 0.0], [0.4, 0.3, 0.1, 0.2]], dtype=torch.float64).repeat(20, 1)
    first, second = (replace(report, weights=steps + 1e-9 * torch.randn(steps.shape)) for _ in range(2))
    assert first.compare(second).agreement[[0, 2, 3]].tolist() == pytest.approx([1, 1, 1])
    for other in others:
        with pytest.raises(ValueError, match="same samples"):
            report.compare(other)


def test_the_report_says_what_it_rests_on(tmp_path: Any) -> None:
    report = interactions(Knowing(1, 1), batches(60, 1), batches(60, 2), marginals=Replaced(8))
    mark = "computed from a model without experts; other modalities replaced by those of 8 background samples"
    assert report.basis == mark
    assert mark in report.summary()
    assert report.to_dict()["basis"] == mark
    report.to_html(tmp_path / "report.html")
    assert mark in (tmp_path / "report.html").read_text()
    report.save(tmp_path / "report.pt")
    assert InteractionReport.load(tmp_path / "report.pt").basis == mark
    assert "without experts" not in InteractionReport.example().summary()
    fitted = interactions(Knowing(1, 1), batches(60, 1), batches(60, 2), marginals=Fitted(8))
    assert "a linear head for each modality, fitted on 60 background samples" in fitted.summary()


class TestDropping:
    @pytest.mark.parametrize("marginals", ["fitted", "replaced", LogisticRegression()])
    def test_of_two_modalities_it_is_the_other_alone_and_costs_nothing(self, marginals: Any) -> None:
        found = []
        for drop in (True, False):
            calls = [0]

            def model(a: Tensor, b: Tensor, calls: list[int] = calls) -> Any:
                calls[0] += 1
                return probabilities(a, b)

            data = batches(60, 1), batches(60, 2)
            found.append((interactions(model, *data, marginals=marginals, drop_modalities=drop), calls[0]))
        (report, n_calls), (bare, n_bare) = found
        assert n_calls == n_bare
        assert report.marginals is not None
        assert report.predictions_without is not None
        assert report.predictions_without.equal(report.marginals.flip(1))
        assert list(report.cost_of_dropping()) == ["0", "1"]
        assert bare.predictions_without is bare.comprehensiveness is bare.sufficiency is None
        assert bare.weights.equal(report.weights)
        assert "kept alone" in report.summary()
        assert "kept alone" not in bare.summary()

    @pytest.mark.parametrize("marginals", ["fitted", "replaced", LogisticRegression(), "frames"])
    def test_of_three_it_is_what_the_model_makes_of_the_others(self, marginals: Any) -> None:
        """A model of two of three numbers: each is missed alone and both together, the third never."""

        def model(a: Any, b: Any, c: Any) -> Any:
            z = 8 * (np.asarray(a)[:, 0] + np.asarray(b)[:, 0])
            return np.stack([1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))], axis=1)

        def made(seed: int) -> Any:
            a, b, c = np.random.default_rng(seed).normal(size=(3, 400, 2))
            xs = (a, b, c) if marginals != "frames" else tuple(pd.DataFrame(x, columns=["x", "y"]) for x in (a, b, c))
            return [(xs, (a[:, 0] + b[:, 0] > 0).astype(int))]

        chosen = LogisticRegression() if marginals == "frames" else marginals
        report = interactions(model, made(0), made(1), marginals=chosen, modality_names=("a", "b", "c"))
        cost = {name: found.cost for name, found in report.cost_of_dropping().items()}
        assert abs(cost["c"]) < 0.03
        assert cost["a"] == pytest.approx(0.25, abs=0.08)
        assert cost["a+b"] == pytest.approx(0.5, abs=0.08)
        assert cost["a+c"] == pytest.approx(cost["a"], abs=0.03)
        assert {pair.kind for pair in report.pair_interactions().values()} == {"neither"}
        assert report.comprehensiveness is not None
        assert report.sufficiency is not None
        assert report.comprehensiveness[:, 2].mean().abs() < 0.05
        assert report.sufficiency[:, 2].mean() > report.sufficiency[:, 0].mean() > 0.1


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"model": InteractionMoE(lambda: nn.Bilinear(2, 2, 2), 2)}, TypeError, "InteractionMoE; use explain"),
            ({"model": 3}, TypeError, "model must be a module, a function .* however it is a int"),
            ({"model": lambda a, b: a * torch.nan}, ValueError, "batch 0 of data: outputs must be finite"),
            ({"model": lambda a, b: "no"}, TypeError, "must return an array of outputs .* returned a str"),
            ({"model": lambda a, b: a[:3]}, ValueError, r"outputs \(B, C\) for 60 samples"),
            ({"model": lambda a, b: a[:, :1]}, ValueError, "outputs of at least two classes"),
            ({"returns": "probabilities"}, ValueError, "probabilities must lie in .* returns='raw'"),
            ({"background": []}, ValueError, "background must yield at least one batch"),
            ({"data": []}, ValueError, "data must yield at least one batch"),
            ({"background": batches(19, 2)}, ValueError, "at least 20 samples, however it holds 19"),
            ({"background": batches(1, 2), "marginals": "replaced"}, ValueError, "at least 2 samples, however"),
            (
                {"data": [((torch.ones(3, 2),) * 3, torch.ones(3).long())]},
                ValueError,
                "batch 0 of data: every batch must",
            ),
            ({"data": [((None, torch.ones(3, 2)), torch.ones(3).long())]}, ValueError, "3 of 3 lack '0'"),
            (
                {"data": [((torch.ones(2, 2), torch.tensor([[torch.nan] * 2, [1.0, 1.0]])), torch.ones(2).long())]},
                ValueError,
                "1 of 2 lack '1'",
            ),
            (
                {"data": [((torch.ones(3, 2), torch.ones(2, 2)), torch.ones(3).long())]},
                ValueError,
                "numbers of rows are",
            ),
            (
                {"data": [((torch.ones(3, 2), (torch.ones(3, 1), torch.ones(2, 1))), torch.ones(3).long())]},
                ValueError,
                r"as many rows, however they have \[2, 3\]",
            ),
            (
                {"data": [(torch.ones(3, 2), torch.ones(3).long())]},
                ValueError,
                "every batch must hold the 2 modalities",
            ),
            ({"data": [((["a"], torch.ones(1, 2)), torch.ones(1).long())]}, TypeError, "dtype=object"),
            (
                {"model": lambda a, b: a, "modality_names": ("b", "a")},
                ValueError,
                "in the order of the model's arguments",
            ),
            ({"modality_names": ("a",)}, ValueError, "a name for each of 2 modalities"),
            ({"modality_names": ("a", "a")}, ValueError, "2 different, not empty strings"),
            ({"modality_names": ("a", "a+b")}, ValueError, r"\['a\+b'\] do; rename"),
            ({"marginals": "guessed"}, ValueError, "marginals must be one of"),
            ({"marginals": Fitted}, TypeError, "marginals must be a name, an object"),
            ({"task": "ranking"}, ValueError, "task must be one of"),
            ({"model": HistGradientBoostingClassifier}, TypeError, "however it is the class HistGradientBoosting"),
            ({"model": LogisticRegression().fit(np.eye(4), [0, 0, 1, 1])}, ValueError, "predict_proba of the .*hstack"),
            ({"returns": "chances"}, ValueError, "returns must be one of"),
            ({"class_names": "ab"}, ValueError, "class_names must be a list of names"),
            ({"data": [(batches(2, 1)[0][0], ["a", "b"])]}, ValueError, "number classes: numpy.unique"),
            ({"data": batches(60, 1)[0]}, TypeError, "data must be batches .* however it is one batch; give a list"),
            ({"background": 3}, TypeError, "background must be batches .* however it is a int"),
        ],
    )
    def test_each(self, changes: dict[str, Any], error: type[Exception], message: str) -> None:
        arguments: dict[str, Any] = {"model": Knowing(1, 1), "data": batches(60, 1), "background": batches(60, 2)}
        with pytest.raises(error, match=message):
            interactions(**(arguments | changes))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_rounded_probabilities_are_probabilities(self, dtype: torch.dtype) -> None:
        def of(dtype: torch.dtype | None) -> Any:
            return lambda a, b: torch.stack([a[:, 0], b[:, 0], a[:, 1]], dim=1).softmax(1).to(dtype)

        data, background = batches(200, seed=1), batches(40, seed=2)
        rounded, exact = (interactions(of(each), data, background, marginals="replaced") for each in (dtype, None))
        torch.testing.assert_close(rounded.prediction.softmax(1), exact.prediction.softmax(1), atol=0.01, rtol=0)

    def test_probabilities_that_are_none_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"rows summing to 1, however they lie in .* summing to 1.5 to 1.5"):
            interactions(
                lambda a, b: torch.full((len(a), 3), 0.5),
                batches(20, seed=1),
                batches(20, seed=2),
                returns="probabilities",
            )

    def test_values_large_beside_their_deviation(self) -> None:
        def values(a: Any, b: Any) -> Any:
            return 1.7e9 + 60 * (a[:, :1] + b[:, :1]).double()

        data, background = (
            [(modalities, values(*modalities) + 10 * modalities[0][:, 1:]) for modalities, _ in batches(100, seed=seed)]
            for seed in (1, 2)
        )
        report = interactions(values, data, background, task="regression", marginals="replaced")
        ((modalities, target),) = data
        error = (values(*modalities) - target).square().mean() / target.var(0, correction=0)
        assert report.quality.score == pytest.approx(1 - error.item(), abs=1e-6)

    def test_never_on_more_rows_than_a_batch_has(self) -> None:
        rows: list[int] = []

        def model(a: Tensor, b: Tensor) -> Tensor:
            rows.append(len(a))
            return torch.cat([a, b], dim=1)[:, :2]

        interactions(model, batches(16, seed=1), batches(100, seed=2, size=16))
        assert max(rows) == 16

    def test_the_penalty_of_a_head_does_not_depend_on_the_number_of_labels(self) -> None:
        torch.manual_seed(0)
        x, weight = torch.randn(200, 4).double(), torch.randn(4).double()
        label = (torch.rand(200) < (x @ weight).sigmoid()).double().unsqueeze(1)
        one, many = (Head("multilabel", x, label.repeat(1, n), n) for n in (1, 20))
        torch.testing.assert_close(many(x), one(x).repeat(1, 20), atol=1e-3, rtol=0)

    def test_the_models_own_error_keeps_its_place(self) -> None:
        def within(a: Tensor) -> Tensor:
            raise ValueError("of the model")

        with pytest.raises(ValueError, match="in batch 0 of data: of the model") as caught:
            interactions(lambda a, b: within(a), batches(60, 1), batches(60, 2))
        assert "within" in [entry.name for entry in caught.traceback]

    def test_a_mistake_in_the_data_is_found_before_marginals_are_made(self) -> None:
        asked: list[int] = []

        def model(a: Tensor, b: Tensor) -> Tensor:
            asked.append(len(a))
            return torch.cat([a[:, :1], b[:, :1]], dim=1)

        wrong = [(modalities, target + 2) for modalities, target in batches(60, 1)]
        with pytest.raises(ValueError, match="in batch 0 of data"):
            interactions(model, wrong, batches(60, 2))
        assert sum(asked) <= 120

    def test_an_error_of_the_model_comes_with_the_shapes_of_the_modalities(self) -> None:
        class Narrow(nn.Module):
            def forward(self, a: Tensor, b: Tensor) -> Tensor:
                return a @ b.new_ones(3, 2)

        with pytest.raises(RuntimeError) as caught:
            interactions(Narrow(), batches(60, 1), batches(60, 2))
        assert "the model was called with modalities of shape {'0': (60, 2), '1': (60, 2)}" in caught.value.__notes__[0]

    def test_a_row_of_nan_in_a_data_frame(self) -> None:
        frames = (pd.DataFrame(np.ones((40, 2))), pd.DataFrame({"x": [np.nan] * 2 + [1.0] * 38}))
        data = [(frames, np.arange(40) % 2)]
        with pytest.raises(ValueError, match="2 of 40 lack '1'"):
            interactions(probabilities, data, data)

    def test_no_replacements(self) -> None:
        with pytest.raises(ValueError, match="n_references must be at least 1"):
            Replaced(0)

    def test_keys_that_belong_to_no_modality(self) -> None:
        data = [({"a": torch.ones(30, 1), "b": torch.ones(30, 1), "labels": torch.ones(30)}, torch.ones(30).long())]
        with pytest.raises(ValueError, match=r"must share the keys .* out, .*; leave what is no modality out"):
            interactions(probabilities, data, data, modality_names={"left": "a", "right": "b"})
