"""The Trainer of Hugging Face transformers, with named losses in its log: `python -m examples.guides.trainer_loop`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainingArguments

from examples.guides.task import load, make_model
from i2moe import InteractionSupervision, calibrate


class Classifier(nn.Module):
    """Take columns by name, which the Trainer reads off this signature, and return a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()
        self.supervise = InteractionSupervision(F.cross_entropy)  # the whole loss

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return losses, and what evaluation gathers: tensors with the batch first."""
        out = self.model(a, b)
        loss = self.supervise(out, labels)
        return {"loss": loss, "named": self.supervise.losses, "logits": out.prediction, "weights": out.weights}


class NamedLossesTrainer(Trainer):
    """Log the named losses of training beside the Trainer's own, as means since the last log over all processes."""

    named: tuple[dict[str, Tensor], ...] = ()

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Take the named losses out of the outputs."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        named = outputs.pop("named")
        self.named += (named,) if model.training else ()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means to the logs of training, which have a "loss"."""
        if "loss" in logs:
            means = {name: torch.stack([step[name] for step in self.named]).mean() for name in self.named[0]}
            logs |= {name: mean.item() for name, mean in self.accelerator.reduce(means, "mean").items()}
            self.named = ()
        super().log(logs, start_time)


def accuracy(evaluated: EvalPrediction) -> dict[str, float]:
    """Predictions are what the classifier returns besides losses: logits (N, C), weights (N, E)."""
    return {"accuracy": float((evaluated.predictions[0].argmax(-1) == evaluated.label_ids).mean())}


if __name__ == "__main__":
    tensors = (zip(*load(1_000, seed).tensors, strict=True) for seed in (0, 1))
    train, test = ([{"a": a, "b": b, "labels": y} for a, b, y in samples] for samples in tensors)
    args = TrainingArguments("outputs/trainer", num_train_epochs=5, learning_rate=2e-3, logging_steps=50)
    trainer = NamedLossesTrainer(Classifier(), args, train_dataset=train, eval_dataset=test, compute_metrics=accuracy)
    trainer.train()
    a, b, y = load(1_000, seed=2)[:]
    calibrate(trainer.model, [((a, b, y), y)])  # no surer than it is right
    print(trainer.evaluate())
