"""Lightning: named losses in every logger, interaction losses on the validation set too.

python -m examples.guides.lightning_loop
"""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from examples.guides.task import load, loss_of, make_model
from i2moe import InteractionOutput


class Classifier(L.LightningModule):
    """Train a mixture of interaction experts."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()
        self.accuracy = MulticlassAccuracy(2, average="micro")

    def forward(self, a: Tensor, b: Tensor) -> InteractionOutput:
        """Predict; `explain(classifier, ...)` works as it does for the model."""
        out: InteractionOutput = self.model(a, b)
        return out

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the loss, and log all by name."""
        a, b, y = batch
        out = self(a, b)
        loss = loss_of(out, y)
        self.log_dict({"train/loss": loss.detach(), **{f"train/{name}": x for name, x in out.losses.items()}})
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Log accuracy and interaction losses; a plain `self(a, b)` would do without the perturbed views."""
        a, b, y = batch
        out = self.model.interaction_views(a, b)
        self.accuracy(out.prediction, y)
        self.log_dict({"val/accuracy": self.accuracy, **{f"val/{name}": x for name, x in out.losses.items()}})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


if __name__ == "__main__":
    L.seed_everything(0)
    train, validation = (DataLoader(load(1_000, seed), batch_size=64, shuffle=seed == 0) for seed in (0, 1))
    trainer = L.Trainer(max_epochs=5, log_every_n_steps=5, logger=CSVLogger("outputs/lightning"))
    trainer.fit(Classifier(), train, validation)
    print(*(f"{name} {value:.3f}" for name, value in trainer.callback_metrics.items()), sep="\n")
